"""Grass with and without digits (paper, section 5.2): y = grass + η, and y = grass + 0.5 × digit + η, 28 × 28, noise 0.01.

    grass     crops of a texture, of parts that share nothing for view 1, view 2 and fresh observations (`textures`)
    digits    each one in one mixture; others for fresh observations (`digits`)

Seeds that tune (`core.pools`) have digits and a quarter of the photograph that no other seed has. Neither source is ever seen
clean. In the problem `downsampled` a third of each view has each of the resolutions 1, 2, 4; those named swap-… (`config`) have
other operators, noise or backgrounds.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from typing_extensions import override

from experiments.core.config import Config
from experiments.core.pools import TUNING, tunes
from experiments.core.task import Task
from experiments.mnist_grass.classifier import Classifier, trained_classifier, with_remains
from experiments.mnist_grass.config import SHIPPED, SWAPPED, MnistGrassConfig, Problem, problem_named
from experiments.mnist_grass.digits import SHAPE, digits_fingerprint, mnist_digits, other_digits
from experiments.mnist_grass.textures import Part, texture_named
from mvss.metrics.images import frechet, random_features, spectrum_distance
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.problem.image_operators import BlockAverage, Convolve
from mvss.problem.operators import Identity, LinearOperator, Mask, Scale
from mvss.problem.stack import Stack
from mvss.problem.views import View, Views
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream, generator
from mvss.separator import SourceSeparator

__all__ = ["MnistGrassTask", "make_task"]

GRASS, DIGIT, MORE = "grass", "digit", "grass {}"
"""Names of the sources; MORE: of the grass of a second look, and more."""
DETECTED = 4000
"""Crops of grass that the detector of remains is trained on, and as many with a digit on them."""
AMPLITUDE = 0.5
LEFT = 0.1
"""How much of the grass is left on digits that are spoilt."""


def _observe(
    grass: Sequence[Tensor], digits: Tensor | None, problem: Problem, factor: int, rng: torch.Generator, name: str
) -> View:
    """A view of one resolution. grass: of each look."""
    pixels: LinearOperator = BlockAverage(SHAPE, factor) if factor > 1 else Identity(SHAPE)
    if problem.blur:
        pixels = pixels @ Convolve(SHAPE, _gaussian(problem.blur), "same")
    looks, dark = range(len(grass)), Scale(0.0, pixels.observation_shape) @ pixels

    def stacked(operators: Sequence[LinearOperator]) -> LinearOperator:
        return Stack(operators) if len(operators) > 1 else operators[0]

    names = [GRASS, *(MORE.format(look + 1) for look in looks if look)]
    operators = {own: stacked([pixels if names[look] == own else dark for look in looks]) for own in names}
    clean = dict(zip(names, grass, strict=True))
    if digits is not None:
        both = stacked([pixels for _ in looks])
        operators = {GRASS: operators[GRASS], DIGIT: Scale(problem.fraction, both.observation_shape) @ both, **operators}
        clean[DIGIT] = digits
    y = torch.stack([operator.forward(clean[source]) for source, operator in operators.items()]).sum(0)
    y = y + problem.noise * torch.randn(y.shape, generator=rng, dtype=torch.float64)
    if problem.masked:
        mask = Mask(torch.rand(y.shape, generator=rng, dtype=torch.float64) >= problem.masked)
        y, operators = mask.forward(y), {source: mask @ operator for source, operator in operators.items()}
    return View(y, operators, problem.noise, name)


def _gaussian(width: float) -> Tensor:
    """A point-spread function of a standard deviation in pixels, out to three of them."""
    reach = math.ceil(3 * width)
    along = torch.exp(-(torch.arange(-reach, reach + 1, dtype=torch.float64) ** 2) / (2 * width**2))
    kernel = along.outer(along)
    return kernel / kernel.sum()


def _whole(parts: Sequence[Tensor]) -> Tensor:
    """All parts; where there is but one, that itself."""
    return torch.cat(list(parts)) if len(parts) > 1 else parts[0]


def _check_pool(seed: int, config: MnistGrassConfig) -> None:
    """Raise MvssError where a seed would tune on what is reported, or be reported on what others tune on."""
    own, between = config.mnist not in SHIPPED, f"{TUNING[0]} to {TUNING[-1]}"
    if tunes(seed) and config.mnist == "embedded":
        raise MvssError(
            f"seed {seed} tunes, and the embedded digits are reported: name others, mnist=openml, a file or a folder"
        )
    if tunes(seed) and config.texture != "grass":
        raise MvssError(f"seed {seed} tunes, on grass alone: leave {config.texture} out, and the problem swap-background")
    if own and not tunes(seed):
        raise MvssError(
            f"seed {seed} is reported, and digits that you bring are for tuning: take a seed of {between}, or no mnist="
        )


class MnistGrassTask(Task):
    """One problem with one seed, as the experiments' common loop wants it. Sources: grass, digits."""

    data_range = 1.0
    support = (0.0, 1.0)

    def __init__(self, name: str, seed: int, config: MnistGrassConfig) -> None:
        problem = problem_named(name)
        factors, fresh = problem.factors, config.fresh
        if name.startswith(SWAPPED) and config.swapped is not None:
            fresh = config.swapped
        _check_pool(seed, config if problem.texture is None else replace(config, texture=problem.texture))
        alone = config.observations if config.grass_observations is None else config.grass_observations
        for setting, count in (("observations", config.observations), ("grass_observations", alone), ("fresh", fresh)):
            if count < len(factors):
                raise MvssError(f"{setting}={count}: the problem {name} needs at least {len(factors)}, one of each resolution")
        texture = texture_named(problem.texture or config.texture)
        if texture.fingerprint != config.photographs and problem.texture is None:  # in a worker that starts late
            raise MvssError(f"the photographs in {config.texture} were changed during the run: start it again")
        if digits_fingerprint(config.mnist) != config.others:
            raise MvssError(f"the digits in {config.mnist} were changed during the run: start it again")
        pixels, classes = (other_digits if tunes(seed) else mnist_digits)(config.mnist)
        wanted = [pixels[classes == digit] for digit in config.digits]
        if not wanted or any(len(w) == 0 for w in wanted) or len(set(config.digits)) < len(wanted):
            there = ", ".join(map(str, classes.unique().tolist()))
            asked = f"digits={list(config.digits)}"
            raise MvssError(f"{asked}: mnist={config.mnist} has {there}; name at least one, and none twice")
        pool = torch.cat(wanted)
        names = torch.cat([torch.full((len(w),), digit) for w, digit in zip(wanted, config.digits, strict=True)])
        order = torch.randperm(len(pool), generator=generator(seed, "mnist-grass", "digits"))
        pool, names = pool[order], names[order]
        if config.observations + fresh > len(pool):
            raise MvssError(
                f"observations + fresh = {config.observations + fresh} need as many digits, there are {len(pool)}: "
                "lower them or name more digits"
            )
        mixed, new = pool.split([config.observations, len(pool) - config.observations])
        mixed, new = mixed.double() / 255, new[:fresh].double() / 255
        self._texture, self._new, self._seed, self._background = texture, new, seed, problem.texture is not None
        self._simulated, self._candidates = problem.simulated, config.candidates
        rows = [torch.arange(count).tensor_split(len(factors)) for count in (alone, len(mixed), len(new))]
        self.train, self.train_truth = self._views(("view 1", "view 2"), rows[:2], mixed, problem, "train")
        self.fresh, self.fresh_truth = self._views(("fresh", "fresh"), (rows[2], rows[2]), new, problem, "fresh")
        # labelled digits that are in no mixture: all embedded ones of other classes, and those of these that are left
        pixels, classes = mnist_digits("embedded")
        others, spare = ~torch.isin(classes, torch.tensor(config.digits)), slice(config.observations, None)
        if len(classes[others].unique()) < 2:
            raise MvssError("digits leaves fewer than two of MNIST's classes out, which features of images are learned from")
        self._others = pixels[others], classes[others]
        self._labelled = torch.cat([pixels[others], pool[spare]]), torch.cat([classes[others], names[spare]]).long()
        self.scored_views = tuple(range(len(factors), 2 * len(factors)))
        behind = (self.fresh_truth, self.train_truth)
        numbers = range(len(self.train.sources))
        self._clean = [[_whole([t[a][b] for a in self.scored_views]) for t in behind] for b in numbers]
        counts = [len(self.train[a]) for a in self.scored_views]
        self._classes = dict(zip(self.scored_views, names[: config.observations].split(counts), strict=True))

    def _views(
        self,
        parts: Sequence[Part],
        rows: Sequence[Sequence[Tensor]],
        digits: Tensor,
        problem: Problem,
        split: str,
    ) -> tuple[Views, tuple[tuple[Tensor, ...], ...]]:
        """View 1 at every resolution, then view 2 at every resolution; and the truth of both sources.

        parts: of the texture, for each view. rows: for each view, the numbers of the observations of each resolution."""
        views, truth = [], []
        for number, (part, resolutions) in enumerate(zip(parts, rows, strict=True)):
            rng = generator(self._seed, "mnist-grass", split, number)
            looks, count = problem.looks if number else 1, sum(map(len, resolutions))
            grass = self._texture.crops(part, looks * count, rng, self._seed).split(count)
            for factor, here in zip(problem.factors, resolutions, strict=True):
                shown, behind = digits[here] if number else None, [look[here] for look in grass]
                views.append(_observe(behind, shown, problem, factor, rng, f"view {number + 1} at 1/{factor}"))
                nothing = behind[0].new_zeros(()).expand_as(behind[0])  # which takes no memory
                known = nothing if shown is None else shown
                truth.append((behind[0], known, *behind[1:], *[nothing] * (problem.looks - looks)))
        return Views(views), tuple(truth)

    @override
    def sample_truth(self, source: int, count: int, rng: torch.Generator, stratified: bool = False) -> Tensor:
        """Independent truth `(count, 1, 28, 28)`: other crops of the part for fresh observations, or its digits, of which
        there are few: those are repeated where more are asked for."""
        if source != 1:
            return self._texture.crops("fresh", count, rng, self._seed)
        order = torch.randperm(len(self._new), generator=rng)
        return self._new[order.repeat(-(-count // len(order)))[:count]]

    def training_sources(self, source: int, count: int) -> Tensor:
        """Sources behind the training observations, `(count, 1, 28, 28)`."""
        pool = torch.cat([self.train_truth[a][source] for a in self.train.showing([self.train.sources[source]])])
        return pool[torch.arange(count) % len(pool)]

    def exact_priors(self) -> tuple[GaussianMixture, ...]:
        """There are none."""
        raise MvssError("the true laws of grass and digits are not known: neither an oracle nor an audit can be made of them")

    def candidates(self, source: int) -> tuple[Tensor, Tensor] | None:
        """See `core.task.Candidates`: fresh digits, and the same with a tenth of what fresh grass varies by; of one resolution
        alone, since it takes minutes."""
        if source != 1 or len(self.scored_views) > 1:
            return None
        digits = self._new[: self._candidates]
        grass = self._texture.crops("fresh", len(digits), generator(self._seed, "mnist-grass", "candidates"), self._seed)
        return digits, digits + LEFT * (grass - grass.mean((1, 2, 3), keepdim=True))

    def clean(self, source: int) -> tuple[Tensor, Tensor]:
        """See `core.task.Laws`."""
        scored, trained = self._clean[source]
        return scored, trained

    def clean_split(self, source: int, number: int) -> tuple[Tensor, Tensor]:
        """See `core.task.Laws`: all digits anew in two parts; other crops of the parts for fresh observations and for view 2,
        which share no pixel."""
        scored, trained = self._clean[source]
        rng = generator(self._seed, "mnist-grass", "split", source, number)
        if source != 1:
            first = self._texture.crops("fresh", len(scored), rng, self._seed)
            return first, self._texture.crops("view 2", len(trained), rng, self._seed)
        whole = torch.cat([scored, trained])[torch.randperm(len(scored) + len(trained), generator=rng)]
        return whole[: len(scored)], whole[len(scored) :]

    def comparable(self, source: int, x: Tensor) -> Tensor:  # noqa: ARG002 - all are clean
        """See `core.task.Laws`."""
        return x

    def distances(self, source: int, x: Tensor, reference: Tensor) -> dict[str, float]:
        """See `core.task.Laws`: Fréchet in features of a network, and of grass the power spectrum."""
        if source == 1:
            full, means = frechet(self.featurer.features(x), self.featurer.features(reference))
            return {"frechet": full, "frechet_mean_only": means}
        full, _ = frechet(random_features(x), random_features(reference))
        return {"frechet": full, "power_spectrum": spectrum_distance(x, reference)}

    @cached_property
    def featurer(self) -> Classifier:
        """Of embedded digits of the classes that no mixture holds, of which Fréchet distances take the features."""
        pixels, classes = self._others
        return trained_classifier(pixels.double() / 255, classes)

    @cached_property
    def classifier(self) -> Classifier:
        """Of digits, trained on none of the mixtures'."""
        pixels, classes = self._labelled
        return trained_classifier(pixels.double() / 255, classes)

    @cached_property
    def detector(self) -> Classifier:
        """Of digits left in grass: trained on crops of view 1's part, half of them with up to ± the mixtures' share of a digit
        of another class, so that it has seen none of those that may be left."""
        grass = self._texture.crops("view 1", DETECTED, generator(0, "mnist-grass", "detector", "grass"), self._seed)
        rng, digits = generator(0, "mnist-grass", "detector"), self._others[0].double() / 255
        return trained_classifier(*with_remains(grass, digits, AMPLITUDE, rng), classes=2)

    def adapted(self, model: SourceSeparator) -> tuple[MnistGrassTask, SourceSeparator]:
        """See `core.task.Adapting`: the grass of every look has one law, and another texture's is learned from that alone."""
        if self._simulated:
            return self._drawn_from(model), model
        if self._background:
            settings = replace(model.settings, em=replace(model.settings.em, ranges={}))  # of digits
            alone = SourceSeparator(settings).fit([self.train[0]], self._seed, verbose=False)
            model = model.with_source(GRASS, alone, GRASS)
        for name in self.train.sources[2:]:
            model = model.with_source(name, model, GRASS)
        return self, model

    def _drawn_from(self, model: SourceSeparator) -> MnistGrassTask:
        """The same with draws of the priors in the place of fresh sources, not cut to what digits and grass can be."""
        task, views = copy.copy(self), list(self.fresh)
        truth: list[tuple[Tensor, ...]] = list(self.fresh_truth)
        for alpha in self.scored_views:
            view, stream = views[alpha], Stream(self._seed, ("mnist-grass", "simulated")).child(alpha)
            sources = {source: model.sample(source, len(view), stream.child(source)).double() for source in view.sources}
            normal = stream.normal(view.numbers, view.observation_shape, "noise", dtype=torch.float64)
            y = view.predicted(sources) + view.noise.color(normal)
            views[alpha] = View(y, view.operators, view.noise, view.name, view.numbers)
            truth[alpha] = tuple(sources[source] for source in self.train.sources)
        task.fresh, task.fresh_truth, task.support = Views(views), tuple(truth), (-math.inf, math.inf)
        return task

    def scores(self, source: int, split: str, draws: Mapping[int, Tensor]) -> dict[str, float]:
        """See `core.task.OwnScores`. Of digits: the share that the classifier gives its true class, and that of the
        clean digits, for the training observations, whose digits it has not seen. Of grass: the area under the detector's
        curve, drawn grass against the grass that is there."""
        truth = self.train_truth if split == "train" else self.fresh_truth
        found, true = torch.cat(list(draws.values())), torch.cat([truth[a][source] for a in draws])
        if source == 0:
            marks = torch.cat([self.detector(x).diff(dim=1).squeeze(1).detach() for x in (true, found)])
            return {"remains_auc": float(roc_auc_score(torch.arange(2).repeat_interleave(len(true)), marks))}
        if split != "train" or source != 1:
            return {}
        named = torch.cat([self._classes[a][: len(x)] for a, x in draws.items()])  # of a share of the observations, the first
        shares = [float((self.classifier.classes(x) == named).double().mean()) for x in (found, true)]
        return {"class_accuracy": shares[0], "class_accuracy_clean": shares[1]}


def make_task(problem: str, seed: int, config: Config) -> MnistGrassTask:
    """The data of one problem and seed."""
    assert isinstance(config, MnistGrassConfig)
    return MnistGrassTask(problem, seed, config)
