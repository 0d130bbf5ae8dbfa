"""Learned priors in use: draw sources, and separate new observations.

    amortised    x^β ~ p(x^β | y) by a network that has learned it (`amortised`), then the others given y − A^β x^β

    warm start   x^β ~ p_mixture({x^β} | y) exactly, noised to σ_start, then reverse time with the denoisers
    cold start   x_t ~ N(0, σ_start²), as the paper does

The exact draw chooses the modes, which moment matching at high noise gets wrong; the reverse run refines within them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from scipy.stats import chi2
from torch import Tensor

from mvss.estimation.noisier2noise import Guess
from mvss.posteriors.amortised import Amortised
from mvss.posteriors.conditionals import Large, Small
from mvss.posteriors.gibbs import gibbs_sample
from mvss.posteriors.jacobian_products import MatrixFreePosterior
from mvss.posteriors.learned_variance import LearnedPosterior
from mvss.posteriors.moment_matching import JointPosterior, Prior
from mvss.posteriors.samplers import SamplerConfig, noised, sample
from mvss.posteriors.shared_gaussians import SharedView
from mvss.posteriors.shared_moments import Levels, SharedPosterior
from mvss.posteriors.solvers import CGConfig
from mvss.priors.diffusion import Denoiser
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.priors.networks import ImageUNet, TimeMLP
from mvss.problem.operators import Zero
from mvss.problem.views import View
from mvss.runtime.checkpoints import atomic_write_text, load_checkpoint, save_checkpoint
from mvss.runtime.errors import MvssError
from mvss.runtime.memory import in_chunks
from mvss.runtime.rng import Stream

__all__ = ["PosteriorConfig", "Separation", "SourceSeparationPipeline"]

LARGE = 64
"""Sources of more numbers are large: no explicit Jacobians."""


@dataclass(frozen=True)
class PosteriorConfig:
    """How posterior draws are made.

    sampler: the reverse-time run. passes: such runs one after the other, each from the last one's draws, noised: they forget
    what the first draws had wrong. start: "warm" or "cold". components: Gaussians kept per source at each noise level
    (1: plain moment matching). gibbs_rounds: 0 for joint draws, else sweeps of the Gibbs baseline, whose runs
    are cold. jumps: noise levels from which other modes are offered to every draw, see `_jump`. beam: width of the search
    for exact draws under the mixtures. chunk: observations in memory at once; fewer where memory runs out. solver: for large
    sources, conjugate gradients with the networks' own Jacobians; None for variances that the networks have learned, or for the
    covariances of the mixtures. amortised: the runs, from pure noise, of sources whose posteriors
    networks have learned, with noise levels in units of what is seen at each pixel, which they also learn between; None where
    there are none. prior: the run of prior draws, from pure noise; None for `sampler`, from draws of the mixture.
    """

    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    start: str = "warm"
    components: int = 8
    jumps: tuple[float, ...] = ()
    gibbs_rounds: int = 0
    beam: int = 64
    chunk: int = 1024
    solver: CGConfig | None = None
    amortised: SamplerConfig | None = None
    passes: int = 1
    prior: SamplerConfig | None = None

    def __post_init__(self) -> None:
        if self.start not in ("warm", "cold"):
            raise MvssError(f"posterior.start={self.start!r} is unknown; use warm or cold")
        if min(self.components, self.beam, self.chunk, self.passes) < 1 or self.gibbs_rounds < 0:
            raise MvssError("posterior.components, beam, chunk and passes must be at least 1, gibbs_rounds at least 0")
        if self.solver and (self.sampler.method == "ancestral" or self.gibbs_rounds):
            raise MvssError("posterior.solver gives means, no draws: sampler.method must be pc, ddim or heun, gibbs_rounds 0")


@dataclass(frozen=True)
class Separation:
    """Draws `(N, *shape_β)` per shown source, network evaluations per observation (of the chunk with the most), share of
    clamped eigenvalues (the mean over chunks of `JointPosterior.clamped`), largest relative residual of `posterior.solver`."""

    draws: tuple[Tensor, ...]
    evaluations: int
    clamped: float
    residual: float = 0.0


class SourceSeparationPipeline:
    """One denoiser per source, and what was learned with them; all are put into evaluation mode, as draws are made in it.

    denoisers: one per source, in the order of the operators of a view. amortised: of sources (from 0) that have one, the
    network that draws them given y.
    """

    def __init__(
        self,
        denoisers: Sequence[Denoiser],
        config: PosteriorConfig | None = None,
        amortised: Mapping[int, Amortised] | None = None,
    ) -> None:
        self.amortised = dict(amortised or {})
        self.denoisers, self.sources = tuple(denoisers), tuple(range(len(denoisers)))
        self.config = config or PosteriorConfig()
        self._kept: dict[tuple[str, tuple[int, ...]], tuple[SharedView, Levels]] = {}
        for model in (*self.denoisers, *self.amortised.values()):
            model.eval()

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
        beta = self._amortised(view)
        if beta is not None:
            return self._chained(view, beta, stream, index)
        return self._sample(self._conditional(view), stream, start, index, view.y.device)

    def posterior_samples(
        self, view: View, stream: Stream, draws: int, progress: Callable[[float], None] = lambda _: None
    ) -> tuple[Tensor, ...]:
        """`(draws, N, *shape)` per shown source: independent joint posterior draws, of the same law as `posterior_sample`'s,
        with one search of the mixtures, or one guess, for all of them. progress: takes the fraction done."""
        index, pieces = torch.arange(len(view)), []
        beta = self._amortised(view)
        conditional = self._conditional(view, keep=True) if beta is None else None
        guesses = None if beta is None else self.amortised[beta].guesses(view.to(self._device), beta)[0]
        for number in range(draws):
            keyed = stream.child(number)
            if beta is not None:
                found = self._chained(view, beta, keyed, index, guesses)
            else:
                assert conditional is not None
                found = self._sample(conditional, keyed, None, index, view.y.device)
            pieces.append(found.draws)
            progress((number + 1) / draws)
        return tuple(torch.stack(parts) for parts in zip(*pieces, strict=True))

    def _amortised(self, view: View) -> int | None:
        """The source that is drawn first, by a network that has learned its posterior."""
        if self.config.amortised is None:
            return None
        return next((beta for beta, model in self.amortised.items() if model.applies(view, beta)), None)

    def to(self, device: torch.device | str) -> SourceSeparationPipeline:
        """The same, with all that it holds moved there: where it separates. Draws come back to where observations are."""
        for model in (*self.denoisers, *self.amortised.values()):
            model.to(device)
        self._kept.clear()
        return self

    @property
    def _device(self) -> torch.device:
        return self.denoisers[0].mixture.means.device

    def _chained(self, view: View, beta: int, stream: Stream, index: Tensor, guesses: Tensor | None = None) -> Separation:
        """One source given y, then all others given both. guesses: see `Amortised.draw`."""
        sampler = self.config.amortised
        assert sampler is not None
        view, home = view.to(self._device), view.y.device
        x, evaluations = self.amortised[beta].draw(view, beta, sampler, stream.child("amortised"), index, guesses)
        operators = tuple(Zero(o.source_shape, o.observation_shape) if b == beta else o for b, o in enumerate(view.operators))
        left = replace(view, y=view.y - view.operators[beta].forward(x), operators=operators)
        rest = self.posterior_sample(left, stream.child("others"), None, index)
        draws = [d.to(home) for d in rest.draws]
        draws.insert(view.shown.index(beta), x.to(home))
        return replace(rest, draws=tuple(draws), evaluations=rest.evaluations + evaluations)

    def _conditional(self, view: View, keep: bool = False) -> Small | Large:
        """What is exact about a view, and the joint posterior at any noise level. keep: for many draws."""
        config, shown = self.config, [self.denoisers[beta] for beta in view.shown]
        view = view.to(self._device)
        if config.solver and max(d.mixture.dimension for d in self.denoisers) <= LARGE:
            raise MvssError(f"posterior.solver is for sources of more than {LARGE} numbers: leave it out")
        if max(d.mixture.dimension for d in shown) > LARGE:
            return Large(shown, view, config.solver, partial(self._levels, (view.name, view.shown)))
        return Small(shown, view, config.components, config.beam, keep)

    def _levels(self, key: tuple[str, tuple[int, ...]], rows: SharedView) -> Levels:
        """The factorisations of a view, from call to call, as long as it has the same operators and noise."""
        like, levels = self._kept.get(key, (None, {}))
        if like is None or not rows.same_factors(like):
            like, levels = rows.select(slice(1)), {}
            self._kept[key] = (like, levels)
        return levels

    def _sample(
        self, given: Small | Large, stream: Stream, start: Sequence[Tensor] | None, index: Tensor, home: torch.device
    ) -> Separation:
        shown = given.shown
        device = shown[0].mixture.means.device
        gibbs = self.config.gibbs_rounds > 0
        if self.config.start == "cold" and not gibbs:
            start = [torch.zeros(len(index), *d.shape, dtype=torch.float64, device=device) for d in shown]
        elif start is None:
            flat = given.exact(stream.child("exact"), index)
            start = [x.reshape(-1, *d.shape) for x, d in zip(flat, shown, strict=True)]
            if not gibbs and all(d.network is None for d in shown):
                return Separation(tuple(s.to(home) for s in start), 0, 0.0)
        begin = [s.to(device) for s in start]

        def work(rows: slice) -> Separation:
            return self._chunk(given, rows, [s[rows] for s in begin], stream, index[rows])

        parts = list(in_chunks(work, len(index), self.config.chunk))
        return Separation(
            tuple(torch.cat(pieces).to(home) for pieces in zip(*(p.draws for p in parts), strict=True)),
            max(p.evaluations for p in parts),
            sum(p.clamped * len(p.draws[0]) for p in parts) / len(index),
            max(p.residual for p in parts),
        )

    def _chunk(self, given: Small | Large, rows: slice, begin: Sequence[Tensor], stream: Stream, index: Tensor) -> Separation:
        """Draws of some observations, from `begin`."""
        config, sampler = self.config, self.config.sampler
        if config.gibbs_rounds:
            single = given.one_by_one(rows)
            return Separation(*gibbs_sample(single, begin, sampler, config.gibbs_rounds, stream, index), 0.0)
        posterior = given.posterior(rows)
        x = tuple(begin)
        for number in range(config.passes):
            keyed = stream.child("pass", number) if number else stream
            x = sample(posterior, noised(x, sampler.sigma_start, keyed, index), sampler, keyed, index)
        x = self._jump(posterior, x, stream, index)
        residual = posterior.residual if isinstance(posterior, MatrixFreePosterior | LearnedPosterior) else 0.0
        return Separation(x, posterior.evaluations, posterior.clamped, residual)

    def _jump(
        self,
        posterior: JointPosterior | SharedPosterior | LearnedPosterior | MatrixFreePosterior,
        x: tuple[Tensor, ...],
        stream: Stream,
        index: Tensor,
    ) -> tuple[Tensor, ...]:
        """Offer every draw other modes: noise it to a jump level, come down again, and keep what the observation allows.

        A reverse run from high noise lands in wrong modes, which moment matching cannot see at that level. The penalty is
        the misfit beyond the 99 % point of its χ² law: a plausible candidate always replaces a plausible draw (an exact
        reverse run leaves the posterior as it is), an implausible one is taken with the Metropolis probability.
        """
        if not self.config.jumps:
            return x
        if isinstance(posterior, SharedPosterior | LearnedPosterior | MatrixFreePosterior):
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
        """`(count, *shape)` draws of a source's prior, on the CPU: the mixture's, noised to σ_start, refined by the denoiser.

        stratified: the mixture's draws are, see `GaussianMixture.sample`.
        """
        denoiser = self.denoisers[source]
        index = torch.arange(count)
        start = denoiser.mixture.sample(count, stream.generator("mixture"), stratified).reshape(count, *denoiser.shape)
        if denoiser.network is None:
            return start.cpu()
        sampler = self.config.prior or self.config.sampler
        if self.config.start == "cold" or self.config.prior:
            start = torch.zeros_like(start)
        prior: LearnedPosterior | SharedPosterior | Prior = Prior([denoiser], self.config.components)
        if denoiser.mixture.dimension > LARGE:
            prior = LearnedPosterior([denoiser]) if denoiser.learns_variance else SharedPosterior([denoiser])
        return sample(
            prior,
            noised([start], sampler.sigma_start, stream, index),
            sampler,
            stream,
            index,
        )[0].cpu()

    def save_pretrained(self, folder: Path | str) -> None:
        """Write networks (diffusers format), mixtures and settings to a folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        description = []
        for number, d in enumerate(self.denoisers, start=1):
            save_checkpoint(folder / f"mixture-{number}.pt", d.mixture.state())
            if d.network is not None:
                d.network.save_pretrained(folder / f"network-{number}")  # type: ignore[operator]
            description.append(
                {"shape": d.shape, "sigma_data": d.sigma_data, "network": d.network is not None, "dynamic": d.dynamic}
            )
        for beta, model in self.amortised.items():
            model.network.save_pretrained(folder / f"amortised-{beta + 1}")  # type: ignore[operator]
            if model.guess is not None:
                model.guess.network.save_pretrained(folder / f"guess-{beta + 1}")  # type: ignore[operator]
            save_checkpoint(folder / f"amortised-{beta + 1}.pt", {**model.state(), "guess": model.guess is not None})
        settings = {"sources": description, "posterior": asdict(self.config), "amortised": list(self.amortised)}
        atomic_write_text(folder / "pipeline.json", json.dumps(settings, indent=1) + "\n")

    @staticmethod
    def from_pretrained(folder: Path | str) -> SourceSeparationPipeline:
        """Read what `save_pretrained` wrote."""
        folder = Path(folder)
        try:
            settings = json.loads((folder / "pipeline.json").read_text())
            sources, posterior = settings["sources"], settings["posterior"]
            sampler, jumps = SamplerConfig(**posterior["sampler"]), tuple(posterior["jumps"])
            solver = CGConfig(**posterior["solver"]) if posterior.get("solver") else None
            known = {"sampler": sampler, "jumps": jumps, "solver": solver}
            for name in ("amortised", "prior"):
                known[name] = SamplerConfig(**posterior[name]) if posterior.get(name) else None
            config = PosteriorConfig(**{**posterior, **known})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise MvssError(f"{folder} holds no readable pipeline.json: name a folder written by save_pretrained") from error
        denoisers = []
        for number, source in enumerate(sources, start=1):
            mixture = GaussianMixture(**load_checkpoint(folder / f"mixture-{number}.pt"))
            network = _read_network(folder / f"network-{number}") if source["network"] else None
            dynamic = source.get("dynamic", False)
            denoisers.append(Denoiser(mixture, network, tuple(source["shape"]), source["sigma_data"], dynamic))
        amortised = {}
        for beta in settings.get("amortised", ()):
            name = f"amortised-{beta + 1}"
            state, first = load_checkpoint(folder / f"{name}.pt"), folder / f"guess-{beta + 1}"
            try:
                guess = Guess(_read_network(first)) if state.pop("guess") else None
                amortised[beta] = Amortised.read(_read_network(folder / name), guess, state)
            except (KeyError, TypeError) as error:
                raise MvssError(f"{folder / name}.pt is of another version of mvss: learn it again, or use that one") from error
        return SourceSeparationPipeline(denoisers, config, amortised)


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
