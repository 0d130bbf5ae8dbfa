"""The deep field: areas share no pixel, stamps can be found again, and its noise is what the module says."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import get_args

import galsim
import numpy as np
import pytest
import torch

from experiments.galaxies.data.deep_field import (
    LIMIT,
    SPIKES,
    STARS,
    Part,
    copies_apart,
    deep_field,
    detections,
    grey,
    noise_level,
)
from experiments.galaxies.data.injection import injected_into
from experiments.galaxies.data.stamps import Stamps
from experiments.galaxies.scores.measures import flux, within
from mvss.priors.augmentation import turned
from mvss.problem.held_out import held_out_count
from mvss.runtime.errors import MvssError

PARTS: tuple[Part, ...] = get_args(Part)


def _touched(stamps: Stamps) -> np.ndarray:
    """The pixels of the image that are in any of the stamps."""
    out = np.zeros(grey().shape, dtype=bool)
    for row, column in zip(stamps.catalogue["row"].tolist(), stamps.catalogue["column"].tolist(), strict=True):
        out[row : row + stamps.pixels, column : column + stamps.pixels] = True
    return out


def _all(part: Part, galaxies: bool, pixels: int = 32) -> Stamps:
    return deep_field(part, galaxies=galaxies, count=None if galaxies else 3000, pixels=pixels)


@pytest.mark.parametrize("pixels", [31, 32])
def test_no_pixel_is_in_two_areas_or_in_a_star(pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.galaxies.data.deep_field.LIMIT", 0.0)  # of all that is detected
    touched = [_touched(_all(part, galaxies, pixels)) for part in PARTS for galaxies in (True, False)]
    assert np.sum(touched, axis=0).max() == 1
    assert all(t.sum() > 40_000 for t in touched)
    for row, column in STARS:
        box = slice(row - SPIKES, row + SPIKES + 1), slice(column - SPIKES, column + SPIKES + 1)
        assert not np.any(touched, axis=0)[box].any()
        assert grey()[row - 2 : row + 3, column - 2 : column + 3].max() > 0.97


def test_every_stamp_can_be_found_again() -> None:
    image = torch.from_numpy(grey().copy())
    for galaxies in (True, False):
        stamps = deep_field("train", galaxies=galaxies, count=60, seed=3)
        assert set(stamps.catalogue["turn"].tolist()) == set(range(8))
        places = zip(*(stamps.catalogue[k].tolist() for k in ("row", "column", "turn")), strict=True)
        for y, (row, column, turn) in zip(stamps.y, places, strict=True):
            assert torch.equal(y, turned(image[None, row : row + 32, column : column + 32], turn))
        assert stamps.good.all() and (stamps.sigma == noise_level()).all() and stamps.sky is None


@pytest.mark.parametrize("pixels", [31, 32])
def test_galaxies_stand_in_the_centre_however_turned(pixels: int) -> None:
    stamps = deep_field("test", galaxies=True, pixels=pixels, copies=8)
    x, y = stamps.catalogue["x"], stamps.catalogue["y"]
    assert (x - (pixels - 1) / 2).abs().max() <= 0.5 and (y - (pixels - 1) / 2).abs().max() <= 0.5
    # An independent look: the centroid of the light above the sky near the centre of isolated, small galaxies.
    lone = (stamps.catalogue["blending"] == 0) & (stamps.catalogue["half_light_radius"] < 2.5)
    grid = torch.arange(pixels, dtype=torch.float64)
    near = torch.hypot(grid - x[lone, None, None], grid[:, None] - y[lone, None, None]) < 6
    light = near * (stamps.y[lone, 0] - np.median(grey()))
    total = light.sum((1, 2))
    assert lone.sum() > 100
    assert ((light.sum(1) @ grid / total - x[lone]).abs()).median() < 0.15
    assert ((light.sum(2) @ grid / total - y[lone]).abs()).median() < 0.15
    assert ((total / stamps.catalogue["flux"][lone] - 1).abs()).median() < 0.1


def test_copies_differ_and_come_after_every_galaxy_has_come_once() -> None:
    once, thrice = (deep_field("train", galaxies=True, seed=1, copies=c) for c in (1, 3))
    assert len(thrice) == 3 * len(once) and len(once) > 150
    keys = list(zip(*(thrice.catalogue[k].tolist() for k in ("row", "column", "turn")), strict=True))
    assert len(set(keys)) == len(keys)
    first = {key[:2] for key in keys[: len(once)]}
    assert len({(*key[:2],) for key in keys}) == len(first)
    assert (once.catalogue["flux"] >= LIMIT).all()
    some = deep_field("train", galaxies=True, seed=1, copies=3, count=20)
    assert torch.equal(some.y, thrice.y[:20])


@pytest.mark.parametrize(("copies", "share"), [(1, 0.1), (4, 0.03), (4, 0.25), (8, 0.03), (4, 0.0)])
def test_no_galaxy_is_held_out_and_learned_from(copies: int, share: float) -> None:
    stamps = deep_field("train", galaxies=True, copies=copies)
    apart = copies_apart(stamps, share)
    before, places = (list(zip(*(s.catalogue[k].tolist() for k in ("row", "column")), strict=True)) for s in (stamps, apart))
    count = held_out_count(len(apart), share)
    assert not set(places[:count]) & set(places[count:])
    assert list(dict.fromkeys(places)) == list(dict.fromkeys(before))  # all galaxies, in their order
    assert 0 <= len(stamps) - len(apart) < copies and len({y.numpy().tobytes() for y in apart.y}) == len(apart)


def test_of_the_seed_alone() -> None:
    a, b, c = (deep_field("train", galaxies=False, count=50, seed=s) for s in (0, 0, 1))
    assert torch.equal(a.y, b.y) and not torch.equal(a.y, c.y)


def test_embedded_image_is_what_it_always_was() -> None:
    assert hashlib.sha256(np.round(grey() * 765).astype("<u2").tobytes()).hexdigest().startswith("feab960ef22509e1")
    assert np.median(grey()) == pytest.approx(39 / 765)
    assert 550 < (detections().flux >= LIMIT).sum() < 620


def test_noise_is_that_of_sky_without_objects_and_white_beyond_a_pixel() -> None:
    """By another way: the darkest of many small squares hold hardly any object."""
    assert noise_level() == pytest.approx(0.01837, abs=1e-5)
    n = 16
    squares = grey()[:864, :992].reshape(54, n, 62, n).swapaxes(1, 2).reshape(-1, n, n)
    order = np.argsort(np.ptp(squares.reshape(len(squares), -1), axis=1))
    empty = squares[order[:300]] - squares[order[:300]].mean((1, 2), keepdims=True)
    assert empty.std() == pytest.approx(noise_level(), rel=0.08)  # chosen for a small range, so a little below
    for lag, expected in ((1, 0.2), (2, -0.05), (3, 0.0), (5, 0.0)):
        assert (empty[:, lag:] * empty[:, :-lag]).mean() / empty.var() == pytest.approx(expected, abs=0.05)


def test_injected_galaxies_have_their_truth() -> None:
    fields = deep_field("test", galaxies=False, count=7, seed=2, pixels=24)
    galaxies = deep_field("test", galaxies=True, pixels=24).select(slice(3))
    stamps = injected_into(fields, galaxies)
    assert stamps.sky is None and stamps.galaxy is not None  # the field holds its noise
    assert torch.equal(stamps.y, fields.y + stamps.galaxy)
    assert torch.equal(stamps.galaxy, stamps.galaxy[:3][[0, 1, 2, 0, 1, 2, 0]])


@pytest.mark.parametrize("index", [0.7, 1.0])  # of steeper ones the segment lacks the wings
def test_a_model_is_the_galaxy_that_it_is_fitted_to(index: float) -> None:
    """GalSim draws it, off its centre, with noise; the model has no noise, and knows where it is and how large."""
    n, sigma, light = 32, 0.02, 20.0
    profile = galsim.Sersic(index, half_light_radius=2.5, flux=light).shear(g1=0.2, g2=-0.1).shift(0.4, -0.3)
    truth = torch.from_numpy(profile.drawImage(nx=n, ny=n, scale=1.0).array.astype(float))[None, None]
    noisy = truth + sigma * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    good = torch.ones_like(noisy, dtype=torch.bool)
    galaxies = Stamps(
        noisy, good, torch.full_like(noisy, sigma), None, None, {"half_light_radius": torch.tensor([3.0]).double()}
    )
    fields = Stamps(
        torch.zeros(2, 1, n, n).double(), good.expand(2, 1, n, n), galaxies.sigma.expand(2, 1, n, n), None, None, {}
    )
    found = injected_into(fields, galaxies)
    assert found.galaxy is not None
    inside = within(found.select(slice(1)))
    assert float(flux(found.galaxy[:1], inside)) == pytest.approx(float(flux(truth, inside)), rel=0.03)
    assert float((found.galaxy[0] - truth[0]).abs().max()) < 0.06 * float(truth.max())
    assert float(found.catalogue["x"][0]) == pytest.approx((n - 1) / 2 + 0.4, abs=0.1)
    assert float(found.catalogue["y"][0]) == pytest.approx((n - 1) / 2 - 0.3, abs=0.1)
    assert float(found.catalogue["half_light_radius"][0]) == pytest.approx(2.5, rel=0.15)
    assert float(found.galaxy.min()) >= 0 and (found.galaxy[:, :, 0] < sigma / 2).all()  # neither noise nor an edge
    with pytest.raises(MvssError, match="isolated and bright enough"):
        injected_into(fields, replace(galaxies, y=torch.zeros_like(noisy)))


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"galaxies": True, "count": 5000}, "5000 galaxies asked for"),
        ({"galaxies": True, "copies": 9}, "copies=9"),
        ({"galaxies": True, "copies": 0}, "copies=0"),
        ({"galaxies": False, "count": 4, "copies": 2}, "copies=2"),
        ({"galaxies": False}, "say how many"),
        ({"galaxies": True, "pixels": 167}, "2 to 166 pixels"),
    ],
)
def test_what_cannot_be_had_is_refused(asked: dict, complaint: str) -> None:
    with pytest.raises(MvssError, match=complaint):
        deep_field("train", **asked)
