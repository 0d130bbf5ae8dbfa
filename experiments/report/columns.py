"""The columns of the tables in Markdown: a title, the metric under it, and what its best value is.

Tables lead with proper scores, which nothing that is not the truth can win in the long run. A PSNR is never without the spread
ratio beside it: draws that are too narrow gain decibels.
"""

from __future__ import annotations

__all__ = ["AUDIT", "BINS", "COST", "HIGH", "LAWS", "PAPERS", "PARTS", "QUALITY", "SCORED", "SKY", "Column"]

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """A column.

    source: "mean", "newest", which is the one that is sought, or its number. ideal: the best value is the nearest to it;
    without one there is no best. derived: made from other columns, whose sample counts it has. proper: whether nothing beats
    the truth on average, so that a table may be won by it. always: whether it stands wherever the column before it does,
    measured or not, and nowhere else.
    """

    title: str
    metric: str
    decimals: int
    ideal: float | None = None
    source: str = "mean"
    scale: float = 1.0
    derived: bool = False
    proper: bool = False
    always: bool = False

    def head(self, newest: str) -> str:
        """The title with its direction. newest: the number of the source that is sought."""
        ends = {None: "", LOW: " ↓", HIGH: " ↑"}
        return self.title.format(newest=newest) + ends.get(self.ideal, f" → {(self.ideal or 0) * self.scale:.3g}")


LOW, HIGH = -math.inf, math.inf


def _spread(source: str = "mean") -> Column:
    """What stands beside a PSNR."""
    of = {"mean": "", "newest": ", source {newest}"}.get(source, f", source {source}")
    return Column(f"spread ratio{of}", "spread_ratio", 2, 1.0, source, always=True)


