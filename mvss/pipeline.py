"""Learned priors in use: draw sources, and separate new observations.

    warm start   x^β ~ p_mixture({x^β} | y) exactly, noised to σ_start, then reverse time with the denoisers
    cold start   x_t ~ N(0, σ_start²), as the paper does

The exact draw chooses the modes, which moment matching at high noise gets wrong; the reverse run refines within them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from scipy.stats import chi2
from torch import Tensor

from mvss.checkpoints import atomic_write_text, load_checkpoint, save_checkpoint
from mvss.data import View
from mvss.denoisers import Denoiser
from mvss.errors import MvssError
from mvss.gibbs import gibbs_sample
from mvss.mixture import GaussianMixture
from mvss.mixture_posterior import Combinations, DenseView, MixturePosterior
from mvss.networks import ImageUNet, TimeMLP
from mvss.posterior import JointPosterior, Prior
from mvss.rng import Stream
from mvss.samplers import SamplerConfig, noised, sample
from mvss.shared import SharedView, is_shared
from mvss.shared_posterior import SharedPosterior

__all__ = ["PosteriorConfig", "Separation", "SourceSeparationPipeline"]

LARGE = 64
"""Sources of more numbers are large: no Jacobians, one operator for a whole view."""


@dataclass(frozen=True)
class PosteriorConfig:
    """How posterior draws are made.

    sampler: the reverse-time run. start: "warm" or "cold". components: Gaussians kept per source at each noise level
    (1: plain moment matching). gibbs_rounds: 0 for joint draws, else sweeps of the Gibbs baseline, whose runs
    are cold. jumps: noise levels from which other modes are offered to every draw, see `_jump`. beam: width of the search
    for exact draws under the mixtures. chunk: observations in memory at once.
    """

    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    start: str = "warm"
    components: int = 8
    jumps: tuple[float, ...] = ()
    gibbs_rounds: int = 0
    beam: int = 64
    chunk: int = 1024

    def __post_init__(self) -> None:
        if self.start not in ("warm", "cold"):
            raise MvssError(f"posterior.start={self.start!r} is unknown; use warm or cold")
        if self.components < 1 or self.chunk < 1:
            raise MvssError("posterior.components and posterior.chunk must be at least 1")


@dataclass(frozen=True)
class Separation:
    """Draws `(N, *shape_β)` per shown source, network evaluations per observation, share of clamped
    eigenvalues (the mean over chunks of `JointPosterior.clamped`)."""

    draws: tuple[Tensor, ...]
    evaluations: int
    clamped: float


class SourceSeparationPipeline:
    """One denoiser per source, and what was learned with them.

    denoisers: one per source, in the order of the operators of a view.
    """

    def __init__(self, denoisers: Sequence[Denoiser], config: PosteriorConfig | None = None) -> None:
        self.denoisers, self.sources = tuple(denoisers), tuple(range(len(denoisers)))
        self.config = config or PosteriorConfig()

    def posterior_sample(
        self,
        view: View,
        stream: Stream,
        start: Sequence[Tensor] | None = None,
        index: Tensor | None = None,
    ) -> Separation:
        """One joint posterior draw of the sources that `view` shows, per observation.

        start: earlier draws `(N, *shape)` to start from (warm); exact draws under the mixtures if not given.
        index: numbers of the observations `(N,)`, which randomness is keyed by; 0 … N−1 if not given.
        """
        index = torch.arange(len(view)) if index is None else index
        return self._sample(self._conditional(view), stream, start, index, view.y.device)

    def posterior_samples(
        self, view: View, stream: Stream, draws: int, progress: Callable[[float], None] = lambda _: None
    ) -> tuple[Tensor, ...]:
        """`(draws, N, *shape)` per shown source: independent joint posterior draws, of the same law as `posterior_sample`'s,
        with one search of the mixtures for all of them. progress: takes the fraction done."""
        conditional, index, pieces = self._conditional(view, keep=True), torch.arange(len(view)), []
        for number in range(draws):
            pieces.append(self._sample(conditional, stream.child(number), None, index, view.y.device).draws)
            progress((number + 1) / draws)
        return tuple(torch.stack(parts) for parts in zip(*pieces, strict=True))

    def _conditional(self, view: View, keep: bool = False) -> _Small | _Large:
        """What is exact about a view, and the joint posterior at any noise level. keep: for many draws."""
        shown = [self.denoisers[beta] for beta in view.shown]
        view = view.to(self.denoisers[0].mixture.means.device)
        large = max(d.mixture.dimension for d in shown) > LARGE
        if large and not is_shared(view):
            raise MvssError(
                f"{view.name}: sources of more than {LARGE} numbers need one operator and one noise for a whole view"
            )
        return _Large(shown, view) if large else _Small(shown, view, self.config, keep)

    def _sample(
        self,
        given: _Small | _Large,
        stream: Stream,
        start: Sequence[Tensor] | None,
        index: Tensor,
        home: torch.device,
    ) -> Separation:
        shown, sampler = given.shown, self.config.sampler
        device = shown[0].mixture.means.device
        gibbs = self.config.gibbs_rounds > 0
        if self.config.start == "cold" and not gibbs:
            start = [torch.zeros(len(index), *d.shape, dtype=torch.float64, device=device) for d in shown]
        elif start is None:
            flat = given.exact(stream.child("exact"), index)
            start = [x.reshape(-1, *d.shape) for x, d in zip(flat, shown, strict=True)]
            if not gibbs and all(d.network is None for d in shown):
                return Separation(tuple(s.to(home) for s in start), 0, 0.0)
        start = [s.to(device) for s in start]
        pieces, evaluations, clamped = [], 0, 0.0
        for first in range(0, len(index), self.config.chunk):
            rows = slice(first, first + self.config.chunk)
            begin = [s[rows] for s in start]
            if gibbs:
                rounds, kept = self.config.gibbs_rounds, self.config.components
                part = given.dense(rows)
                found, evaluations = gibbs_sample(shown, part, begin, sampler, rounds, stream, index[rows], kept)
                pieces.append(found)
                continue
            posterior = given.posterior(rows)
            x = sample(posterior, noised(begin, sampler.sigma_start, stream, index[rows]), sampler, stream, index[rows])
            pieces.append(self._jump(posterior, x, stream, index[rows]))
            evaluations = posterior.evaluations
            clamped += posterior.clamped * len(index[rows]) / len(index)
        draws = tuple(torch.cat(parts).to(home) for parts in zip(*pieces, strict=True))
        return Separation(draws, evaluations, clamped)

    def _jump(
        self, posterior: JointPosterior | SharedPosterior, x: tuple[Tensor, ...], stream: Stream, index: Tensor
    ) -> tuple[Tensor, ...]:
        """Offer every draw other modes: noise it to a jump level, come down again, and keep what the observation allows.

        A reverse run from high noise lands in wrong modes, which moment matching cannot see at that level. The penalty is
        the misfit beyond the 99 % point of its χ² law: a plausible candidate always replaces a plausible draw (an exact
        reverse run leaves the posterior as it is), an implausible one is taken with the Metropolis probability.
        """
        if not self.config.jumps:
            return x
        if isinstance(posterior, SharedPosterior):
            raise MvssError("posterior.jumps are for small sources: leave them out")
        size = posterior.data.y.shape[1]
        allowed = float(chi2.ppf(0.99, size))
        level = 2 * posterior.data.noise.mean(1).sqrt()  # of each observation, whatever others it is in a chunk with

        def penalty(draw: tuple[Tensor, ...], keyed: Stream) -> Tensor:
            unit = noised([torch.zeros_like(v) for v in draw], 1.0, keyed, index)
            noisy = [v + level.reshape(-1, *[1] * (v.ndim - 1)) * z for v, z in zip(draw, unit, strict=True)]
            return 0.5 * (posterior.misfit(noisy, level) - allowed).clamp_min(0)

        current = penalty(x, stream.child("misfit"))
        for number, sigma in enumerate(self.config.jumps):
            keyed = stream.child("jump", number)
            down = replace(self.config.sampler, sigma_start=sigma)
            candidate = sample(posterior, noised(x, sigma, keyed, index), down, keyed, index)
            offered = penalty(candidate, keyed.child("misfit"))
            uniform = keyed.uniform(index, (), "accept", device=current.device)
            accept = torch.log1p(-uniform) < current - offered
            x = tuple(torch.where(accept.reshape(-1, *[1] * (c.ndim - 1)), c, v) for c, v in zip(candidate, x, strict=True))
            current = torch.where(accept, offered, current)
        return x

    def prior_sample(self, source: int, count: int, stream: Stream, stratified: bool = False) -> Tensor:
        """`(count, *shape)` draws of a source's prior: the mixture's, noised to σ_start, refined by the denoiser.

        stratified: the mixture's draws are, see `GaussianMixture.sample`.
        """
        denoiser = self.denoisers[source]
        index = torch.arange(count)
        start = denoiser.mixture.sample(count, stream.generator("mixture"), stratified).reshape(count, *denoiser.shape)
        if denoiser.network is None:
            return start
        sampler = self.config.sampler
        if self.config.start == "cold":
            start = torch.zeros_like(start)
        large = denoiser.mixture.dimension > LARGE
        return sample(
            SharedPosterior([denoiser]) if large else Prior([denoiser], self.config.components),
            noised([start], sampler.sigma_start, stream, index),
            sampler,
            stream,
            index,
        )[0]

    def save_pretrained(self, folder: Path | str) -> None:
        """Write networks (diffusers format), mixtures and settings to a folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        description = []
        for number, d in enumerate(self.denoisers, start=1):
            save_checkpoint(folder / f"mixture-{number}.pt", d.mixture.state())
            if d.network is not None:
                d.network.save_pretrained(folder / f"network-{number}")  # type: ignore[operator]
            description.append({"shape": d.shape, "sigma_data": d.sigma_data, "network": d.network is not None})
        settings = {"sources": description, "posterior": asdict(self.config)}
        atomic_write_text(folder / "pipeline.json", json.dumps(settings, indent=1) + "\n")

    @staticmethod
    def from_pretrained(folder: Path | str) -> SourceSeparationPipeline:
        """Read what `save_pretrained` wrote."""
        folder = Path(folder)
        try:
            settings = json.loads((folder / "pipeline.json").read_text())
            sources, posterior = settings["sources"], settings["posterior"]
            sampler, jumps = SamplerConfig(**posterior["sampler"]), tuple(posterior["jumps"])
            config = PosteriorConfig(**{**posterior, "sampler": sampler, "jumps": jumps})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise MvssError(f"{folder} holds no readable pipeline.json: name a folder written by save_pretrained") from error
        denoisers = []
        for number, source in enumerate(sources, start=1):
            mixture = GaussianMixture(**load_checkpoint(folder / f"mixture-{number}.pt"))
            network = _read_network(folder / f"network-{number}") if source["network"] else None
            denoisers.append(Denoiser(mixture, network, tuple(source["shape"]), source["sigma_data"]))
        return SourceSeparationPipeline(denoisers, config)


