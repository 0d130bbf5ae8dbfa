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
# # Two curves in five dimensions, by a model that has been learned already
# One source is a point on a curve in five dimensions, the other one a point on another curve. What is seen of their sum are
# three numbers, through a random 3 × 5 matrix of each observation. The model in `pretrained/` has learned both curves from
# such observations; here it is loaded, looked at, and asked. Run this in a clone, from its folder `notebooks/`.

# %%
# %cd -q ..

import matplotlib.pyplot as plt
import torch

import mvss
from experiments.pretrained.models import SHOWN, fresh
from mvss.metrics.calibration import interval_coverage, rank_statistics
from mvss.metrics.spread import spread_ratio

model = mvss.SourceSeparator.from_pretrained("manifolds")
observed = fresh(SHOWN["manifolds"], 128)
view, truth = observed.view, observed.truth
print(model.sources, {source: tuple(x.shape) for source, x in truth.items()}, "seen:", tuple(view.y.shape))

# %% [markdown]
# ## The laws that were learned
# Grey: draws of each prior. Black: true points, which the model has never seen.

# %%
prior = {source: model.sample(source, 1000, seed=0) for source in model.sources}
figure, axes = plt.subplots(1, 4, figsize=(12, 3.2), layout="constrained")
pairs = [(source, pair) for source in model.sources for pair in ((0, 1), (2, 3))]
for axis, (source, (i, j)) in zip(axes, pairs, strict=True):
    axis.scatter(prior[source][:, i], prior[source][:, j], s=10, color="0.8")
    axis.scatter(truth[source][:, i], truth[source][:, j], s=3, color="black")
    axis.set(title=f"source {source}", xlabel=f"$x_{i + 1}$", ylabel=f"$x_{j + 1}$", aspect="equal")

# %% [markdown]
# ## Three numbers become ten
# Each colour is one observation: dots are draws, stars the truth. Shown are the ones of which the draws are least sure.

# %%
draws = model.separate(view, draws=50, seed=1)
unsure = torch.stack([x.std(0).norm(dim=1) for x in draws.values()]).amax(0).argsort(descending=True)[:5]
figure, axes = plt.subplots(1, 4, figsize=(12, 3.2), layout="constrained")
for axis, (source, (i, j)) in zip(axes, pairs, strict=True):
    axis.scatter(prior[source][:, i], prior[source][:, j], s=4, color="0.85")
    for k, n in enumerate(unsure.tolist()):
        axis.scatter(draws[source][:, n, i], draws[source][:, n, j], s=6, color=f"C{k}")
        axis.scatter(truth[source][n, i], truth[source][n, j], s=90, marker="*", color=f"C{k}", edgecolor="black")
    axis.set(title=f"source {source}", xlabel=f"$x_{i + 1}$", ylabel=f"$x_{j + 1}$", aspect="equal")

# %% [markdown]
# ## Error bars
# The truth should lie in 68.3 % intervals 68.3 % of the time, and the spread ratio be 1.

# %%
for source in model.sources:
    ratio, error = spread_ratio(draws[source], truth[source])
    within = interval_coverage(rank_statistics(draws[source], truth[source]), len(draws[source]))
    print(f"source {source}: {within:.1%} within 68.3 % intervals, spread ratio {ratio:.2f} ± {error:.2f}")

# %% [markdown]
# ## Other operators, the same priors
# Nothing is retrained for observations of another kind. Here only the first two of the three numbers are known.

# %%
first = mvss.Dense(torch.eye(3)[:2])
operators = {source: first @ operator for source, operator in view.operators.items()}
fewer = mvss.View(first.forward(view.y), operators, view.noise, name="two numbers")
less = model.separate(fewer, draws=50, seed=1)
for source in model.sources:
    errors = [(x[source].mean(0) - truth[source]).norm(dim=1).median() for x in (draws, less)]
    print(f"source {source}: median error of means {errors[0]:.3f} from three numbers, {errors[1]:.3f} from two")

# %% [markdown]
# Next: [this experiment](../experiments/manifolds/README.md), with all methods and problems, or
# [your own data](../docs/own-data.md).
