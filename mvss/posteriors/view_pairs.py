"""Pairs of views: one shows a source on top of what hides it, the other shows that alone.

    y = A x + n,    n': an observation of a view that shows all of n and nothing else

y is thrown back onto the pixels of the source: u = Aᵀ m y / Aᵀ m A 1 with the mask m. That is y/a where A = a I, and the block
that a pixel lies in where A averages blocks.
"""

from __future__ import annotations

__all__ = ["ViewPair", "pairs_of", "pierced", "thrown_back"]

import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mvss.posteriors.noise_alike import noise_alike, noise_of, white_noise
from mvss.priors.augmentation import TURNS, turned_each
from mvss.priors.regression import usual_size
from mvss.problem.noise import Noise
from mvss.problem.operators import LinearOperator
from mvss.problem.shared_view import unmasked
from mvss.problem.views import View, Views
from mvss.runtime.errors import MvssError

FAINT = 0.05
"""Share of the usual Aᵀ A 1 below which a pixel of the source was not seen."""
LACKING = 0.1
"""Share of the numbers of y that it may lack beside that."""
KEPT = ("source", "others", "level", "usual", "probe", "factor", "noise", "seen")
"""What drawing needs of a pair."""


@dataclass(frozen=True, eq=False)
class ViewPair:
    """y = A x + n of one source.

    source: its name. others: sources that n is made of, sorted; noise alone where there are none. level: usual light of n at
    each pixel, `(*shape)`. usual: size of n less that, on the pixels of x. probe: `_image` of A, by which views are told.
    factor: a where A = a I but for masks, else None. view: number of the view that shows the source. operator: A but for
    masks, backgrounds: n' less its level, and where it was measured, `(K, 2, *shape)`, and background_noise: of each; None
    where nothing is to be learned any more. size: observations to be separated. noise: of y, see `noise_of`, or the variance of
    white noise; seen: share of its numbers that were measured; None where that is not known.
    """

    source: str
    others: tuple[str, ...]
    level: Tensor
    usual: float
    probe: Tensor
    factor: float | None
    view: int = -1
    operator: LinearOperator | None = None
    backgrounds: Tensor | None = None
    background_noise: Noise | None = None
    size: int = 1
    noise: Tensor | float | None = None
    seen: float | None = None

    @property
    def sharp(self) -> bool:
        """Whether each pixel of x is seen by itself."""
        return self.factor is not None

    def matches(self, view: View) -> bool:
        """Whether a view shows the source as this does, behind the same other sources."""
        return self._matching(view) is not None

    def learned_from(self, view: View) -> bool:
        """Whether a view `matches`, under about the same noise, and with about as much of it measured."""
        if (found := self._matching(view)) is None:
            return False
        if self.seen is not None and not float(found[1].double().mean()) > self.seen - LACKING:
            return False
        noise = white_noise(self.noise, view.observation_shape) if isinstance(self.noise, float) else self.noise
        return noise is None or noise_alike(noise_of(view), noise)

    def _matching(self, view: View) -> tuple[LinearOperator, Tensor] | None:
        """A but for masks, and where pixels were measured, of a view that matches."""
        if self.source not in view.operators or not self.others or view.operators.keys() - {self.source} != set(self.others):
            return None
        if (found := _split(view)) is None:
            return None
        operators, measured = found
        alike = _alike(self.probe, _image(operators[self.source], view.y.device))
        return (operators[self.source], measured) if alike else None

    def see(self, view: View) -> tuple[Tensor, Tensor] | None:
        """y less its level, thrown back, and how finely each pixel was seen (`thrown_back`), of a view that matches; None of
        others."""
        if (found := self._matching(view)) is None:
            return None
        operator, measured = found
        return thrown_back(operator, measured * self._above_level(view), measured)

    def state(self) -> dict[str, Any]:
        """What drawing needs."""
        return {name: getattr(self, name) for name in KEPT}

    def observed(self, view: View) -> tuple[Tensor, Tensor]:
        """y less its level, zero where nothing was measured, and where it was, `(N, *shape)`, of a view that matches."""
        found = _split(view)
        assert found is not None
        return found[1] * self._above_level(view), found[1]

    def _above_level(self, view: View) -> Tensor:
        return view.y - self.level.to(view.y)

    def hide(self, x: Tensor, turns: bool, holes: float) -> tuple[Tensor, Tensor]:
        """A x + n', n' chosen by the global generator, which `fit_denoiser` seeds; and where it was measured, `(N, *shape)`."""
        n, measured = self.some(len(x), turns, x)
        assert self.operator is not None
        measured = pierced(measured, holes)
        return measured * (self.operator.to(x.device).forward(x) + n), measured

    def some(self, count: int, turns: bool, like: Tensor) -> tuple[Tensor, Tensor]:
        """n' and where it was measured, `(count, *shape)`. turns: each turned and mirrored at random."""
        if self.backgrounds is None:
            raise MvssError("a model that was read back does not learn: it holds no backgrounds; build it from the views")
        chosen = self.backgrounds[torch.randint(len(self.backgrounds), (count,))]
        if turns:
            chosen = turned_each(chosen, torch.randint(TURNS, (count,)))
        n, measured = chosen.to(like).unbind(1)
        return n, measured


