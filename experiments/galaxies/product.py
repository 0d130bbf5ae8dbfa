"""What an astronomer takes home: separated.h5, one row per galaxy.

    separated.h5
      attributes                     format, unit, aperture, command, commit
      galaxy/mean, sd (N, n, n)      of the posterior draws of the galaxy without its neighbours, float32
      galaxy/draws (N, K, n, n)      K of the draws, each a galaxy that the observation allows
      flux/mean, sd, p16, p84 (N)    Σ within the aperture, of all draws: the errors are those of the separation too
      flags (N)                      0 for a good one, else bits that the attributes of the data set explain
      catalogue/... (N)              what the data set knows of each: ra, dec, row, column, magnitude ...
      wcs (N)                        header of the stamp's world coordinates as FITS cards, where known

A file is whole or not there. Read it with `read_product`, or with any HDF5 library.
"""

from __future__ import annotations

__all__ = ["Flag", "Product", "joined", "make_product", "read_product", "write_product"]

import io
import os
from collections.abc import Sequence, Sized
from dataclasses import dataclass, field, replace
from enum import IntFlag
from pathlib import Path

import h5py
import numpy as np
import torch
from scipy.stats import chi2
from torch import Tensor

from experiments.galaxies.data.stamps import Stamps
from experiments.galaxies.scores.measures import RADII, flux, interval, within
from mvss.runtime.errors import MvssError
from mvss.runtime.files import atomic_write_bytes

FORMAT = "mvss separated galaxies 1"
FLUXES = ("mean", "sd", "p16", "p84")
MASKED, MISFIT, SHIFT, SIGNIFICANT = 0.1, 0.999, 2.0, 3.0
"""Limits of the flags, see `Flag`."""


class Flag(IntFlag):
    """Bits of `Product.flags`."""

    MASKED = 1
    MISFIT = 2
    NEIGHBOURS = 4
    OFF_CENTRE = 8
    FAINT = 16
    CUT = 32


MEANINGS = {
    Flag.MASKED: f"more than {MASKED:.0%} of the pixels of the aperture were not measured",
    Flag.MISFIT: f"residuals of the aperture exceed the {MISFIT:.1%} point of their chi-square law, or are not finite: the "
    "draws do not explain the observation",
    Flag.NEIGHBOURS: "the other source has more light in the aperture than the galaxy",
    Flag.OFF_CENTRE: f"the light in the aperture is centred more than {SHIFT:g} pixels from where the galaxy should be",
    Flag.FAINT: f"the flux is less than {SIGNIFICANT:g} standard deviations",
    Flag.CUT: "the aperture reaches beyond the stamp",
}


@dataclass(frozen=True)
class Product:
    """Of N galaxies: mean, sd `(N, n, n)`, draws `(N, K, n, n)`, float32, in `unit`; flux: mean, sd, p16, p84, `(N,)`
    each; flags: sums of `Flag`, `(N,)`; catalogue: columns `(N,)`; wcs: N headers, or none. aperture: what fluxes are
    summed over. command, commit: that made it."""

    mean: Tensor
    sd: Tensor
    draws: Tensor
    flux: dict[str, Tensor]
    flags: Tensor
    unit: str
    command: str
    commit: str
    catalogue: dict[str, Tensor] = field(default_factory=dict)
    wcs: tuple[str, ...] = ()
    aperture: str = f"pixels within {RADII:g} half-light radii"

    def __post_init__(self) -> None:
        count = len(self.mean)
        images = {"sd": self.sd, "draws": self.draws, "flags": self.flags}
        columns: dict[str, Sized] = {**self.flux, **self.catalogue, **images}
        if self.wcs:
            columns["wcs"] = self.wcs
        if wrong := [name for name, column in columns.items() if len(column) != count]:
            raise MvssError(f"a product of {count} galaxies needs as many rows of {', '.join(wrong)}")


def make_product(sky: Tensor, galaxy: Tensor, stamps: Stamps, keep: int, unit: str, command: str, commit: str) -> Product:
    """From joint draws `(D, N, 1, n, n)` of both sources, D at least 6, of which `keep` are kept. commit: as of
    `scheduler.code_label`."""
    where = within(stamps)
    fluxes = flux(galaxy, where)
    low, high = interval(fluxes)
    statistics = dict(zip(FLUXES, (fluxes.mean(0), fluxes.std(0), low, high), strict=True))
    images = galaxy[:, :, 0].double()
    return Product(
        mean=images.mean(0).float(),
        sd=images.std(0).float(),
        draws=images[:keep].transpose(0, 1).float().contiguous(),
        flux=statistics,
        flags=_flags(sky, galaxy, stamps, where),
        unit=unit,
        command=command,
        commit=commit,
        catalogue={name: column.double() for name, column in stamps.catalogue.items()},
        wcs=stamps.wcs,
    )


def joined(parts: Sequence[Product]) -> Product:
    """Products of some galaxies each as one of all."""
    first = parts[0]
    return replace(
        first,
        mean=torch.cat([part.mean for part in parts]),
        sd=torch.cat([part.sd for part in parts]),
        draws=torch.cat([part.draws for part in parts]),
        flags=torch.cat([part.flags for part in parts]),
        flux={name: torch.cat([part.flux[name] for part in parts]) for name in first.flux},
        catalogue={name: torch.cat([part.catalogue[name] for part in parts]) for name in first.catalogue},
        wcs=tuple(card for part in parts for card in part.wcs),
    )


