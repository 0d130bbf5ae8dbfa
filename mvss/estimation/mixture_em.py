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

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from sklearn.cluster import KMeans
from torch import Tensor

from mvss.posteriors.shared_gaussians import NEGLIGIBLE, SharedGaussians, SharedGiven
from mvss.presets.estimation import MixtureEMConfig
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.priors.local_law import Components
from mvss.problem.operators import Identity, Shape
from mvss.problem.shared_view import SharedView
from mvss.problem.views import View, Views
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

UNSEEN = 1e-10
"""Relative precision below which a direction is taken as unseen: what all observations mask has one of rounding errors."""


@dataclass(frozen=True)
class EMFit:
    """priors: by source. evidence: mean log p(y) of an observation of the stage's views, nats, before each lap of each
    stage."""

    priors: dict[str, GaussianMixture]
    evidence: list[float]


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
    order = [source for stage in stages for source in stage]
    for number, stage in enumerate(stages):
        for source in stage:
            place = order.index(source)
            start = _Start(_at(config.components, place), _at(config.ranks, place), config.floor, views.shapes[source])
            priors[source] = start.prior(views, rows, source, priors, stream.child("start", place))
        used = [a for a, view in enumerate(views) if set(view.sources) <= priors.keys() and set(view.sources) & set(stage)]
        ranks = {source: _at(config.ranks, order.index(source)) for source in stage}
        for lap in range(config.laps):
            moved = stage[lap % len(stage)]
            new, value = _lap([(views[a].sources, rows[a]) for a in used], priors, ranks, moved, config.floor)
            priors |= new
            evidence.append(value)
            progress((number + (lap + 1) / config.laps) / len(stages))
    return EMFit(priors, evidence)


def estimated(views: Views, estimates: Mapping[str, Tensor], floor: float) -> Views:
    """The views to fit to where sources have been estimated, `(N, *shape)` each: one view of each alone, with a noise of
    `floor`, in place of all views that show it."""
    kept = [view for view in views if not set(view.sources) & set(estimates)]
    alone = [View(x, {s: Identity(views.shapes[s])}, floor, f"estimates of {s}") for s, x in estimates.items()]
    return Views([*kept, *alone])


def _at(numbers: Sequence[int], place: int) -> int:
    """Of a source; the last number serves all further ones."""
    return numbers[min(place, len(numbers) - 1)]


class _Moments:
    """Σ r, Σ r m and Σ r (m mᵀ + P) of the components of one source."""

    def __init__(self, components: int, size: int) -> None:
        self.count = torch.zeros(components, dtype=torch.float64)
        self.first = torch.zeros(components, size, dtype=torch.float64)
        self.second = torch.zeros(components, size, size, dtype=torch.float64)
        self.precision, self.force = torch.zeros_like(self.second), torch.zeros_like(self.first)
        self.pulled, self.expected = torch.zeros_like(self.first), torch.zeros_like(self.first)

    def pull(self, k: int, weight: Tensor, given: SharedGiven, number: int, place: int, total: Tensor) -> None:
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

    def mixture(self, rank: int, floor: float, shape: Shape, before: Tensor | None = None) -> GaussianMixture:
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
        mixture = factor_analysis(weights, torch.stack(means), torch.stack(covariances), rank, floor, torch.stack(steps))
        mixture.shape = shape
        return mixture

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
    used: Sequence[tuple[tuple[str, ...], SharedView]],
    priors: Mapping[str, GaussianMixture],
    ranks: Mapping[str, int],
    moved: str,
    floor: float,
) -> tuple[dict[str, GaussianMixture], float]:
    """New mixtures of the sources of a stage, which `ranks` names, and the mean log evidence before. used: views, with the
    sources that they show. moved: whose means are solved for."""
    moments = {b: _Moments(len(priors[b]), priors[b].dimension) for b in ranks}
    evidence, count = 0.0, 0
    for names, view in used:
        sources = [Components.of(priors[b]) for b in names]
        given = SharedGaussians(view, sources).given(view.y, sources, view.woodbury)
        evidence, count = evidence + float(given.log_evidence().sum()), count + len(view.y)
        for number, (combination, weight) in enumerate(
            zip(given.gaussians.combinations, given.responsibility().mT, strict=True)
        ):
            if float(weight.sum()) < 1e-6:
                continue
            means, total = given.component_mean(number), given.precision(number, weight)
            for place, (beta, k) in enumerate(zip(names, combination.numbers, strict=True)):
                if beta in moments:
                    if beta == moved:
                        moments[beta].pull(k, weight, given, number, place, total)
                    across = combination.across[place]
                    covariance = weight.sum() * sources[place].covariance(k) - across.mT @ total @ across
                    moments[beta].add(k, weight, means[place], covariance)
    before = {moved: priors[moved].means}
    new = {b: m.mixture(ranks[b], floor, priors[b].shape, before.get(b)) for b, m in moments.items()}
    return new, evidence / count


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
            raise MvssError(f"mixture: no view shows {source} with none but earlier sources: explicit likelihoods may")
        alpha = max(usable, key=lambda a: rows[a].y.shape[1])  # of the finest resolution
        view, names = rows[alpha], views[alpha].sources
        broad, wide = self._broad(view, names, source, known)
        sources = [Components.of(known[b] if b != source else broad) for b in names]
        means = SharedGaussians(view, sources).given(view.y, sources, view.woodbury).mean()[names.index(source)]
        count, size = self.components, means.shape[1]
        if count > len(means):
            raise MvssError(f"mixture: {count} components for {source} need as many observations, not {len(means)}")
        seed = stream.generator("clusters").initial_seed() % 2**31
        label = torch.from_numpy(KMeans(count, n_init=4, random_state=seed).fit_predict(means.cpu().numpy())).long()
        moments = _Moments(count, size)
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
                mean = mixture.weights @ mixture.means
                spread = mixture.means - mean
                total = torch.einsum("k,kij->ij", mixture.weights, mixture.covariances)
                total = total + (mixture.weights * spread.mT) @ spread
                residual, variance = residual - mean @ a.mT, variance + (a @ total * a).sum(1)
        mean = (residual * measured).sum(0) / seen
        centre = _solve(matrix.mT @ matrix, matrix.mT @ mean)
        excess = ((residual - centre @ matrix.mT).square() - variance).where(measured > 0, 0.0).sum(0) / seen
        power = matrix.square().sum(1)
        wide = math.sqrt(max(self.floor**2, float(excess[power > 0].sum() / power.sum())))
        size = matrix.shape[1]
        return GaussianMixture(torch.ones(1), centre[None], torch.zeros(1, size, 0), wide, self.shape), wide
