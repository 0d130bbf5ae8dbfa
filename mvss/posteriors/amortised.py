"""The posterior of a source that hides in what another view shows alone, learned from made mixtures: no moment is matched.

    y = A x + n,    n': an observation of a view that shows all of n and nothing else
    x ~ draws of the last E-step,  n' ~ those observations:    (x, A x + n') has the law of (x, y) under a prior of such draws
    d(x_t, σ, y) ≈ E[x | x_t, y],    by denoising score matching on such pairs

An E-step that reverses time with d draws from p(x | y) itself, from pure noise: neither the law of n nor a Jacobian is needed,
and no start. EM is as before: new draws, new pairs. (Simulation-based inference by conditional diffusion, as Sharrock et al.
2024, arXiv 2210.04872, with a simulator that is made of observations.) At σ that drowns x, d is E[x | y] itself.

One network serves all pairs of views, of whatever operators: it sees u, which is y on the pixels of the source (`view_pairs`).
u says how large x can be at each pixel (`regression`); s is that scale. Where there is a guess m(y) ≈ E[x | y], only what it
lacks is drawn, else m = 0; where m is larger than u, as it is in the cores of what seeing has spread, it says s. Time is
reversed with w = (x − m)/s, for which all pixels are alike, and σ is in units of s. With Karras et al.'s (2022) scales,
σ_data = 0.5,
    d = m + s (c_skip w_t + c_out F).

m may be known before there are draws (`noisier2noise`), and be learned from the same pairs before d is:
    min E w(y) |m(y) − x|².
"""

from __future__ import annotations

__all__ = ["OUTPUTS", "Amortised", "AmortisedPosterior", "Seen", "inputs_of"]

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from typing_extensions import override

from mvss.posteriors.moment_matching import MomentMatching
from mvss.posteriors.posterior import Given, Posterior, Priors, Separation
from mvss.posteriors.view_pairs import ViewPair, thrown_back
from mvss.presets.posterior import AmortisedConfig, SamplerConfig
from mvss.presets.training import TrainingConfig
from mvss.priors.augmentation import TURNS, turned
from mvss.priors.diffusion import gaussian_loss
from mvss.priors.networks import LEAST, MOST
from mvss.priors.prior import column
from mvss.priors.regression import BATCH, Guess, middle_light, source_scale, tolerance
from mvss.priors.samplers import sample
from mvss.priors.training import fit_denoiser
from mvss.problem.views import Draws, View
from mvss.runtime.errors import MvssError
from mvss.runtime.memory import in_chunks
from mvss.runtime.rng import Stream

OUTPUTS = 2
"""Sources' worth of numbers that the network gives: F and h, as in `diffusion`."""
DEVIATION = 0.5
"""σ_data of w."""
FLATNESS = 0.3
"""Error that counts as much as one of s does, beside the light of the middle: dark pixels are many."""


def inputs_of(shape: tuple[int, ...]) -> int:
    """How many sources' worth of numbers the network takes."""
    return 2 + Guess.inputs_of(shape)


