"""Noise models η_i ~ N(0, Σ_i)  (paper, equation 1): apply Σ, draw.

Standard deviations are in the units of the observation. White noise is independent between numbers: Σ_i is diagonal. Methods
that need it so ask for `white_variance`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import pad

from mvss.problem.operators import Shape, floating
from mvss.problem.woodbury import Woodbury
from mvss.runtime.errors import MvssError
from mvss.runtime.numbers import first_place, real

__all__ = ["Diagonal", "Isotropic", "Noise", "Stationary"]


class Noise(ABC):
    """Gaussian noise of N observations, one covariance each or one for all."""

    is_white: bool = True
    """False where numbers of one observation are correlated."""

    @property
    def is_shared(self) -> bool:
        """Whether one covariance serves all observations."""
        return self.select(torch.tensor([0])) is self

    @abstractmethod
    def variance(self, like: Tensor) -> Tensor:
        """The diagonal of Σ, in the shape and dtype of the observations `like` `(N, *shape)`."""

    def white_variance(self, like: Tensor) -> Tensor:
        """As `variance`, where that is all there is to say. Raises MvssError where the noise is correlated."""
        if not self.is_white:
            raise MvssError("noise: this method needs noise that is independent between pixels; split Gibbs takes any")
        return self.variance(like)

    def apply(self, v: Tensor) -> Tensor:
        """Σ v."""
        return self.variance(v) * v

    def color(self, z: Tensor) -> Tensor:
        """Σ^½ z: standard-normal numbers `(N, *shape)` to a draw of the noise."""
        return self.variance(z).sqrt() * z

    def misfit(self, r: Tensor, measured: Tensor) -> Tensor:
        """rᵀ Σ⁻¹ r `(N,)` of the numbers of r `(N, *shape)` that were measured, `(N or 1, *shape)`, bool, and of their block of
        Σ: for a draw of the noise χ², with as many degrees of freedom."""
        return (r.square() / self.variance(r)).where(measured, 0.0).flatten(1).sum(1)

    def select(self, index: Tensor) -> Noise:  # noqa: ARG002 - one for all
        """The noise of the observations in `index`."""
        return self

    @abstractmethod
    def scaled(self, factor: float) -> Noise:
        """The noise of factor · y."""

    def to(self, device: torch.device | str) -> Noise:  # noqa: ARG002 - nothing to move
        """The same noise with its tensors on `device`."""
        return self


def _check(values: Tensor | ArrayLike) -> Tensor:
    sigma = real(values, "noise: standard deviations")
    wrong = ~torch.isfinite(sigma) | (sigma <= 0)
    if bool(wrong.any()):
        where = first_place(wrong)
        raise MvssError(
            f"noise: the standard deviation{f' at {where}' if where else ''} is {float(sigma[where]):g}, and must be positive "
            "and finite: of a number that is masked, any positive one will do; of one without noise, a small one, such as 1e-3"
        )
    return sigma


class Isotropic(Noise):
    """Σ_i = σ_i² I, with one standard deviation for all, or one per observation `(N,)`."""

    def __init__(self, sigma: Tensor | ArrayLike) -> None:
        self.sigma = _check(sigma)
        if self.sigma.ndim > 1:
            raise MvssError(f"Isotropic noise: sigma must be a number or (N,), got {tuple(self.sigma.shape)}")

    def variance(self, like: Tensor) -> Tensor:
        like = floating(like)
        sigma = self.sigma.to(like)
        return (sigma**2).reshape(-1, *[1] * (like.ndim - 1)).expand_as(like)

    def select(self, index: Tensor) -> Isotropic:
        return self if self.sigma.numel() == 1 else Isotropic(self.sigma[index])

    def scaled(self, factor: float) -> Isotropic:
        return Isotropic(abs(factor) * self.sigma)


class Diagonal(Noise):
    """Σ_i = diag(σ_i²), with standard deviations `(N, *shape)`, one map per observation, or `(1, *shape)` for all."""

    def __init__(self, sigma: Tensor | ArrayLike) -> None:
        self.sigma = _check(sigma)

    def variance(self, like: Tensor) -> Tensor:
        like = floating(like)
        if self.sigma.ndim != like.ndim:  # a map without the axis of observations would fit, and be selected wrongly
            raise MvssError(
                f"Diagonal noise: sigma has shape {tuple(self.sigma.shape)} for observations {tuple(like.shape)}; "
                "give (N, *shape), or (1, *shape) for all"
            )
        return (self.sigma.to(like) ** 2).expand_as(like)

    def select(self, index: Tensor) -> Diagonal:
        return self if self.sigma.shape[0] == 1 else Diagonal(self.sigma[index])

    def scaled(self, factor: float) -> Diagonal:
        return Diagonal(abs(factor) * self.sigma)

    def to(self, device: torch.device | str) -> Diagonal:
        return Diagonal(self.sigma.to(device))


class Stationary(Noise):
    """Noise whose covariance depends on the difference of two pixels alone, as in resampled images. Channels are independent.

    covariance: of two pixels at each difference, `(2a + 1, 2b + 1)`, the variance at its centre; 0 beyond, and the part beyond
    the size of the images is not looked at. Images are stamps `(N, C, H, W)`: Σ is applied by FFT on a doubled grid, which is
    exact, but solved with and drawn from by the Cholesky factor of one channel, `(HW, HW)`, kept per size: up to 64×64 or so.
    """

    is_white = False

    def __init__(self, covariance: Tensor | ArrayLike) -> None:
        covariance = real(covariance, "Stationary noise: the covariance")
        if covariance.ndim != 2 or not all(size % 2 for size in covariance.shape):
            raise MvssError(f"Stationary noise: covariance must be (h, w) with odd h and w, got {tuple(covariance.shape)}")
        if not bool(torch.isfinite(covariance).all()):
            raise MvssError("Stationary noise: the covariance holds NaN or infinite values")
        self.covariance = covariance
        if not torch.allclose(self.covariance, self.covariance.flip(0, 1), atol=1e-8 * float(self.covariance.abs().max())):
            raise MvssError(
                "Stationary noise: the covariance must be the same at opposite differences; average c with c.flip(0, 1)"
            )
        self._factors: dict[Shape, Tensor] = {}

    def __getstate__(self) -> dict[str, object]:  # what use has left decides nothing
        return {**vars(self), "_factors": {}}

    def variance(self, like: Tensor) -> Tensor:
        like = floating(like)
        self._cholesky(like)  # a covariance that is none is refused before it is used
        height, width = self.covariance.shape
        return self.covariance[height // 2, width // 2].to(like).expand_as(like)

    def matrix(self, like: Tensor) -> Tensor:
        """Σ, `(M, M)`, the channels one after another."""
        return torch.block_diag(*[self._toeplitz(like)] * like.shape[1])

    def apply(self, v: Tensor) -> Tensor:
        v = floating(v)
        height, width = v.shape[-2:]
        lags = self._lags(height, width)
        ring = pad(lags, (0, 1, 0, 1)).roll((1 - height, 1 - width), (0, 1)).to(v)  # difference 0 first, negative ones last
        spectrum = torch.fft.rfft2(ring)
        return torch.fft.irfft2(spectrum * torch.fft.rfft2(v, s=ring.shape), s=ring.shape)[..., :height, :width]

    def color(self, z: Tensor) -> Tensor:
        z = floating(z)
        factor = self._cholesky(z)
        return (z.reshape(-1, len(factor)) @ factor.mT).reshape(z.shape)

    def misfit(self, r: Tensor, measured: Tensor) -> Tensor:
        r = r.double()
        factor, known = self._cholesky(r), measured.expand_as(r).flatten(2).flatten(0, 1)  # each channel by itself
        rows = r.flatten(2).flatten(0, 1).where(known, 0.0)
        total = torch.linalg.solve_triangular(factor, rows.mT, upper=False).square().sum(0)
        if (odd := Woodbury.of(known, torch.zeros_like(rows))) is not None:
            total = total + odd.correct(torch.cholesky_inverse(factor), rows)[1]
        return total.reshape(len(r), -1).sum(1)

    def scaled(self, factor: float) -> Stationary:
        return Stationary(factor**2 * self.covariance)

    def to(self, device: torch.device | str) -> Stationary:
        return self if self.covariance.device == torch.device(device) else Stationary(self.covariance.to(device))

    def _lags(self, height: int, width: int) -> Tensor:
        """The covariance at all differences of pixels of such an image, `(2H − 1, 2W − 1)`."""
        rows, columns = (size // 2 for size in self.covariance.shape)
        return pad(self.covariance, (width - 1 - columns,) * 2 + (height - 1 - rows,) * 2)  # negative numbers crop

    def _toeplitz(self, like: Tensor) -> Tensor:
        """Σ of one channel, `(HW, HW)`."""
        if like.ndim != 4:
            raise MvssError(f"Stationary noise: observations must be images (N, C, H, W), got {tuple(like.shape)}")
        height, width = like.shape[-2:]
        y, x = (torch.arange(size, device=self.covariance.device) for size in (height, width))
        down, right = y[:, None] - y + height - 1, x[:, None] - x + width - 1
        return self._lags(height, width)[down[:, None, :, None], right[None, :, None, :]].reshape(height * width, -1)

    def _cholesky(self, like: Tensor) -> Tensor:
        size = tuple(like.shape[-2:])
        if size not in self._factors or like.ndim != 4:
            factor, failed = torch.linalg.cholesky_ex(self._toeplitz(like))
            if bool(failed):
                raise MvssError(
                    f"Stationary noise: the covariance is not positive definite for images of {size[0]}×{size[1]}; "
                    "add to the variance at its centre, or multiply by a taper"
                )
            self._factors[size] = factor
        return self._factors[size].to(like)
