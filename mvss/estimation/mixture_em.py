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

__all__ = ["SharedMixtureConfig", "estimated", "fit_shared_mixtures"]

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from sklearn.cluster import KMeans
from torch import Tensor

from mvss.estimation.noisier2noise import Noisier2NoiseConfig
from mvss.posteriors.shared_gaussians import NEGLIGIBLE, Components, Given, SharedGaussians, SharedView
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.problem.noise import Isotropic
from mvss.problem.operators import Identity, Zero
from mvss.problem.views import MultiViewData, View
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

UNSEEN = 1e-10
"""Relative precision below which a direction is taken as unseen: what all observations mask has one of rounding errors."""


@dataclass(frozen=True)
class SharedMixtureConfig:
    """components, ranks: per source; rank 0 for a full covariance. laps: of EM in every stage. floor: least standard
    deviation of a component in any direction, in the units of the source. noisier2noise: of sources that pairs of views tell,
    fit the mixture to estimates of each observation's (`estimated`) in place of the observations."""

    components: tuple[int, ...] = (1, 8)
    ranks: tuple[int, ...] = (0, 12)
    laps: int = 20
    floor: float = 0.01
    noisier2noise: Noisier2NoiseConfig | None = None

    def __post_init__(self) -> None:
        if len(self.components) != len(self.ranks):
            raise MvssError(f"mixture: components {self.components} and ranks {self.ranks} need one number per source each")
        if min(self.components) < 1 or min(self.ranks) < 0 or self.laps < 1 or not self.floor > 0:
            raise MvssError("mixture: components and laps must be at least 1, ranks at least 0, floor positive")


@dataclass(frozen=True)
class SharedMixtureFit:
    """priors: one per source. evidence: mean log p(y) of an observation of the stage's views, nats, before
    each lap of each stage."""

    priors: tuple[GaussianMixture, ...]
    evidence: list[float] = field(default_factory=list)


def fit_shared_mixtures(
    data: MultiViewData,
    config: SharedMixtureConfig,
    stages: Sequence[Sequence[int]],
    stream: Stream,
    progress: Callable[[float], None] = lambda _: None,
) -> SharedMixtureFit:
    """Fit one mixture per source. stages: sources (from 0) that learn at a time; earlier ones are frozen then, and views that
    show later ones are not used. Every source is started where a view shows it with none but started ones.

    Raises MvssError for views whose observations have operators of their own, and for a source that cannot be started.
    """
    if len(config.components) != len(data.source_shapes):
        raise MvssError(f"mixture: {len(config.components)} sources are configured, the data have {len(data.source_shapes)}")
    views = [SharedView.of(view) for view in data.views]
    priors: dict[int, GaussianMixture] = {}
    evidence: list[float] = []
    for number, stage in enumerate(stages):
        for beta in stage:
            priors[beta] = _start(data, views, beta, priors, config, stream.child("start", beta))
        used = [a for a, view in enumerate(data.views) if set(view.shown) <= priors.keys() and set(view.shown) & set(stage)]
        for lap in range(config.laps):
            new, value = _lap(data, views, used, priors, stage, stage[lap % len(stage)], config)
            priors |= new
            evidence.append(value)
            progress((number + (lap + 1) / config.laps) / len(stages))
    missing = [b + 1 for b in range(len(data.source_shapes)) if b not in priors]
    if missing:
        raise MvssError(f"mixture: no stage fits sources {missing}; name every source in a stage")
    return SharedMixtureFit(tuple(priors[b] for b in range(len(priors))), evidence)


def estimated(data: MultiViewData, estimates: Mapping[int, Tensor], floor: float) -> MultiViewData:
    """The data to fit to where sources (from 0) have been estimated, `(N, *shape)` each: one view of each alone, with a noise
    of `floor`, in place of all views that show it."""
    views = [view for view in data.views if not set(view.shown) & set(estimates)]
    for beta, x in estimates.items():
        shapes = enumerate(data.source_shapes)
        operators = tuple(Identity(s) if b == beta else Zero(s, data.source_shapes[beta]) for b, s in shapes)
        views.append(View(x, operators, Isotropic(floor), f"estimates of source {beta + 1}"))
    return MultiViewData(tuple(views), data.source_shapes)


