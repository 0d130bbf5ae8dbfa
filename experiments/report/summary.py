"""What is better and what is worse, in one table: ours beside the best of the others here, and beside the paper's number.

better or worse: by what the decimals show, and in every seed, where both have the same several; where they have not, by more
than the spread over seeds; else about as good.
Beside a PSNR stands the spread ratio of the same draws, beside a distance its floor.
"""

from __future__ import annotations

__all__ = ["CLAIMS", "Claim", "Tables", "summary"]

from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.report.columns import HIGH, LOW
from experiments.report.lines import cell, head, line
from experiments.report.methods import AUTO, FLOOR, OURS, method_named
from experiments.report.tables import lookup

Tables = Mapping[str, Mapping[str, Any]]
"""table.json by experiment."""
Row = Mapping[str, Any]


class Claim(NamedTuple):
    """A number that is shown. ideal: the best value is the nearest to it. scale: what it is shown in."""

    experiment: str
    problem: str
    source: str
    metric: str
    title: str
    decimals: int
    ideal: float = HIGH
    scale: float = 1.0


CLAIMS = (  # proper scores and calibration first
    Claim("manifolds", "contrastive-2", "mean", "energy_score", "curves, two: energy score of draws", 4, LOW),
    Claim("manifolds", "contrastive-2", "mean", "prior_kl", "curves, two: divergence (KL) of the priors (nats)", 2, LOW),
    Claim("manifolds", "contrastive-2", "mean", "spread_ratio", "curves, two: spread ratio of draws (1 is right)", 2, 1.0),
    Claim("manifolds", "contrastive-2", "mean", "coverage_error", "curves, two: calibration error of draws", 3, LOW),
    Claim("manifolds", "surfaces", "mean", "energy_score", "surfaces in eight dimensions: energy score of draws", 3, LOW),
    Claim("mnist_grass", "full", "2", "energy_score", "digits on grass: energy score of draws", 2, LOW),
    Claim("mnist_grass", "full", "2", "spread_ratio", "digits on grass: spread ratio of draws (1 is right)", 2, 1.0),
    Claim("galaxies", "simulated", "2", "energy_score", "simulated galaxies: energy score of draws", 3, LOW),
    Claim("galaxies", "simulated", "2", "flux_coverage", "simulated galaxies: fluxes in 68 % intervals (%)", 1, 0.683, 100.0),
    Claim("galaxies", "real", "2", "flux_coverage", "real sky: fluxes in 68 % intervals (%; 68.3 is right)", 1, 0.683, 100.0),
    Claim("manifolds", "contrastive-2", "2", "posterior_psnr", "curves, the second of two: PSNR of draws (dB)", 1),
    Claim("manifolds", "contrastive-3", "3", "posterior_psnr", "curves, the third of three: PSNR of draws (dB)", 1),
    Claim("mnist_grass", "full", "2", "posterior_psnr", "digits on grass: PSNR of draws (dB)", 1),
    Claim("mnist_grass", "downsampled", "2", "posterior_psnr", "the same at three resolutions: PSNR of draws (dB)", 1),
    Claim("mnist_grass", "swap-mask", "2", "posterior_mean_psnr", "digits, half of the pixels masked: PSNR of means (dB)", 1),
    Claim("mnist_grass", "swap-noise", "2", "posterior_mean_psnr", "digits, ten times the noise: PSNR of means (dB)", 1),
    Claim("mnist_grass", "full", "2", "posterior_frechet_mean_only", "digits: Fréchet distance of draws, means", 1, LOW),
    Claim("mnist_grass", "full", "2", "prior_frechet_mean_only", "digits: Fréchet distance of the prior, means", 1, LOW),
    Claim("mnist_grass", "full", "1", "remains_auc", "digits left in the grass, to a detector (AUC; 0.5 is none)", 2, 0.5),
    Claim("galaxies", "simulated", "2", "psnr_peak_blended", "simulated galaxies, blended: PSNR of means (dB)", 1),
    Claim("galaxies", "simulated", "2", "flux_scatter", "simulated galaxies: scatter of fluxes (%)", 1, LOW, 100.0),
    Claim("galaxies", "real", "2", "psnr_peak_blended", "real sky, blended: PSNR of injected galaxies (dB)", 1),
    Claim("galaxies", "real", "2", "psnr_peak", "real sky, all: PSNR of injected galaxies (dB)", 1),
    Claim("galaxies", "real", "1", "prior_pqmass_chi2", "real sky: PQMass χ²/dof of the sky's prior (1 is right)", 1, 1.0),
    Claim("galaxies", "simulated", "2", "prior_ks_radius", "simulated galaxies: radii of the prior, KS distance", 2, LOW),
    Claim("galaxies", "real", "2", "flux_scatter", "real sky, all: scatter of fluxes (%)", 1, LOW, 100.0),
    Claim("galaxies", "real", "2", "blended_flux_scatter", "real sky, blended: scatter of fluxes (%)", 1, LOW, 100.0),
)
VERDICTS = ("better", "as good", "worse")


