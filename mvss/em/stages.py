"""Which sources learn together, from which views, for how many laps."""

from __future__ import annotations

__all__ = ["Stage", "plan_stages"]

from collections.abc import Sequence
from dataclasses import dataclass

from mvss.presets.settings import Settings
from mvss.problem.views import Views
from mvss.runtime.errors import MvssError


@dataclass(frozen=True)
class Stage:
    """sources: those that learn. laps: how many. views: numbers of those that show a learning source and nothing that is to be
    learned later."""

    sources: tuple[str, ...]
    laps: int
    views: tuple[int, ...]


def plan_stages(views: Views, settings: Settings, learning: Sequence[str]) -> list[Stage]:
    """Every stage of the settings with the sources that learn in it and the views that it uses."""
    em = settings.em
    groups = (views.sources,) if em.stages == "together" else views.stages()
    laps = (em.laps,) * len(groups) if isinstance(em.laps, int) else em.laps
    if len(laps) < len(groups):
        raise MvssError(f"laps={list(laps)} are fewer than the {len(groups)} stages: give one number for each")
    later: set[str] = set()
    stages: list[Stage] = []
    for group, count in reversed(list(zip(groups, laps, strict=False))):
        sources = tuple(source for source in group if source in learning)
        usable = [a for a in views.showing(sources) if not set(views[a].sources) & later]
        reached = {source for a in usable for source in views[a].sources}
        if missing := [source for source in sources if source not in reached]:
            raise MvssError(f"em: no view shows {', '.join(missing)} without later sources: set em.stages to together")
        if sources:
            stages.insert(0, Stage(sources, count, tuple(usable)))
        later |= set(sources)
    return stages
