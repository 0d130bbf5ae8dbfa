"""The sky in two views (paper, section 5.3): random fields, y = sky + η, and galaxy-centred stamps, y = sky + galaxy + η.

    simulated           GalSim's galaxies, HST-like, with truth, bad pixels and lost exposures     (`simulation`)
    simulated-asinh     the same, of which the model sees asinh, as the paper's does               (`transforms`)
    real                stamps of the Hubble deep field that ships with scikit-image               (`deep_field`)
    archive             stamps that `make galaxies-data` has cut from HST's mosaics                (`archive`)
    multi-resolution    views of space and of the ground; those of the ground are scored           (`simulation`)
    ground              the same without the views of space

Sources: sky, galaxy. Of real sky nobody knows the truth: known galaxies on random fields are separated and scored instead
(injection recovery), and real stamps by what can be told without truth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from experiments.core.config import Config
from experiments.core.pools import tunes
from experiments.core.task import Model, Task
from experiments.galaxies.archive.parts import open_archive
from experiments.galaxies.config import GalaxiesConfig, Transform, problem_named
from experiments.galaxies.data.clean import CleanSources, Fields
from experiments.galaxies.data.deep_field import Part, copies_apart, deep_field
from experiments.galaxies.data.injection import injected_into
from experiments.galaxies.data.simulation import ground_kernel, noise_covariance, simulate, simulate_ground
from experiments.galaxies.data.sky import FACTOR, WIDE
from experiments.galaxies.data.stamps import GALAXY, SKY, Stamps
from experiments.galaxies.data.transforms import fluxes, slope_of, transformed
from experiments.galaxies.scores.judging import Judgement, judge_held_out, judge_known, judge_real
from experiments.galaxies.segmentation import Extraction, Extractor, aperture, segmentation, sized
from mvss.presets.settings import EMConfig
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.problem.image_operators import BlockAverage, Convolve
from mvss.problem.noise import Diagonal, Isotropic, Noise, Stationary
from mvss.problem.operators import Identity, LinearOperator, Mask
from mvss.problem.views import View, Views
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

__all__ = ["GalaxiesTask", "make_task", "transform_of"]

OTHERS = 1_000_000
"""What is added to a seed for the simulation's fresh stamps, and twice that for those of space; seeds are smaller."""
AT_ONCE = 500
"""Galaxies in memory at a time, with all draws of them, when all of an archive are separated."""
PREDICTED = 150
"""Stamps whose held-out pixels are predicted, at most: each has dozens of them."""
ALIKE, OWN = 0.1, 0.2
"""Noise within a tenth of the usual is taken for it; so is more, until the pixels with noise of their own and the masked ones
are a fifth of a stamp: more would need a factorisation for each."""


def transform_of(problem: str, configured: Transform) -> Transform:
    """What the model sees of a problem's fluxes: the deep field comes stretched already."""
    fixed: dict[str, Transform] = {"real": "linear", "simulated-asinh": "asinh"}
    return fixed.get(problem, configured)


@dataclass(frozen=True)
class _Seen:
    """Stamps, and the truth of both sources at the sources' pixels (None where nobody knows). ground: seen from there."""

    stamps: Stamps
    sky: Tensor | None
    galaxy: Tensor | None
    ground: bool = False


def _seen(stamps: Stamps) -> _Seen:
    return _Seen(stamps, stamps.sky, stamps.galaxy)


