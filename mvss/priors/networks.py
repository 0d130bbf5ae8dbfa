"""Networks F(x, log σ), the trainable part of a denoiser.

One layer of the perceptron, with e the embedding of log σ:

    FiLM      h ← SiLU(a(e) ⊙ LayerNorm(W h + b) + s(e))        in every layer (Perez et al. 2018)
    concat    h ← SiLU(LayerNorm(W [h, e] + b))                 in the first layer, SiLU(LayerNorm(W h + b)) after it

    e = MLP([sin ω_k log σ, cos ω_k log σ]_k),      ω_k geometric between 1/8 and 8

Images and signals go through diffusers' U-Nets, with log σ stretched to [0, 1000] over σ = 1e-3 … 1e2: their sinusoidal
embedding of times, made for integers, cannot tell small continuous ones apart. That of signals is the one of Janner et al.
(2022, arXiv 2205.09991): convolutions of five numbers, in whose every layer the noise level has a say.

Every network of mvss has the one call network(x, log_sigma) -> like x, for `x` (N, *shape) and `log_sigma` (N,).
"""

from __future__ import annotations

__all__ = [
    "LEAST", "MOST", "ImageUNet", "Network", "SignalUNet", "TimeMLP", "build_network", "frozen", "load_weights",
    "network_named", "variance_of",
]  # fmt: skip

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import UNet1DModel, UNet2DModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

from mvss.presets.training import NetworkConfig
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

CONDITIONINGS = ("film", "concat")
# log σ spans about [-7, 5]: the slowest wave does not repeat there; the fastest turns by 0.8 rad over a step of 0.1.
SLOWEST, FASTEST = 1 / 8, 8
LOWEST, HIGHEST = math.log(1e-3), math.log(1e2)

GROUPS = 8
"""Of channels that are normalised together in signals: diffusers' blocks have no other number."""

LEAST, MOST = -12.0, 3.0
"""h is kept within these: variances are c_out² times 6e-6 to 20."""


class TimeMLP(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Multilayer perceptron on flattened sources, conditioned on the noise level; zero before it is trained.

    As every network here it has the one call network(x, log_sigma). It works under `torch.func` and, after `.double()`,
    in float64; `save_pretrained` and `from_pretrained` come from diffusers.

    Arguments:
        features: number of elements of one source, the product of its shape.
        inputs: number of elements of one input; null for `features`.
        hidden: widths of the hidden layers.
        embedding: width of the embedding of log σ; even.
        conditioning: "film" (the embedding scales and shifts every layer) or "concat" (it joins the input).
        outputs: sources' worth of numbers that come out.

    Raises MvssError if an argument is out of range.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        features: int,
        hidden: tuple[int, ...] = (256, 256, 256),
        embedding: int = 64,
        conditioning: str = "film",
        inputs: int | None = None,
        outputs: int = 1,
    ) -> None:
        super().__init__()
        if conditioning not in CONDITIONINGS:
            raise MvssError(f"unknown conditioning {conditioning!r} of a TimeMLP: choose one of {', '.join(CONDITIONINGS)}")
        if features < 1 or not hidden or min(hidden) < 1 or embedding < 2 or embedding % 2:
            raise MvssError(
                f"a TimeMLP needs features and hidden widths of at least 1 and an even embedding,"
                f" not features={features}, hidden={tuple(hidden)}, embedding={embedding}"
            )
        self.film = conditioning == "film"
        self.widths = tuple(hidden)
        self.register_buffer("frequencies", torch.linspace(math.log(SLOWEST), math.log(FASTEST), embedding // 2).exp())
        self.embed = nn.Sequential(nn.Linear(embedding, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU())
        # One product with e serves all layers. W [x, e] is W_x x + W_e e, so a level that all share is embedded once.
        self.condition = nn.Linear(embedding, 2 * sum(hidden) if self.film else hidden[0])
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in zip((inputs or features, *hidden), hidden, strict=False))
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=not self.film) for width in hidden)
        self.output = nn.Linear(hidden[-1], outputs * features)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        if self.film:
            for scale in self.condition.bias.detach().split(self.widths * 2)[: len(hidden)]:
                scale.add_(1)

    def forward(self, x: Tensor, log_sigma: Tensor) -> Tensor:
        """F(x, log σ) for x (N, *shape) and log_sigma (N,), or (1,) if all N share the level: like x, or
        (N, outputs · features) where the input has another number of elements."""
        phase = log_sigma[:, None].to(x.dtype) * self.frequencies
        condition = self.condition(self.embed(torch.cat((phase.sin(), phase.cos()), dim=-1)))
        h = x.reshape(len(x), -1)
        if self.film:
            scales_shifts = condition.split(self.widths * 2, dim=-1)
            scales, shifts = scales_shifts[: len(self.widths)], scales_shifts[len(self.widths) :]
            for layer, norm, scale, shift in zip(self.layers, self.norms, scales, shifts, strict=True):
                h = functional.silu(torch.addcmul(shift, scale, norm(layer(h))))
        else:
            for k, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
                h = layer(h) + condition if k == 0 else layer(h)
                h = functional.silu(norm(h))
        out: Tensor = self.output(h)
        return out.reshape(x.shape) if out.shape[1] == x[0].numel() else out


