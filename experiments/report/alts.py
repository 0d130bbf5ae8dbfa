"""What figures show, in a line, for those who do not see them."""

from __future__ import annotations

__all__ = ["alt_of"]

KINDS = {
    "ablations": "What scores become when one part of the method is left out or changed",
    "against": "Lines: scores of each method against brightness and against the share of light that neighbours have",
    "candidates": "Lines: how well log p tells true sources from candidates at several distances, by method",
    "coverage": "Lines: how often the truth lies in regions of each nominal probability; the diagonal is calibrated",
    "gap": "Decibels that each method stays below draws of the exact posterior, by problem",
    "laps": "Pictures: the newest source drawn for training observations after each lap of EM, below the truth",
    "marginals": "Clouds of points: posterior draws of each method over those of the truth, lap by lap",
    "methods": "Clouds of points: the newest source, drawn by each method for fresh observations, over its truth",
    "priors": "Draws of the learned prior of each source, by method",
    "problem": "Drawing of the sources, of the matrices, and of what each view observes of them",
    "ranks": "Histograms: ranks of the truth among posterior draws, flat where they are calibrated, by method",
    "real": "Pictures: real galaxies, and the sky and galaxy that they are separated into, with the standard deviation",
    "recovery": "Points: flux that is recovered over the true one for each galaxy, by method",
    "residuals": "Pictures: what is left of observations without the separated sources, in units of the noise",
    "scale": "Lines: PSNR, energy score, spread ratio and prior of digits against the number of mixtures, by method",
    "separations": "Pictures: observation, truth of each source, and one posterior draw of each method",
    "sinkhorn-vs-lap": "Lines: Sinkhorn divergence of draws from the truth after each lap of EM, by method",
    "sinkhorn-vs-mixing": "Lines: Sinkhorn divergence of draws from the truth against the share that views mix, by method",
    "spread": "Lines: error of the mean of draws against their standard deviation, by method; the diagonal is calibrated",
    "strip": "Pictures: observation, a draw of each source beside its truth, and the standard deviation of the newest",
    "swaps": "Pictures: digits observed by other operators, noise and backgrounds: observation, truth, mean, deviation",
    "uncertainty": "Pictures: truth, posterior mean, its error, and the posterior standard deviation",
    "views": "Pictures: training observations of every view as they are seen",
    "worst": "Pictures: the observations that are separated worst, beside the truth, with mean and standard deviation",
}  # fmt: skip


def alt_of(figure: str, results: str) -> str:
    """figure: its name, <kind> or <kind>-<problem>. results: whose it is."""
    kind = next((k for k in sorted(KINDS, key=len, reverse=True) if figure == k or figure.startswith(f"{k}-")), figure)
    of = figure.removeprefix(kind).strip("-")
    return f"{KINDS.get(kind, kind)} ({results}{', ' + of if of else ''})"
