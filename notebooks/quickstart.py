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
# # mvss on two numbers
# Two sources of two numbers each, so that all can be drawn: a *background* that lies on an arc, and a *target* that sits in
# one of three places. Neither is ever seen clean. One view shows the background alone, with noise; the other one shows the
# sum of both, with noise. `mvss` learns the law of each source from these two views, then takes sums apart.

# %%
from dataclasses import replace

import matplotlib.pyplot as plt
import torch

import mvss
from mvss.metrics.calibration import interval_coverage, rank_statistics

torch.manual_seed(0)
NOISE = 0.1


def background(count: int) -> torch.Tensor:
    angle = 3.1 * torch.rand(count)
    return torch.stack([2 * angle.cos(), 2 * angle.sin() - 1], dim=1) + 0.05 * torch.randn(count, 2)


def target(count: int) -> torch.Tensor:
    places = torch.tensor([[0.0, 1.5], [-1.3, -0.8], [1.3, -0.8]])
    return places[torch.randint(3, (count,))] + 0.15 * torch.randn(count, 2)


def seen(x: torch.Tensor) -> torch.Tensor:
    return x + NOISE * torch.randn_like(x)


b, t = background(1000), target(1000)
y_alone, y_both = seen(background(1000)), seen(b + t)

# %% [markdown]
# ## What goes in
# The left two pictures are all that `fit` is given. The right two are what it has to find out.


# %%
def scatter(axis: plt.Axes, x: torch.Tensor, title: str, colour: str) -> None:
    axis.scatter(*x.T, s=3, alpha=0.4, color=colour)
    axis.set(title=title, xlim=(-4, 4), ylim=(-4, 4), aspect="equal")


figure, axes = plt.subplots(1, 4, figsize=(12, 3.2), layout="constrained")
scatter(axes[0], y_alone, "view: alone", "black")
scatter(axes[1], y_both, "view: both", "black")
scatter(axes[2], b, "background (never seen)", "tab:blue")
scatter(axes[3], t, "target (never seen)", "tab:orange")

# %% [markdown]
# ## Fit
# A view is what was seen, how each source enters it (an operator; here the source as it is), and how large the noise is.
# Settings are those of preset `vectors` with fewer steps, which is enough for two numbers.

# %%
eye = torch.eye(2)
alone = mvss.View(y_alone, {"background": eye}, noise=NOISE, name="alone")
both = mvss.View(y_both, {"background": eye, "target": eye}, noise=NOISE, name="both")

preset = mvss.SourceSeparator("vectors").settings
settings = replace(
    preset,
    estimation=mvss.AscentConfig(components=(8, 8, 8), steps=500, starts=1),
    training=replace(preset.training, steps=150, batch=256),
    em=replace(preset.em, laps=2),
)
model = mvss.SourceSeparator(settings).fit([alone, both], seed=0, verbose=False)
print(model.report)

# %% [markdown]
# ## What was learned
# Draws of the learned priors, by themselves.

# %%
figure, axes = plt.subplots(1, 2, figsize=(6.4, 3.2), layout="constrained")
scatter(axes[0], model.sample("background", 1000), "learned background", "tab:blue")
scatter(axes[1], model.sample("target", 1000), "learned target", "tab:orange")

# %% [markdown]
# ## Separate new observations
# Each draw is a whole answer: its background and its target add up to what was seen, up to the noise. Where a sum has
# several explanations the draws tell all of them.

# %%
new_b, new_t = background(300), target(300)
new = mvss.View(seen(new_b + new_t), {"background": eye, "target": eye}, noise=NOISE, name="new")
draws = model.separate(new, draws=50, seed=1)

figure, axes = plt.subplots(1, 4, figsize=(12, 3.2), layout="constrained")
for axis, k in zip(axes, range(4), strict=True):
    scatter(axis, draws["background"][:, k], f"observation {k}", "tab:blue")
    scatter(axis, draws["target"][:, k], f"observation {k}", "tab:orange")
    axis.plot(*new_b[k], "b+", *new_t[k], "r+", *new.y[k], "k*", markersize=12)
_ = axes[0].text(-3.8, 3.1, "+ truth   ★ seen   · draws")

# %% [markdown]
# ## Can the error bars be trusted?
# If so, the truth has any rank among its draws equally often, and lies in 68.3 % intervals 68.3 % of the time.

# %%
figure, axes = plt.subplots(1, 2, figsize=(6.4, 2.6), layout="constrained", sharey=True)
for axis, source, truth in zip(axes, ("background", "target"), (new_b, new_t), strict=True):
    ranks = rank_statistics(draws[source], truth)
    axis.hist(ranks.flatten(), bins=17, range=(0, 51), color="tab:grey")
    axis.set(title=f"{source}: {interval_coverage(ranks, 50):.1%} within", xlabel="rank of the truth among 50 draws")

# %% [markdown]
# Next: [your own data](../docs/own-data.md), from files or from Python, and
# [what a good fit's report looks like](../docs/report.md).