class ImageUNet(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """U-Net on images `(N, C, H, W)`, conditioned on the noise level; zero before it is trained.

    Arguments:
        channels: C. size: H and W, or both in one; divisible by the patch, and then by two as often as there are blocks less
            one.
        inputs: images that one input holds, `(N, inputs, C, H, W)`. outputs: those that come out, one after another.
        blocks: channels of the resolutions, fine to coarse; attention on the last. layers: per block.
        patch: side of the squares of pixels that enter as channels of one (pixel unshuffle, Shi et al. 2016): the finest
            resolution, which costs the most, is left out.

    Raises MvssError if an argument is out of range.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        channels: int = 1,
        size: int | tuple[int, int] = 28,
        inputs: int = 2,
        blocks: tuple[int, ...] = (32, 64, 128),
        layers: int = 1,
        outputs: int = 1,
        patch: int = 1,
    ) -> None:
        super().__init__()
        sides = (size, size) if isinstance(size, int) else tuple(size)
        _require_sizes(sides, patch, blocks, min(channels, inputs, outputs, layers))
        halvings, self.patch = len(blocks) - 1, patch
        groups = next(g for g in (8, 4, 2, 1) if all(b % g == 0 for b in blocks))
        self.net: Any = UNet2DModel(
            sample_size=tuple(side // patch for side in sides),
            in_channels=inputs * channels * patch**2,
            out_channels=outputs * channels * patch**2,
            layers_per_block=layers,
            block_out_channels=tuple(blocks),
            down_block_types=("DownBlock2D",) * halvings + ("AttnDownBlock2D",),
            up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * halvings,
            norm_num_groups=groups,
            attention_head_dim=min(8, blocks[-1]),
        )
        _make_zero(self.net.conv_out)  # type: ignore[attr-defined]

    def forward(self, x: Tensor, log_sigma: Tensor) -> Tensor:
        """F(x, log σ) for x `(N, inputs, C, H, W)` and log_sigma `(N,)`: `(N, outputs · C, H, W)`."""
        out: Tensor = self.net(functional.pixel_unshuffle(x.flatten(1, 2), self.patch), _time(log_sigma)).sample
        return functional.pixel_shuffle(out, self.patch)


class SignalUNet(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """U-Net on signals `(N, C, L)`, conditioned on the noise level; zero before it is trained.

    Arguments:
        channels: C. length: L, divisible by the patch, and then by two as often as there are blocks less one.
        inputs: signals that one input holds, `(N, inputs, C, L)`. outputs: those that come out, one after another.
        blocks: channels of the resolutions, fine to coarse, multiples of eight. layers: per block.
        patch: neighbours that enter as channels of one.

    Raises MvssError if an argument is out of range.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        channels: int = 1,
        length: int = 64,
        inputs: int = 2,
        blocks: tuple[int, ...] = (32, 64, 128),
        layers: int = 1,
        outputs: int = 1,
        patch: int = 1,
    ) -> None:
        super().__init__()
        _require_sizes((length,), patch, blocks, min(channels, inputs, outputs, layers), GROUPS)
        self.patch = patch
        self.net: Any = UNet1DModel(
            sample_size=length // patch,
            in_channels=inputs * channels * patch,
            out_channels=outputs * channels * patch,
            time_embedding_type="positional",
            use_timestep_embedding=True,
            act_fn="mish",
            block_out_channels=tuple(blocks),
            layers_per_block=layers,
            down_block_types=("DownResnetBlock1D",) * len(blocks),
            mid_block_type="MidResTemporalBlock1D",
            up_block_types=("UpResnetBlock1D",) * (len(blocks) - 1),
            out_block_type="OutConv1DBlock",
            norm_num_groups=GROUPS,
        )
        _make_zero(self.net.out_block.final_conv1d_2)  # type: ignore[attr-defined]

    def forward(self, x: Tensor, log_sigma: Tensor) -> Tensor:
        """F(x, log σ) for x `(N, inputs, C, L)` and log_sigma `(N,)`: `(N, outputs · C, L)`."""
        folded = x.flatten(1, 2).unflatten(-1, (-1, self.patch)).mT.flatten(1, 2)
        out: Tensor = self.net(folded, _time(log_sigma)).sample
        return out.unflatten(1, (-1, self.patch)).mT.flatten(2)


