"""How well galaxies are separated, in an astronomer's terms.

    flux = Σ of the pixels within 3 half-light radii of the centre, the same pixels for the truth and for what was
    found: the truth is known there, and the neighbours and the noise far out are not summed up

`estimate` is the posterior mean `(N, 1, n, n)`, or what else one image per galaxy is; `draws` are `(D, N, 1, n, n)`.
Shares of the fluxes are of the true ones. Every function returns numbers by name; nan where there is nothing to take
one from.
"""

from __future__ import annotations

__all__ = [
    "BLENDED",
    "by_bin",
    "correlations",
    "coverage_scores",
    "flux",
    "flux_scores",
    "held_out_scores",
    "hold_out",
    "image_scores",
    "interval",
    "leftover_scores",
    "residual_scores",
    "shape_scores",
    "within",
]

import itertools
import math
from collections.abc import Callable, Sequence

import galsim
import torch
from torch import Tensor

from experiments.galaxies.data.stamps import Stamps
from mvss.metrics.calibration import ONE_SIGMA, interval_coverage, rank_statistics
from mvss.metrics.images import psnr, ssim
from mvss.metrics.spread import spread_ratio
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream, generator

BLENDED = 0.1
"""Share of the neighbours in the light of the aperture from which on a galaxy is blended."""
RADII = 3.0
"""Half-light radii."""


def within(stamps: Stamps, radii: float = RADII) -> Tensor:
    """The pixels within so many half-light radii of the galaxy, `(N, 1, n, n)`, four of them at least; around x and y
    of the catalogue, or the centre of the stamp."""
    n, catalogue = stamps.pixels, stamps.catalogue
    if "half_light_radius" not in catalogue:
        raise MvssError("the stamps' catalogue has no half_light_radius, which the apertures of the scores are made from")
    x, y = (catalogue.get(k, torch.full((len(stamps),), (n - 1) / 2)).reshape(-1, 1, 1, 1) for k in ("x", "y"))
    pixel = torch.arange(n, dtype=torch.float64)
    radius = (radii * catalogue["half_light_radius"]).clamp_min(1.5).reshape(-1, 1, 1, 1)
    return (pixel - x).square() + (pixel.unsqueeze(1) - y).square() <= radius.square()


def flux(images: Tensor, where: Tensor) -> Tensor:
    """Sum of the pixels in `where` `(N, 1, n, n)`: `(..., N)` of images `(..., N, 1, n, n)`."""
    return (images.double() * where).sum((-3, -2, -1))


def flux_scores(estimate: Tensor, stamps: Stamps) -> dict[str, float]:
    """flux_bias, flux_scatter: median and 1.4826 MAD of (f̂ − f) / f."""
    where = within(stamps)
    true = flux(_truth(stamps), where)
    error = flux(estimate, where) / true - 1
    middle = _median(error)
    return {"flux_bias": middle, "flux_scatter": 1.4826 * _median((error - middle).abs())}


def interval(draws: Tensor) -> tuple[Tensor, Tensor]:
    """The central 68 % of draws `(D, ...)`, from rank p (D + 1) to rank (1 − p) (D + 1), in between by lines: another
    draw of the same law lies inside in 68 % of the cases, however few draws there are."""
    ordered, count = draws.double().sort(0).values, len(draws)
    rank = (1 - ONE_SIGMA) / 2 * (count + 1) - 1
    if rank < 0:
        raise MvssError(f"68 % intervals need 6 draws at least, got {count}")
    low, part = int(rank), rank - int(rank)
    above = count - 1 - low
    return ordered[low].lerp(ordered[low + 1], part), ordered[above].lerp(ordered[above - 1], part)


def coverage_scores(draws: Tensor, stamps: Stamps) -> dict[str, float]:
    """flux_coverage: share of the galaxies whose true flux lies in the 68 % interval of the draws'. pixel_coverage: the
    same of pixels, where the truth exceeds the noise. Both are 0.68 of a calibrated posterior. flux_spread_ratio: variance
    of the draws' fluxes over the squared error of their mean, in shares of the true ones; 1 of a calibrated posterior;
    and its standard error."""
    truth, where = _truth(stamps), within(stamps)
    bright = truth > stamps.sigma
    found, true = flux(draws, where), flux(truth, where)
    ratio, error = spread_ratio((found / true).unsqueeze(-1), torch.ones_like(true).unsqueeze(-1))
    scores = {"flux_spread_ratio": ratio, "flux_spread_ratio_standard_error": error}
    for name, pair in (("flux_coverage", (found, true)), ("pixel_coverage", (draws[:, bright].double(), truth[bright]))):
        ranks = rank_statistics(*pair, generator(0, "galaxies", "ties", name))
        scores[name] = interval_coverage(ranks, len(draws)) if bool(pair[0].isfinite().all()) else math.nan
    return scores