class _Moments:
    """Σ r, Σ r m and Σ r (m mᵀ + P) of the components of one source."""

    def __init__(self, components: int, size: int) -> None:
        self.count = torch.zeros(components, dtype=torch.float64)
        self.first = torch.zeros(components, size, dtype=torch.float64)
        self.second = torch.zeros(components, size, size, dtype=torch.float64)
        self.precision, self.force = torch.zeros_like(self.second), torch.zeros_like(self.first)
        self.pulled, self.expected = torch.zeros_like(self.first), torch.zeros_like(self.first)

    def pull(self, k: int, weight: Tensor, given: Given, number: int, place: int, total: Tensor) -> None:
        """Add Σ r Aᵀ S⁻¹ A and Σ r Aᵀ S⁻¹ (y − Σ A mean). place: of the source among those that the view shows. number: of the
        combination. total: Σ r S⁻¹, `(M, M)`."""
        view, residual, inverse = given.gaussians.view, given.residuals[number], given.gaussians.combinations[number].precision
        precision = view.pull(place, view.pull(place, total).mT)
        self.precision[k] += precision
        self.force[k] += view.pull(place, ((weight @ residual) @ inverse)[None])[0]
        rows = (weight > NEGLIGIBLE).nonzero().squeeze(1)
        self.pulled[k] += weight[rows] @ view.pull(place, residual[rows] @ inverse).square()
        self.expected[k] += precision.diagonal()

    def add(self, k: int, weight: Tensor, mean: Tensor, covariance: Tensor) -> None:
        """covariance: Σ r P, `(D, D)`."""
        self.count[k] += weight.sum()
        self.first[k] += weight @ mean
        self.second[k] += (weight[:, None] * mean).mT @ mean + covariance

    def mixture(self, rank: int, floor: float, before: Tensor | None = None) -> GaussianMixture:
        """The maximum-likelihood components. One that no observation wants keeps the law of all of them together.

        before: the means so far `(K, D)`, to move them by the direct solution.
        """
        means, covariances, steps = [], [], []
        for k in range(len(self.count)):
            some = float(self.count[k]) > 1.0
            count = self.count[k] if some else self.count.sum()
            centre = (self.first[k] if some else self.first.sum(0)) / count
            second = (self.second[k] if some else self.second.sum(0)) / count
            mean = centre
            if some and before is not None:
                mean = before[k] + _solve(self.precision[k], self.force[k])
            means.append(mean)
            covariances.append(second - torch.outer(centre, centre))
            steps.append(self._step(k) if some and before is not None else torch.zeros_like(mean))
        weights = self.count.clamp_min(1.0)
        return factor_analysis(weights, torch.stack(means), torch.stack(covariances), rank, floor, torch.stack(steps))

    def _step(self, k: int) -> Tensor:
        """Fisher scoring of the variance of each number by itself: (mean g² − p) / p², where g = Aᵀ S⁻¹ (y − Σ A mean) and
        p = diag Aᵀ S⁻¹ A is what g² should be; 0 where no observation tells."""
        squared, expected = self.pulled[k] / self.count[k], self.expected[k] / self.count[k]
        return torch.where(expected > UNSEEN * expected.max(), (squared - expected) / expected.square().clamp_min(1e-30), 0.0)


def _solve(system: Tensor, right: Tensor) -> Tensor:
    """The shortest solution `(D,)` of a symmetric system. (Torch's own by pivots, gelsy, often takes a wrong rank for that of a
    singular system, and its answer is then wrong.)"""
    values, vectors = torch.linalg.eigh(system)
    inverse = torch.where(values > UNSEEN * values[-1], values.reciprocal(), 0.0)
    return vectors @ (inverse * (vectors.mT @ right))


def factor_analysis(
    weights: Tensor, means: Tensor, covariances: Tensor, rank: int, floor: float, steps: Tensor | None = None
) -> GaussianMixture:
    """The mixture of covariances `(K, D, D)` kept to `rank` directions (0: all) and a variance of each number by itself, which
    `steps` `(K, D)` are added to, and which is at least floor²."""
    values, vectors = torch.linalg.eigh(covariances)
    size = values.shape[1]
    if 0 < rank < size:
        leading = vectors[:, :, -rank:] * values[:, None, -rank:].clamp_min(0.0).sqrt()
        own = (covariances - leading @ leading.mT).diagonal(dim1=1, dim2=2)
        own = (own if steps is None else own + steps).clamp_min(floor**2)
        values, vectors = torch.linalg.eigh(leading @ leading.mT + torch.diag_embed(own))
    factors = vectors * (values - floor**2).clamp_min(0.0).sqrt().unsqueeze(1)
    return GaussianMixture(weights, means, factors, floor)


