"""M-step: denoising score matching of one source on its posterior draws.

    min_θ E ‖d_θ(x + σ z, σ) − x‖² λ(σ),    x ~ draws,  z ~ N(0, I),
    log σ = log σ_min + t (log σ_max − log σ_min),    t ~ Beta(a, b)

The weight λ belongs to the denoiser's `loss`; this module never looks inside a denoiser. Each call is one lap of the
paper: Adam and the learning-rate schedule start again. Random numbers are drawn for the whole batch of all processes.
"""

from __future__ import annotations

__all__ = [
    "TURNS",
    "TrainingConfig",
    "default_accelerator",
    "denoising_loss",
    "fit_denoiser",
    "learning_rate",
    "turned",
    "turned_each",
]

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from scipy.special import betaincinv
from torch import Tensor, nn

from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

SCHEDULES = ("linear", "cosine")
QUANTILES = 2**14  # of t; finer than any batch can tell
REPORT = 100  # steps between records, and between looks at the loss, which stall a GPU
MOMENTUM = 0.9  # of Adam
HELD_OUT_LEVELS = 8  # noise levels per held-out draw
TURNS = 8  # by quarters, mirrored or not


@dataclass
class TrainingConfig:
    """Settings of one M-step; the defaults are the paper's, but for the number of steps.

    Arguments:
        steps, batch: gradient steps, and draws per step over all processes together.
        learning_rate, final_learning_rate: Adam's rate at the first and at the last step.
        schedule: "linear" or "cosine" between the two. warmup: first steps, over which the rate also rises from zero.
        decay: of Adam's mean of the squared gradients, in [0, 1).
        ema_decay: decay of the moving average of the weights in [0, 1); 0 for none.
        gradient_clip: largest norm of the gradient.
        sigma_min, sigma_max: range of the noise level, in units of the source.
        beta: a and b of t ~ Beta(a, b).
        turns: whether each draw enters a batch turned by quarters and mirrored at random: for images that have no upper side.
        shifts: most pixels that each is moved by at random, up or down, left or right; what leaves on one side enters opposite.
        holes: share of pixels that every second image is shown without, for networks that are shown observations: so that they
            know what to do where a pixel was not measured, though none was missing.

    Raises MvssError if a value is out of range.
    """

    steps: int = 1024
    batch: int = 1024
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-6
    schedule: str = "linear"
    warmup: int = 0
    decay: float = 0.999
    ema_decay: float = 0.0
    gradient_clip: float = 1.0
    sigma_min: float = 1e-3
    sigma_max: float = 10.0
    beta: tuple[float, float] = (3.0, 3.0)
    turns: bool = False
    shifts: int = 0
    holes: float = 0.0

    def __post_init__(self) -> None:
        rate, final = self.learning_rate, self.final_learning_rate
        low, high = self.sigma_min, self.sigma_max
        checks = [
            (self.steps >= 1, f"needs at least one step, not steps={self.steps}"),
            (self.batch >= 1, f"needs at least one draw in a batch, not batch={self.batch}"),
            (0 < rate < math.inf, f"needs a positive learning_rate, not {rate}"),
            (0 <= final <= rate, f"needs final_learning_rate between 0 and learning_rate={rate}, not {final}"),
            (self.schedule in SCHEDULES, f"knows schedule {' and '.join(SCHEDULES)}, not {self.schedule!r}"),
            (self.shifts >= 0, f"needs shifts of at least 0, not {self.shifts}"),
            (0 <= self.holes < 1, f"needs holes in [0, 1), not {self.holes}"),
            (self.warmup >= 0, f"needs warmup of at least 0, not {self.warmup}"),
            (0 <= self.decay < 1, f"needs decay in [0, 1), not {self.decay}"),
            (0 <= self.ema_decay < 1, f"needs ema_decay in [0, 1), not {self.ema_decay}"),
            (self.gradient_clip > 0, f"needs a positive gradient_clip, not {self.gradient_clip}"),
            (low > 0, f"cannot use a noise of zero: choose sigma_min > 0, not {low}"),
            (low <= high < math.inf, f"needs a finite sigma_max of at least sigma_min={low}, not {high}"),
            (len(self.beta) == 2 and min(self.beta) > 0, f"needs two positive numbers as beta, not {self.beta}"),
        ]
        for holds, complaint in checks:
            if not holds:
                raise MvssError(f"training {complaint}")

    def noise_levels(self) -> Tensor:
        """Equally probable quantiles of σ, ascending, (QUANTILES,), float64: a uniform index makes a draw of σ."""
        middles = (torch.arange(QUANTILES, dtype=torch.float64) + 0.5) / QUANTILES
        t = torch.from_numpy(betaincinv(*self.beta, middles.numpy()))
        return (math.log(self.sigma_min) + t * math.log(self.sigma_max / self.sigma_min)).exp()


