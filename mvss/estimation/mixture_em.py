"""Mixture priors of sources under operators that whole views share, fitted by expectation–maximisation: for images.

    E-step   r_ik = p(k | y_i),   m_ik, P_k = E, Cov[x^β | y_i, k]                           (`shared_gaussians`, exact)
    M-step   π_k = Σ_i r_ik / N,   mean_k = Σ_i r_ik m_ik / N_k,   C_k = Σ_i r_ik (m_ik m_ikᵀ + P_k) / N_k − mean_k mean_kᵀ

    but for the means of one source a lap, which solve  Σ_i r_ik Aᵀ S_k⁻¹ (y_i − Σ A mean) = 0  directly

(extreme deconvolution, Bovy et al. 2011, here for several sources at once). A source of low rank keeps the R leading
eigenvectors of C_k, and of the rest the variance of each number by itself (principal factors). A view that does not show a
source says nothing of it.

Plain EM moves the mean of a thin component by its own covariance times the gradient, and hardly leaves its start; the direct
solution maximises Σ r_ik log p(y_i | k), with x integrated out (another augmentation for other parameters, as in AECM, Meng &
van Dyk 1997). Sources take turns: all at once would each explain the same residual.
"""

from __future__ import annotations

__all__ = ["EMFit", "estimated", "expectation_maximisation"]

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from sklearn.cluster import KMeans
from torch import Tensor

from mvss.estimation.mixture_moments import Moments, solve
from mvss.posteriors.shared_gaussians import SharedGaussians, SharedGiven
from mvss.presets.estimation import MixtureEMConfig
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.priors.local_law import Components
from mvss.problem.operators import Identity, Shape
from mvss.problem.shared_view import SharedView
from mvss.problem.views import View, Views
from mvss.runtime.errors import MvssError
from mvss.runtime.memory import OutOfMemory
from mvss.runtime.rng import Stream

ROUNDING = 1e-9
"""Relative size of a fall of the evidence that rounding explains."""


@dataclass(frozen=True)
class EMFit:
    """priors: by source, of the best iterate of each stage. evidence: mean log p(y) of an observation of the stage's views,
    nats, before each lap of each stage, and best: of what is returned, of the last stage. fell: laps that lowered it, which
    those of a low rank may, since keeping to a rank is a projection. stopped: stages that ended early, at their best iterate,
    since what came next was singular."""

    priors: dict[str, GaussianMixture]
    evidence: list[float]
    best: float
    fell: int = 0
    stopped: int = 0


def expectation_maximisation(
    views: Views,
    config: MixtureEMConfig,
    stages: Sequence[Sequence[str]],
    stream: Stream,
    progress: Callable[[float], None] = lambda _: None,
) -> EMFit:
    """Fit one mixture per source, stage by stage: earlier sources are frozen then, and views that show later ones are not
    used. stages: sources in the order in which they learn, by which `config` gives numbers, too.

    Raises MvssError for views whose observations have operators of their own, and for a source that cannot be started.
    """
    rows, priors, evidence = [SharedView.of(view) for view in views], dict[str, GaussianMixture](), list[float]()
    best, fell, stopped = math.nan, 0, 0
    order = [source for stage in stages for source in stage]
    for number, stage in enumerate(stages):
        for source in stage:
            place = order.index(source)
            start = _Start(_at(config.components, place), _at(config.ranks, place), config.floor, views.shapes[source])
            priors[source] = start.prior(views, rows, source, priors, stream.child("start", place))
        used = [
            (view.sources, rows[a])
            for a, view in enumerate(views)
            if set(view.sources) <= priors.keys() and set(view.sources) & set(stage)
        ]
        ranks = {source: _at(config.ranks, order.index(source)) for source in stage}
        climb = _Climb(config, ranks, used, priors)
        for lap in range(config.laps):
            if not climb.step(stage[lap % len(stage)]):
                break
            progress((number + (lap + 1) / config.laps) / len(stages))
        priors, best = climb.best()
        evidence, fell, stopped = evidence + climb.evidence, fell + climb.fell, stopped + climb.singular
    return EMFit(priors, evidence, best, fell, stopped)


