"""Runs against the exact posterior at all levels of noise, and settings that are lowered only where this helps."""

from __future__ import annotations

__all__: list[str] = []

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from closed_forms import exact, named, random_prior, random_view
from tiny_separators import IMAGES, VECTORS
from torch import Tensor

from mvss import AmortisedConfig, MomentMatchingConfig, SamplerConfig, Settings, SourceSeparator, View
from mvss.estimation import Estimate
from mvss.posteriors.moment_matching import MomentMatching
from mvss.posteriors.noise_scaling import SHARE, least_noise, suited
from mvss.presets import load_settings
from mvss.priors.diffusion import DiffusionPrior
from mvss.problem.operators import Identity, Mask, Scale
from mvss.problem.views import Views
from mvss.runtime.rng import Stream

COUNT, SIZES = 4000, (3, 2)
PRESET = load_settings("vectors")


def test_noise_of_numbers_that_were_not_measured_is_not_read() -> None:
    """Four of six were not, and have a placeholder."""
    seen = torch.tensor([True, True, False, False, False, False])
    sigma = torch.full((20, 6), 0.1).where(seen, 1e-6)
    view = View(torch.zeros(20, 6), {"a": Mask(seen.expand(20, -1)) @ Identity((6,))}, sigma)
    assert least_noise(Views([view])) == pytest.approx(0.1)


