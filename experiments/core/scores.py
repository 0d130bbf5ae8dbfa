"""All scores of one job, the same for every method."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.core.calibration import calibrate, unknown_sources
from experiments.core.config import Bounded, Job, Judge, Model, OwnScores, Task
from mvss.em import Draws
from mvss.metrics.calibration import coverage_error
from mvss.metrics.images import frechet, psnr, ssim
from mvss.metrics.pqmass import pqmass
from mvss.metrics.transport import sinkhorn_divergence, sinkhorn_divergence_paper
from mvss.priors.diffusion import Denoiser
from mvss.priors.training import denoising_loss
from mvss.problem.views import MultiViewData, View
from mvss.runtime.rng import Stream

__all__ = ["Record", "Scorer"]

Record = dict[str, Any]


class Scorer:
    """All scores of one job. sources: the numbers of those that the method separates; all `Draws` hold those alone."""

    def __init__(
        self, job: Job, task: Task, sources: tuple[int, ...], stream: Stream, append: Callable[[Record], None]
    ) -> None:
        self.job, self.task, self.sources, self.stream, self._append = job, task, sources, stream, append
        self.metrics = job.config.metrics
        self.saved: dict[str, np.ndarray] = {}
        # The same truth for every method: its key names no method.
        keyed, m = Stream(job.seed, (job.problem, "independent")), self.metrics
        independent = max(m.paper_sinkhorn, m.pqmass)
        self.truth = {b: task.sample_truth(b, independent, keyed.generator(b, 0)).flatten(1) for b in sources}
        # Divergences are taken from truth spread evenly over its law, which halves their noise and more.
        self.law = {b: task.sample_truth(b, m.sinkhorn, keyed.generator(b, 1), stratified=True).flatten(1) for b in sources}
        self.lap_law = {b: task.sample_truth(b, m.lap_sinkhorn, keyed.generator(b, 2), True).flatten(1) for b in sources}

    def add(self, source: str, metric: str, value: float, samples: int, split: str = "fresh", lap: int | None = None) -> None:
        """One record."""
        value = value if math.isfinite(value) else None  # type: ignore[assignment]
        self._append({"source": source, "metric": metric, "split": split, "lap": lap, "value": value, "samples": samples})

    def lap(self, record: Record, draws: Draws) -> float:
        """Scores of the training draws of a lap, and what the lap cost. Returns the seconds that the scoring took."""
        began, lap = time.monotonic(), record["lap"]
        for key, value in record.items():
            if isinstance(value, int | float) and key != "lap":
                self.add("mean", key, float(value), 1, "train", lap)
        self._draws(self._within(draws), self.task.train, self.task.train_truth, "train", lap)
        return time.monotonic() - began

    def memory(self, trained: Sequence[Denoiser], untrained: Sequence[Denoiser], train: Draws, fresh: Draws) -> None:
        """What the network adds, on draws it was fitted to and on draws of fresh observations: the denoising loss as a
        share of the loss without it. A network that memorises gains on the former only."""
        task, training = self.task, self.job.config.training_of(self.job.recipe)
        for draws, data, split in ((train, task.train, "train"), (fresh, task.fresh, "fresh")):
            for b, (new, old) in enumerate(zip(trained, untrained, strict=True)):
                pool = [
                    draws[a][data.views[a].shown.index(b)] for a in range(len(draws)) if draws[a] and b in data.views[a].shown
                ]
                x, keyed = torch.cat(pool), self.stream.child("memory", b)
                if new.network is not None and bool(torch.isfinite(x).all()):
                    ratio = denoising_loss(new, x, training, keyed) / denoising_loss(old, x, training, keyed)
                    self.add(str(b + 1), "denoising_loss_ratio", ratio, len(x), split)

    def final(self, model: Model, draws: Draws) -> Draws:
        """Scores of the training draws and of fresh observations, with the model as fitted. Returns the fresh draws."""
        self._draws(self._within(draws), self.task.train, self.task.train_truth, "train", None)
        for number, view in enumerate(self.task.train.views, start=1):
            if view.y.ndim == 4:  # images are shown as they are seen
                self.saved[f"observed_{number}"] = self._few(view.y)
        fresh: Draws = [[] for _ in self.task.fresh.views]
        began, count = time.monotonic(), 0
        for alpha in self.task.scored_views:
            view = self.task.fresh.views[alpha]
            fresh[alpha] = list(model.posterior_sample(view, self.stream.child("fresh", alpha)).draws)
            count += len(view)
        self.add("mean", "seconds_per_draw", (time.monotonic() - began) / count, count)
        self._draws(self._within(fresh), self.task.fresh, self.task.fresh_truth, "fresh", None)
        if not self.job.recipe.own:
            for b in self.sources:
                self._prior(model, b)
        if isinstance(self.task, Judge):
            judgement = self.task.judge(model, self.stream.child("judge"))
            for (source, metric), (value, samples) in judgement.scores.items():
                self.add(source, metric, value, samples)
            self.saved |= judgement.arrays
        if self.metrics.mean_draws:
            self._means(model)
        if self.metrics.coverage:
            self._coverage(model)
        return fresh

    def _within(self, draws: Draws) -> Draws:
        """Draws cut to what the sources can be."""
        return [[x.clamp(*self.task.support) for x in each] for each in draws] if isinstance(self.task, Bounded) else draws

    def _among(self, view: View) -> list[int]:
        """The sources that the view shows and the method separates, in the order of its draws."""
        return [b for b in view.shown if b in self.sources]

    def _few(self, x: Tensor) -> np.ndarray:
        return x[: self.metrics.saved].flatten(1).float().numpy()

    def _draws(
        self, draws: Draws, data: MultiViewData, truth: Sequence[Sequence[Tensor | None]], split: str, lap: int | None
    ) -> None:
        views = [a for a in self.task.scored_views if draws[a]]
        for b in self.sources:
            showing = [a for a in views if b in data.views[a].shown and truth[a][b] is not None]
            if not showing:  # nobody knows
                unknown = [draws[a][self._among(data.views[a]).index(b)] for a in views if b in data.views[a].shown]
                if lap is not None and unknown:
                    self.saved[f"lap{lap}_{b + 1}"] = self._few(torch.cat(unknown))
                continue
            pairs = [(draws[a][self._among(data.views[a]).index(b)], truth[a][b]) for a in showing]
            found, true = (torch.cat(t).flatten(1) for t in zip(*pairs, strict=True))
            source = str(b + 1)
            decibels = psnr(found, true, self.task.data_range)
            self.add(source, "posterior_psnr", float(decibels.mean()), len(found), split, lap)
            if lap is None and isinstance(self.task, OwnScores) and bool(torch.isfinite(found).all()):
                by_view = {a: draws[a][self._among(data.views[a]).index(b)] for a in showing}
                for metric, value in self.task.scores(b, split, by_view).items():
                    self.add(source, metric, value, len(found), split)
            mixed, paired = (_in_turn(t) for t in zip(*pairs, strict=True))
            name = "posterior" if lap is None else f"lap{lap}"
            if split == "fresh" or lap is not None:
                self.saved[f"{name}_{b + 1}"] = self._few(mixed)
                self.saved[f"{'lap_truth' if lap is not None else 'truth'}_{b + 1}"] = self._few(paired)
            n = self.metrics.sinkhorn if lap is None else self.metrics.lap_sinkhorn
            law = self.law[b] if lap is None else self.lap_law[b]
            if n and (lap is not None or split == "fresh"):
                self.add(source, "posterior_sinkhorn", _divergence(mixed[:n], law), n, split, lap)
            if lap is None and split == "fresh":
                self._laws(source, "posterior", mixed, b, split)
                if len(data.source_shapes[b]) == 3:
                    similar = ssim(*(torch.cat(t) for t in zip(*pairs, strict=True)), self.task.data_range)
                    self.add(source, "posterior_ssim", float(similar.mean()), len(found), split)
                    continue
                inside = (found.abs() <= self.task.data_range).all(1)
                self.add(source, "fraction_outside", 1 - float(inside.double().mean()), len(found), split)
                # as the paper's released code scores: without the draws outside
                inner = float(decibels[inside].mean()) if bool(inside.any()) else math.nan
                self.add(source, "posterior_psnr_inside", inner, int(inside.sum()), split)

    def _means(self, model: Model) -> None:
        """Posterior means of fresh observations, and how far the truth is from them beside the posterior's own width."""
        found: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = {b: [] for b in self.sources}
        for alpha in self.task.scored_views:
            view = self.task.fresh.views[alpha]
            draws = model.posterior_samples(view, self.stream.child("means", alpha), self.metrics.mean_draws)
            for b, x in zip(self._among(view), self._within([list(draws)])[0], strict=True):
                if (truth := self.task.fresh_truth[alpha][b]) is not None:
                    found[b].append((x.mean(0), x.std(0), truth))
        found = {b: parts for b, parts in found.items() if parts}
        for b, parts in found.items():
            mean, _, true = (torch.cat(t).flatten(1) for t in zip(*parts, strict=True))
            value = float(psnr(mean, true, self.task.data_range).mean())
            self.add(str(b + 1), "posterior_mean_psnr", value, len(mean))
            shown_mean, shown_width, _ = (_in_turn(t) for t in zip(*parts, strict=True))  # as the truth is kept
            self.saved |= {f"mean_{b + 1}": self._few(shown_mean), f"width_{b + 1}": self._few(shown_width)}
        shown = [self._among(self.task.fresh.views[alpha]) for alpha in self.task.scored_views]
        if self.sources[-1] in found and all(sources == shown[0] for sources in shown):
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
        count = len(self.truth[b]) or self.metrics.saved  # without truth, for the figures alone
        prior = self._within([[model.prior_sample(b, count, self.stream.child("prior", b)).flatten(1)]])[0][0]
        self._laws(source, "prior", prior, b, "fresh")
        self.saved[f"prior_{source}"] = self._few(prior)

    def _even(self, model: Model, b: int, n: int) -> Tensor:
        """Stratified prior draws; of the oracle, the training sources."""
        if self.job.recipe.fit == "truth":
            return self.task.training_sources(b, n).flatten(1)
        return model.prior_sample(b, n, self.stream.child("even", b), stratified=True).flatten(1)

    def _laws(self, source: str, kind: str, x: Tensor, b: int, split: str) -> None:
        """The paper's divergence, PQMass and Fréchet distances, against independent truth."""
        m, truth, finite = self.metrics, self.truth[b], bool(torch.isfinite(x).all())
        if n := m.paper_sinkhorn:
            paper = sinkhorn_divergence_paper(x[:n], truth[:n], n) if finite else math.nan
            self.add(source, f"{kind}_sinkhorn_paper", paper, n, split)
        n = min(m.pqmass, len(x)) if len(truth) else 0
        if n and finite:
            mass = pqmass(x[:n], truth[: m.pqmass], m.references, m.tessellations, self.job.seed)
            self.add(source, f"{kind}_pqmass", mass.p_value, n, split)
            self.add(source, f"{kind}_pqmass_chi2", mass.chi2_per_dof, n, split)
        features = self.task.features(b)
        if features is not None and finite:
            shape = self.task.train.source_shapes[b]
            n = min(len(x), len(truth))
            full, means = frechet(*(features(v[:n].reshape(-1, *shape)) for v in (x, truth)))
            self.add(source, f"{kind}_frechet", full, n, split)
            self.add(source, f"{kind}_frechet_mean_only", means, n, split)
        self.saved.setdefault(f"independent_{source}", self._few(truth))

    def _coverage(self, model: Model) -> None:
        """TARP coverage of joint draws of what the method separates, with references that depend on y: A⁺y plus noise."""
        if unknown_sources(self.task):
            return
        m = self.metrics
        found = calibrate(model, self.task, m.coverage, m.coverage_draws, self.stream.child("coverage"), self.job)
        # of all sources together, or, for a method that separates one of several, of that one
        whole = len(self.sources) == len(self.task.train.source_shapes)
        name = "mean" if whole else str(self.sources[-1] + 1)
        self.add(name, "coverage_error", coverage_error(found.coverage, found.levels), found.observations)
        self.saved["coverage_levels"], self.saved["coverage_expected"] = found.levels.numpy(), found.coverage.numpy()


def _divergence(x: Tensor, y: Tensor) -> float:
    if not bool(torch.isfinite(x).all()):
        return math.nan
    return float(sinkhorn_divergence(x, y))


def _in_turn(views: Sequence[Tensor]) -> Tensor:
    """The first of each view, the second of each, …, flattened, so that a part of them holds all views."""
    few = min(len(x) for x in views)
    return torch.stack([x[:few] for x in views], dim=1).flatten(0, 1).flatten(1)
