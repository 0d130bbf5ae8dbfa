"""Expectation–maximisation for diffusion priors  (paper, algorithm 2).

    E-step   {x_i^β} ~ p_θ({x^β} | y_i, A_i)       for every observation of every view
    M-step   θ_β ← denoising score matching on the draws of source β, from the views that show it
    repeat, lap by lap; a stage names the sources that learn, all others are frozen.

The first draws are given (exact ones under the mixture priors), so that a lap is an M-step followed by an E-step. In a view
that does not show a source its posterior is its prior: no such draw is made, and none enters an M-step.
"""

__all__ = [
    "Correction", "FirstDraws", "Lap", "Learned", "Model", "Stage", "corrections", "first_draws", "last_draws", "plan_stages",
    "run_em",
]  # fmt: skip

from mvss.em.first_draws import FirstDraws, first_draws
from mvss.em.kept_networks import Correction, corrections
from mvss.em.laps import Lap, Learned, run_em
from mvss.em.last_draws import last_draws
from mvss.em.stages import Stage, plan_stages
from mvss.em.steps import Model
