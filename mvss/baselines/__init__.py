"""Rival methods for contrastive data, with the face of the diffusion model: fit, posterior_sample, prior_sample, save, load."""