Network = TimeMLP | ImageUNet | SignalUNet


def _require_sizes(sides: tuple[int, ...], patch: int, blocks: tuple[int, ...], least: int, multiple: int = 1) -> None:
    """least: of all else that must be positive. multiple: which blocks must be of."""
    unit = patch * 2 ** max(0, len(blocks) - 1)
    positive = bool(blocks) and min(least, patch, *blocks) >= 1
    if not positive or any(b % multiple for b in blocks):
        kind = "positive blocks" if multiple == 1 else f"blocks that are multiples of {multiple}"
        raise MvssError(f"a U-Net needs {kind} and positive layers and patches, not patch={patch}, blocks={tuple(blocks)}")
    if any(side < 1 or side % unit for side in sides):
        low = [side // unit * unit for side in sides]
        better = low if min(low) else [side + -side % unit for side in sides]
        there, wanted = (" × ".join(map(str, each)) for each in (sides, better))
        made = f"{there} (patch={patch}, blocks={tuple(blocks)}): {'crop' if min(low) else 'fill up'} to {wanted}"
        raise MvssError(f"a U-Net needs sides that are multiples of {unit}, not {made}")


def _make_zero(last: nn.Conv1d | nn.Conv2d) -> None:
    """What a network adds before it is trained."""
    for parameter in last.parameters():
        nn.init.zeros_(parameter)


def _time(log_sigma: Tensor) -> Tensor:
    return 1000 * (log_sigma - LOWEST) / (HIGHEST - LOWEST)


def build_network(config: NetworkConfig, shape: tuple[int, ...], inputs: int, outputs: int, stream: Stream) -> Network:
    """For sources of `shape`, with weights that the stream determines. inputs, outputs: sources' worth of numbers."""
    with torch.random.fork_rng():
        torch.manual_seed(stream.generator().initial_seed())
        if len(shape) == 3 and config.blocks:
            return ImageUNet(shape[0], shape[1:], inputs, config.blocks, config.layers, outputs, config.patch).eval()
        if len(shape) == 2 and config.blocks and config.signals:
            return SignalUNet(shape[0], shape[1], inputs, config.blocks, config.layers, outputs, config.patch).eval()
        size = math.prod(shape)
        return TimeMLP(size, config.hidden, config.embedding, config.conditioning, inputs * size, outputs).eval()


def network_named(kind: str, arguments: Mapping[str, Any]) -> Network:
    """An untrained network of a kind, made with what another one's `config` holds. (diffusers' from_config takes what was
    given by place for left at its default.)"""
    kinds: dict[str, Any] = {"TimeMLP": TimeMLP, "ImageUNet": ImageUNet, "SignalUNet": SignalUNet}
    network: Network = kinds[kind](**{name: v for name, v in arguments.items() if not name.startswith("_")})
    return network


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """Give a module all of its weights. what: they are, for the error.

    Raises MvssError where a tensor is missing, of another shape or of no use here, or holds NaN or infinite values.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    if wrong := sorted(name for name in {**shapes, **weights} if shapes.get(name) != _shape(weights.get(name))):
        raise MvssError(f"{what}: {len(wrong)} tensors are missing or of another network, {wrong[0]} among them")
    if bad := [name for name, tensor in weights.items() if not bool(torch.isfinite(tensor).all())]:
        raise MvssError(f"{what}: {bad[0]} holds NaN or infinite values")
    module.load_state_dict(weights)


def _shape(tensor: Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Modules whose parameters ask for no gradient while the block runs, and as before after it."""
    asked = [(parameter, parameter.requires_grad) for module in modules for parameter in module.parameters()]
    try:
        for parameter, _ in asked:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, before in asked:
            parameter.requires_grad_(before)


def variance_of(h: Tensor) -> Tensor:
    """exp(h), in units of c_out²."""
    return h.clamp(LEAST, MOST).exp()
