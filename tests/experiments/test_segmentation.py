"""Cutting galaxies out: of Gaussians alone, apart, and upon each other."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from blobs import MIDDLE, N, blob, stamps_of

from experiments.galaxies.data.stamps import GALAXY, NOISE, SKY
from experiments.galaxies.segmentation import Extractor, aperture, segmentation, sized
from mvss.problem.image_operators import BlockAverage
from mvss.problem.operators import Identity, Mask
from mvss.problem.views import View
from mvss.runtime.errors import MvssError

FAR = blob(8.0, x=MIDDLE + 11, y=MIDDLE + 8)
CUT = partial(segmentation, radius=4.0)
CLOSE = blob(5.0, (1.5, 1.5), x=MIDDLE + 6)


def test_of_two_galaxies_the_central_one() -> None:
    stamps = stamps_of(torch.stack([blob(20.0)] * 20), torch.stack([FAR] * 20))
    for found in (CUT(stamps), CUT(stamps, symmetric=True), aperture(stamps, 6.0)):
        assert bool(found.detected.all())
        assert float(found.galaxy[..., 22:, 25:].abs().max()) == 0
        assert found.flux.tolist() == pytest.approx(found.galaxy.sum((1, 2, 3)).tolist())
        assert found.flux.mean().item() == pytest.approx(20.0, rel=0.1)


def test_the_error_of_a_flux_is_its_scatter() -> None:
    """Half the disk is the neighbour's, and comes twice from the other half."""
    sky = torch.stack([blob(30.0, (1.5, 1.5), x=MIDDLE + 7)] * 300)
    for stamps in (stamps_of(torch.stack([blob(20.0)] * 300)), stamps_of(torch.stack([blob(20.0)] * 300), sky)):
        found = aperture(stamps, 7.0)
        assert float(found.flux.std() / found.flux_error.mean()) == pytest.approx(1.0, abs=0.15)


def test_background_is_taken_off() -> None:
    galaxy = torch.stack([blob(5.0)] * 10)
    flat, raised = (aperture(stamps_of(galaxy, torch.full_like(galaxy, level)), 6.0) for level in (0.0, 3.0))
    assert raised.flux.tolist() == pytest.approx(flat.flux.tolist(), abs=1e-3)


def test_symmetry_takes_a_neighbour_off() -> None:
    galaxy, sky = torch.stack([blob(5.0)] * 20), torch.stack([CLOSE] * 20)
    stamps = stamps_of(galaxy, sky)
    plain, symmetric = (CUT(stamps, symmetric=s).galaxy - galaxy for s in (False, True))
    assert float(symmetric.square().mean()) < float(plain.square().mean())
    alone = CUT(stamps_of(galaxy), symmetric=True)
    assert alone.flux.mean().item() == pytest.approx(5.0, rel=0.1)


def test_gaps_are_mirrored() -> None:
    stamps = stamps_of(torch.stack([blob(5.0)] * 10))
    stamps.good[..., 17:20, 17:20] = False
    stamps.y[..., 17:20, 17:20] = 1e6
    for found in (CUT(stamps, symmetric=True), aperture(stamps, 6.0)):
        assert found.flux.mean().item() == pytest.approx(5.0, rel=0.1)
    lost = CUT(stamps).galaxy[..., 17:20, 17:20]
    assert float(lost.abs().max()) == 0


def test_noise_alone_gives_an_aperture() -> None:
    found = CUT(stamps_of(torch.zeros(50, 1, N, N, dtype=torch.float64)))
    assert float(found.detected.double().mean()) < 0.1
    pixels = (found.galaxy != 0).sum((1, 2, 3))[~found.detected]
    assert set(pixels.tolist()) == {52}  # those within 4 of the centre
    assert float((found.flux / found.flux_error)[~found.detected].std()) == pytest.approx(1.0, abs=0.25)


def test_sizes_and_neighbours_are_measured() -> None:
    """Of a round Gaussian: 1.177 widths; its neighbour's light, whatever columns of these names a catalogue brought."""
    wide = blob(20.0, (3.0, 3.0))
    galaxy = torch.stack([blob(20.0), wide, torch.zeros_like(wide)])
    sky = torch.stack([torch.zeros_like(wide), CLOSE, torch.zeros_like(wide)])
    stamps = stamps_of(galaxy, sky, x=torch.full((3,), 1e6, dtype=torch.float64), blending=torch.ones(3))
    found = sized(stamps).catalogue
    assert found["half_light_radius"][:2].tolist() == pytest.approx([1.177 * 2, 1.177 * 3], rel=0.1)
    assert found["half_light_radius"][2] == pytest.approx(float(found["half_light_radius"][:2].mean()))  # nothing is there
    assert found["blending"][0] == 0 and 0.05 < float(found["blending"][1]) < 0.2
    assert found["x"].tolist() == [MIDDLE] * 3
    with pytest.raises(MvssError, match="do the positions of the catalogue fit"):
        sized(stamps.select(slice(2, 3)))


def test_as_a_model() -> None:
    shape, stamps = (1, N, N), stamps_of(torch.stack([blob(5.0)] * 3))
    model = Extractor(CUT)
    view = View(stamps.y, {SKY: Identity(shape), GALAXY: Identity(shape)}, NOISE)
    expected = CUT(stamps).galaxy
    found = model.separate(view, 4)
    assert model.sources == (GALAXY,) and list(found) == [GALAXY]
    assert found[GALAXY].shape == (4, 3, *shape) and all(torch.equal(x, expected) for x in found[GALAXY])
    assert model.separate(View(stamps.y, {SKY: Identity(shape)}, NOISE)) == {}
    with pytest.raises(MvssError, match="no prior"):
        model.sample(GALAXY, 3)
    coarse = View(stamps.y, {SKY: Identity(shape), GALAXY: BlockAverage((1, 2 * N, 2 * N), 2)}, NOISE)
    with pytest.raises(MvssError, match="resolution"):
        model.separate(coarse)


def test_a_model_sees_the_mask_of_an_operator() -> None:
    stamps = stamps_of(torch.stack([blob(5.0)] * 2))
    good = torch.ones(2, 1, N, N, dtype=torch.bool)
    good[:, :, 17:20, 17:20] = False
    shape, model = (1, N, N), Extractor(CUT)
    gaps = Mask(good) @ Identity(shape)
    masked = View(stamps.y, {SKY: gaps, GALAXY: gaps}, NOISE)
    whole = View(stamps.y, {SKY: Identity(shape), GALAXY: Identity(shape)}, NOISE)
    found = model.separate(masked)[GALAXY][0]
    assert float(found[..., 17:20, 17:20].abs().max()) == 0
    assert torch.equal(found, model.galaxies(whole, good))