class Amortised(torch.nn.Module):
    """d of one source, of all `pairs` of views that show it.

    guess: it is not trained here. anywhere: whether it is one for all views, or for those at full resolution alone. turns:
    whether backgrounds enter turned by quarters and mirrored at random, and guesses are the mean of those over all such turns.
    holes: see `training.TrainingConfig`. Its attribute `preferred`: whether its draws given made observations have a lower
    energy score, beside what was put in, than those of split Gibbs (`auto`), which is taken for granted until it is looked at.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        pairs: Sequence[ViewPair],
        guess: Guess | None = None,
        turns: bool = False,
        holes: float = 0.0,
        anywhere: bool = False,
    ) -> None:
        super().__init__()
        self.network, self.pairs, self.turns, self.holes, self.anywhere = network, list(pairs), turns, holes, anywhere
        self.guess = None if guess is None else guess.requires_grad_(False)
        self.preferred = True

    def loss(self, x: Tensor, sigma: Tensor, noise: Tensor, weights: Tensor | None) -> Tensor:
        """As of a denoiser, of draws x `(N, *shape)`."""
        u, measured, m = (torch.zeros_like(x) for _ in range(3))
        usual = column(torch.zeros_like(sigma), x)
        for pair, rows, u_here, measured_here in self.made(x):
            u[rows], measured[rows], usual[rows] = u_here, measured_here, pair.usual
            m[rows] = self._guessed(pair, u_here, measured_here, turns=1)
        s = source_scale(u, measured, m, usual)
        w = (x - m) / s
        shown = torch.stack([m / s, *Guess.inputs(u, measured, usual)], dim=1)
        found, base, scale = self._outputs(w + column(sigma, x) * noise, sigma, shown)
        weight = s / (s.square() + (FLATNESS * middle_light(u, usual)).square()).sqrt()
        return gaussian_loss(found, (w - base) / scale, weights, scale=weight)

    def made(self, x: Tensor) -> Iterator[tuple[ViewPair, Tensor, Tensor, Tensor]]:
        """Made observations of draws x `(N, *shape)`: the pair of some rows, these, and u and where it was measured."""
        sizes = torch.tensor([float(pair.size) for pair in self.pairs])
        which = torch.multinomial(sizes, len(x), replacement=True)
        for number in which.unique().tolist():
            pair, rows = self.pairs[number], (which == number).nonzero().squeeze(1).to(x.device)
            hidden = pair.hide(x[rows], self.turns, self.holes)  # or says that a model that was read back does not learn
            assert pair.operator is not None
            yield pair, rows, *thrown_back(pair.operator.to(x.device), *hidden)

    def learn_guess(self, x: Tensor, training: TrainingConfig, stream: Stream, accelerator: Accelerator) -> None:
        """By regression on draws x `(N, *shape)`."""
        if self.guess is None:
            raise MvssError("amortised: there is no guess to train: leave em.guess out")
        try:
            self.guess.requires_grad_(True)
            fit_denoiser(_Regression(self), x, training, stream, accelerator)
        finally:
            self.guess.requires_grad_(False)

    def estimate(self, w_t: Tensor, sigma: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
        """E and Var of each number of w given w_t and y, `(N, *shape)` each. shown: of y, one less than `inputs_of`."""
        found, base, scale = self._outputs(w_t, sigma, shown)
        return base + scale * found[:, 0], scale.square() * found[:, 1].clamp(LEAST, MOST).exp()

    @torch.no_grad()
    def see(self, view: View) -> Seen | None:
        """What the networks are shown of a view, and the guess; None where they have not learned such a view."""
        for pair in self.pairs:
            if (shown := pair.see(view)) is not None:
                u, measured = (x.float() for x in shown)
                turns = 0 if self._guess_of(pair) is None else TURNS if self.turns else 1
                m = in_chunks(lambda rows: self._guessed(pair, u[rows], measured[rows], turns), len(u), BATCH)  # noqa: B023
                return Seen(pair, u, measured, torch.cat(m), turns)
        return None

    def draw(self, seen: Seen, sampler: SamplerConfig, stream: Stream, index: Tensor, inflation: float = 1.0) -> Tensor:
        """One draw of the source given y, `(N, *shape)`, from pure noise. index: numbers of the observations. inflation: the
        distance from E[x | y] is so many times what the network says."""
        u = seen.u
        start = stream.normal(index, tuple(u.shape[1:]), "start", dtype=torch.float64, device=u.device)

        def work(rows: slice) -> Tensor:
            given, noise = _Given(self, seen, rows), sampler.sigma_start * start[rows]
            w = sample(given, [noise], sampler, stream, index[rows])[0]
            if inflation != 1:
                mean = given([noise], noise.new_full((len(noise),), sampler.sigma_start))[0]  # of w, which such noise drowns
                w = mean + inflation * (w - mean)
            return given.m + given.s * w

        return torch.cat(in_chunks(work, len(u), BATCH))

    def applies(self, view: View) -> bool:
        """Whether a view shows the source as this was trained for, with other sources."""
        return any(pair.matches(view) for pair in self.pairs)

    def at_home(self, view: View) -> bool:
        """Whether a view is like one that this has learned from."""
        return any(pair.learned_from(view) for pair in self.pairs)

    def state(self) -> dict[str, Any]:
        """What drawing needs beside the networks."""
        pairs = [pair.state() for pair in self.pairs]
        return {"pairs": pairs, "turns": self.turns, "anywhere": self.anywhere, "preferred": self.preferred}

    @staticmethod
    def read(network: torch.nn.Module, guess: Guess | None, state: dict[str, Any]) -> Amortised:
        """From its `state`; it draws, but does not learn."""
        pairs = [ViewPair(**kept) for kept in state["pairs"]]
        model = Amortised(network, pairs, guess, state["turns"], 0.0, state["anywhere"])
        model.preferred = state.get("preferred", True)
        return model

    def _guess_of(self, pair: ViewPair) -> Guess | None:
        """What guesses sources in a view, if anything does."""
        return self.guess if self.anywhere or pair.sharp else None

    @torch.no_grad()
    def _guessed(self, pair: ViewPair, u: Tensor, measured: Tensor, turns: int) -> Tensor:
        """m, `(N, *shape)`, the mean over turns."""
        if (guess := self._guess_of(pair)) is None:
            return torch.zeros_like(u)
        if turns == 1:
            return guess(u, measured, pair.usual, pair.sharp)
        guesses = [guess(turned(u, t), turned(measured, t), pair.usual, pair.sharp) for t in range(turns)]
        return torch.stack([turned(m, t, back=True) for t, m in enumerate(guesses)]).mean(0)

    def _outputs(self, w_t: Tensor, sigma: Tensor, shown: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """F and h, `(N, 2, *shape)`; what they are added to, and c_out."""
        level = column(sigma, w_t)
        total = (DEVIATION**2 + level.square()).sqrt()
        inputs = torch.cat([(w_t / total).unsqueeze(1), shown], dim=1)
        dtype = next(self.network.parameters()).dtype
        out = self.network(inputs.to(dtype), sigma.log().to(dtype))
        skip, scale = (DEVIATION / total).square(), DEVIATION * level / total
        return out.reshape(len(w_t), OUTPUTS, *w_t.shape[1:]).to(w_t.dtype), skip * w_t, scale


@dataclass(frozen=True)
class Seen:
    """Observations as networks are shown them: u, where it was measured, and the guess m, `(N, *shape)` each; the pair of views
    that they are like; evaluations of the guess."""

    pair: ViewPair
    u: Tensor
    measured: Tensor
    m: Tensor
    evaluations: int


class _Given:
    """For `samplers.sample`."""

    def __init__(self, model: Amortised, seen: Seen, rows: slice) -> None:
        u, measured, usual = seen.u[rows], seen.measured[rows], seen.pair.usual
        self.model, self.m = model, seen.m[rows]
        self.s = source_scale(u, measured, self.m, usual)
        self.shown = torch.stack([self.m / self.s, *Guess.inputs(u, measured, usual)], dim=1)

    def __call__(self, w_t: Sequence[Tensor], sigma: Tensor) -> tuple[Tensor, ...]:
        return (self._estimate(w_t[0], sigma)[0],)

    def draw(self, w_t: Sequence[Tensor], sigma: Tensor, stream: Stream, index: Tensor) -> tuple[Tensor, ...]:
        """One draw of w given w_t and y."""
        mean, variance = self._estimate(w_t[0], sigma)
        z = stream.normal(index, tuple(mean.shape[1:]), "source", dtype=mean.dtype, device=mean.device)
        return (mean + variance.sqrt() * z,)

    @torch.no_grad()
    def _estimate(self, w_t: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        mean, variance = self.model.estimate(w_t.float(), sigma.float(), self.shown)
        return mean.double(), variance.double()


class _Regression(torch.nn.Module):
    """The guess of a model, trained as `fit_denoiser` trains denoisers, on draws of the source."""

    def __init__(self, model: Amortised) -> None:
        super().__init__()
        assert model.guess is not None
        self.guess, self.made = model.guess, model.made

    def loss(self, x: Tensor, _sigma: Tensor, _noise: Tensor, weights: Tensor | None) -> Tensor:
        """Of draws x `(N, *shape)`. Noise levels are not looked at."""
        m, error = torch.zeros_like(x), torch.ones_like(x)
        for pair, rows, u, measured in self.made(x):
            m[rows] = self.guess(u, measured, pair.usual, pair.sharp)
            error[rows] = self._error(pair, u, measured, m[rows].detach())
        return gaussian_loss(m.unsqueeze(1), x, weights, scale=1 / error)

    @staticmethod
    def _error(pair: ViewPair, u: Tensor, measured: Tensor, m: Tensor) -> Tensor:
        """w^-½; as large as errors can be, where pixels were not seen by themselves."""
        seen = (measured > 0).to(u)
        return tolerance(u - m, m, seen, pair.usual) if pair.sharp else source_scale(u, measured, m, pair.usual)


class AmortisedPosterior(Posterior):
    """One source given y, by a network that has learned it; then all others given both.

    models: by source. Views that no network has learned are left to `others`, and so is what is left of y.
    """

    def __init__(self, config: AmortisedConfig, models: Mapping[str, Amortised]) -> None:
        self.config, self.models, self.others = config, dict(models), MomentMatching(config.others)
        self.evaluations = config.sampler.evaluations + (config.inflation != 1)

    def prepared(self, view: View, priors: Priors) -> Given:
        """See `Posterior`."""
        for source, model in self.models.items():
            if (seen := model.see(view)) is not None:
                return _Chained(self, view, priors, source, seen)
        return self.others.prepared(view, priors)


@dataclass(frozen=True)
class _Chained(Given):
    posterior: AmortisedPosterior
    view: View
    priors: Priors
    source: str
    seen: Seen

    @override
    def draw(self, stream: Stream, start: Draws | None = None) -> Separation:
        """See `Posterior.draw`; all draws are from pure noise."""
        view, config, others = self.view, self.posterior.config, self.posterior.others
        model, keyed = self.posterior.models[self.source], stream.child("amortised")
        x = model.draw(self.seen, config.sampler, keyed, view.numbers, config.inflation)
        rest = others.prepared(view.without(self.source, x), self.priors).draw(stream.child("others"))

        def whole(others: Draws) -> Draws:
            return {source: x if source == self.source else others[source] for source in view.operators}

        evaluations = self.posterior.evaluations + self.seen.evaluations + rest.evaluations
        start = None if rest.start is None else whole(rest.start)
        return replace(rest, draws=whole(rest.draws), evaluations=evaluations, start=start)
