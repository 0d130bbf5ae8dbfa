"""How probable is a candidate source? log p(x) of a prior by the probability-flow ODE (Song et al. 2021).

    dx/ds = x − d(x, σ),    d log p_σ(x)/ds = tr ∂d/∂x − D,    s = log σ
    log p_{σ_min}(x) = log p_{σ_max}(x(σ_max)) + ∫ (D − tr ∂d/∂x) ds,   the integral from log σ_min to log σ_max

A source on a manifold has no density: what is given is that of x + σ_min z, at a stated σ_min. At σ_max the density is that
of the prior's mixture convolved with noise of that level, not N(0, σ_max²): σ_max need not be larger than what the network
was trained on. The trace is exact (D vector–Jacobian products), or an estimate with its standard error: that of the mixture's
denoiser, Σ Var[x | x_t] / σ², and Hutchinson's of what the network adds to it, which is as uncertain as that is large.

The mean over many x needs no trace and no integrator (de Bruijn's identity; Song et al. 2021, Maximum likelihood training):

    E log p_{σ_min}(x + σ_min z) = E log p_{σ_max}(x + σ_max z) + ∫ (D − E ‖x − d(x + σ z, σ)‖² / σ²) ds
"""

from __future__ import annotations

__all__ = ["LogDensity", "expected_log_prob", "flow_log_prob"]

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from mvss.priors.prior import Prior, column
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

CHUNK, AT_ONCE = 512, 4096
"""Candidates that share the integrator's steps, and draws that go through a network, at a time."""


@dataclass(frozen=True)
class LogDensity:
    """log p_{σ_min}(x) of N candidates, in nats.

    value: `(N,)`. standard_error: `(N,)`, of Hutchinson's estimate; zero where the trace is exact. evaluations: of the
    network per candidate, a vector–Jacobian product counted as one.
    """

    value: Tensor
    standard_error: Tensor
    evaluations: int