def default_accelerator() -> Accelerator:
    """On the GPU where there is one, else on the CPU."""
    return Accelerator(cpu=not torch.cuda.is_available())


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Adam's rate at step 0, ..., steps − 1."""
    done = step / max(config.steps - 1, 1)
    fall = done if config.schedule == "linear" else (1 - math.cos(math.pi * done)) / 2
    rise = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    return rise * (config.learning_rate + fall * (config.final_learning_rate - config.learning_rate))


class _Objective(nn.Module):
    """Loss as a forward pass: DistributedDataParallel averages gradients only for a module that is called."""

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x: Tensor, sigma: Tensor, noise: Tensor, weights: Tensor | None) -> Tensor:
        return self.denoiser.loss(x, sigma, noise, weights)  # type: ignore[operator]


class _Batches:
    """This process's share of each batch; the batch itself is the same for any number of processes."""

    def __init__(self, draws: Tensor, config: TrainingConfig, stream: Stream, accelerator: Accelerator) -> None:
        self.draws, self.batch, self.generator = draws, config.batch, stream.generator("batch")
        self.levels, self.turns, self.shifts = config.noise_levels().to(draws.dtype), config.turns, config.shifts
        share = -(-config.batch // accelerator.num_processes)
        # Equal shares: the last ones repeat the batch's last draw, with weight zero.
        rows = torch.arange(share) + accelerator.process_index * share
        self.rows = rows.clamp(max=config.batch - 1)
        self.weights = None
        if share * accelerator.num_processes > config.batch:
            scale = share * accelerator.num_processes / config.batch
            self.weights = ((rows < config.batch) * scale).to(draws)

    def draw(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """x (n, *shape), σ (n,), noise (n, *shape), weights (n,) or None: the next batch."""
        generator = self.generator
        index = torch.randint(len(self.draws), (self.batch,), generator=generator)
        # One noise level from each of `batch` equally probable strata: same law for each draw, a quieter gradient.
        t = (torch.arange(self.batch) + torch.rand(self.batch, generator=generator, dtype=torch.float64)) / self.batch
        sigma = self.levels[(t * QUANTILES).long().clamp(max=QUANTILES - 1)]
        noise = torch.randn(self.batch, *self.draws.shape[1:], generator=generator, dtype=self.draws.dtype)
        device, rows = self.draws.device, self.rows
        x = self.draws[index[rows].to(device)]
        if self.turns:
            x = turned_each(x, torch.randint(TURNS, (self.batch,), generator=generator)[rows])
        if self.shifts:
            by = torch.randint(-self.shifts, self.shifts + 1, (self.batch, 2), generator=generator)[rows]
            x = torch.stack([image.roll(tuple(b), (-2, -1)) for image, b in zip(x, by.tolist(), strict=True)])
        return x, sigma[rows].to(device), noise[rows].to(device), self.weights


def turned(x: Tensor, number: int, back: bool = False) -> Tensor:
    """Images `(…, H, W)` by one of the eight turns and mirrors, 0 to 7; or back again."""
    if back:
        return (x.flip(-1) if number >= 4 else x).rot90(-(number % 4), (-2, -1))
    x = x.rot90(number % 4, (-2, -1))
    return x.flip(-1) if number >= 4 else x


def turned_each(x: Tensor, which: Tensor) -> Tensor:
    """Images `(N, …, H, W)`, each by its own number, `(N,)`."""
    out = torch.empty_like(x)
    for number in which.unique().tolist():
        rows = (which == number).nonzero().squeeze(1).to(x.device)
        out[rows] = turned(x[rows], number)
    return out


def fit_denoiser(
    denoiser: nn.Module,
    draws: Tensor,
    config: TrainingConfig,
    stream: Stream,
    accelerator: Accelerator,
) -> list[tuple[int, float]]:
    """Train the parameters of `denoiser` that require a gradient, in place, on draws of its source; the mean loss of each block
    of steps as (last step, loss).

    Arguments:
        denoiser: module with `loss(x, sigma, noise, weights) -> scalar`, the mean over N of weights × error, where
            weights None is 1 for all; weights have mean 1 over all processes, so the loss must not normalise them.
        draws: posterior draws, shape (N, *shape); they take the dtype of the parameters and the accelerator's device.
        stream: source of every random number; one or several processes give the same result to rounding, unless the
            loss draws numbers of its own, as that of made observations does.

    Raises MvssError if draws are missing or not finite, nothing is trainable, or the loss stops being finite.
    """
    _require_draws(draws)
    if config.turns and (draws.ndim < 4 or draws.shape[-1] != draws.shape[-2]):
        raise MvssError(f"training.turns is for square images, not for draws of shape {tuple(draws.shape[1:])}: leave it out")
    if config.shifts and draws.ndim < 4:
        raise MvssError(f"training.shifts is for images, not for draws of shape {tuple(draws.shape[1:])}: leave it out")
    trainable = [p for p in denoiser.parameters() if p.requires_grad]
    if not trainable:
        raise MvssError("the denoiser has no trainable parameter: give it a network or leave out its training")
    denoiser.to(accelerator.device).train()
    draws = draws.detach().to(trainable[0].dtype).to(accelerator.device)
    batches = _Batches(draws, config, stream, accelerator)
    adam = torch.optim.Adam(trainable, lr=config.learning_rate, betas=(MOMENTUM, config.decay), fused=True)
    objective, optimizer = accelerator.prepare(_Objective(denoiser), adam)
    ema = EMAModel(trainable, decay=config.ema_decay, foreach=True) if config.ema_decay else None
    # Dropout draws from the global generator: keyed too, and left as it was found.
    with torch.random.fork_rng():
        torch.manual_seed(stream.generator("dropout", accelerator.process_index).initial_seed())
        loss = _descend(objective, optimizer, trainable, ema, batches, config, accelerator)
    if ema is not None:
        ema.copy_to(trainable)
    denoiser.eval()
    # Or the accelerator would keep every lap's wrapper and optimiser, and an old wrapper its hooks on the parameters.
    objective, optimizer = accelerator.free_memory(objective, optimizer)
    return loss


def _descend(
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    trainable: list[nn.Parameter],
    ema: EMAModel | None,
    batches: _Batches,
    config: TrainingConfig,
    accelerator: Accelerator,
) -> list[tuple[int, float]]:
    """All the steps; the mean loss of each block of them."""
    history, block = [], []
    for step in range(config.steps):
        rate = learning_rate(step, config)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = objective(*batches.draw())
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(trainable, config.gradient_clip)
        optimizer.step()
        optimizer.zero_grad()
        if ema is not None:
            ema.step(trainable)
        block.append(loss.detach())
        if len(block) == REPORT or step + 1 == config.steps:
            losses = accelerator.reduce(torch.stack(block), "mean")
            _require_finite(losses, step + 1 - len(block))
            history.append((step + 1, losses.mean().item()))
            block = []
    return history


def _require_draws(draws: Tensor) -> None:
    if len(draws) == 0 or not torch.isfinite(draws).all():
        raise MvssError("the draws are empty or hold NaN or infinity: check the E-step that made them")


def _require_finite(losses: Tensor, first: int) -> None:
    bad = (~torch.isfinite(losses)).nonzero()
    if len(bad):
        raise MvssError(f"the training loss is not finite at step {first + int(bad[0]) + 1}: choose a smaller learning rate")


@torch.no_grad()
def denoising_loss(denoiser: nn.Module, draws: Tensor, config: TrainingConfig, stream: Stream) -> float:
    """Loss on draws (N, *shape), each at 8 noise levels of the training's law; the same noise for the same stream.

    Raises MvssError if draws are missing or not finite.
    """
    _require_draws(draws)
    like = next(iter(sorted(denoiser.parameters(), key=lambda p: not p.requires_grad)), draws)
    draws, levels = (values.to(like.dtype).to(like.device) for values in (draws, config.noise_levels()))
    training = denoiser.training
    denoiser.eval()
    # only the errors of two networks compare, not what they say of them
    measure: Callable[..., Tensor] = getattr(denoiser, "error", None) or denoiser.loss  # type: ignore[assignment]
    total = 0.0
    for start in range(0, len(draws), config.batch):
        x = draws[start : start + config.batch]
        index = torch.arange(start, start + len(x))
        t = stream.uniform(index, (HELD_OUT_LEVELS,), "held-out", "level")
        sigma = levels[(t * QUANTILES).long().clamp(max=QUANTILES - 1).to(levels.device)]
        for k in range(HELD_OUT_LEVELS):
            noise = stream.normal(index, tuple(x.shape[1:]), "held-out", "noise", k, dtype=x.dtype, device=x.device)
            total += measure(x, sigma[:, k], noise, None).item() * len(x)
    denoiser.train(training)
    return total / (HELD_OUT_LEVELS * len(draws))
