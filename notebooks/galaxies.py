# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Galaxies without their neighbours, by a model that has been learned already
# Nobody has shown this model a galaxy alone. It has learned galaxies from stamps that also hold their neighbours, and the sky
# from random fields, with noise, dead pixels and cosmic rays in both. Here it is loaded, looked at, and asked. Run this in a
# clone, from its folder `notebooks/`.

# %%
# %cd -q ..

import matplotlib.pyplot as plt
import torch

import mvss
from experiments.pretrained.models import SHOWN, fresh
from mvss.metrics.spread import energy_score, spread_ratio

model = mvss.SourceSeparator.from_pretrained("galaxies")
observed = fresh(SHOWN["galaxies"], 32)
view, truth = observed.view, observed.truth
print({source: tuple(x.shape) for source, x in truth.items()}, "seen:", tuple(view.y.shape))


def strips(**rows: torch.Tensor) -> None:
    """Rows of stamps by name, in one scale of brightness that shows faint light too."""
    _, axes = plt.subplots(len(rows), 8, figsize=(9, 1.15 * len(rows)), squeeze=False, layout="constrained")
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for axis, image in zip(line, images.squeeze(1), strict=False):
            axis.imshow(torch.asinh(image / 0.1), cmap="gray", vmin=-0.5, vmax=4, origin="lower")
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(name.replace("_", " "), rotation=0, ha="right", va="center")


# %% [markdown]
# ## What it has learned
# Draws of the priors, from pure noise: what a galaxy and what the sky look like by themselves.

# %%
strips(galaxies=model.sample("galaxy", 8, seed=0), sky=model.sample("sky", 8, seed=0))

# %% [markdown]
# ## New stamps, taken apart
# The mean of eight draws of the galaxy, one of them, how much they differ, and what is left for the sky.

# %%
draws = model.separate(view, draws=8, seed=1)
galaxy, sky = draws["galaxy"], draws["sky"]
means = {"mean": galaxy.mean(0), "a_draw": galaxy[0], "their_SD_x2": 2 * galaxy.std(0)}
strips(seen=view.y, **means, truth=truth["galaxy"], sky=sky.mean(0))

# %% [markdown]
# ## How good, and how sure
# The energy score is lower for better draws; beside it that of draws of the prior, which have not seen the stamp. The spread
# ratio is 1 for right error bars, and less for those that are too narrow.

# %%
for source, x in truth.items():
    blind = model.sample(source, 8 * len(x), seed=2).reshape(8, *x.shape)
    scores = [float(energy_score(found, x).mean()) for found in (draws[source], blind)]
    ratio, error = spread_ratio(draws[source], x)
    print(f"{source}: energy score {scores[0]:.2f}, of the prior {scores[1]:.2f}; spread ratio {ratio:.2f} ± {error:.2f}")

# %% [markdown]
# ## Fluxes, with error bars
# The light within 8 pixels of the centre: of every draw, so that their spread is the error of the separation, too.

# %%
across = torch.arange(view.y.shape[-1]) - (view.y.shape[-1] - 1) / 2
aperture = (across[:, None].square() + across.square()) <= 8**2
flux, true = ((x * aperture).sum((-1, -2)).squeeze(-1) for x in (galaxy, truth["galaxy"]))
_, axis = plt.subplots(figsize=(4, 4), layout="constrained")
axis.errorbar(true, flux.mean(0), flux.std(0), fmt="o", ms=4, lw=1)
axis.axline((1, 1), slope=1, color="black", lw=0.8)
axis.set(xscale="log", yscale="log", xlabel="true flux", ylabel="found flux, mean and SD of draws")
plt.show()

# %% [markdown]
# Next: [this experiment](../experiments/galaxies/README.md), with all methods, or [your own mosaics](../docs/astronomers.md).