def summary(tables: Tables) -> str:
    """The table in Markdown, what is better first, then what is worse; what was not measured is left out. Bold: what is worse,
    and numbers of the paper that are better than ours."""
    found = [(verdict, cells) for claim in CLAIMS if (verdict := _judged(tables, claim)) for cells in [_cells(tables, claim)]]
    lines = [
        line(f"**{verdict}**" if verdict == "worse" else verdict, *cells)
        for wanted in VERDICTS
        for verdict, cells in found
        if verdict == wanted
    ]
    titles = ("ours", "its spread ratio or floor", "best other here", "the paper's")
    return "\n".join([*head(("", "what"), titles), *lines])


def _judged(tables: Tables, claim: Claim) -> str | None:
    """Ours beside the best of the others; None where either is missing."""
    ours, (_, rival) = _ours(tables, claim), _rival(tables, claim)
    if ours is None or rival is None:
        return None
    mine, others = _off(ours["mean"], claim.ideal), _off(rival["mean"], claim.ideal)
    shown = 10**-claim.decimals / claim.scale
    if abs(mine - others) < shown or not _told_apart(ours, rival, claim.ideal):
        return "as good"
    return "better" if mine < others else "worse"


def _told_apart(ours: Row, rival: Row, ideal: float) -> bool:
    if len(ours["seeds"]) > 1 and ours["seeds"] == rival["seeds"]:
        pairs = zip(ours["values"], rival["values"], strict=True)
        return len({_off(mine, ideal) < _off(other, ideal) for mine, other in pairs}) == 1
    apart = abs(_off(ours["mean"], ideal) - _off(rival["mean"], ideal))
    return bool(apart > max(ours["std"] or 0.0, rival["std"] or 0.0))


def _cells(tables: Tables, claim: Claim) -> list[str]:
    ours, (name, rival) = _ours(tables, claim), _rival(tables, claim)
    assert ours is not None and rival is not None
    number = _paper(tables, claim)
    paper = "–" if number is None else f"{claim.scale * number:.{claim.decimals}f}"
    if number is not None and _off(number, claim.ideal) < _off(ours["mean"], claim.ideal):
        paper = f"**{paper}**"
    other = f"{cell(rival, claim.decimals, claim.scale)} ({method_named(name).short})"
    return [claim.title, cell(ours, claim.decimals, claim.scale), _beside(tables, claim), other, paper]


def _beside(tables: Tables, claim: Claim) -> str:
    """What a score says little without: the floor of a distance, the spread ratio beside a PSNR."""
    rows = lookup(tables.get(claim.experiment, {"rows": []}))
    if floor := rows.get((claim.problem, FLOOR, claim.source, claim.metric)):
        return cell(floor, claim.decimals, claim.scale)
    spread = (claim.problem, _name_of_ours(tables, claim), claim.source, "spread_ratio")
    return cell(rows.get(spread), 2) if "psnr" in claim.metric else ""


def _name_of_ours(tables: Tables, claim: Claim) -> str:
    """What the fit chose, where it had a choice."""
    rows = lookup(tables.get(claim.experiment, {"rows": []}))
    return next((m for m in (AUTO, OURS) if (claim.problem, m, claim.source, claim.metric) in rows), OURS)


def _ours(tables: Tables, claim: Claim) -> Row | None:
    rows = lookup(tables.get(claim.experiment, {"rows": []}))
    row = rows.get((claim.problem, _name_of_ours(tables, claim), claim.source, claim.metric))
    return None if row is None or row["mean"] is None else row


def _paper(tables: Tables, claim: Claim) -> float | None:
    """The number of the paper's method, which has the name of ours, or stands beside the fit."""
    rows = lookup(tables.get(claim.experiment, {"rows": []}))
    found = (rows.get((claim.problem, method, claim.source, claim.metric)) for method in (OURS, AUTO))
    return next((row["paper"] for row in found if row is not None), None)


def _rival(tables: Tables, claim: Claim) -> tuple[str, Row | None]:
    """The best of those that know no truth and are no variation of ours."""
    rows = {
        key[1]: row
        for key, row in lookup(tables.get(claim.experiment, {"rows": []})).items()
        if (key[0], key[2], key[3]) == (claim.problem, claim.source, claim.metric) and row["mean"] is not None
    }
    records = {m: method_named(m) for m in rows}
    others = [m for m, r in records.items() if not (r.ours or r.knows_truth or r.ablation)]
    best = min(others, key=lambda m: _off(rows[m]["mean"], claim.ideal), default="")
    return best, rows.get(best)


def _off(value: float, ideal: float) -> float:
    """How far a value is from the best one; less is better."""
    return value if ideal == LOW else -value if ideal == HIGH else abs(value - ideal)
