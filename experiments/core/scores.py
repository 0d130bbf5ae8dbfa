"""All scores of one job, the same for every method."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from experiments.core.calibration import LEVELS
from experiments.core.config import Job
from experiments.core.drawn import MEANS, Drawn
from experiments.core.evaluations import counted
from experiments.core.laws import law_distances
from experiments.core.prior_kl import prior_kl
from experiments.core.task import Candidates, Density, Judge, Laws, Model, OwnScores, Task, within_support
from mvss.em import Lap
from mvss.metrics.images import psnr, ssim
from mvss.metrics.pqmass import pqmass
from mvss.metrics.transport import sinkhorn_divergence, sinkhorn_divergence_paper
from mvss.priors.diffusion import DiffusionPrior, untrained
from mvss.priors.training import denoising_loss
from mvss.problem.views import Draws, Views
from mvss.runtime.rng import Stream
from mvss.separator import SourceSeparator

__all__ = ["Record", "Scorer"]

Record = dict[str, Any]


class Scorer:
    """All scores of one job. sources: names of those that the method separates; all `Draws` hold those alone."""

    def __init__(self, job: Job, task: Task, sources: Sequence[str], stream: Stream, append: Callable[[Record], None]) -> None:
        self.job, self.task, self.stream, self._append = job, task, stream, append
        self.names = task.train.sources
        self.sources = tuple(self.names.index(name) for name in sources)
        self.metrics = job.config.metrics
        self.saved: dict[str, np.ndarray] = {}
        # The same truth for every method: its key names no method.
        keyed, m = Stream(job.seed, (job.problem, "independent")), self.metrics
        points = 0 if isinstance(task, Laws) else max(m.paper_sinkhorn, m.pqmass)
        self.truth = {b: task.sample_truth(b, points, keyed.generator(b, 0)).flatten(1) for b in self.sources}
        # Divergences are taken from truth spread evenly over its law, which halves their noise and more.
        self.law = {b: self._evenly(b, m.sinkhorn, keyed.generator(b, 1)) for b in self.sources}
        self.lap_law = {b: self._evenly(b, m.lap_sinkhorn, keyed.generator(b, 2)) for b in self.sources}

    def _evenly(self, b: int, count: int, rng: torch.Generator) -> Tensor:
        return self.task.sample_truth(b, count, rng, stratified=True).flatten(1)

    def add(self, source: str, metric: str, value: float, samples: int, split: str = "fresh", lap: int | None = None) -> None:
        """One record."""
        value = value if math.isfinite(value) else None  # type: ignore[assignment]
        self._append({"source": source, "metric": metric, "split": split, "lap": lap, "value": value, "samples": samples})

    def lap(self, lap: Lap) -> None:
        """Scores of the training draws of a lap, and what the lap cost."""
        for key, value in lap.record.items():
            if isinstance(value, int | float):
                self.add("mean", key, float(value), 1, "train", lap.number)
        self._draws(self._within(lap.draws), self.task.train, self.task.train_truth, "train", lap.number)

    def memory(self, model: SourceSeparator, train: Sequence[Draws], fresh: Sequence[Draws]) -> None:
        """What the network adds, on draws it was fitted to and on draws of fresh observations: the denoising loss as a
        share of the loss without it. A network that memorises gains on the former only."""
        training = self.job.recipe.settings.training
        for b, source in enumerate(self.names):
            new = model.priors[source]
            if not isinstance(new, DiffusionPrior):
                continue
            old = untrained(new)
            for draws, split in ((train, "train"), (fresh, "fresh")):
                x = torch.cat([parts[source] for parts in draws if source in parts]) / model.units.scales[source]
                keyed = self.stream.child("memory", b)
                if bool(torch.isfinite(x).all()):
                    ratio = denoising_loss(new, x, training, keyed) / denoising_loss(old, x, training, keyed)
                    self.add(str(b + 1), "denoising_loss_ratio", ratio, len(x), split)

    def final(self, model: Model, draws: Sequence[Draws], priors: bool = True) -> list[Draws]:
        """Scores of the training draws and of fresh observations, with the model as fitted. priors: whether those are
        scored, too. Returns the fresh draws."""
        self._draws(self._within(draws), self.task.train, self.task.train_truth, "train", None)
        for number, view in enumerate(self.task.train, start=1):
            if view.y.ndim == 4:  # images are shown as they are seen
                self.saved[f"observed_{number}"] = self._few(view.y)
        fresh = self._separated(model)
        self._draws(self._within(fresh), self.task.fresh, self.task.fresh_truth, "fresh", None)
        if priors and not self.job.recipe.model:
            for b in self.sources:
                self._prior(model, b)
        if priors and self.metrics.kl and isinstance(model, Density):
            self._divergences(model)
        if isinstance(self.task, Judge):
            judgement = self.task.judge(model, self.stream.child("judge"))
            for (source, metric), (value, samples) in judgement.scores.items():
                self.add(source, metric, value, samples)
            self.saved |= judgement.arrays
        if self.metrics.drawn:
            self._many(model)
        return fresh

    def _separated(self, model: Model) -> list[Draws]:
        """One draw of each fresh observation, and what that costs."""
        fresh: list[Draws] = [{} for _ in self.task.fresh]
        began, count = time.monotonic(), 0
        with counted(model) if isinstance(model, SourceSeparator) else nullcontext() as evaluations:
            for alpha in self.task.scored_views:
                view = self.task.fresh[alpha]
                separated = model.separate(view, 1, self.stream.child("fresh", alpha))
                fresh[alpha] = {source: x[0] for source, x in separated.items()}
                count += len(view)
        self.add("mean", "seconds_per_draw", (time.monotonic() - began) / count, count)
        if evaluations is not None:
            self.add("mean", "evaluations_per_draw", evaluations.rows / count, count)
        return fresh

    def _within(self, draws: Sequence[Draws]) -> list[Draws]:
        """Draws cut to what the sources can be."""
        return [within_support(self.task, each) for each in draws]

    def _few(self, x: Tensor) -> np.ndarray:
        return x[: self.metrics.saved].flatten(1).float().numpy()

    def _draws(
        self, draws: Sequence[Draws], views: Views, truth: Sequence[Sequence[Tensor | None]], split: str, lap: int | None
    ) -> None:
        scored = [a for a in self.task.scored_views if draws[a]]
        for b in self.sources:
            name = self.names[b]
            showing = [a for a in scored if name in views[a].sources and truth[a][b] is not None]
            if not showing:  # nobody knows
                unknown = [draws[a][name] for a in scored if name in views[a].sources]
                if lap is not None and unknown:
                    self.saved[f"lap{lap}_{b + 1}"] = self._few(torch.cat(unknown))
                continue
            pairs = [(draws[a][name], known) for a in showing if (known := truth[a][b]) is not None]
            found, true = (torch.cat(t).flatten(1) for t in zip(*pairs, strict=True))
            source = str(b + 1)
            decibels = psnr(found, true, self.task.data_range)
            self.add(source, "posterior_psnr", float(decibels.mean()), len(found), split, lap)
            if lap is None and isinstance(self.task, OwnScores) and bool(torch.isfinite(found).all()):
                by_view = {a: draws[a][name] for a in showing}
                for metric, value in self.task.scores(b, split, by_view).items():
                    self.add(source, metric, value, len(found), split)
            mixed, paired = (_in_turn(t) for t in zip(*pairs, strict=True))
            kind = "posterior" if lap is None else f"lap{lap}"
            if split == "fresh" or lap is not None:
                self.saved[f"{kind}_{b + 1}"] = self._few(mixed)
                self.saved[f"{'lap_truth' if lap is not None else 'truth'}_{b + 1}"] = self._few(paired)
            n = self.metrics.sinkhorn if lap is None else self.metrics.lap_sinkhorn
            law = self.law[b] if lap is None else self.lap_law[b]
            if n and (lap is not None or split == "fresh"):
                self.add(source, "posterior_sinkhorn", _divergence(mixed[:n], law), n, split, lap)
            if lap is None and split == "fresh":
                self._laws(source, "posterior", mixed, b)
                if len(views.shapes[name]) == 3:
                    images = [torch.cat(t) for t in zip(*pairs, strict=True)]
                    similar = ssim(images[0], images[1], self.task.data_range)
                    self.add(source, "posterior_ssim", float(similar.mean()), len(found), split)
                    continue
                inside = (found.abs() <= self.task.data_range).all(1)
                self.add(source, "fraction_outside", 1 - float(inside.double().mean()), len(found), split)
                # as the paper's released code scores: without the draws outside
                inner = float(decibels[inside].mean()) if bool(inside.any()) else math.nan
                self.add(source, "posterior_psnr_inside", inner, int(inside.sum()), split)

    def _many(self, model: Model) -> None:
        """Scores of many draws of each observation; and, of images, their means and widths for the figures."""
        drawn = Drawn.of(model, self.job, self.task, self.stream.child("drawn"))
        for source, metric, value, count in drawn.scores():
            self.add(source, metric, value, count)
        if (coverage := drawn.coverage) is not None:
            self.saved |= {"coverage_levels": LEVELS.numpy(), "coverage_expected": coverage.numpy()}
        images = [b for b in self.sources if len(self.task.train.shapes[self.names[b]]) == 3]
        pairs = {b: drawn.by_view(self.names[b]).values() for b in images}
        found = {b: [(x[:MEANS].mean(0), x.std(0), true) for x, true in of_b] for b, of_b in pairs.items() if of_b}
        for b, parts in found.items():
            mean, width, _ = (_in_turn(t) for t in zip(*parts, strict=True))  # as the truth is kept
            self.saved |= {f"mean_{b + 1}": self._few(mean), f"width_{b + 1}": self._few(width)}
        if self.sources[-1] in found and len({len(parts) for parts in found.values()}) == 1:
            self._worst(found)

    def _worst(self, found: dict[int, list[tuple[Tensor, Tensor, Tensor]]]) -> None:
        """Keep the observations whose newest source is farthest from the truth."""
        newest = [psnr(mean.flatten(1), truth.flatten(1), self.task.data_range) for mean, _, truth in found[self.sources[-1]]]
        rows = torch.cat(newest).argsort()
        for b, parts in found.items():
            for name, values in zip(("mean", "width", "truth"), zip(*parts, strict=True), strict=True):
                self.saved[f"worst_{name}_{b + 1}"] = self._few(torch.cat(values).flatten(1)[rows])

    def _prior(self, model: Model, b: int) -> None:
        """Scores of prior draws. Those of the divergence are stratified: independent ones would carry noise that no method
        has to answer for, larger than the differences between good methods. The floor is the sources themselves behind
        the training observations: what a learner could know who had seen them clean."""
        source, n = str(b + 1), self.metrics.sinkhorn
        if n:
            self.add(source, "prior_sinkhorn", _divergence(self._even(model, b, n), self.law[b]), n, "fresh")
        count = len(self.task.clean(b)[1]) or self.job.config.fresh if isinstance(self.task, Laws) else len(self.truth[b])
        count = count or self.metrics.saved  # without truth, for the figures alone
        name = self.names[b]
        prior = self._within([{name: model.sample(name, count, self.stream.child("prior", b)).flatten(1)}])[0][name]
        self._laws(source, "prior", prior, b)
        self.saved[f"prior_{source}"] = self._few(prior)
        if isinstance(self.task, Candidates) and isinstance(model, Density) and (asked := self.task.candidates(b)):
            marks = model.log_prob(name, torch.cat(asked))
            self.add(source, "log_prob_auc", float(roc_auc_score([1] * len(asked[0]) + [0] * len(asked[1]), marks)), len(marks))

    def _even(self, model: Model, b: int, n: int) -> Tensor:
        """Stratified prior draws; of the oracle, the training sources."""
        if self.job.recipe.truth:
            return self.task.training_sources(b, n).flatten(1)
        return model.sample(self.names[b], n, self.stream.child("even", b), stratified=True).flatten(1)

    def _laws(self, source: str, kind: str, x: Tensor, b: int) -> None:
        """Distances of a law from independent truth: the task's own, or the paper's divergence and PQMass. Where those look at
        fewer than all, they take the first ones."""
        m, truth, finite = self.metrics, self.truth[b], bool(torch.isfinite(x).all())
        if isinstance(self.task, Laws):
            scored, trained = self.task.clean(b)
            reference = trained if kind == "posterior" else scored
            images = self.task.comparable(b, x.reshape(-1, *reference.shape[1:]))
            found = law_distances(self.task, self.job, b, images, reference) if finite else {}
            for metric, value in found.items():
                self.add(source, f"{kind}_{metric}", value, len(x))
            return
        if (n := m.paper_sinkhorn) and b == len(self.names) - 1:  # of the newest source, as in the paper: POT takes its time
            paper = sinkhorn_divergence_paper(x[:n], truth[:n], n) if finite else math.nan
            self.add(source, f"{kind}_sinkhorn_paper", paper, n)
        n = min(m.pqmass, len(x)) if len(truth) else 0
        if n and finite:
            mass = pqmass(x[:n], truth[: m.pqmass], m.references, m.tessellations, self.job.seed)
            self.add(source, f"{kind}_pqmass", mass.p_value, n)
            self.add(source, f"{kind}_pqmass_chi2", mass.chi2_per_dof, n)
        self.saved.setdefault(f"independent_{source}", self._few(truth))

    def _divergences(self, model: Density) -> None:
        """KL of each prior that was learned from the true law, and its mean over sources with the standard error."""
        found = prior_kl(model, self.job, self.task)
        for b, (value, _) in enumerate(found, start=1):
            self.add(str(b), "prior_kl", value, self.metrics.kl)
        error = math.sqrt(sum(error**2 for _, error in found)) / len(found)
        self.add("mean", "prior_kl_standard_error", error, self.metrics.kl)


def _divergence(x: Tensor, y: Tensor) -> float:
    if not bool(torch.isfinite(x).all()):
        return math.nan
    return float(sinkhorn_divergence(x, y))


def _in_turn(views: Sequence[Tensor]) -> Tensor:
    """The first of each view, the second of each, …, flattened, so that a part of them holds all views."""
    rows = torch.cat([torch.arange(len(x)) for x in views])
    return torch.cat(list(views)).flatten(1)[rows.argsort(stable=True)]