def shape_scores(estimate: Tensor, stamps: Stamps) -> dict[str, float]:
    """Adaptive moments (Hirata & Seljak 2003, by GalSim) beside those of the truth without noise.

    centroid_error: root mean square of the distance, in pixels. ellipticity_error: of the difference of e1 and e2,
    where |e| = (a² − b²) / (a² + b²) of axes a and b. shape_failures: share of the galaxies where either has no
    moments; they are not among the former.
    """
    found, true = (torch.tensor([_moments(x) for x in images[:, 0].double().cpu()]) for images in (estimate, _truth(stamps)))
    difference = found - true
    measured = difference.isfinite().all(1)
    squares = difference[measured].square()
    return {
        "centroid_error": float(squares[:, :2].sum(1).mean().sqrt()),
        "ellipticity_error": float(squares[:, 2:].sum(1).mean().sqrt()),
        "shape_failures": 1 - float(measured.double().mean()),
    }


def image_scores(estimate: Tensor, stamps: Stamps) -> dict[str, float]:
    """psnr_peak, in dB, and ssim_peak: means over stamps, with the peak of every stamp's true galaxy as its range (a
    common range would say nothing about the faint ones); psnr_peak_blended, ssim_peak_blended: over blended ones."""
    truth = _truth(stamps)
    peak = truth.amax((1, 2, 3), keepdim=True)
    pair = estimate.double() / peak, truth / peak
    values = {"psnr_peak": psnr(*pair, 1.0), "ssim_peak": ssim(*pair, 1.0)}
    blended = stamps.catalogue.get("blending", torch.zeros(len(stamps))) >= BLENDED
    scores = {name: float(value.mean()) for name, value in values.items()}
    return scores | {f"{name}_blended": float(value[blended].mean()) for name, value in values.items()}


def leftover_scores(estimate: Tensor, stamps: Stamps) -> dict[str, float]:
    """Light in the galaxy source beyond 3 half-light radii, less what is truly there where that is known (real galaxies
    have wings): leftover_light, its median share of the galaxy's flux; leftover_sigma, in standard deviations of the
    noise of the observation in that area."""
    inside = within(stamps)
    room = ~inside.flatten(1).all(1)  # an aperture that fills its stamp leaves nothing beyond it
    stamps, inside, images = stamps.select(room), inside[room], estimate.double()[room]
    outside = ~inside
    truth = stamps.galaxy
    light = flux(images if truth is None else images - truth, outside)
    noise = flux(stamps.sigma.square(), outside).sqrt()
    share = light / flux(images if truth is None else truth, inside)
    return {"leftover_light": _median(share), "leftover_sigma": _median(light / noise)}