def _lap(
    data: MultiViewData,
    views: Sequence[SharedView],
    used: Sequence[int],
    priors: dict[int, GaussianMixture],
    stage: Sequence[int],
    moved: int,
    config: SharedMixtureConfig,
) -> tuple[dict[int, GaussianMixture], float]:
    """New mixtures of the sources of a stage, and the mean log evidence before. moved: whose means are solved for."""
    moments = {b: _Moments(len(priors[b]), priors[b].dimension) for b in stage}
    evidence, count = 0.0, 0
    for alpha in used:
        view, shown = views[alpha], data.views[alpha].shown
        sources = [Components.of(priors[b]) for b in shown]
        given = SharedGaussians(view, sources).given(view.y, sources, view.own)
        evidence, count = evidence + float(given.log_evidence().sum()), count + len(view.y)
        for number, (combination, weight) in enumerate(
            zip(given.gaussians.combinations, given.responsibility().mT, strict=True)
        ):
            if float(weight.sum()) < 1e-6:
                continue
            means, total = given.component_mean(number), given.precision(number, weight)
            for place, (beta, k) in enumerate(zip(shown, combination.numbers, strict=True)):
                if beta in moments:
                    if beta == moved:
                        moments[beta].pull(k, weight, given, number, place, total)
                    across = combination.across[place]
                    covariance = weight.sum() * sources[place].covariance(k) - across.mT @ total @ across
                    moments[beta].add(k, weight, means[place], covariance)
    before = {moved: priors[moved].means}
    new = {b: m.mixture(config.ranks[b], config.floor, before.get(b)) for b, m in moments.items()}
    return new, evidence / count


def _start(
    data: MultiViewData,
    views: Sequence[SharedView],
    beta: int,
    known: dict[int, GaussianMixture],
    config: SharedMixtureConfig,
    stream: Stream,
) -> GaussianMixture:
    """A source under one broad Gaussian beside those known, then its posterior means in clusters, one per component."""
    usable = [a for a, view in enumerate(data.views) if beta in view.shown and set(view.shown) - {beta} <= known.keys()]
    if not usable:
        raise MvssError(f"mixture: no view shows source {beta + 1} with none but earlier sources; give other stages")
    alpha = max(usable, key=lambda a: views[a].y.shape[1])  # of the finest resolution
    view, shown = views[alpha], data.views[alpha].shown
    matrices = [operator.dense()[0] for operator in view.operators]
    matrix = matrices[shown.index(beta)]
    residual, variance = view.y, view.variances()
    measured = variance.isfinite().double()
    seen = measured.sum(0).clamp_min(1.0)
    for b, a in zip(shown, matrices, strict=True):
        if b != beta:
            mixture = known[b]
            mean = mixture.weights @ mixture.means
            spread = mixture.means - mean
            total = torch.einsum("k,kij->ij", mixture.weights, mixture.covariances) + (mixture.weights * spread.mT) @ spread
            residual, variance = residual - mean @ a.mT, variance + (a @ total * a).sum(1)
    mean = (residual * measured).sum(0) / seen
    centre = _solve(matrix.mT @ matrix, matrix.mT @ mean)
    excess = ((residual - centre @ matrix.mT).square() - variance).where(measured > 0, 0.0).sum(0) / seen
    power = matrix.square().sum(1)
    wide = max(config.floor**2, float(excess[power > 0].sum() / power.sum()))
    size = matrix.shape[1]
    broad = GaussianMixture(torch.ones(1), centre[None], torch.zeros(1, size, 0), math.sqrt(wide))
    sources = [Components.of(known[b] if b != beta else broad) for b in shown]
    means = SharedGaussians(view, sources).given(view.y, sources, view.own).mean()[shown.index(beta)]
    count = config.components[beta]
    if count > len(means):
        raise MvssError(f"mixture: {count} components for source {beta + 1} need as many observations, not {len(means)}")
    seed = stream.generator("clusters").initial_seed() % 2**31
    label = torch.from_numpy(KMeans(count, n_init=4, random_state=seed).fit_predict(means.numpy())).long()
    moments = _Moments(count, size)
    within = torch.zeros(size, size, dtype=torch.float64)
    for k in range(count):
        moments.add(k, (label == k).double(), means, within)
    return moments.mixture(config.ranks[beta], max(config.floor, 0.3 * math.sqrt(wide)))