class _Small:
    """A view of small sources: any operators, explicit Jacobians. keep: the search of the mixtures, for many draws."""

    def __init__(self, shown: Sequence[Denoiser], view: View, config: PosteriorConfig, keep: bool) -> None:
        self.shown, self.view, self.components = shown, DenseView.of(view), config.components
        self.mixtures = MixturePosterior([d.mixture for d in shown], beam=config.beam)
        self.keep = keep
        self.found: list[tuple[slice, DenseView, Combinations]] | None = None

    def exact(self, stream: Stream, index: Tensor) -> Sequence[Tensor]:
        """A joint draw under the mixtures alone."""
        if self.keep and self.found is None:
            self.found = list(self.mixtures.chunks(self.view))
        return self.mixtures.draw(self.view, stream, index, self.found)

    def dense(self, rows: slice) -> DenseView:
        """Some of the observations."""
        return self.view.select(rows)

    def posterior(self, rows: slice) -> JointPosterior:
        """The posterior of some of the observations."""
        return JointPosterior(self.shown, self.dense(rows), self.components)


class _Large:
    """A view of large sources, whose observations share operators and noise. Factorisations are kept."""

    def __init__(self, shown: Sequence[Denoiser], view: View) -> None:
        self.shown, self.whole = shown, SharedPosterior(shown, SharedView.of(view))

    def exact(self, stream: Stream, index: Tensor) -> Sequence[Tensor]:
        """A joint draw under the mixtures alone."""
        return self.whole.exact().draw(stream, index)

    def dense(self, rows: slice) -> DenseView:
        """Not for large sources."""
        raise MvssError("the Gibbs baseline is for small sources")

    def posterior(self, rows: slice) -> SharedPosterior:
        """The posterior of some of the observations."""
        return self.whole.select(rows)


def _read_network(folder: Path) -> TimeMLP | ImageUNet:
    if not folder.is_dir():  # diffusers would take the name for one on its hub
        raise MvssError(f"{folder} is missing: copy the whole folder that save_pretrained wrote")
    try:
        name = json.loads((folder / "config.json").read_text())["_class_name"]
        network: TimeMLP | ImageUNet = {"TimeMLP": TimeMLP, "ImageUNet": ImageUNet}[name].from_pretrained(folder)
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.data = tensor.data.clone()  # the file is mapped to odd addresses, where products round differently
        return network
    except Exception as error:  # diffusers and safetensors raise many kinds on damaged files; all mean the same here
        raise MvssError(f"the network in {folder} is damaged: copy what save_pretrained wrote again") from error