class Nothing(torch.nn.Module):
    """A network that adds nothing: with it runs are moment matching's, and what they should give is known."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, inputs: Tensor, log_sigma: Tensor) -> Tensor:
        return 0.0 * inputs[:, 0]


def errors(config: MomentMatchingConfig, noise: float) -> tuple[float, float, float]:
    """Of draws for one observation: the largest error of the mean, in standard deviations of the exact posterior, and the
    least and the largest variance, over that of the exact one."""
    mixtures, one = [random_prior(1, d, b) for b, d in enumerate(SIZES)], random_view(1, 3, SIZES)
    one = replace(one, noise=torch.full_like(one.noise, noise**2))
    law, view = exact(mixtures, one), named(one.select(torch.zeros(COUNT, dtype=torch.long)))
    priors = {source: DiffusionPrior(mixture, Nothing(), 1.0) for source, mixture in zip("ab", mixtures, strict=True)}
    drawn = MomentMatching(replace(config, chunk=COUNT)).draw(view, priors, Stream(0)).draws
    off = torch.cat([drawn[source] for source in "ab"], dim=1) - law.mean
    z = torch.linalg.solve_triangular(torch.linalg.cholesky(law.covariance), off.mT, upper=False)
    shares = torch.linalg.eigvalsh(torch.cov(z))
    return float(z.mean(1).abs().max()), float(shares[0]), float(shares[-1])


def alone(noise: float, factor: float = 1.0) -> Views:
    y = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Views([View(factor * y, {"a": Scale(factor, (3,)) @ Identity((3,))}, factor * noise)])


def lowest(settings: Settings) -> float:
    assert isinstance(settings.posterior, MomentMatchingConfig)
    return settings.posterior.sampler.sigma_min


@pytest.mark.parametrize("noise", [1e-3, 0.03, 0.3])
def test_ancestral_runs_are_exact_at_any_noise(noise: float) -> None:
    """Also where it is far below σ_min, and where it is far above σ_start."""
    config = PRESET.separation
    assert isinstance(config, MomentMatchingConfig)
    mean, least, most = errors(config, noise)
    assert mean < 0.05 and 0.9 < least <= most < 1.1


def test_runs_that_end_in_means_are_no_better_for_other_levels_at_usual_noise() -> None:
    config = PRESET.posterior
    assert isinstance(config, MomentMatchingConfig)
    mean, least, most = errors(config, 0.3)
    assert suited(PRESET, alone(0.3)) is PRESET and mean < 0.05 and 0.75 < least <= most < 1.1
    for start, end in ((0.3, 0.003), (0.1, 0.09)):  # scaled up to the noise
        assert errors(replace(config, sampler=replace(config.sampler, sigma_start=start, sigma_min=end)), 0.3)[1] < least - 0.1


@pytest.mark.parametrize("method", ["pc", "ddim", "heun"])
def test_below_the_settings_means_keep_their_variance_by_lower_levels(method: str) -> None:
    config = MomentMatchingConfig(SamplerConfig(method, 6, 0.1, 0.003))  # type: ignore[arg-type]
    low = suited(replace(PRESET, posterior=config), alone(1e-3)).posterior
    assert isinstance(low, MomentMatchingConfig)
    before, after = errors(config, 1e-3), errors(low, 1e-3)
    assert before[1] < 0.03 and after[1] > 0.35
    assert before[0] < 0.05 and after[0] < 0.05


@pytest.mark.parametrize("factor", [0.25, 1.0, 8.0])
def test_noise_is_in_units_of_the_source(factor: float) -> None:
    assert least_noise(alone(1e-3, factor)) == pytest.approx(1e-3)


def test_settings_that_suit_stay() -> None:
    """Those of the presets at the noise of their data: a hundredth of sources of size one, and .08 of grass and digits."""
    assert suited(PRESET, alone(0.01)) is PRESET and suited(PRESET, alone(0.003)) is PRESET
    images = load_settings("images")
    moments = replace(images, posterior=MomentMatchingConfig(SamplerConfig("ddim", 10, 1.6, 0.08)))
    assert suited(images, alone(0.08)) is images and suited(moments, alone(0.08)) is moments
    assert suited(images, alone(1e-3)) is images  # ancestral, and in units of what is seen


def test_what_ends_in_means_is_lowered_and_networks_learn_down_to_there() -> None:
    low = suited(PRESET, alone(1e-3))
    assert lowest(low) == low.training.sigma_min == pytest.approx(SHARE * 1e-3)
    assert low.separation == PRESET.separation
    assert replace(low, posterior=PRESET.posterior, training=PRESET.training) == PRESET
    others = MomentMatchingConfig(SamplerConfig("ddim", 4, 0.3, 0.02))
    assert isinstance(IMAGES.posterior, AmortisedConfig)
    amortised = suited(replace(IMAGES, posterior=replace(IMAGES.posterior, others=others)), alone(1e-3)).posterior
    assert isinstance(amortised, AmortisedConfig) and amortised.sampler == IMAGES.posterior.sampler
    assert amortised.others.sampler.sigma_min == pytest.approx(SHARE * 1e-3)


def test_a_model_keeps_the_levels_that_it_was_fitted_with(tmp_path: Path) -> None:
    model, estimate = SourceSeparator(VECTORS), Estimate({"a": random_prior(2, 3, 0)})
    for noise in (1e-3, 0.3):
        model.begin(list(alone(noise)), estimate, 0).save_pretrained(tmp_path / str(noise))
    assert model.settings == VECTORS
    quiet, loud = (SourceSeparator.from_pretrained(tmp_path / name).settings for name in ("0.001", "0.3"))
    assert lowest(quiet) == quiet.training.sigma_min == pytest.approx(SHARE * 1e-3, rel=1e-6) and loud == VECTORS
    scaled = next(iter(model.priors.values()))
    assert isinstance(scaled, DiffusionPrior) and scaled.levels[0] == VECTORS.training.sigma_min


@pytest.mark.parametrize(("noise", "told"), [(1e-3, SHARE * 1e-3), (0.3, None)])
@pytest.mark.parametrize("learned", [VECTORS.training.sigma_min, 1e-5])
def test_the_report_says_where_levels_were_lowered(learned: float, noise: float, told: float | None) -> None:
    """Also where networks learn down to lower ones anyhow."""
    quick = replace(VECTORS, em=replace(VECTORS.em, laps=1), training=replace(VECTORS.training, sigma_min=learned))
    report = SourceSeparator(quick).fit(list(alone(noise)), verbose=False).report
    assert report is not None and report.sigma_min == (told and pytest.approx(told, rel=1e-6))
    assert ("sigma_min lowered to 0.0003, to suit the noise of the views" in str(report)) == (told is not None)
