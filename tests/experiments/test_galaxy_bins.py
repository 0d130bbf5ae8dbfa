"""Bins of galaxies, and scores in them of draws whose scores are known."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import pytest
import torch
from blobs import blob, stamps_of

from experiments.galaxies.data.stamps import NOISE, Stamps
from experiments.galaxies.scores.bins import LEAST, cells
from experiments.galaxies.scores.judging import _cells
from mvss.runtime.rng import generator


def known(magnitude: list[float], blending: list[float], counts: list[int]) -> Stamps:
    """As many galaxies of each magnitude and blending."""
    columns = {"magnitude": magnitude, "blending": blending}
    repeats = torch.tensor(counts)
    catalogue = {name: torch.tensor(v, dtype=torch.float64).repeat_interleave(repeats) for name, v in columns.items()}
    fluxes = 10 ** (0.4 * (25.5 - catalogue["magnitude"]))
    return stamps_of(blob(1.0) * fluxes.reshape(-1, 1, 1, 1), **catalogue)


def test_bins_of_fifty_galaxies_have_names_that_say_what_is_in_them() -> None:
    stamps = known([21.0, 21.0, 22.2, 23.9], [0.4, 0.05, 0.2, 0.0], [50, 70, 60, 80])
    found = {name: len(rows) for name, rows in cells(stamps).items()}
    # what is between 21.5 and 22 is joined with the next, and so is what is between 22.5 and 23.5
    assert found == {"mag<21.5,blend<0.1": 70, "mag<21.5,blend>0.1": 50, "mag21.5-22.5": 60, "mag>22.5": 80}


def test_few_are_joined_and_fewer_than_fifty_are_in_no_bin() -> None:
    few = known([21.0, 21.7, 23.7], [0.4, 0.0, 0.2], [30, 25, 40])
    assert {name: len(rows) for name, rows in cells(few).items()} == {}  # one bin of all, which is no bin
    assert cells(few.select(slice(49))) == {} and cells(replace(few, catalogue={})) == {}
    more = known([21.0, 21.7, 23.7], [0.4, 0.0, 0.2], [30, 25, 50])
    assert {name: len(rows) for name, rows in cells(more).items()} == {"mag<22": 55, "mag>22": 50}


def test_every_galaxy_is_in_one_bin_by_flux_too() -> None:
    rng = generator(0, "bins")
    flux, blending = torch.rand(2, 617, generator=rng, dtype=torch.float64)
    stamps = stamps_of(blob(1.0) * torch.ones(617, 1, 1, 1), flux=flux, blending=blending**3)
    found = cells(stamps)
    assert sorted(torch.cat(list(found.values())).tolist()) == list(range(617)) and len(found) > 8
    assert min(map(len, found.values())) >= LEAST and all(name.startswith("flux") for name in found)


def test_exact_draws_cover_68_percent_in_every_bin_and_halved_ones_do_not() -> None:
    stamps = known([21.0, 21.0, 23.7, 23.7], [0.4, 0.0, 0.4, 0.0], [300] * 4)
    rng = generator(1, "bins")
    assert stamps.galaxy is not None
    centre = stamps.galaxy + NOISE * torch.randn(stamps.y.shape, generator=rng, dtype=torch.float64)
    errors = NOISE * torch.randn(8, *stamps.y.shape, generator=rng, dtype=torch.float64)
    for width, coverage, ratio in ((1.0, 0.6827, 1.0), (0.5, None, 0.25)):
        found = defaultdict(list)
        for (source, metric), (value, count) in _cells(centre + width * errors, stamps).items():
            assert (source, count) == ("2", 300)
            found[metric.split(":")[0]].append(value)
        assert all(len(values) == 4 for values in found.values())
        assert found["flux_spread_ratio"] == pytest.approx([ratio] * 4, rel=0.3)
        assert sum(found["flux_spread_ratio"]) / 4 == pytest.approx(ratio, rel=0.15)
        if coverage:
            assert sum(found["flux_coverage"]) / 4 == pytest.approx(coverage, abs=0.04)
            assert max(map(abs, found["flux_bias"])) < 0.05
        else:
            assert max(found["flux_coverage"]) < 0.5
    assert {key[1].split(":")[0] for key in _cells(centre.unsqueeze(0).expand(8, *centre.shape), stamps)} == {
        "flux_bias",
        "flux_scatter",
    }