def write_product(path: Path | str, product: Product) -> None:
    """Replace the file at `path`, whole or not at all; folders are made.

    Raises:
        MvssError: it cannot be written, e.g. as no space is left.
    """
    # Through memory, as no HDF5 library gets over a full disk; the draws it comes from take more than the file.
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs.update(
            {"format": FORMAT, **{name: getattr(product, name) for name in ("unit", "aperture", "command", "commit")}}
        )
        for name in ("mean", "sd", "draws"):
            values = getattr(product, name).numpy()
            file.create_dataset(
                f"galaxy/{name}", data=values, chunks=(1, *values.shape[1:]), compression="gzip", fletcher32=True
            )
            file[f"galaxy/{name}"].attrs["unit"] = product.unit
        for name, column in product.flux.items():
            file.create_dataset(f"flux/{name}", data=column.numpy()).attrs["unit"] = product.unit
        flags = file.create_dataset("flags", data=product.flags.numpy())
        flags.attrs.update({str(flag.name): f"{flag.value}: {meaning}" for flag, meaning in MEANINGS.items()})
        for name, column in product.catalogue.items():
            file.create_dataset(f"catalogue/{name}", data=column.numpy())
        if product.wcs:
            file.create_dataset("wcs", data=list(product.wcs), dtype=h5py.string_dtype())
    atomic_write_bytes(path, buffer.getbuffer())


def read_product(path: Path | str) -> Product:
    """What `write_product` wrote.

    Raises:
        MvssError: the file is missing, damaged, or another kind of file.
    """
    path = Path(path)
    if not path.is_file():
        raise MvssError(f"there is no file {path}: run the experiment that makes it")
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") != FORMAT:
                raise MvssError(f"{path} is no file of separated galaxies of this version of mvss: make it again")
            return Product(
                mean=_tensor(file["galaxy/mean"]),
                sd=_tensor(file["galaxy/sd"]),
                draws=_tensor(file["galaxy/draws"]),
                flux={name: _tensor(file[f"flux/{name}"]) for name in FLUXES},
                flags=_tensor(file["flags"]),
                unit=str(file.attrs["unit"]),
                aperture=str(file.attrs["aperture"]),
                command=str(file.attrs["command"]),
                commit=str(file.attrs["commit"]),
                catalogue={name: _tensor(column) for name, column in file.get("catalogue", {}).items()},
                wcs=tuple(file["wcs"].asstr()[:]) if "wcs" in file else (),
            )
    except (OSError, KeyError, RuntimeError, ValueError) as error:  # h5py raises any of these on what HDF5 cannot read
        if isinstance(error, OSError) and error.errno:
            raise MvssError(f"cannot read {path}: {os.strerror(error.errno)}") from error
        cause = str(error).partition("\n")[0]
        raise MvssError(f"{path} is not a whole file of separated galaxies ({cause}): make it again") from error


def _tensor(data: h5py.Dataset) -> Tensor:
    return torch.from_numpy(np.asarray(data[:]))


def _flags(sky: Tensor, galaxy: Tensor, stamps: Stamps, where: Tensor) -> Tensor:
    n, catalogue = stamps.pixels, stamps.catalogue
    light, fluxes = galaxy.double().mean(0), flux(galaxy, where)
    measured, mean = where & stamps.good, fluxes.mean(0)
    squares = torch.zeros_like(light)
    for x, z in zip(sky, galaxy, strict=True):
        squares += ((stamps.y - x - z).double() / stamps.sigma).square() / len(sky)
    limit = torch.from_numpy(chi2.ppf(MISFIT, flux(torch.ones_like(light), measured).numpy()))
    pixel = torch.arange(n, dtype=torch.float64)
    x, y = (catalogue.get(k, torch.full((len(stamps),), (n - 1) / 2)) for k in ("x", "y"))
    positive = light.clamp_min(0)
    total = flux(positive, where).clamp_min(torch.finfo(torch.float64).tiny)
    shift = torch.hypot(flux(positive * pixel, where) / total - x, flux(positive * pixel.unsqueeze(1), where) / total - y)
    edge = torch.stack([x, y, n - 1 - x, n - 1 - y]).amin(0)
    raised = {
        Flag.MASKED: flux(measured.double(), where) < (1 - MASKED) * flux(where.double(), where),
        # a comparison that holds for nan as well
        Flag.MISFIT: ~(flux(squares, measured) <= limit),
        Flag.NEIGHBOURS: flux(sky.double().mean(0), where) > mean,
        Flag.OFF_CENTRE: ~(shift <= SHIFT),
        Flag.FAINT: ~(mean >= SIGNIFICANT * fluxes.std(0)),
        Flag.CUT: RADII * catalogue["half_light_radius"] > edge + 0.5,
    }
    return sum(
        ((bit.to(torch.int32) * flag.value) for flag, bit in raised.items()), torch.zeros(len(stamps), dtype=torch.int32)
    )
