"""What commands do, once their words and the YAML are well: what is found, for JSON, and in words."""

from __future__ import annotations

__all__ = ["check_mixture", "fit_mixture", "sample_prior", "score_candidates", "separate_mixture"]

import json
import math
import sys
import warnings
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mvss.cli.check import checked, in_words, maybe_signals
from mvss.io.arrays import Array, read_array
from mvss.io.located import Located
from mvss.io.results import write_arrays
from mvss.io.views import read_views
from mvss.posteriors.models import require_networks
from mvss.posteriors.posterior import shown
from mvss.posteriors.pretrained import model_folder
from mvss.presets import load_settings
from mvss.presets.estimation import MixtureEMConfig
from mvss.presets.settings import Settings
from mvss.priors.training import default_accelerator
from mvss.problem.data_checks import require_varied
from mvss.problem.shared_view import SharedView
from mvss.problem.views import View, Views
from mvss.runtime.errors import MvssError
from mvss.runtime.files import atomic_write_text
from mvss.runtime.memory import ensure_memory
from mvss.runtime.progress import Phases
from mvss.runtime.rng import stream_of
from mvss.separator import FitEvent, SourceSeparator

Found = tuple[dict[str, Any], str]
TIMES = ("seconds", "peak_memory_gib")
"""What a report says that another run of the same fit does not."""


def check_mixture(mixture: Located, preset: str | None) -> Found:
    """See `check`. Raises MvssError for what `fit` would refuse at once."""
    views, preset = _suited(mixture, preset)
    found = checked(views, preset)
    return found, in_words(found)


def _suited(mixture: Located, preset: str | None) -> tuple[Views, str]:
    """Views, and the preset that was asked for or that is usual. Raises MvssError where one cannot learn from the other."""
    views = read_views(mixture)
    axes = {len(shape) for shape in views.shapes.values()}
    preset = preset or ("signals" if axes == {2} else "images" if axes == {3} else "vectors")
    settings = load_settings(preset)
    for view in views:
        with mixture.at("views", view.name):
            require_varied(view)
            if isinstance(settings.estimation, MixtureEMConfig):
                _require_shared(view, preset)
    with mixture.at("views"):
        _require_networks(views, settings)
    return views, preset


def _require_networks(views: Views, settings: Settings) -> None:
    try:
        require_networks(settings, views)
    except MvssError as error:
        raise MvssError("; ".join([str(error), *maybe_signals(views)])) from error


def _require_shared(view: View, preset: str) -> None:
    try:
        SharedView.of(view)
    except MvssError as error:
        raise MvssError(
            f"preset {preset} needs one operator and one noise for all observations of a view, but for a mask that is the "
            "same, and comes last, for all of its sources; small sources under others are learned by --preset vectors"
        ) from error


def fit_mixture(mixture: Located, preset: str | None, out: Path, seed: int) -> Found:
    """Learn, and write the model to a folder: what `from_pretrained` reads, report.json, and in fit/ what it goes on from."""
    views, preset = _suited(mixture, preset)
    for line in maybe_signals(views):
        warnings.warn(line, stacklevel=2)
    model, phases, named = SourceSeparator(preset), Phases(True), False

    def tell(event: FitEvent) -> None:
        nonlocal named
        if not named and (event.done or event.phase != "first priors"):  # nothing has refused the folder
            print(f"model: {out} (if this is interrupted, the same command goes on)", file=sys.stderr, flush=True)
            named = True
        phases.tell(event.phase, event.done)

    model.fit(views, seed, out / "fit", tell, verbose=False)
    phases.close()
    model.save_pretrained(out)
    assert model.report is not None
    report, path = model.report, out / "report.json"
    found = {
        "model": str(out),
        "preset": preset,
        "seed": seed,
        "report": _plain({**asdict(report), "warnings": report.warnings}),
    }
    if (first := _finished(path, found)) is not None:
        report = replace(report, **{name: first[name] for name in TIMES})
        found["report"] = first
    atomic_write_text(path, json.dumps(found, indent=1) + "\n")
    return found, f"{report}\nmodel: {out}"


