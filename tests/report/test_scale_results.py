"""The curve of digits on the reproduction page."""

from __future__ import annotations

from experiments.report.scale_results import SHOWN, curve


def of(most: float | None, spread: float = 0.85) -> str:
    """A curve of two sizes, with these values at the larger one."""
    small = dict.fromkeys(SHOWN, 1.25)
    rows = [
        {"observations": 200, "method": "auto", **small},
        {"observations": 11000, "method": "auto", **small, "posterior_mean_psnr": most, "spread_ratio": spread},
        {"observations": 11000, "method": "floor", **dict.fromkeys(SHOWN), "prior_frechet": 3.0},
    ]
    return curve({"preset": "cpu", "seed": 100, "fresh": 500, "command": "make mnist-grass-scale", "rows": rows})


def test_every_row_and_where_they_are_from() -> None:
    said = of(26.5)
    assert "tuning seed 100, 500 fresh observations, made by\n`make mnist-grass-scale`." in said
    assert "| 200 | auto (ours, what the fit chose) | 1.2 | 1.2 | 1.25 | 1.25 | 1.2 |" in said
    assert "| 11,000 | truth beside other truth (floor) | – | – | – | – | 3.0 |" in said


def test_bars_are_of_the_largest_number_alone() -> None:
    assert "PSNR of means of 8 (dB) ≥ 26 | 26.5 | met |" in of(26.5) and "spread ratio ≥ 0.8 | 0.85 | met |" in of(26.5)
    assert "≥ 26 | 25.9 | **not met** |" in of(25.9) and "≥ 0.8 | 0.79 | **not met** |" in of(26.5, 0.79)
    assert "≥ 26 | – | **not met** |" in of(None)


def test_nothing_is_said_where_there_is_no_curve() -> None:
    assert "mnist-grass-scale" in curve(None) and "|" not in curve(None)