# A gap is two-sided (draws at the posterior mean would gain 3 dB); a large p-value is no better than a middling one.
QUALITY = (
    Column("energy score", "energy_score", 4, LOW, proper=True),
    Column("over oracle", "energy_score_excess", 4, LOW, derived=True),
    Column("energy score, source {newest}", "energy_score", 4, LOW, "newest", proper=True),
    Column("prior KL (nats)", "prior_kl", 3, LOW, proper=True),
    Column("its standard error", "prior_kl_standard_error", 3),
    Column("coverage error", "coverage_error", 3, LOW),
    Column("rank error", "rank_error", 3, LOW),
    Column("in 68 % intervals (%)", "coverage", 1, 0.6827, scale=100.0),
    Column("in those of source {newest} (%)", "coverage", 1, 0.6827, "newest", 100.0),
    Column("χ² per number", "chi2", 3, 1.0),
    Column("PSNR (dB)", "posterior_psnr", 2, HIGH),
    _spread(),
    Column("its standard error", "spread_ratio_standard_error", 2),
    Column("PSNR, source {newest}", "posterior_psnr", 2, HIGH, "newest"),
    _spread("newest"),
    Column("PSNR of means of 8, source {newest}", "posterior_mean_psnr", 2, HIGH, "newest"),
    Column("of the posterior mean, source {newest}", "posterior_expectation_psnr", 2, HIGH, "newest"),
    Column("SSIM, source {newest}", "posterior_ssim", 3, HIGH, "newest"),
    Column("gap to oracle (dB)", "oracle_gap_db", 2, 0.0, derived=True),
    Column("posterior SD", "posterior_sinkhorn", 4, LOW),
    Column("over floor", "posterior_sinkhorn_excess", 4, LOW, derived=True),
    Column("prior SD", "prior_sinkhorn", 4, LOW),
    Column("over floor", "prior_sinkhorn_excess", 4, LOW, derived=True),
    Column("Fréchet, posterior, source {newest}", "posterior_frechet", 2, LOW, "newest"),
    Column("Fréchet, prior, source {newest}", "prior_frechet", 2, LOW, "newest"),
    Column("PQMass χ²/dof", "posterior_pqmass_chi2", 2, 1.0),
    Column("PQMass p", "posterior_pqmass", 3),
    Column("clamped (%)", "clamped_share", 2, LOW, scale=100.0),
    Column("discarded (%)", "discarded_share", 2, LOW, scale=100.0),
)
PARTS = (
    Column("PSNR, training, source {newest}", "posterior_psnr_train", 2, HIGH, "newest"),
    _spread("newest"),
    Column("classes named right, training (%)", "class_accuracy_train", 1, HIGH, "newest", 100.0),
    Column("of clean digits (%)", "class_accuracy_clean_train", 1, None, "newest", 100.0),
    Column("AUC of log p", "log_prob_auc", 3, HIGH, "newest"),
    Column("AUC of remains in source 1", "remains_auc", 3, 0.5, "1"),
    Column("Fréchet, posterior, source 1", "posterior_frechet", 2, LOW, "1"),
    Column("Fréchet, prior, source 1", "prior_frechet", 2, LOW, "1"),
    Column("power spectrum, posterior, source 1 (dB)", "posterior_power_spectrum", 2, LOW, "1"),
    Column("power spectrum, prior, source 1 (dB)", "prior_power_spectrum", 2, LOW, "1"),
    Column("energy score, source 1", "energy_score", 4, LOW, "1", proper=True),
    Column("PSNR, source 1", "posterior_psnr", 2, HIGH, "1"),
    _spread("1"),
)
PAPERS = (
    Column("PSNR (dB)", "posterior_psnr", 2, HIGH, "newest"),
    _spread("newest"),
    Column("PSNR within ±4", "posterior_psnr_inside", 2, None, "newest"),
    Column("outside ±4 (%)", "fraction_outside", 2, None, "newest", 100.0),
    Column("posterior SD", "posterior_sinkhorn_paper", 4, LOW, "newest"),
    Column("prior SD", "prior_sinkhorn_paper", 4, LOW, "newest"),
    Column("posterior Fréchet, mean only", "posterior_frechet_mean_only", 2, LOW, "newest"),
    Column("prior Fréchet, mean only", "prior_frechet_mean_only", 2, LOW, "newest"),
    Column("posterior p", "posterior_pqmass", 3, None, "newest"),
    Column("prior p", "prior_pqmass", 3, None, "newest"),
)
AUDIT = (
    Column("coverage error (TARP)", "audit_coverage_error", 3, LOW),
    Column("rank error, worst coordinate", "audit_rank_error", 3, LOW),
    Column("rank error, misfit", "audit_misfit_error", 3, LOW),
    Column("KL from the truth (nats)", "candidate_kl_nats", 2, LOW, proper=True),
    Column("rank correlation of log p", "candidate_rank_correlation", 3, HIGH),
    *(Column(f"AUC, {d:g} off", f"candidate_auc_{d:g}", 3, HIGH) for d in (0.01, 0.03, 0.1, 0.3)),
)
GALAXIES = (
    Column("PSNR to the peak (dB)", "psnr_peak", 2, HIGH, "newest"),
    _spread("newest"),
    Column("PSNR, blended", "psnr_peak_blended", 2, HIGH, "newest"),
    Column("PSNR of single draws", "psnr_peak_draws", 2, HIGH, "newest"),
    Column("SSIM", "ssim_peak", 3, HIGH, "newest"),
    Column("SSIM, blended", "ssim_peak_blended", 3, HIGH, "newest"),
    Column("centroid, RMS (px)", "centroid_error", 2, LOW, "newest"),
    Column("ellipticity, RMS", "ellipticity_error", 3, LOW, "newest"),
    Column("without moments (%)", "shape_failures", 1, LOW, "newest", 100.0),
)
FLUXES = (
    Column("bias (%)", "flux_bias", 1, 0.0, "newest", 100.0),
    Column("scatter (%)", "flux_scatter", 1, LOW, "newest", 100.0),
    Column("bias, blended (%)", "blended_flux_bias", 1, 0.0, "newest", 100.0),
    Column("scatter, blended (%)", "blended_flux_scatter", 1, LOW, "newest", 100.0),
    Column("in 68 % intervals (%)", "flux_coverage", 1, 0.6827, "newest", 100.0),
    Column("spread ratio", "flux_spread_ratio", 2, 1.0, "newest"),
    Column("its standard error", "flux_spread_ratio_standard_error", 2, None, "newest"),
    Column("pixels in theirs (%)", "pixel_coverage", 1, 0.6827, "newest", 100.0),
    Column("left over (%)", "leftover_light", 1, 0.0, "newest", 100.0),
    Column("left over (σ)", "leftover_sigma", 2, 0.0, "newest"),
)
# No best for correlations, at best those of the noise, nor for light beyond the aperture, which may be a real galaxy's.
OBSERVATIONS = (
    Column("residual χ²", "residual_chi2", 3, 1.0),
    Column("correlation of residuals", "residual_correlation", 3),
    Column("of the noise itself", "noise_correlation", 3),
    Column("held-out χ²", "held_out_chi2", 3, 1.0),
    Column("held-out log-likelihood (nats a pixel)", "held_out_log_likelihood", 3, HIGH, proper=True),
    Column("left over, real (%)", "real_leftover_light", 1, None, "newest", 100.0),
    Column("left over, real (σ)", "real_leftover_sigma", 2, None, "newest"),
    Column("residual χ², real", "real_residual_chi2", 3, 1.0),
    Column("correlation of residuals, real", "real_residual_correlation", 3),
)
# No best for shares of blank stamps and bright edges: at best those of the truth, the floor's.
LAWS = (
    Column("galaxies: KS of fluxes", "prior_ks_flux", 3, LOW, "newest"),
    Column("KS of radii", "prior_ks_radius", 3, LOW, "newest"),
    Column("blank (%)", "prior_blank_share", 1, None, "newest", 100.0),
    Column("excess at edges (σ)", "prior_edge_excess", 3, None, "newest"),
    Column("sky: histogram (σ)", "prior_pixels", 3, LOW, "1"),
    Column("power spectrum (dB)", "prior_power_spectrum", 2, LOW, "1"),
    Column("PQMass χ²/dof", "prior_pqmass_chi2", 2, 1.0, "1"),
)
SKY = (
    ("Galaxies, beside their truth:", GALAXIES),
    ("Their fluxes, beside the true ones:", FLUXES),
    ("Observations, beside sky + galaxy:", OBSERVATIONS),
)
BINS = (
    Column("galaxies", "", 0),
    Column("bias (%)", "flux_bias", 1, 0.0, "newest", 100.0),
    Column("scatter (%)", "flux_scatter", 1, LOW, "newest", 100.0),
    Column("in 68 % intervals (%)", "flux_coverage", 1, 0.6827, "newest", 100.0),
    Column("spread ratio", "flux_spread_ratio", 2, 1.0, "newest"),
    Column("its standard error", "flux_spread_ratio_standard_error", 2, None, "newest"),
)
"""Of fluxes in a bin; first their number."""
COST = (
    Column("laps", "laps", 0),
    Column("network evaluations per observation", "network_evaluations", 0, LOW),
    Column("per draw", "evaluations_per_draw", 0, LOW),
    Column("time per draw (ms)", "seconds_per_draw", 4, LOW, scale=1e3),
    Column("wall time (s)", "wall_seconds", 1, LOW),
    Column("peak memory (GiB)", "peak_memory_gib", 2, LOW),
)
SCORED = tuple(c for c in (*QUALITY, *PAPERS, *AUDIT, *GALAXIES, *FLUXES, *OBSERVATIONS) if not c.derived)
"""What was scored, with its sample counts."""
