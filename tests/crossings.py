"""How often one observation's E-step goes from one module of mvss to another: `python tests/crossings.py`.

    crossing = a Python call or return between a frame of one module and the nearest frame of mvss above it,
               where that is of another module

A call that comes back is two crossings. C calls and frames of torch or of anyone else in between are passed over, and
so is code without a file (the `__init__` that a dataclass is given). Before the rebuild: 21 modules, 304 crossings.
"""

from __future__ import annotations

__all__ = ["Trace", "count", "e_step", "trace"]

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import torch

import mvss
from experiments import mnist_grass
from experiments.mnist_grass.config import MnistGrassConfig
from experiments.mnist_grass.data import make_task
from mvss import SourceSeparator
from mvss.estimation import estimate_sources
from mvss.posteriors import posterior_of
from mvss.posteriors.exact import ExactPosterior
from mvss.presets.reader import load_config
from mvss.runtime.rng import Stream

MVSS, PRESETS = Path(mvss.__path__[0]), Path(mnist_grass.__path__[0]) / "presets"


@dataclass
class Trace:
    """modules: those that ran, as paths in the folder. pairs: crossings, by (module that calls, module called)."""

    modules: set[str] = field(default_factory=set)
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)


def count(work: Callable[[], object], folder: Path = MVSS) -> tuple[int, int]:
    """Run `work`. Returns the number of modules of `folder` that ran, and that of the crossings between them."""
    found = trace(work, folder)
    return len(found.modules), found.pairs.total()


def trace(work: Callable[[], object], folder: Path = MVSS) -> Trace:
    """The same, with names. The profiler of this thread is put back afterwards."""
    found, start = Trace(), f"{folder}/"

    def on_event(frame: FrameType, event: str, _: object) -> None:
        callee = frame.f_code.co_filename
        if event not in ("call", "return") or not callee.startswith(start):
            return
        found.modules.add(callee.removeprefix(start))
        caller = _nearest(frame.f_back, start)
        if caller is not None and caller != callee:
            found.pairs[caller.removeprefix(start), callee.removeprefix(start)] += 1

    before = sys.getprofile()
    sys.setprofile(on_event)
    try:
        work()
    finally:
        sys.setprofile(before)
    return found


def _nearest(frame: FrameType | None, start: str) -> str | None:
    """The file of the nearest frame, from this one up, whose file's path has this start."""
    while frame is not None and not frame.f_code.co_filename.startswith(start):
        frame = frame.f_back
    return frame and frame.f_code.co_filename


def e_step() -> Callable[[], object]:
    """What is counted: one observation that shows both sources, of mnist-grass, preset smoke, problem full, method joint: the
    digit by a network that has its posterior, by two steps, after a guess; then the grass, which is a mixture, given that.

    All that is known of the experiments' and the library's interface stands here. Everything is set up before, and the
    posterior is fresh, so that its first call is counted, with what it keeps for later ones."""
    config = load_config(MnistGrassConfig, PRESETS / "smoke.yaml", ["settings.estimation.laps=1"])
    settings, task, stream = config.recipes()["joint"].settings, make_task("full", 0, config), Stream(0, ("crossings",))
    model = SourceSeparator(settings)
    model.begin(task.train, estimate_sources(task.train, settings.estimation, stream), 0)
    view = model.units.inward(next(v for v in task.train if len(v.sources) == 2)).select(torch.tensor([0]))
    mixtures = {source: prior.mixture for source, prior in model.priors.items()}
    start = ExactPosterior().draw(view, mixtures, stream).draws
    fresh = posterior_of(settings.posterior, model.amortised)
    return lambda: fresh.draw(view, model.priors, stream, start)


def main() -> None:
    """Print the two numbers, then how often each border is crossed."""
    found = trace(e_step())
    rooms = {Path(name).parts[0] for name in found.modules}
    print(f"{len(found.modules)} modules of {len(rooms)} rooms, {found.pairs.total()} crossings")
    for (caller, callee), times in found.pairs.most_common():
        print(f"{times:5d}  {caller} -> {callee}")


if __name__ == "__main__":
    main()
