"""What a mixture is, before anything is learned: counts, what views show, and what a fit will take."""

from __future__ import annotations

__all__ = ["checked", "in_words", "maybe_signals"]

import math
import warnings
from typing import Any

import psutil

from mvss.cli.timing import LEFT_OUT, expected_seconds, roughly
from mvss.em import plan_stages
from mvss.presets import load_settings
from mvss.presets.estimation import MixtureEMConfig
from mvss.presets.settings import Settings
from mvss.problem.constraints import unconstrained, unseen
from mvss.problem.data_checks import data_warnings
from mvss.problem.operators import Composition, LinearOperator
from mvss.problem.shared_view import measured_variance
from mvss.problem.stack import Stack, Sum
from mvss.problem.views import View, Views
from mvss.runtime.errors import MvssError
from mvss.runtime.memory import ensure_memory

THIN, LONG, FEW = 4, 32, 1000
"""Sides of an image of which one is so many times the other may be channels and time; vectors of so many numbers may be
signals; and observations that are too few for networks to be sure of."""


def checked(views: Views, preset: str) -> dict[str, Any]:
    """All of it, as JSON knows it. Raises MvssError where preset and views do not fit."""
    settings = load_settings(preset)
    sources = {
        source: {
            "shape": list(shape),
            "observations": sum(len(views[a]) for a in views.showing([source])),
            "alone_in": [view.name for view in views if view.sources == (source,)],
        }
        for source, shape in views.shapes.items()
    }
    seconds, untold = _seconds(views, settings)
    told = [*maybe_signals(views), *_few(views), *data_warnings(views), *unconstrained(views), *_never_apart(views, settings)]
    return {
        "preset": preset,
        "views": {view.name: _view(view) for view in views},
        "sources": sources,
        "learned_in_order": [list(stage) for stage in views.stages()],
        "warnings": [*told, *untold],
        "memory_gib_at_least": _memory(views),
        "seconds_about": seconds,
        "seconds_leave_out": LEFT_OUT.get(type(settings.estimation), ""),
        "work": _work(views, settings),
    }


def maybe_signals(views: Views) -> list[str]:
    """A line for each view whose images are so thin, or whose vectors so long, that they may be signals."""
    lines = []
    for view in views:
        shape = view.observation_shape
        if len(shape) == 3 and max(shape[1:]) >= THIN * min(shape[1:]):
            kind = f"images of {shape[1]} × {shape[2]} pixels"
        elif len(shape) == 1 and shape[0] >= LONG:
            kind = f"vectors of {shape[0]} numbers"
        else:
            continue
        says = "where they are signals, write data: {signals: file}"
        lines.append(f"view {view.name} is read as {len(view):,} {kind}: {says}")
    return lines


def _few(views: Views) -> list[str]:
    few = [f"{view.name} has {len(view):,}" for view in views if len(view) < FEW]
    says = f"fewer than {FEW:,} observations ({', '.join(few)}): a fit runs, but with other seeds it will differ"
    return [f"{says}; take thousands where you can"] if few else []


def _never_apart(views: Views, settings: Settings) -> list[str]:
    """Sources that estimation by EM has no place to begin at."""
    if not isinstance(settings.estimation, MixtureEMConfig):
        return []
    return [
        f"{' and '.join(stage)} are seen together wherever they are seen: a fit by em may refuse them, one by ascent "
        "(preset vectors) does not"
        for stage in views.stages()
        if len(stage) > 1 and not any(len(set(stage) & set(view.sources)) == 1 for view in views)
    ]


def _view(view: View) -> dict[str, Any]:
    sigma = measured_variance(view).sqrt()
    shown = {}
    for source, operator in view.operators.items():
        hidden, kind = unseen(Views([view]), source)
        size = math.prod(operator.source_shape)
        shown[source] = {"operator": _name(operator), "lets_through": size - hidden, "of": size, "kind": kind}
    return {
        "observations": len(view),
        "shape": list(view.observation_shape),
        "measured": len(sigma) / view.y.numel(),
        "noise": [float(sigma.min()), float(sigma.max())],
        "sources": shown,
    }