Used = Sequence[tuple[tuple[str, ...], SharedView]]
"""Views, with the sources that they show."""


class _Climb:
    """The laps of a stage, and the best of what they pass. ranks: of the sources that learn."""

    def __init__(
        self, config: MixtureEMConfig, ranks: Mapping[str, int], used: Used, priors: Mapping[str, GaussianMixture]
    ) -> None:
        self.config, self.ranks, self.used, self.priors = config, ranks, used, dict(priors)
        self.evidence: list[float] = []
        self.fell, self.singular = 0, False
        self._best = (-math.inf, dict(priors))

    def step(self, moved: str) -> bool:
        """One lap. moved: whose means are solved for. False where the next iterate is singular."""
        try:
            new, value = _lap(self.used, self.priors, self.ranks, moved, self.config.floor)
        except (torch.linalg.LinAlgError, MvssError) as error:  # type: ignore[attr-defined]
            if isinstance(error, OutOfMemory) or (isinstance(error, MvssError) and not self.evidence):
                raise
            self.singular = True
            return False
        self._look(value)
        self.evidence.append(value)
        self.priors |= new
        return True

    def best(self) -> tuple[dict[str, GaussianMixture], float]:
        """What explains the data best, also after the last lap, and its mean log evidence."""
        if not self.singular:
            with contextlib.suppress(torch.linalg.LinAlgError):  # type: ignore[attr-defined]
                self._look(_evidence(self.used, self.priors))
        if self._best[0] == -math.inf:
            raise MvssError("first priors: the first mixtures are singular: raise estimation.floor, or fit fewer components")
        return self._best[1], self._best[0]

    def _look(self, value: float) -> None:
        before = self.evidence[-1] if self.evidence else -math.inf
        self.fell += value < before - ROUNDING * abs(before)
        if value > self._best[0]:
            self._best = value, dict(self.priors)


def estimated(views: Views, estimates: Mapping[str, Tensor], floor: float) -> Views:
    """The views to fit to where sources have been estimated, `(N, *shape)` each: one view of each alone, with a noise of
    `floor`, in place of all views that show it, but for those that alone show some other."""
    apart = {source for view in views if not set(view.sources) & set(estimates) for source in view.sources}
    kept = [view for view in views if set(view.sources) <= apart or set(view.sources) - apart - set(estimates)]
    alone = [View(x, {s: Identity(views.shapes[s])}, floor, f"estimates of {s}") for s, x in estimates.items()]
    return Views([*kept, *alone])


def _at(numbers: Sequence[int], place: int) -> int:
    """Of a source; the last number serves all further ones."""
    return numbers[min(place, len(numbers) - 1)]


def _lap(
    used: Used,
    priors: Mapping[str, GaussianMixture],
    ranks: Mapping[str, int],
    moved: str,
    floor: float,
) -> tuple[dict[str, GaussianMixture], float]:
    """New mixtures of the sources of a stage, which `ranks` names, and the mean log evidence before. moved: whose means are
    solved for."""
    moments = {b: Moments(len(priors[b]), priors[b].dimension) for b in ranks}
    evidence, count = 0.0, 0
    for names, view in used:
        sources = [Components.of(priors[b]) for b in names]
        gaussians = SharedGaussians.alone(view, sources)
        for part in gaussians.pieces(view):
            given = gaussians.given(part.y, sources, part.woodbury)
            evidence, count = evidence + float(given.log_evidence().sum()), count + len(part.y)
            _gather(moments, given, names, moved)
    before = {moved: priors[moved].means}
    new = {b: m.mixture(ranks[b], floor, priors[b].shape, before.get(b)) for b, m in moments.items()}
    return new, evidence / count


def _gather(moments: Mapping[str, Moments], given: SharedGiven, names: Sequence[str], moved: str) -> None:
    """Add what some observations say. names: sources of their view."""
    for number, (combination, weight) in enumerate(zip(given.gaussians.combinations, given.responsibility().mT, strict=True)):
        if float(weight.sum()) < 1e-6:
            continue
        means, total = given.component_mean(number), given.precision(number, weight)
        for place, (beta, k) in enumerate(zip(names, combination.numbers, strict=True)):
            if beta in moments:
                if beta == moved:
                    moments[beta].pull(k, weight, given, number, place, total)
                across = combination.across[place]
                covariance = weight.sum() * given.sources[place].covariance(k) - across.mT @ total @ across
                moments[beta].add(k, weight, means[place], covariance)


