"""Matheron's rule: draws before y made draws given y, by one solve.

    x^β = x̃^β + V^β A^βᵀ v,    S v = y − η̃ − Σ_β A^β x̃^β,    S = Σ + Σ_β A^β V^β A^βᵀ

With x̃ a draw of N(m, V) and η̃ one of the noise, x is a draw of the posterior (Journel & Huijbregts 1978; Wilson et al. 2020,
arXiv 2002.09309); with x̃ = m and η̃ = 0 it is the posterior's mean.
"""

from __future__ import annotations

__all__ = ["matheron"]

from collections.abc import Callable, Sequence

from torch import Tensor


def matheron(
    x: Sequence[Tensor],
    left: Tensor,
    image: Callable[[Sequence[Tensor]], Tensor],
    solve: Callable[[Tensor], Tensor],
    pull: Callable[[Tensor], Sequence[Tensor]],
) -> list[Tensor]:
    """x of every source given y, in whatever shape the caller keeps observations.

    x: x̃ of every source. left: y − η̃. image: x ↦ Σ A x. solve: r ↦ S⁻¹ r. pull: v ↦ V Aᵀ v of every source.
    """
    return [a + b for a, b in zip(x, pull(solve(left - image(x))), strict=True)]