def residual_scores(sky: Tensor, galaxy: Tensor, stamps: Stamps) -> dict[str, float]:
    """What is left of an observation: r = (y − sky − galaxy) / σ of joint draws `(D, N, 1, n, n)` of both.

    residual_chi2: mean of r² over good pixels, 1 if the residuals are noise. residual_correlation,
    residual_correlation_2: of pixels one and two apart. noise_correlation...: the same of the noise itself, where the
    truth tells; 0 if it is white.
    """
    rows = []
    for x, z in zip(sky, galaxy, strict=True):  # one draw at a time: all at once take much memory
        left = (stamps.y - x.double() - z.double()) / stamps.sigma
        near = correlations(left, stamps.good)
        rows.append((float(left[stamps.good].square().mean()), near[1], near[2]))
    names = ("residual_chi2", "residual_correlation", "residual_correlation_2")
    scores = {name: sum(column) / len(rows) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
    if stamps.sky is not None and stamps.galaxy is not None:
        near = correlations((stamps.y - stamps.sky - stamps.galaxy) / stamps.sigma, stamps.good)
        scores |= {"noise_correlation": near[1], "noise_correlation_2": near[2]}
    return scores


def correlations(residual: Tensor, good: Tensor) -> dict[int, float]:
    """Σ r_p r_q / Σ r² at the lags 1 and 2, means over good pixels `(N, 1, n, n)` and pairs of them along rows and
    columns; the mean is not taken off: it should be zero."""
    square = residual[good].square().mean()
    found = {}
    for lag in (1, 2):
        products, count = torch.zeros((), dtype=torch.float64), 0
        for axis in (-2, -1):
            n = residual.shape[axis] - lag
            here, there = (residual.narrow(axis, start, n) for start in (0, lag))
            both = good.narrow(axis, 0, n) & good.narrow(axis, lag, n)
            products, count = products + (here * there)[both].sum(), count + int(both.sum())
        found[lag] = float(products / max(count, 1) / square)
    return found


def hold_out(good: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """The good pixels `(N, 1, n, n)` to fit, and those held out, about `share` of them at random; those of a stamp are
    the same whatever stamps are beside it."""
    if not 0 < share < 1:
        raise MvssError(f"the share of pixels held out must be in (0, 1), got {share}")
    uniform = Stream(seed, ("held-out pixels",)).uniform(torch.arange(len(good)), tuple(good.shape[1:]), device=good.device)
    held = good & (uniform < share)
    return good & ~held, held


def held_out_scores(y: Tensor, good: Tensor, sigma: Tensor, prediction_draws: Tensor, held: Tensor) -> dict[str, float]:
    """How well good pixels that were held out are predicted by draws `(D, N, 1, n, n)` of sky + galaxy, of mean m and
    variance v, as a Gaussian of variance s² = σ² + (1 + 1/D) v: v/D is the error of the mean of D draws.

    held_out_chi2: mean of (y − m)² / s², 1 if the posterior knows what it does not know. Few draws make it too large
    where v exceeds σ², by (D − 1)/(D − 3) at most for a Gaussian posterior. held_out_log_likelihood: mean of log
    p(y/σ), in nats a pixel: −1.42 where only white noise is unknown, less by what the posterior does not know or has
    wrong.
    """
    if len(prediction_draws) < 2:
        raise MvssError(f"held-out pixels need 2 draws at least, for their variance; got {len(prediction_draws)}")
    draws, there = prediction_draws.double(), held & good
    expected = sigma.square() + (1 + 1 / len(draws)) * draws.var(0)
    chi2 = ((y - draws.mean(0)).square() / expected)[there]
    densities = -(chi2 + (2 * math.pi * expected / sigma.square()).log()[there]) / 2
    return {"held_out_chi2": float(chi2.mean()), "held_out_log_likelihood": float(densities.mean())}


def by_bin(
    score: Callable[[Tensor, Stamps], dict[str, float]], images: Tensor, stamps: Stamps, column: str, edges: Sequence[float]
) -> list[dict[str, float]]:
    """A score of this module by bins of a column of the catalogue, for figures: low ≤ value < high, the first and the
    last bin open, count, and the numbers of the score. images: estimates or draws, as the score has them. Empty bins
    are left out.
    """
    rows, values = [], stamps.catalogue[column]
    bounds = [-math.inf, *edges, math.inf]
    for low, high in itertools.pairwise(bounds):
        index = torch.nonzero((values >= low) & (values < high)).squeeze(1)
        if len(index):
            part = images.index_select(images.ndim - 4, index)
            rows.append({"low": low, "high": high, "count": len(index), **score(part, stamps.select(index))})
    return rows


def _truth(stamps: Stamps) -> Tensor:
    if stamps.galaxy is None:
        raise MvssError("nobody knows the true galaxies of these stamps: leave out the scores that need them")
    return stamps.galaxy.double()


def _median(values: Tensor) -> float:
    """nan where any value is, so that a method cannot gain by failing, and where there are none."""
    return float(values.quantile(0.5)) if len(values) else math.nan


def _moments(image: Tensor) -> tuple[float, float, float, float]:
    """x, y, e1, e2 of an image `(n, n)`; nan where the fit does not converge."""
    peak = float(image.max())
    if not (peak > 0 and bool(image.isfinite().all())):
        return (math.nan,) * 4
    found = galsim.hsm.FindAdaptiveMom(galsim.Image((image / peak).numpy().copy()), strict=False)
    if found.error_message:
        return (math.nan,) * 4
    shape, centre = found.observed_shape, found.moments_centroid
    return centre.x, centre.y, shape.e1, shape.e2
