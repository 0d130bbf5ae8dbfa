"""Every method as one recipe, and what a preset may say; all experiments share them. No implementation is imported.

A recipe is the settings of a `SourceSeparator`, or of a baseline, and what an experiment does with it.
"""

from __future__ import annotations

__all__ = ["AuditConfig", "Config", "Job", "MetricsConfig", "Recipe", "check_config"]

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, Self

from mvss.baselines.config import CLVMConfig, PCPCAConfig
from mvss.presets.ranges import at_least
from mvss.presets.reader import merged
from mvss.presets.settings import Settings
from mvss.runtime.errors import MvssError


@dataclass(frozen=True)
class MetricsConfig:
    """Sample counts of the scores: the same for every method.

    sinkhorn: points per cloud. lap_sinkhorn: the same for the draws of a lap. paper_sinkhorn: points of the paper's
    form. pqmass: points; references, tessellations: its cells and repetitions. drawn: fresh observations of each view of
    which many draws are scored (`drawn`), and draws: of each of them. kl: points of the divergence of learned laws from true
    ones, and kl_sigma: the level of the noise on both. 0 leaves the scores of each of these out, but for draws. saved: points
    per cloud kept for the figures.
    """

    sinkhorn: int = 2048
    lap_sinkhorn: int = 1024
    paper_sinkhorn: int = 512
    pqmass: int = 1024
    references: int = 100
    tessellations: int = 300
    drawn: int = 0
    draws: int = 16
    kl: int = 0
    kl_sigma: float = 0.01
    saved: int = 1000

    def __post_init__(self) -> None:
        at_least("metrics", self, 0, "sinkhorn", "lap_sinkhorn", "paper_sinkhorn", "pqmass", "drawn", "kl")
        at_least("metrics", self, 1, "tessellations", "saved")
        at_least("metrics", self, 2, "references", "draws")
        if self.kl == 1:  # of one there is no spread
            raise MvssError("metrics.kl=1 must be 0, or at least 2")
        if not self.kl_sigma > 0:
            raise MvssError(f"metrics.kl_sigma={self.kl_sigma} must be positive")


@dataclass(frozen=True)
class AuditConfig:
    """What `make ...-audit` looks at, of the methods named: calibration, with `draws` posterior draws for each of
    `observations` fresh ones; and log p of `candidates` per source at each of `distances` from the truth, in the units of the
    source, at the noise level `sigma`; 0 candidates leave those out."""

    methods: tuple[str, ...] = ("joint", "mixture", "exact")
    observations: int = 4096
    draws: int = 100
    candidates: int = 256
    distances: tuple[float, ...] = (0.0, 0.01, 0.03, 0.1, 0.3)
    sigma: float = 0.01

    def __post_init__(self) -> None:
        at_least("audit", self, 1, "observations", "draws")
        at_least("audit", self, 0, "candidates")
        if not self.distances or self.distances[0] != 0 or min(self.distances[1:], default=1.0) <= 0 or not self.sigma > 0:
            raise MvssError(
                "audit.distances must begin with 0, for the truth itself, and go on positive; sigma must be positive"
            )


@dataclass(frozen=True)
class Recipe:
    """One method.

    problems: those it is run on; null for all. settings: of a `SourceSeparator`, what the preset's own `settings` do not say
    for all methods. pcpca, clvm: the settings of a baseline, model: the name of one that only this experiment has
    (`task.Rivals`); it is then the method, and the rest of the recipe does not matter.
    truth: whether it starts from the true priors, where they are known. share: of the observations of each view that are
    learned from, the first ones. clean: learn from the truth behind the training observations instead, with the same
    estimation and M-steps: what is lost beside it, mixing costs; what is missing even so, no EM can find. fit: another method,
    by whose fit this one separates; its settings are that one's, but for what this one says, and only `separation` matters.
    anew: learn from each problem's own observations, those too that the fit of another problem separates else
    (`Config.learned`). by_problem: settings that problems say otherwise; no job receives those of another problem, and its
    own are then its settings.
    """

    problems: tuple[str, ...] | None = None
    settings: Settings = field(default_factory=Settings)
    pcpca: PCPCAConfig | None = None
    clvm: CLVMConfig | None = None
    model: str | None = None
    truth: bool = False
    share: float = 1.0
    clean: bool = False
    fit: str | None = None
    anew: bool = False
    by_problem: dict[str, Settings] = field(default_factory=dict, metadata={"decides": False})

    def on(self, problem: str) -> Recipe:
        """As it is run on a problem."""
        return replace(self, settings=self.by_problem.get(problem, self.settings), by_problem={})

    @property
    def baseline(self) -> PCPCAConfig | CLVMConfig | str | None:
        """The settings or the name of the baseline that this is, if it is one."""
        return self.pcpca or self.clvm or self.model


