"""Galaxies on the reproduction page."""

from __future__ import annotations

from typing import Any

from experiments.report.galaxy_results import AGAINST, BARS, results


def of(problem: str, method: str, metric: str, value: float, source: str = "2") -> dict[str, Any]:
    key = {"problem": problem, "method": method, "source": source, "metric": metric}
    return {**key, "mean": value, "std": None, "seeds": [0], "values": [value], "samples": 9, "paper": None}


def told(*rows: dict[str, Any]) -> str:
    return results({"preset": "cpu", "command": "make galaxies PRESET=cpu", "rows": rows})


def test_scores_of_galaxies_stand_beside_what_was_to_be_reached() -> None:
    text = told(
        of("simulated", "joint", "flux_bias", -0.0125),
        of("simulated", "joint", "flux_spread_ratio", 0.25),
        of("simulated", "joint", "psnr_peak_blended", 32.5),
        of("simulated", "segmentation", "psnr_peak_blended", 29.25),
        of("simulated", "pcpca", "psnr_peak_blended", 30.0),
        of("real", "joint", "held_out_chi2", 1.5, "mean"),
        of("real", "floor", "prior_pqmass", 1.0, "1"),
    )
    assert "| simulated | joint (ours) | – | – | 0.25 | -0.013 | – | 32.5 | – |" in text
    assert "| real | joint (ours) | – | – | – | – | – | – | 1.50 |" not in text and "floor" not in text  # nothing of galaxies
    assert "| simulated | joint | fluxes, bias from -0.02 to 0.02 | -0.013 | met |" in text
    assert "| real | joint | held-out χ² from 0.8 to 1.2 | 1.50 | **not met** |" in text
    assert "| simulated | joint | PSNR, blended (dB) ≥ segmentation's + 3 | +3.2 | met |" in text
    assert "| simulated | joint | PSNR, blended (dB) ≥ pcpca's + 3 | +2.5 | **not met** |" in text
    assert text.count("not measured") == len(BARS) + len(AGAINST) - 4


def test_nothing_is_said_where_there_are_no_results() -> None:
    assert "make galaxies" in results(None) and "|" not in results(None)
