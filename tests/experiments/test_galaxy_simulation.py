"""The simulated sky: noise as stated, truth as catalogued and as GalSim itself draws it, and what the ground sees of it."""

from __future__ import annotations

import galsim
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d

from experiments.galaxies.config import DENSITY
from experiments.galaxies.data.population import draw_galaxies
from experiments.galaxies.data.simulation import ground_kernel, noise_covariance, simulate, simulate_ground
from experiments.galaxies.data.sky import GROUND, SPACE, WIDE, Scene, Survey, draw_images, draw_scene
from experiments.galaxies.data.stamps import NOISE, Stamps
from mvss.runtime.errors import MvssError


@pytest.fixture(scope="module")
def centred() -> Stamps:
    return simulate(40, 3, galaxies=True)


@pytest.fixture(scope="module")
def empty() -> Stamps:
    """Noise alone, as many as statistics need."""
    return simulate(1500, 1, galaxies=False, density=0.0)


def _correlation(z: Tensor, good: Tensor, dy: int, dx: int) -> float:
    n = z.shape[-1]
    a, b = (slice(0, n - dy), slice(0, n - dx)), (slice(dy, n), slice(dx, n))
    both = (good[..., *a] & good[..., *b]).double()
    return float((z[..., *a] * z[..., *b] * both).sum() / both.sum())


def test_noise_has_the_stated_covariance(empty: Stamps) -> None:
    covariance = noise_covariance(32) / NOISE**2
    z = (empty.y - empty.sky - empty.galaxy) / empty.sigma
    assert covariance.shape == (63, 63)
    assert float(covariance[31, 31]) == pytest.approx(1)
    assert 0.1 < float(covariance[31, 32]) < 0.2  # pixels of 0.1″ share mosaic pixels of 0.03″
    torch.testing.assert_close(covariance, covariance.flip(0, 1))
    for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (3, 5)):
        assert _correlation(z, empty.good, dy, dx) == pytest.approx(float(covariance[31 + dy, 31 + dx]), abs=0.005)


def test_covariance_is_that_of_fine_noise_of_galsim_averaged_over_pixels() -> None:
    fine = galsim.getCOSMOSNoise(rng=galsim.BaseDeviate(1), variance=1.0)
    image = galsim.ImageD(1500, 1500, scale=0.03)
    image.addNoise(fine)
    coarse = image.array.reshape(300, 5, 300, 5).mean((1, 3))  # pixels of 0.15″
    covariance = noise_covariance(16, WIDE) / NOISE**2
    assert (coarse[:, 1:] * coarse[:, :-1]).mean() / coarse.var() == pytest.approx(float(covariance[15, 16]), abs=0.02)
    assert (coarse[1:] * coarse[:-1]).mean() / coarse.var() == pytest.approx(float(covariance[16, 15]), abs=0.02)


def test_white_noise_is_white() -> None:
    white = simulate(300, 1, galaxies=False, density=0.0, correlated=False)
    z = (white.y - white.sky) / white.sigma
    assert float(z[white.good].std()) == pytest.approx(1, abs=0.01)
    assert abs(_correlation(z, white.good, 0, 1)) < 0.01


def test_few_pixels_are_exceptional(empty: Stamps) -> None:
    usual = empty.good & (empty.sigma == NOISE)
    assert set(np.unique(empty.sigma / NOISE).round(12)) == {1.0, round((4 / 3) ** 0.5, 12)}
    assert float((~usual).double().mean((1, 2, 3)).max()) < 0.08
    assert 0 < float((~empty.good).double().mean()) < 0.01
    assert bool(torch.isfinite(empty.y).all())
    ground = simulate_ground(300, 1, galaxies=False, density=0.0).stamps
    usual = ground.good & (ground.sigma == NOISE)
    assert float((~usual).double().mean((1, 2, 3)).max()) < 0.08


def test_flux_of_the_truth_is_the_catalogue_s(centred: Stamps) -> None:
    c, galaxy = centred.catalogue, centred.galaxy
    torch.testing.assert_close(c["flux"], 10 ** (0.4 * (SPACE.zero_point - c["magnitude"])))
    inside = galaxy.sum((1, 2, 3)) / c["flux"]
    small = c["half_light_radius"] * c["n_sersic"] < 3
    assert bool((inside < 1.001).all())
    assert float(inside.min()) > 0.6  # the stamp cuts the largest
    assert float(inside[small].min()) > 0.94  # the rings of the PSF reach beyond 1.6″ with 1 % of the light


def test_the_galaxy_lies_where_and_is_what_the_catalogue_says(centred: Stamps) -> None:
    c, galaxy = centred.catalogue, centred.galaxy[:, 0]
    grid = torch.arange(32, dtype=torch.float64)
    small = c["half_light_radius"] < 3
    for name, weight in (("x", grid[None, :]), ("y", grid[:, None])):
        assert float((c[name] - 15.5).abs().max()) <= 0.5
        centroid = (galaxy * weight).sum((1, 2)) / galaxy.sum((1, 2))
        assert float((centroid - c[name])[small].abs().max()) < 0.05
    assert float(c["magnitude"].min()) >= 20.5
    assert float(c["magnitude"].max()) <= 24
    peak = galaxy.amax((1, 2)) / NOISE
    assert float(peak.min()) > 2
    assert 5 < float(peak.median()) < 100
    assert bool(((c["blending"] >= 0) & (c["blending"] <= 1)).all())
    assert float(c["e1"].isnan().double().mean()) < 0.1


