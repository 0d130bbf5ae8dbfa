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
# # Digits on grass, by a model that has been learned already
# Nobody has shown this model a clean digit. It has learned zeros and ones from photographs of grass with a faint digit on each,
# and from other grass alone. Here it is loaded, looked at, and asked. Run this in a clone, from its folder `notebooks/`.

# %%
# %cd -q ..

import matplotlib.pyplot as plt
import torch

import mvss
from experiments.pretrained.models import SHOWN, fresh, half_hidden
from mvss.metrics.spread import energy_score, spread_ratio

model = mvss.SourceSeparator.from_pretrained("mnist-grass")
observed = fresh(SHOWN["mnist-grass"], 32)
view, truth = observed.view, observed.truth
print({source: tuple(x.shape) for source, x in truth.items()}, "seen:", tuple(view.y.shape))


def strips(**rows: torch.Tensor) -> None:
    """Rows of images by name, black to white from 0 to 1."""
    _, axes = plt.subplots(len(rows), 8, figsize=(9, 1.15 * len(rows)), squeeze=False, layout="constrained")
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for axis, image in zip(line, images.squeeze(1), strict=False):
            axis.imshow(image, cmap="gray", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(name.replace("_", " "), rotation=0, ha="right", va="center")


# %% [markdown]
# ## What it has learned
# Draws of the priors, from pure noise: what a digit and what grass look like by themselves.

# %%
strips(digits=model.sample("digit", 8, seed=0), grass=model.sample("grass", 8, seed=0))

# %% [markdown]
# ## New mixtures, taken apart
# Two draws of the digit are two answers; where they differ, it is not known. The deviation of eight draws says how much.

# %%
draws = model.separate(view, draws=8, seed=1)
digit = draws["digit"].clamp(0, 1)
strips(seen=view.y, a_draw=digit[0], another=digit[1], their_SD_x2=2 * digit.std(0), truth=truth["digit"])

# %% [markdown]
# ## How good, and how sure
# The energy score is lower for better draws; beside it that of draws of the prior, which have not seen the mixture. The spread
# ratio is 1 for right error bars, less for too narrow ones, and more for too wide ones: the experiment's page says more.

# %%
for source, x in truth.items():
    blind = model.sample(source, 8 * len(x), seed=2).reshape(8, *x.shape)
    scores = [float(energy_score(found, x).mean()) for found in (draws[source], blind)]
    ratio, error = spread_ratio(draws[source], x)
    print(f"{source}: energy score {scores[0]:.2f}, of the prior {scores[1]:.2f}; spread ratio {ratio:.2f} ± {error:.2f}")

# %% [markdown]
# ## Half of the pixels hidden, the same priors
# Nothing is learned anew. No network has learned such a view; split Gibbs takes any operators, and asks the priors alone.

# %%
hidden = half_hidden(view.select(slice(8)))
found = model.separate(hidden, draws=4, seed=1, posterior="split_gibbs")
digit = found["digit"].clamp(0, 1)
strips(seen=hidden.y, a_draw=digit[0], another=digit[1], mean=digit.mean(0), truth=truth["digit"][:8])

# %% [markdown]
# Next: [this experiment](../experiments/mnist_grass/README.md), with all methods, or [your own data](../docs/own-data.md).