def _finished(path: Path, found: dict[str, Any]) -> dict[str, Any] | None:
    """The report of the same fit when it was finished, which took the time that it says; None where there is none."""
    try:
        first: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["report"]
        same = {**first, **dict.fromkeys(TIMES)} == json.loads(json.dumps({**found["report"], **dict.fromkeys(TIMES)}))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return first if same and set(TIMES) <= set(first) else None


def separate_mixture(name: str, mixture: Located, out: Path, draws: int, seed: int) -> Found:
    """Draws of every view to a file."""
    model, views, phases = _model(name), read_views(mixture), Phases(True)
    for view in views:
        with mixture.at("views", view.name):
            shown(view, model.priors)
    numbers = sum(len(view) * math.prod(shape) for view in views for shape in view.shapes.values())
    fewer = "ask for fewer, or split the observations, each part with a --seed of its own"
    ensure_memory(8 * numbers * (draws + 2), f"{draws} draws of all observations", fewer)
    arrays: dict[str, Array] = {}
    for place, view in enumerate(views):
        with mixture.at("views", view.name):
            stream = stream_of(seed, "separate", view.name)  # views whose observations have the same numbers are independent
            found = model.separate(view, draws, stream, partial(_tell, phases, place, len(views)))
        for source, x in found.items():
            arrays[f"{view.name}/{source}/draws"] = x.numpy()
            if draws > 1:
                arrays[f"{view.name}/{source}/mean"], arrays[f"{view.name}/{source}/sd"] = x.mean(0).numpy(), x.std(0).numpy()
    phases.close()
    write_arrays(out, arrays)
    return _written(out, arrays)


def _tell(phases: Phases, place: int, count: int, done: float) -> None:
    phases.tell("separate", (place + done) / count)


def sample_prior(name: str, source: str, count: int, out: Path, seed: int) -> Found:
    """Draws of a prior to a file, under the name of the source."""
    arrays = {source: _model(name).sample(source, count, seed).numpy()}
    write_arrays(out, arrays)
    return _written(out, arrays)


def score_candidates(name: str, candidates: str, source: str, out: Path | None) -> Found:
    """Log densities to a file, or to be said. Candidates may have several axes before those of the source, as draws have."""
    model = _model(name)
    if source not in model.priors:
        raise MvssError(f"there is no source {source!r}: known are {', '.join(model.sources)}")
    x, shape = read_array(candidates, Path(), source), model.priors[source].shape
    if len(shape) > 1 and shape[0] == 1 and x.ndim == len(shape):
        x = x[:, None]  # images or signals of one channel
    if x.ndim <= len(shape) or x.shape[x.ndim - len(shape) :] != shape:
        raise MvssError(f"{candidates} has shape {x.shape}: candidates of {source} are (N, {', '.join(map(str, shape))})")
    before = x.shape[: x.ndim - len(shape)]
    density = model.log_prob(source, torch.from_numpy(np.array(x, dtype=np.float64)).reshape(-1, *shape))
    arrays = {"log_prob": density.detach().numpy().reshape(before)}
    if out is not None:
        write_arrays(out, arrays)
        return _written(out, arrays)
    return {"log_prob": _plain(arrays["log_prob"].tolist())}, "\n".join(f"{value:.6g}" for value in density.tolist())


def _model(name: str) -> SourceSeparator:
    """That of a folder, or of a name that is none; then it is said which."""
    folder = model_folder(name)
    if folder != Path(name).expanduser():
        print(f"model: {name} is {folder}", file=sys.stderr, flush=True)
    return SourceSeparator.from_pretrained(folder).to(default_accelerator().device)


def _written(out: Path, arrays: dict[str, Array]) -> Found:
    shapes = {name: list(x.shape) for name, x in arrays.items()}
    lines = [f"{name} ({', '.join(map(str, shape))})" for name, shape in shapes.items()]
    return {"out": str(out), "arrays": shapes}, "\n".join([f"{out}:", *(f"  {line}" for line in lines)])


def _plain(value: Any) -> Any:  # noqa: ANN401 - nested lists, dictionaries and numbers
    """As JSON knows it: None for what is no finite number."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
