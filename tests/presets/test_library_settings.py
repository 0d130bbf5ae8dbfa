"""Settings of the library: presets, and settings as text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import mvss.presets
from mvss.presets import load_settings, settings_from, settings_text
from mvss.presets.estimation import AscentConfig, MixtureEMConfig, Noisier2NoiseConfig
from mvss.presets.posterior import (
    AmortisedConfig,
    CGConfig,
    ExactConfig,
    GibbsConfig,
    MomentMatchingConfig,
    PosteriorConfig,
    SamplerConfig,
    SplitGibbsConfig,
)
from mvss.presets.reader import available_presets, load_config
from mvss.presets.settings import EMConfig, PriorConfig, Settings
from mvss.presets.training import NetworkConfig, TrainingConfig
from mvss.runtime.errors import MvssError
from mvss.runtime.fingerprint import digest

PRESETS = available_presets(mvss.presets.FOLDER)

SETTINGS = [
    Settings(),
    Settings(
        estimation=MixtureEMConfig(noisier2noise=Noisier2NoiseConfig(least=0.0, training=TrainingConfig(turns=True))),
        prior=PriorConfig(NetworkConfig(blocks=(8, 16), dynamic=True), "karras", ("background",), SamplerConfig()),
        training=TrainingConfig(steps=3, beta=(1.0, 2.0)),
        em=EMConfig(laps=(3, 2), stages="sequential", amortised=TrainingConfig(), guess=TrainingConfig(batch=7)),
        posterior=AmortisedConfig(others=MomentMatchingConfig(sampler=SamplerConfig("pc"), solver=CGConfig(2))),
        separation=GibbsConfig(rounds=4),
    ),
    Settings(AscentConfig(components=(1,), starts=1), PriorConfig(network=None), posterior=ExactConfig(beam=3)),
]


@pytest.mark.parametrize("number", range(len(SETTINGS)))
def test_settings_are_read_back_from_their_text(number: int) -> None:
    settings = SETTINGS[number]
    again = settings_from(settings_text(settings))
    assert again == settings and type(again.posterior) is type(settings.posterior)
    assert settings_text(again) == settings_text(settings)


def test_settings_in_numbers_of_numpy_are_those_in_numbers_of_python() -> None:
    made = Settings(
        AscentConfig(components=(np.int64(2),), floor=np.float64(0.5)), training=TrainingConfig(turns=np.bool_(True))
    )
    same = Settings(AscentConfig(components=(2,), floor=0.5), training=TrainingConfig(turns=True))
    assert settings_text(made) == settings_text(same)
    found = load_settings(made)
    assert found == same and digest(found) == digest(same) == digest(load_settings(same))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (Settings(training=TrainingConfig(steps=2.5)), "'training.steps' is 2.5: it must be int"),
        (Settings(AscentConfig(floor=1 + torch.eye(1))), r"'estimation.floor' is tensor\(\[\[2.\]\]\): it must be float"),
        (Settings(prior=PriorConfig(closed=torch.eye(3))), "'prior.closed' is tensor"),
        (Settings(em=None), "'em' is None"),
        *((Settings(posterior=each), rf"'posterior' is .*\.{each.__name__}") for each in (ExactConfig, SplitGibbsConfig)),
        (Settings(prior=PriorConfig(base="other")), "'prior.base' is 'other'"),
        (None, "the name of a preset, a path or mvss.Settings, not NoneType"),
        (5, "not int"),
        ({"training": {}}, "not dict"),
    ],
)
def test_settings_of_another_type_are_refused_by_name(value: object, says: str) -> None:
    with pytest.raises(MvssError, match=says) as caught:
        load_settings(value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        *(lambda name=name: AscentConfig(**{name: 0}) for name in ("batch", "steps", "floor", "learning_rate")),
        lambda: AscentConfig(temperature=-1.0),
        *(lambda name=name: MixtureEMConfig(**{name: ()}) for name in ("components", "ranks")),
        *(lambda name=name: MixtureEMConfig(**{name: 0}) for name in ("laps", "floor")),
    ],
)
def test_what_is_out_of_range_is_told_by_the_key_of_the_yaml(make: Callable[[], object]) -> None:
    with pytest.raises(MvssError, match=r"^estimation[.:]") as caught:
        make()
    assert "\n" not in str(caught.value)


def test_components_of_an_ascent_do_not_fall() -> None:
    """Those that are alive would stay."""
    assert AscentConfig(components=(2, 2, 3)).components == (2, 2, 3)
    with pytest.raises(MvssError, match=r"\[4, 2\] must not fall"):
        AscentConfig(components=(4, 2))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_of_the_library_loads(name: str) -> None:
    settings = load_settings(name)
    assert settings == load_settings(mvss.presets.FOLDER / f"{name}.yaml") == settings_from(settings_text(settings))


def test_the_preset_of_the_first_example_is_there() -> None:
    assert "vectors" in PRESETS
    settings = load_settings("vectors")
    assert isinstance(settings.estimation, AscentConfig) and isinstance(settings.posterior, MomentMatchingConfig)


def test_a_preset_that_names_another_kind_of_posterior_keeps_nothing_of_the_default(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("posterior: {kind: gibbs, rounds: 3}\nestimation: {kind: em, laps: 2}\n")
    found = load_settings(path)
    assert found == Settings(estimation=MixtureEMConfig(laps=2), posterior=GibbsConfig(rounds=3))
    assert load_config(Settings, path, ["posterior={kind: exact}"]).posterior == ExactConfig()
    assert load_config(Settings, path, ["posterior.rounds=5"]).posterior == GibbsConfig(rounds=5)


def test_new_observations_are_separated_as_the_e_step_does_unless_told() -> None:
    assert Settings().separating == Settings().posterior
    assert replace(Settings(), separation=ExactConfig()).separating == ExactConfig()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("posterior: {kind: exat}", ["'posterior.kind' is 'exat'", "did you mean 'exact'", "gibbs"]),
        ("separation: {beam: 3}", ["'separation.kind' has no value", "moment_matching"]),
        ("estimation: {kind: em, starts: 2}", ["unknown key 'estimation.starts'"]),
        ("training: {stepz: 2}", ["unknown key 'training.stepz'", "did you mean 'steps'"]),
        ("training: {steps: 0}", ["steps=0"]),
        ("em: {laps: [a]}", ["em.laps"]),
        ("em: {held_out: 1.0}", ["held_out=1.0"]),
        ("trainig: {}", ["unknown key 'trainig'", "did you mean 'training'"]),
        ("- a", ["key: value"]),
        ("a: [", ["not valid YAML"]),
    ],
)
def test_bad_presets_are_refused_in_one_line(text: str, words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(MvssError) as caught:
        load_settings(path)
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_unknown_names_are_refused_in_one_line() -> None:
    for name, words in (
        ("vector", "did you mean 'vectors'"),
        ("there/is/none.yaml", "unknown preset 'none': there is no file there/is/none.yaml"),
    ):
        with pytest.raises(MvssError, match=words) as caught:
            load_settings(name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "key"),
    [(config, key) for config in (MomentMatchingConfig, GibbsConfig) for key in ("components", "beam", "chunk")]
    + [(MomentMatchingConfig, "passes"), (GibbsConfig, "rounds")],
)
def test_posteriors_out_of_range_are_refused_in_one_line(config: type[PosteriorConfig], key: str) -> None:
    with pytest.raises(MvssError, match="at least 1") as caught:
        config(**{key: 0})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"iterations": 0}, {"tolerance": 1.0}, {"regularisation": -1.0}])
def test_a_solver_out_of_range_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(MvssError, match="solver"):
        CGConfig(**options)  # type: ignore[arg-type]


def test_a_solver_gives_means_alone() -> None:
    with pytest.raises(MvssError, match="pc, ddim or heun"):
        MomentMatchingConfig(solver=CGConfig())
