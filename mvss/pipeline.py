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
from mvss.mixture_posterior import DenseView, MixturePosterior
from mvss.networks import TimeMLP
from mvss.posterior import JointPosterior, Prior
from mvss.rng import Stream
from mvss.samplers import SamplerConfig, noised, sample

__all__ = ["PosteriorConfig", "Separation", "SourceSeparationPipeline"]


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
        device = self.denoisers[0].mixture.means.device
        home, view = view.y.device, view.to(device)
        start = None if start is None else [s.to(device) for s in start]
        dense = DenseView.of(view)
        index = torch.arange(len(view)) if index is None else index
        shown = [self.denoisers[beta] for beta in view.shown]
        sampler = self.config.sampler
        gibbs = self.config.gibbs_rounds > 0
        if self.config.start == "cold" and not gibbs:
            start = [dense.y.new_zeros(len(view), *d.shape) for d in shown]
        elif start is None:
            exact = MixturePosterior([d.mixture for d in shown], beam=self.config.beam)
            start = _shaped(exact.draw(dense, stream.child("exact"), index), shown)
            if not gibbs and all(d.network is None for d in shown):
                return Separation(tuple(s.to(home) for s in start), 0, 0.0)
        pieces, evaluations, clamped = [], 0, 0.0
        for first in range(0, len(view), self.config.chunk):
            rows = slice(first, first + self.config.chunk)
            part = dense.select(rows)
            if gibbs:
                begin = [s[rows] for s in start]
                found, evaluations = gibbs_sample(
                    shown, part, begin, sampler, self.config.gibbs_rounds, stream, index[rows], self.config.components
                )
                pieces.append(found)
                continue
            posterior = JointPosterior(shown, part, self.config.components)
            x = noised([s[rows] for s in start], sampler.sigma_start, stream, index[rows])
            x = sample(posterior, x, sampler, stream, index[rows])
            pieces.append(self._jump(posterior, x, stream, index[rows]))
            evaluations = posterior.evaluations
            clamped += posterior.clamped * len(index[rows]) / len(view)
        draws = tuple(torch.cat(parts).to(home) for parts in zip(*pieces, strict=True))
        return Separation(draws, evaluations, clamped)

    def posterior_samples(
        self, view: View, stream: Stream, draws: int, progress: Callable[[float], None] = lambda _: None
    ) -> tuple[Tensor, ...]:
        """`(draws, N, *shape)` per shown source: independent joint posterior draws, of the same law as `posterior_sample`'s,
        with one search of the mixtures for all of them. progress: takes the fraction done."""
        pieces = []
        device = self.denoisers[0].mixture.means.device
        dense, shown = DenseView.of(view.to(device)), [self.denoisers[beta] for beta in view.shown]
        gibbs = self.config.gibbs_rounds > 0
        exact = MixturePosterior([d.mixture for d in shown], beam=self.config.beam)
        found = [] if gibbs or self.config.start == "cold" else list(exact.chunks(dense))
        for number in range(draws):
            keyed, start = stream.child(number), None
            if found:
                start = _shaped(exact.draw(dense, keyed.child("exact"), found=found), shown)
            if start is not None and all(d.network is None for d in shown):
                pieces.append(tuple(s.to(view.y.device) for s in start))
            else:
                pieces.append(self.posterior_sample(view, keyed, start).draws)
            progress((number + 1) / draws)
        return tuple(torch.stack(parts) for parts in zip(*pieces, strict=True))

    def _jump(self, posterior: JointPosterior, x: tuple[Tensor, ...], stream: Stream, index: Tensor) -> tuple[Tensor, ...]:
        """Offer every draw other modes: noise it to a jump level, come down again, and keep what the observation allows.

        A reverse run from high noise lands in wrong modes, which moment matching cannot see at that level. The penalty is
        the misfit beyond the 99 % point of its χ² law: a plausible candidate always replaces a plausible draw (an exact
        reverse run leaves the posterior as it is), an implausible one is taken with the Metropolis probability.
        """
        if not self.config.jumps:
            return x
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
        return sample(
            Prior([denoiser], self.config.components),
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


def _shaped(flat: Sequence[Tensor], shown: Sequence[Denoiser]) -> list[Tensor]:
    """`(N, D)` per source to `(N, *shape)`."""
    return [x.reshape(-1, *d.shape) for x, d in zip(flat, shown, strict=True)]


def _read_network(folder: Path) -> TimeMLP:
    if not folder.is_dir():  # diffusers would take the name for one on its hub
        raise MvssError(f"{folder} is missing: copy the whole folder that save_pretrained wrote")
    try:
        network: TimeMLP = TimeMLP.from_pretrained(folder)
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.data = tensor.data.clone()  # the file is mapped to odd addresses, where products round differently
        return network
    except Exception as error:  # diffusers and safetensors raise many kinds on damaged files; all mean the same here
        raise MvssError(f"the network in {folder} is damaged: copy what save_pretrained wrote again") from error