def _name(operator: LinearOperator) -> str:
    if isinstance(operator, Composition):
        return f"{_name(operator.outer)} · {_name(operator.inner)}"
    if isinstance(operator, Stack | Sum):
        return f"{type(operator).__name__.lower()} of {', '.join(map(_name, operator.operators))}"
    convolution = "psf" if len(operator.source_shape) == 3 else "response"
    name = {"Dense": "matrix", "BlockAverage": "average", "Convolve": convolution}.get(type(operator).__name__)
    each = "" if operator.count is None else " of each"
    return f"{name or type(operator).__name__.lower()}{each}"


def _memory(views: Views) -> float:
    """GiB that a fit holds at least: what is held now, the observations in units of the fit, and draws in both units. Raises
    MvssError where that is more than there is."""
    data = sum(view.y.numel() for view in views)
    draws = sum(len(view) * math.prod(shape) for view in views for shape in view.shapes.values())
    more = 8 * (data + 2 * draws)
    ensure_memory(more, "a fit's copies of observations and draws", "fit fewer observations")
    return (psutil.Process().memory_info().rss + more) / 2**30


def _seconds(views: Views, settings: Settings) -> tuple[dict[str, float], list[str]]:
    """By phases, to two digits; a line where they cannot be told."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of draws that nothing has learned
            found = expected_seconds(views, settings)
        return {phase: float(f"{each:.2g}") for phase, each in found.items()}, []
    except (MvssError, RuntimeError, ValueError) as error:  # of few observations, torch's and scikit-learn's, too
        says = " ".join(str(error).split())
        return {}, [f"a few steps of a fit, to see how long it takes, ended so: {says}"]


def _work(views: Views, settings: Settings) -> dict[str, int]:
    """laps; draws that networks learn from, in all; draws of observations between laps, and evaluations of the
    networks for each, where a step needs one alone."""
    closed = settings.prior.network is None
    learning = [] if closed else [source for source in views.sources if source not in settings.prior.closed]
    stages = plan_stages(views, settings, learning)
    each = settings.training.steps * settings.training.batch
    return {
        "laps": sum(stage.laps for stage in stages),
        "trained_on": sum(stage.laps * len(stage.sources) * each for stage in stages),
        "draws": sum(stage.laps * sum(len(views[a]) for a in stage.views) for stage in stages),
        "evaluations_of_a_draw": settings.posterior.evaluations,
    }


def in_words(found: dict[str, Any]) -> str:
    """The same for people."""
    lines = []
    for name, view in found["views"].items():
        low, high = view["noise"]
        noise = f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
        share = "" if view["measured"] == 1 else f", {100 * view['measured']:.3g} % of their numbers measured"
        shape = _shape(view["shape"])
        lines.append(f"view {name}: {view['observations']:,} observations of shape {shape}{share}, noise {noise}")
        for source, shown in view["sources"].items():
            others = " and ".join(other for other in view["sources"] if other != source)
            tells = f"lets through {shown['lets_through']:,} of its {shown['of']:,} {shown['kind']}"
            lines.append(f"  {source}: {shown['operator']}, {tells}, {f'added to {others}' if others else 'alone'}")
    for source, about in found["sources"].items():
        alone = f", alone in {', '.join(about['alone_in'])}" if about["alone_in"] else ", never alone"
        lines.append(f"source {source}: shape {_shape(about['shape'])}, in {about['observations']:,} observations{alone}")
    lines.append(f"can be learned in order: {', then '.join(' with '.join(stage) for stage in found['learned_in_order'])}")
    work = found["work"]
    lines.append(
        f"preset {found['preset']}: {work['laps']} laps; networks learn from {work['trained_on']:,} draws (with repeats); "
        f"{work['draws']:,} draws of observations between laps, at least {work['evaluations_of_a_draw']} evaluations each"
    )
    lines.append(f"memory of a fit: at least {found['memory_gib_at_least']:.2f} GiB")
    if seconds := found["seconds_about"]:
        without = f", {found['seconds_leave_out']}" if found["seconds_leave_out"] else ""
        lines.append(f"time of a fit: {roughly(sum(seconds.values()))} on this machine, while it is as busy as now{without}")
    return "\n".join([*lines, *(f"warning: {line}" for line in found["warnings"])])


def _shape(shape: list[int]) -> str:
    return f"({', '.join(map(str, shape))})"