def flow_log_prob(
    prior: Prior,
    x: Tensor,
    sigma_min: float,
    sigma_max: float,
    probes: int = 0,
    stream: Stream | None = None,
    tolerance: float = 1e-7,
) -> LogDensity:
    """log p_{σ_min}(x) for candidates x `(N, *shape)` under a prior, in float64.

    sigma_min, sigma_max: noise levels in the units of the source; the network must have been trained between them.
    probes: 0 for the exact trace, else Rademacher vectors of Hutchinson's estimate, at least 2; stream: their randomness.
    tolerance: relative and absolute, of the integrator's steps (scipy's DOP853).

    Raises MvssError for wrong shapes, non-finite candidates, levels out of order, and an integration that fails.
    """
    if x.shape[1:] != prior.shape or len(x) == 0:
        raise MvssError(f"log_prob: candidates are {tuple(x.shape)}; they must be (N, {', '.join(map(str, prior.shape))})")
    if not bool(torch.isfinite(x).all()):
        raise MvssError("log_prob: candidates hold NaN or infinite values; remove those rows")
    if not 0 < sigma_min < sigma_max:
        raise MvssError(f"log_prob: needs 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
    if probes and (probes < 2 or stream is None):
        raise MvssError("log_prob: Hutchinson's estimate needs probes ≥ 2 and a stream")
    values, errors, evaluations = [], [], 0
    index = torch.arange(len(x))
    for first in range(0, len(x), CHUNK):
        rows = index[first : first + CHUNK]
        part = x[rows].flatten(1).to(prior.mixture.means)
        vectors = _rademacher(part, probes, rows, stream) if stream and probes else None
        flow = _Flow(prior, part, vectors)
        moved, gained = flow.integrate(math.log(sigma_min), math.log(sigma_max), tolerance)
        base = prior.mixture.log_prob(moved, sigma_max)
        values.append((base + gained.mean(1)).to(x.device))
        error = gained.std(1) / math.sqrt(probes) if probes else torch.zeros_like(base)
        errors.append(error.to(x.device))
        evaluations = max(evaluations, flow.evaluations)
    return LogDensity(torch.cat(values), torch.cat(errors), evaluations)


class _Flow:
    """The ODE of a chunk: positions `(N, D)` and the integral of D − tr ∂d/∂x, a column for each probe."""

    def __init__(self, prior: Prior, x: Tensor, vectors: Tensor | None) -> None:
        self.prior, self.x, self.vectors = prior, x, vectors
        self.evaluations = 0

    def integrate(self, low: float, high: float, tolerance: float) -> tuple[Tensor, Tensor]:
        """Positions at s = high and the integrals `(N, probes or 1)`."""
        n, d = self.x.shape
        columns = 1 if self.vectors is None else len(self.vectors)
        start = np.concatenate([self.x.cpu().numpy().ravel(), np.zeros(n * columns)])
        found = solve_ivp(self._slope, (low, high), start, method="DOP853", rtol=tolerance, atol=tolerance, t_eval=[high])
        if not found.success or not np.isfinite(found.y).all():
            raise MvssError(f"log_prob: the integration failed ({found.message}); raise sigma_min or the tolerance")
        end = torch.from_numpy(found.y[:, -1]).to(self.x)
        return end[: n * d].reshape(n, d), end[n * d :].reshape(n, columns)

    def _slope(self, s: float, state: np.ndarray) -> np.ndarray:
        n, d = self.x.shape
        x = torch.from_numpy(state[: n * d]).to(self.x).reshape(n, d)
        sigma = x.new_full((n,), math.exp(s))
        with torch.enable_grad():
            x.requires_grad_(True)
            estimate = self.prior.denoise(x.reshape(n, *self.prior.shape), sigma).flatten(1)
            trace = self._trace(x, estimate, sigma)
        self.evaluations += 1 + (d if self.vectors is None else len(self.vectors))
        slope = torch.cat([(x - estimate).detach().ravel(), (d - trace).ravel()])
        result: np.ndarray = slope.cpu().numpy()
        return result

    def _trace(self, x: Tensor, estimate: Tensor, sigma: Tensor) -> Tensor:
        """tr ∂d/∂x: exact `(N, 1)`, or an estimate for each probe `(N, probes)`."""
        if self.vectors is not None:
            base, variance = self.prior.mixture.estimate(x.reshape(len(x), *self.prior.shape), sigma)
            known, added = variance.detach().flatten(1).sum(1) / sigma.square(), estimate - base.flatten(1)
            products = [v * torch.autograd.grad(added, x, v, retain_graph=True)[0] for v in self.vectors]
            return torch.stack([known + p.sum(1) for p in products], dim=1)
        total = x.new_zeros(len(x))
        for j in range(x.shape[1]):
            total = total + torch.autograd.grad(estimate[:, j].sum(), x, retain_graph=True)[0][:, j]
        return total.unsqueeze(1)


def _rademacher(x: Tensor, probes: int, index: Tensor, stream: Stream) -> Tensor:
    """Random signs `(probes, N, D)`, keyed by candidate."""
    uniform = stream.uniform(index, (probes, x.shape[1]), "probes", device=x.device)
    return torch.where(uniform < 0.5, -1.0, 1.0).to(x).movedim(1, 0)


@torch.no_grad()
def expected_log_prob(prior: Prior, x: Tensor, sigma_min: float, sigma_max: float, stream: Stream, levels: int = 32) -> Tensor:
    """Unbiased one-draw estimates `(N,)`, nats, of E_z log p_{σ_min}(x + σ_min z) for x `(N, *shape)`: their mean is the
    expected log density of the law of x under the prior, as far as that is the score of one density.

    levels: noise levels per x, one in each of as many equal parts of [log σ_min, log σ_max]. The same stream gives the same
    noise, so that differences between priors are quiet.
    """
    low, span = math.log(sigma_min), math.log(sigma_max / sigma_min)
    pieces = []
    for rows in torch.arange(len(x)).split(AT_ONCE):
        clean = x[rows].to(prior.mixture.means)
        noise = stream.normal(rows, tuple(clean.shape[1:]), "top", device=clean.device)
        value = prior.mixture.log_prob(clean + sigma_max * noise, sigma_max)
        place = stream.uniform(rows, (levels,), "level", device=clean.device)
        for k in range(levels):
            sigma = (low + span * (k + place[:, k]) / levels).exp()
            noise = stream.normal(rows, tuple(clean.shape[1:]), "noise", k, device=clean.device)
            error = (clean - prior.denoise(clean + column(sigma, clean) * noise, sigma)).flatten(1).square().sum(1)
            value = value + (clean[0].numel() - error / sigma.square()) * span / levels
        pieces.append(value.to(x.device))
    return torch.cat(pieces)