@dataclass(frozen=True)
class Config:
    """A preset: problems, sizes, settings that its methods share, and the methods to run.

    workers: jobs at a time; 0 for one per core, or one in all where there is a GPU.
    `make ...-ablations` runs those of `ablations` as well.
    """

    problems: tuple[str, ...] = ()
    observations: int = 4096
    fresh: int = 2048
    settings: Settings = field(default_factory=Settings)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    audit: AuditConfig = field(default_factory=AuditConfig)
    methods: dict[str, Recipe] = field(default_factory=dict)
    ablations: dict[str, Recipe] = field(default_factory=dict)
    workers: int = 0

    def __post_init__(self) -> None:
        at_least("preset", self, 1, "observations", "fresh")
        at_least("preset", self, 0, "workers")

    @classmethod
    def resolve(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Plain values with the settings of every method completed by those of all, or of the method whose fit it shares."""
        shared, values = values.get("settings", {}), dict(values)
        there: dict[str, Any] = {}
        for kind in ("methods", "ablations"):
            there |= recipes if isinstance(recipes := values.get(kind) or {}, dict) else {}
        for kind in ("methods", "ablations"):
            recipes = values.get(kind) or {}
            if isinstance(recipes, dict):
                values[kind] = {name: cls._completed(recipe, there, shared) for name, recipe in recipes.items()}
        return values

    @staticmethod
    def _completed(recipe: Any, others: dict[str, Any], shared: Any) -> Any:  # noqa: ANN401 - plain containers, checked later
        if not isinstance(recipe, dict):
            return recipe
        fitted = others.get(recipe.get("fit") or "")
        above = [shared, *(one.get("settings") or {} for one in (fitted, recipe) if isinstance(one, dict))]
        own = recipe.get("by_problem") or {}
        if not isinstance(own, dict):
            return recipe
        completed = {problem: reduce(merged, [*above, settings or {}]) for problem, settings in own.items()}
        return {**recipe, "settings": reduce(merged, above), **({"by_problem": completed} if own else {})}

    def recipes(self) -> dict[str, Recipe]:
        """All of them by name."""
        return {**self.methods, **self.ablations}

    def job(self, problem: str, method: str, seed: int, audit: bool = False) -> Job:
        """A method by name on a problem, with the settings that it has there."""
        return Job(problem, method, seed, self.recipes()[method].on(problem), self, audit)

    def points(self) -> int:
        """How many PQMass compares, draws and truth together."""
        return self.metrics.pqmass + min(self.metrics.pqmass, self.fresh)

    def of_a_job(self, problem: str) -> Self:  # noqa: ARG002 - others look at it
        """Without what no job of a problem receives."""
        return self

    def learned(self, problem: str) -> str:
        """The problem whose fits separate the observations of this one."""
        return problem

    def brought(self, problem: str) -> str:  # noqa: ARG002 - others look at it
        """Hash of what a user brought for a problem, which no setting tells; empty where that is nothing."""
        return ""


@dataclass(frozen=True)
class Job:
    """One method on one problem with one seed; `audit`: not its fit and scores, but its audit."""

    problem: str
    method: str
    seed: int
    recipe: Recipe
    config: Config
    audit: bool = False

    @property
    def fitted(self) -> Job:
        """The job that learns what this one looks at, or separates by; itself where it learns."""
        if self.audit:
            return replace(self, audit=False).fitted
        name = self.recipe.fit or self.method
        own = self.recipe.baseline or self.recipe.anew
        problem = self.problem if own else self.config.learned(self.problem)
        if (problem, name) == (self.problem, self.method):
            return self
        return self.config.job(problem, name, self.seed)


def check_config(config: Config) -> None:
    """Refuse at the start what would only fail at the end."""
    for name, recipe in config.recipes().items():
        _check_recipe(name, recipe, config.recipes())
    if rivals := [n for n, r in config.recipes().items() if r.baseline and n in config.audit.methods]:
        raise MvssError(f"audit.methods names {', '.join(rivals)}: the audit is for separators, not for baselines")
    m = config.metrics
    counts = (("sinkhorn", "fresh"), ("lap_sinkhorn", "observations"), ("paper_sinkhorn", "fresh"), ("drawn", "fresh"))
    for metric, among in counts:
        needed, there = getattr(m, metric), getattr(config, among)
        if needed > there:
            raise MvssError(f"metrics.{metric}={needed} needs as many draws, there are {among}={there}: lower it")
    points = config.points()
    if m.pqmass and points < 4 * m.references:
        raise MvssError(f"metrics.references={m.references} needs {4 * m.references} points, not {points}: lower it")


def _check_recipe(name: str, recipe: Recipe, others: Mapping[str, Recipe]) -> None:
    if sum(setting is not None for setting in (recipe.pcpca, recipe.clvm, recipe.model)) > 1:
        raise MvssError(f"method {name}: is either pcpca, clvm or model; leave the others out")
    fitted = others.get(recipe.fit or name)
    if recipe.fit and (recipe.baseline or fitted is None or fitted.fit or fitted.baseline):
        raise MvssError(f"method {name}: fit={recipe.fit} must be another method, which learns priors; this learns none")
    if not 0 < recipe.share <= 1:
        raise MvssError(f"method {name}: share={recipe.share} must be in (0, 1]")
    if recipe.by_problem and (recipe.baseline or recipe.fit):
        raise MvssError(f"method {name}: by_problem is of methods that learn priors of their own: leave it out")
    if fitted and recipe.fit and fitted.by_problem:
        raise MvssError(f"method {name}: the settings of fit={recipe.fit} differ by problem: name another fit")
    if recipe.clean and getattr(recipe.settings.estimation, "noisier2noise", None):
        raise MvssError(f"method {name}: clean sources need no noisier2noise: set settings.estimation.noisier2noise to null")