class GalaxiesTask(CleanSources, Task):
    """One problem with one seed, as the experiments' common loop wants it. Sources: sky, galaxy."""

    data_range = 1.0
    scored_views = (1,)

    def __init__(self, name: str, seed: int, config: GalaxiesConfig) -> None:
        if not 0 <= seed < OTHERS:
            raise MvssError(f"galaxies: seed {seed} would share scenes with others; take one from 0 to {OTHERS - 1}")
        if name == "archive" and tunes(seed):
            raise MvssError(f"seed {seed} tunes, and an archive has no area for that: take another problem, or another seed")
        self.config, self.seed, self._name = config, seed, name
        self.pixels, self.most, self.transform = config.pixels, config.observations, transform_of(name, config.transform)
        self._real: Stamps | None = None
        self.fields: Fields | None = None
        make = {"simulated": self._simulated, "real": self._deep_field, "archive": self._archive}
        fields, galaxies, self._fresh = make.get(name.removesuffix("-asinh"), self._ground)()
        learned = [fields, galaxies] + (self._space() if name == "multi-resolution" else [])
        self._galaxies, self.usual = galaxies.stamps, float(self._fresh.stamps.sigma.median())
        train = [self._view(seen, bool(number % 2)) for number, seen in enumerate(learned)]
        fresh = [train[0], self._view(self._fresh, True), *train[2:]]
        self.train, self.fresh = Views(train), Views(fresh)
        self.train_truth = [self._truth(seen) for seen in learned]
        self.fresh_truth = [self.train_truth[0], self._truth(self._fresh), *self.train_truth[2:]]

    # What there is: random fields, galaxies, and fresh ones.

    def _simulated(self) -> tuple[_Seen, _Seen, _Seen]:
        fields, galaxies, fresh = map(_seen, self._made(simulate))
        return fields, galaxies, fresh

    def _ground(self) -> tuple[_Seen, _Seen, _Seen]:
        found = self._made(simulate_ground)
        fields, galaxies, fresh = (_Seen(s.stamps, s.sky, s.galaxy, ground=True) for s in found)
        return fields, galaxies, fresh

    def _made(self, make: Callable[..., Any]) -> tuple[Any, Any, Any]:
        """By a simulator."""
        c, size = self.config, {"pixels": self.config.pixels, "density": self.config.density}
        fields = make(c.random_fields, self.seed, galaxies=False, **size)
        learned, fresh = ((c.observations, self.seed), (c.fresh, self.seed + OTHERS))
        return fields, make(*learned, galaxies=True, **size), make(*fresh, galaxies=True, **size)

    def _space(self) -> list[_Seen]:
        """Random fields and galaxies of other scenes."""
        c = self.config
        make = partial(simulate, seed=self.seed + 2 * OTHERS, pixels=c.pixels, density=c.density, survey=WIDE, correlated=False)
        return [_seen(make(c.random_fields, galaxies=False)), _seen(make(c.observations, galaxies=True))]

    def _deep_field(self) -> tuple[_Seen, _Seen, _Seen]:
        c = self.config
        copies = deep_field("train", galaxies=True, seed=self.seed, pixels=c.pixels, copies=c.copies)
        galaxies = copies_apart(copies.select(slice(c.observations)), EMConfig().held_out)
        self.fields = blank, fields = self._deep_fields(self.seed)
        self._real = deep_field(self._scored, galaxies=True, seed=self.seed, pixels=c.pixels)
        return _seen(fields), _seen(galaxies), _seen(injected_into(blank, self._real))

    @property
    def _scored(self) -> Part:
        return "tuning" if tunes(self.seed) else "test"

    def _deep_fields(self, seed: int) -> Fields:
        c = self.config
        counts: tuple[tuple[Part, int], ...] = ((self._scored, c.fresh), ("train", c.random_fields))
        blank, fields = (deep_field(part, galaxies=False, seed=seed, pixels=c.pixels, count=n) for part, n in counts)
        return blank, fields

    @override
    def other_fields(self, number: int) -> Fields:
        """Those of an archive are what they are."""
        assert self.fields is not None
        return self.fields if self._name == "archive" else self._deep_fields(self.seed + (number + 1) * OTHERS)

    def _archive(self) -> tuple[_Seen, _Seen, _Seen]:
        c, path = self.config, self.config.archive
        fields, galaxies = (open_archive(path, "train", g, n) for g, n in ((False, c.random_fields), (True, c.observations)))
        if fields.pixels != c.pixels:
            raise MvssError(f"{path} has stamps of {fields.pixels} pixels, not {c.pixels}: set pixels={fields.pixels}")
        self._real = sized(open_archive(path, "test", True, c.fresh))
        self.fields = blank, fields = open_archive(path, "test", False, c.fresh), fields
        return _seen(fields), _seen(sized(galaxies)), _seen(injected_into(blank, self._real))

    # How the model sees it.

    def _view(self, seen: _Seen, shows_galaxy: bool, good: Tensor | None = None) -> View:
        """good: pixels to be used, if not all that were measured."""
        c, stamps = self.config, seen.stamps
        operator: LinearOperator = Identity((1, c.pixels, c.pixels))
        if seen.ground:
            blurred = Convolve(operator.source_shape, ground_kernel(), "valid")
            operator = BlockAverage(blurred.observation_shape, FACTOR) @ blurred
        good, usual, slope = stamps.good if good is None else good, stamps.sigma.median(), slope_of(self.transform)
        noise: Noise = Isotropic(slope * usual)
        if c.noise == "stationary" and self._name == "simulated":
            good = good & (stamps.sigma <= usual)  # all pixels have one law: those with more noise are left out
            noise = Stationary(slope**2 * noise_covariance(c.pixels))
        elif bool(((sigma := _rounded(stamps, usual)) != usual).any()):
            noise = Diagonal(slope * sigma)
        if not bool(good.all()):
            operator = Mask(good) @ operator
        y = torch.where(good, transformed(stamps.y, self.transform), 0.0)
        name = f"{'galaxies' if shows_galaxy else 'random fields'}{' from the ground' if seen.ground else ''}"
        operators = {SKY: operator, GALAXY: operator} if shows_galaxy else {SKY: operator}
        return View(y, operators, noise, name)

    def _truth(self, seen: _Seen) -> tuple[Tensor | None, Tensor | None]:
        sky, galaxy = (None if x is None else transformed(x, self.transform) for x in (seen.sky, seen.galaxy))
        return sky, galaxy

    def training_sources(self, source: int, count: int) -> Tensor:
        """Sources behind the training observations, `(count, 1, n, n)`; none where nobody knows them."""
        return self._some([truth[source] for truth in self.train_truth[1:]], count)

    @override
    def sample_truth(self, source: int, count: int, rng: torch.Generator, stratified: bool = False) -> Tensor:
        """Those of the fresh galaxies, repeated where more are asked for; none where nobody knows them."""
        return self._some([self.fresh_truth[1][source]], count)

    def _some(self, pools: Sequence[Tensor | None], count: int) -> Tensor:
        known = [pool for pool in pools if pool is not None]
        if not known:
            return torch.zeros(0, 1, self.config.pixels, self.config.pixels, dtype=torch.float64)
        pool = torch.cat(known)
        return pool[torch.arange(count) % len(pool)]

    def exact_priors(self) -> Sequence[GaussianMixture]:
        """There are none."""
        raise MvssError("the true laws of sky and galaxies are not known: neither an oracle nor an audit can be made of them")

    def rival(self, name: str) -> Model:
        """Of `core.task.Rivals`: segmentation or aperture, which are taken of fluxes. Apertures have twice the
        median half-light radius of the galaxies to learn from."""
        radius = 2 * float(self._galaxies.catalogue["half_light_radius"].median())
        cuts = {
            "segmentation": partial(segmentation, radius=radius, symmetric=True),
            "aperture": partial(aperture, radius=radius),
        }
        if name not in cuts:
            raise MvssError(f"galaxies: no method of their own is named {name!r}; known: {', '.join(cuts)}")
        transform = self.transform
        slope = slope_of(transform)

        def extract(stamps: Stamps) -> Extraction:
            seen = Stamps(fluxes(stamps.y, transform), stamps.good, stamps.sigma / slope)
            found = cuts[name](seen)
            return replace(found, galaxy=transformed(found.galaxy, transform))

        return Extractor(extract)

    def judge(self, model: Model, stream: Stream) -> Judgement:
        """Of `core.task.Judge`."""
        draw = partial(self._draw, model, stream)
        stamps, seen = self._fresh.stamps, None
        if self._fresh.ground:  # scored at the sources' pixels, where nothing was observed
            sky, galaxy = self._fresh.sky, self._fresh.galaxy
            assert sky is not None and galaxy is not None
            shape = torch.ones_like(galaxy, dtype=torch.bool), torch.full_like(galaxy, float(stamps.sigma.median()))
            stamps, seen = Stamps(sky + galaxy, *shape, sky, galaxy, stamps.catalogue), stamps
        found = judge_known(*draw("known", self._fresh), stamps, seen)
        if self._real is not None:
            found |= judge_real(*draw("real", _seen(self._real)), self._real)
        if SKY in model.sources and not self._fresh.ground:
            known = self._fresh.stamps if self._real is None else self._real
            which = _seen(known.select(slice(PREDICTED)))
            found |= judge_held_out(lambda good: draw("held out", which, good), which.stamps, self.seed)
        return found

    def separate(self, model: Model, stream: Stream) -> Iterator[tuple[Tensor, Tensor, Stamps]]:
        """Fluxes of sky and galaxy, `(D, N, 1, n, n)`, and their stamps: of all galaxies of an archive, some at a time, those
        learned from, too; of the deep field's test part; of the fresh ones where all are simulated.

        Raises MvssError where the sources have other pixels than the observations.
        """
        if self._fresh.ground:
            raise MvssError("galaxies seen from the ground have other pixels than their stamps: no file is made of them")
        seen = self._fresh if self._real is None else _seen(self._real)
        if self._name == "archive":
            seen = _seen(sized(open_archive(self.config.archive, "all", True)))
        return self._separated(model, stream, seen)

    def _separated(self, model: Model, stream: Stream, seen: _Seen) -> Iterator[tuple[Tensor, Tensor, Stamps]]:
        """Some at a time."""
        view = self._view(seen, True)
        for number, rows in enumerate(torch.arange(len(view)).split(AT_ONCE)):
            sky, galaxy = self._drawn(model, view.select(rows), stream.child("separate", number))
            assert sky is not None
            yield sky, galaxy, seen.stamps.select(rows)

    def _draw(
        self, model: Model, stream: Stream, key: str, seen: _Seen, good: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor]:
        """As `_drawn`. good: as of `_view`."""
        return self._drawn(model, self._view(seen, True, good), stream.child(key))

    def _drawn(self, model: Model, view: View, stream: Stream) -> tuple[Tensor | None, Tensor]:
        """Fluxes of sky (None where the model gives none) and galaxy, `(D, N, 1, n, n)`."""
        draws = model.separate(view, self.config.draws, stream)
        found = {source: fluxes(x, self.transform) for source, x in draws.items()}
        return found.get(SKY), found[GALAXY]


def _rounded(stamps: Stamps, usual: Tensor) -> Tensor:
    """σ of each pixel, `(N, 1, n, n)`: its own where it is farthest from the usual one, which all others are given."""
    away = torch.where(stamps.good, (stamps.sigma / usual).log().abs(), 0.0).flatten(1)
    rank = away.argsort(1, descending=True).argsort(1)
    left = OWN * away.shape[1] - (~stamps.good).flatten(1).sum(1, keepdim=True)
    own = (away > ALIKE) & (rank < left)
    return torch.where(own.reshape(stamps.sigma.shape), stamps.sigma, usual)


def make_task(problem: str, seed: int, config: Config) -> GalaxiesTask:
    """The data of one problem and seed."""
    assert isinstance(config, GalaxiesConfig)
    return GalaxiesTask(problem_named(problem), seed, config)