def pairs_of(views: Views, source: str, alone: bool = False, learn: bool = True) -> list[ViewPair]:
    """Pairs of views that show a source on what hides it, and that alone, by the same operators and under about the same noise;
    with a warning where noise alone keeps two from being one.

    alone: also views that show it behind noise. learn: whether networks are to learn from them.

    Raises MvssError where there is nothing to learn, since all that hides the source is the same.
    """
    pairs = []
    for number, view in enumerate(views):
        if source not in view.sources:
            continue
        others = set(view.sources) - {source}
        found = _split(view)
        if found is None or any(operator.count is not None for operator in found[0].values()):
            continue
        same = [(v, ratio) for v in views if set(v.sources) == others and (ratio := _ratio(v, view, others))]
        background, ratio = next(((v, ratio) for v, ratio in same if _as_noisy(v, view, ratio)), (None, 1.0))
        if same and background is None and learn:
            warnings.warn(
                f"{same[0][0].name} and {view.name} differ in noise, so they do not tell {source} as a pair: "
                "give observations of what hides it under the same noise",
                stacklevel=2,
            )
        if (others and background is not None) or (alone and not others):
            pairs.append(pair := _pair(view, number, source, background, ratio))
            if learn and not pair.usual > 0:
                raise MvssError(f"{view.name}: what hides {source} does not vary: give more observations of it alone")
    return pairs


def _pair(mixed: View, number: int, source: str, background: View | None, ratio: float) -> ViewPair:
    """background: None where that is noise alone, which is simulated. ratio: see `_ratio`."""
    shown, hidden = _split(mixed), _split(mixed if background is None else background)
    assert shown is not None and hidden is not None
    operator, measured = shown[0][source], hidden[1]
    if background is None:
        level = torch.zeros_like(mixed.y[0])
        n = measured * mixed.noise.color(torch.randn(mixed.y.shape, generator=_generator(), dtype=mixed.y.dtype))
    else:
        y = background.y / ratio
        level = torch.where(measured > 0, y, math.nan).nanmedian(0).values.nan_to_num()  # bright pixels are rare
        n = measured * (y - level)
    usual = usual_size(*thrown_back(operator, n, measured))
    return ViewPair(
        source=source,
        others=tuple(sorted(set(mixed.sources) - {source})),
        level=level,
        usual=usual,
        probe=_image(operator, mixed.y.device),
        factor=_tight_factor(operator),
        view=number,
        operator=operator,
        backgrounds=torch.stack([n, measured], dim=1).float(),
        background_noise=mixed.noise if background is None else background.noise.scaled(1 / ratio),
        size=len(mixed),
        noise=noise_of(mixed),
        seen=float(shown[1].double().mean()),
    )


