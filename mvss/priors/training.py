"""M-step: denoising score matching of one source on its posterior draws.

    min_θ E ‖d_θ(x + σ z, σ) − x‖² λ(σ),    x ~ draws,  z ~ N(0, I),
    log σ = log σ_min + t (log σ_max − log σ_min),    t ~ Beta(a, b)

The weight λ belongs to the denoiser's `loss`; this module never looks inside a denoiser. Each call is one lap of the
paper: Adam and the learning-rate schedule start again. Random numbers are drawn for the whole batch of all processes.
"""

from __future__ import annotations

__all__ = ["default_accelerator", "denoising_loss", "fit_denoiser", "learning_rate", "noise_levels"]

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from scipy.special import betaincinv
from torch import Tensor, nn

from mvss.presets.training import TrainingConfig
from mvss.priors.augmentation import TURNS, turned_each
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

QUANTILES = 2**14  # of t; finer than any batch can tell
REPORT = 100  # steps between records, and between looks at the loss, which stall a GPU
MOMENTUM = 0.9  # of Adam
HELD_OUT_LEVELS = 8  # noise levels per held-out draw
FEW = 32  # draws by which it is judged whether training has gone wrong
RISE = 0.5  # of their loss, or as much as it was: losses are of the order of one


def noise_levels(config: TrainingConfig) -> Tensor:
    """Equally probable quantiles of σ, ascending, (QUANTILES,), float64: a uniform index makes a draw of σ."""
    middles = (torch.arange(QUANTILES, dtype=torch.float64) + 0.5) / QUANTILES
    t = torch.from_numpy(betaincinv(*config.beta, middles.numpy()))
    return (math.log(config.sigma_min) + t * math.log(config.sigma_max / config.sigma_min)).exp()


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
        self.levels, self.turns, self.shifts = noise_levels(config).to(draws.dtype), config.turns, config.shifts
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

    Raises MvssError if draws are missing or not finite, nothing is trainable, the loss stops being finite, or training has
    raised it far above what it was.
    """
    _require_draws(draws)
    if config.turns and (draws.ndim < 4 or draws.shape[-1] != draws.shape[-2]):
        raise MvssError(f"training.turns is for square images, not for draws of shape {tuple(draws.shape[1:])}: leave it out")
    if config.shifts and draws.ndim < 4:
        raise MvssError(f"training.shifts is for images, not for draws of shape {tuple(draws.shape[1:])}: leave it out")
    trainable = [p for p in denoiser.parameters() if p.requires_grad]
    if not trainable:
        raise MvssError("the denoiser has no trainable parameter: give it a network or leave out its training")
    denoiser.to(accelerator.device)
    draws = draws.detach().to(trainable[0].dtype).to(accelerator.device)
    few, keyed = draws[:FEW], stream.child("fallen")
    before = denoising_loss(denoiser, few, config, keyed)
    with _mode(denoiser, True, stream.generator("dropout", accelerator.process_index)):
        loss = _train(denoiser, trainable, _Batches(draws, config, stream, accelerator), config, accelerator)
    after = denoising_loss(denoiser, few, config, keyed)
    if not after - before <= max(RISE, abs(before)):
        raise MvssError(f"training raised the loss from {before:.3g} to {after:.3g}: choose a smaller learning rate")
    return loss


@contextmanager
def _mode(denoiser: nn.Module, training: bool, rng: torch.Generator) -> Iterator[None]:
    """Training or not, with the global generator, which dropout and made observations draw from, seeded by another one; both
    are left as they were found."""
    modes = [(module, module.training) for module in denoiser.modules()]
    with torch.random.fork_rng():
        try:
            torch.manual_seed(rng.initial_seed())
            denoiser.train(training)
            yield
        finally:
            for module, mode in modes:
                module.training = mode


def _train(
    denoiser: nn.Module, trainable: list[nn.Parameter], batches: _Batches, config: TrainingConfig, accelerator: Accelerator
) -> list[tuple[int, float]]:
    adam = torch.optim.Adam(trainable, lr=config.learning_rate, betas=(MOMENTUM, config.decay), fused=True)
    objective, optimizer = accelerator.prepare(_Objective(denoiser), adam)
    try:
        ema = EMAModel(trainable, decay=config.ema_decay, foreach=True) if config.ema_decay else None
        loss = _descend(objective, optimizer, trainable, ema, batches, config, accelerator)
        if ema is not None:
            ema.copy_to(trainable)
    finally:
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
    draws, levels = (values.to(like.dtype).to(like.device) for values in (draws, noise_levels(config)))
    # only the errors of two networks compare, not what they say of them
    measure: Callable[..., Tensor] = getattr(denoiser, "error", None) or denoiser.loss  # type: ignore[assignment]
    total = 0.0
    with _mode(denoiser, False, stream.generator("held-out")):
        for start in range(0, len(draws), config.batch):
            x = draws[start : start + config.batch]
            index = torch.arange(start, start + len(x))
            t = stream.uniform(index, (HELD_OUT_LEVELS,), "held-out", "level")
            sigma = levels[(t * QUANTILES).long().clamp(max=QUANTILES - 1).to(levels.device)]
            for k in range(HELD_OUT_LEVELS):
                noise = stream.normal(index, tuple(x.shape[1:]), "held-out", "noise", k, dtype=x.dtype, device=x.device)
                total += measure(x, sigma[:, k], noise, None).item() * len(x)
    return total / (HELD_OUT_LEVELS * len(draws))