def _evidence(used: Used, priors: Mapping[str, GaussianMixture]) -> float:
    """Mean log evidence."""
    total, count = 0.0, 0
    for names, view in used:
        sources = [Components.of(priors[b]) for b in names]
        gaussians = SharedGaussians.alone(view, sources)
        for part in gaussians.pieces(view):
            total += float(gaussians.given(part.y, sources, part.woodbury).log_evidence().sum())
        count += len(view.y)
    return total / count


@dataclass(frozen=True)
class _Start:
    """A source under one broad Gaussian beside those known, then its posterior means in clusters, one per component."""

    components: int
    rank: int
    floor: float
    shape: Shape

    def prior(
        self, views: Views, rows: Sequence[SharedView], source: str, known: Mapping[str, GaussianMixture], stream: Stream
    ) -> GaussianMixture:
        """Of a source beside those known."""
        usable = [a for a, v in enumerate(views) if source in v.sources and set(v.sources) - {source} <= known.keys()]
        if not usable:
            why = f"no view shows {source} with none but earlier sources: estimation: {{kind: ascent}} may find it"
            raise MvssError(f"first priors: {why}")
        alpha = max(usable, key=lambda a: rows[a].y.shape[1])  # of the finest resolution
        view, names = rows[alpha], views[alpha].sources
        broad, wide = self._broad(view, names, source, known)
        sources = [Components.of(known[b] if b != source else broad) for b in names]
        gaussians = SharedGaussians.alone(view, sources)
        given = (gaussians.given(part.y, sources, part.woodbury) for part in gaussians.pieces(view))
        means = torch.cat([part.mean()[names.index(source)] for part in given])
        count, size = self.components, means.shape[1]
        if count > len(means):
            raise MvssError(
                f"first priors: {count} estimation.components for {source} need as many observations, not {len(means)}"
            )
        seed = stream.generator("clusters").initial_seed() % 2**31
        label = torch.from_numpy(KMeans(count, n_init=4, random_state=seed).fit_predict(means.cpu().numpy())).long()
        moments = Moments(count, size)
        within = torch.zeros(size, size, dtype=torch.float64)
        for k in range(count):
            moments.add(k, (label == k).double(), means, within)
        return moments.mixture(self.rank, max(self.floor, 0.3 * wide), self.shape)

    def _broad(
        self, view: SharedView, names: Sequence[str], source: str, known: Mapping[str, GaussianMixture]
    ) -> tuple[GaussianMixture, float]:
        """One Gaussian of what the others leave, and its width."""
        matrices = [operator.dense()[0] for operator in view.operators]
        matrix = matrices[names.index(source)]
        residual, variance = view.y, view.variances()
        measured = variance.isfinite().double()
        seen = measured.sum(0).clamp_min(1.0)
        for b, a in zip(names, matrices, strict=True):
            if b != source:
                mixture = known[b]
                mean = mixture.mean.flatten()
                spread = mixture.means - mean
                total = torch.einsum("k,kij->ij", mixture.weights, mixture.covariances)
                total = total + (mixture.weights * spread.mT) @ spread
                residual, variance = residual - mean @ a.mT, variance + (a @ total * a).sum(1)
        mean = (residual * measured).sum(0) / seen
        system, right = matrix.mT @ matrix, matrix.mT @ mean
        square = (residual - solve(system, right) @ matrix.mT).square().where(measured > 0, 0.0).sum(0) / seen
        excess = square - variance.where(measured > 0, 0.0).sum(0) / seen
        power = matrix.square().sum(1)
        wide = math.sqrt(max(self.floor**2, float(excess[power > 0].sum() / power.sum())))
        # gains by which the mean of so many observations cannot be told to within the width
        centre = solve(system, right, float((square / seen).mean()) / wide**2)
        size = matrix.shape[1]
        return GaussianMixture(torch.ones(1), centre[None], torch.zeros(1, size, 0), wide, self.shape), wide