def pierced(measured: Tensor, holes: float) -> Tensor:
    """Where images were measured, `(N, *shape)`, every second one without a share `holes` of its pixels, by the global
    generator."""
    if not holes:
        return measured
    whole = torch.arange(len(measured)).reshape(-1, *[1] * (measured.ndim - 1)) % 2 == 0
    return measured * ((torch.rand(measured.shape) >= holes) | whole).to(measured)


def thrown_back(operator: LinearOperator, y: Tensor, measured: Tensor) -> tuple[Tensor, Tensor]:
    """Aᵀ m y / Aᵀ m A 1 of y `(N, *observation_shape)` less its level, and how finely each pixel of the source was seen, from 0
    to 1 where it was by itself, `(N, *source_shape)` each."""
    full = operator.forward(torch.ones(1, *operator.source_shape, dtype=y.dtype, device=y.device))
    whole = operator.adjoint(full)
    light = whole.expand(len(y), *whole.shape[1:]) if bool(measured.all()) else operator.adjoint(measured * full)
    enough = light > FAINT * whole.max()
    u = torch.where(enough, operator.adjoint(measured * y) / light, 0.0)
    axes = max(1, whole.ndim - 2)
    fineness = (full[0].numel() / whole[0].numel()) ** (1 / axes)  # observed pixels in the width of one of the source's
    return u, torch.where(enough, fineness * light / whole, 0.0)


def _tight_factor(operator: LinearOperator) -> float | None:
    """a where A = a I."""
    if operator.source_shape != operator.observation_shape or not operator.is_tight:
        return None
    probe = torch.ones(1, *operator.source_shape, dtype=torch.float64)
    image = operator.forward(probe)
    return float(image.flatten()[0]) if torch.allclose(image, image.flatten()[0] * probe) else None


def _split(view: View) -> tuple[dict[str, LinearOperator], Tensor] | None:
    """Operators without their mask, by source, and 1 where a pixel was measured, `(N, *shape)`; None where sources have
    masks of their own."""
    mask, operators = unmasked(view)
    return None if mask is None else (dict(zip(view.operators, operators, strict=True)), mask.expand_as(view.y).to(view.y))


def _image(operator: LinearOperator, device: torch.device) -> Tensor:
    """What A makes of a certain image, `(*observation_shape)`, which tells operators; empty of those of observations."""
    if operator.count is not None:
        return torch.zeros(0)
    probe = torch.randn(1, *operator.source_shape, generator=_generator(), dtype=torch.float64)
    return operator.forward(probe.to(device))[0].cpu()


def _ratio(background: View, mixed: View, sources: set[str]) -> float | None:
    """Unit of y in one view beside that in the other, where all else is the same: a power of two, since views are brought to
    a size of about one (`problem.units`). None where operators differ in more than that; of noise see `_as_noisy`."""
    first, second = _split(background), _split(mixed)
    if first is None or second is None:
        return None
    images = [(_image(first[0][source], background.y.device), _image(second[0][source], mixed.y.device)) for source in sources]
    if any(a.shape != b.shape or not a.numel() for a, b in images):
        return None
    ratios = {2.0 ** round(math.log2(float(a.norm() / b.norm()))) for a, b in images}
    ratio = ratios.pop()
    return ratio if not ratios and all(torch.allclose(a, ratio * b) for a, b in images) else None


def _as_noisy(background: View, mixed: View, ratio: float) -> bool:
    """Whether noise is about the same, in the same unit."""
    return noise_alike(noise_of(background, 1 / ratio), noise_of(mixed))


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.numel() > 0 and torch.allclose(a, b)


def _generator() -> torch.Generator:
    """The same numbers at every time."""
    return torch.Generator().manual_seed(0)