def test_images_are_those_that_galsim_draws_one_by_one() -> None:
    for survey, pixels in ((SPACE, 32), (SPACE, 21), (WIDE, 32), (GROUND, 11)):
        scene = draw_scene(np.random.default_rng(5), pixels, survey, DENSITY, central=True)
        sky, galaxy = draw_images(scene, survey, pixels)
        for image, members in ((sky, scene.neighbours), (galaxy, [(scene.central, scene.place)])):
            drawn = np.zeros((pixels, pixels))
            for one, place in members:
                flux = 10 ** (0.4 * (survey.zero_point - one.magnitude))
                profile = galsim.Sersic(n=one.n_sersic, half_light_radius=one.half_light_radius, flux=flux)
                seen = galsim.Convolve(profile.shear(g1=one.g1, g2=one.g2).shift(*place), survey.psf)
                drawn += seen.drawImage(galsim.ImageD(pixels, pixels, scale=survey.pixel)).array
            assert np.abs(image - drawn).max() < 0.05 * survey.noise


def test_light_leaks_in_from_beyond_the_edge() -> None:
    (bright,) = draw_galaxies(np.random.default_rng(0), 1, 20.0, 20.01)
    scene = Scene(None, (0.0, 0.0), [(bright, (2.0, 0.0))])  # 0.4″ outside
    sky, _ = draw_images(scene, SPACE, 32)
    assert sky[:, -1].max() > 3 * NOISE
    assert sky[:, -1].sum() > 10 * sky[:, 0].sum()


def test_random_fields_are_uniform_and_as_crowded_as_asked() -> None:
    draw = np.random.default_rng(7)
    scenes = [draw_scene(draw, 32, SPACE, DENSITY, central=False) for _ in range(400)]
    places = np.array([place for scene in scenes for _, place in scene.neighbours])
    for half in (0.4, 0.8, 1.6):  # squares about the centre; their counts are Poisson's
        expected = 400 * DENSITY * (2 * half / 60) ** 2
        assert abs((np.abs(places) < half).all(1).sum() - expected) < 4 * expected**0.5
    fields = simulate(120, 7, galaxies=False)
    assert float(fields.galaxy.abs().max()) == 0
    assert not fields.catalogue
    faint = fields.sky[:, 0].clamp_max(5 * NOISE)  # so that a few bright ones do not decide
    middle = faint[:, 8:24, 8:24].mean((1, 2)) - faint.mean((1, 2))
    assert abs(float(middle.mean())) < 4 * float(middle.std()) / 120**0.5


def test_counts_follow_their_slope() -> None:
    magnitude = np.array([g.magnitude for g in draw_galaxies(np.random.default_rng(0), 20_000, 20.0, 26.5)])
    assert (magnitude < 25.5).mean() == pytest.approx(10**-0.35, abs=0.01)
    assert magnitude.min() >= 20


def test_a_stamp_depends_on_seed_and_number_alone() -> None:
    few, more = simulate(2, 5, galaxies=True), simulate(4, 5, galaxies=True)
    for name in ("y", "good", "sigma", "sky", "galaxy"):
        assert torch.equal(getattr(few, name), getattr(more, name)[:2])
    assert torch.equal(few.catalogue["e1"], more.catalogue["e1"][:2])
    assert not torch.equal(few.y, simulate(2, 6, galaxies=True).y)
    assert not torch.equal(few.sky, simulate(2, 5, galaxies=False).sky)


def test_the_kernel_predicts_what_the_ground_sees() -> None:
    seen, space = simulate_ground(20, 2, galaxies=True), simulate(20, 2, galaxies=True, survey=WIDE)
    assert torch.equal(seen.galaxy, space.galaxy)
    assert torch.equal(seen.sky, space.sky)
    assert seen.stamps.y.shape == (20, 1, 11, 11)
    kernel = ground_kernel()
    assert float(kernel.sum()) == pytest.approx(1)
    torch.testing.assert_close(kernel, kernel.flip(0, 1))
    torch.testing.assert_close(kernel, kernel.T)
    model = avg_pool2d(conv2d(seen.sky + seen.galaxy, kernel[None, None]), 2)
    residual = ((seen.stamps.y - model) / seen.stamps.sigma)[seen.stamps.good]
    assert float(residual.std()) == pytest.approx(1, abs=0.05)  # noise, and little besides

    truth = []  # the noise taken away: the model's own error
    for i in range(20):
        scene = draw_scene(np.random.default_rng(i), 32, WIDE, DENSITY, central=True)
        source, ground = (sum(draw_images(scene, survey, n)) for survey, n in ((WIDE, 32), (GROUND, 11)))
        predicted = avg_pool2d(conv2d(torch.from_numpy(source)[None, None], kernel[None, None]), 2)[0, 0]
        truth.append((predicted - torch.from_numpy(ground)) / NOISE)
    error = torch.stack(truth)
    rms = error.square().mean((1, 2)).sqrt()
    print(f"kernel's error / noise: rms {error.square().mean().sqrt():.3f}, median stamp {rms.median():.3f}, "
          f"worst stamp {rms.max():.3f}, worst pixel {error.abs().max():.2f}")  # fmt: skip
    assert float(error.square().mean().sqrt()) < 0.25
    assert float(rms.median()) < 0.15


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"count": 0}, "ask for 1 or more"),
        ({"density": -1.0}, "density must be 0 or more"),
        ({"density": float("nan")}, "density must be 0 or more"),
        ({"pixels": 4}, "take 8 or more"),
        ({"survey": Survey(0.1, SPACE.psf, 25.5, noise=1e9)}, "hides every galaxy"),
    ],
)
def test_bad_input_is_told_in_a_line(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(MvssError, match=says) as error:
        simulate(**{"count": 1, "seed": 0, "galaxies": True, **arguments})
    assert "\n" not in str(error.value)


def test_ground_stamps_need_whole_pixels() -> None:
    with pytest.raises(MvssError, match="must be even"):
        simulate_ground(1, 0, galaxies=True, pixels=31)
