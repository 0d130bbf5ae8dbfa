"""TimeMLP, ImageUNet and SignalUNet: zero at start, sensitive to the noise level, at home under torch.func and on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.func import jacrev, jvp, vmap

from mvss.presets.training import NetworkConfig
from mvss.priors.networks import ImageUNet, SignalUNet, TimeMLP, build_network, network_named
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import Stream

both = pytest.mark.parametrize("conditioning", ["film", "concat"])


def network(conditioning: str, features: int = 5) -> TimeMLP:
    """A float64 network whose last layer is drawn at random in place of zero."""
    torch.manual_seed(0)
    net = TimeMLP(features, hidden=(32, 24), embedding=16, conditioning=conditioning).double()
    torch.nn.init.normal_(net.output.weight)
    return net


@both
@pytest.mark.parametrize("shape", [(), (6,), (2, 3)])
def test_shape_is_kept_and_start_is_zero(conditioning: str, shape: tuple[int, ...]) -> None:
    net = TimeMLP(torch.Size(shape).numel(), hidden=(32, 24), embedding=16, conditioning=conditioning)
    out = net(torch.randn(7, *shape), torch.randn(7))
    assert out.shape == (7, *shape)
    assert torch.equal(out, torch.zeros_like(out))
    assert all(p.dtype == torch.float32 for p in net.parameters())


@both
def test_neighbouring_noise_levels_are_told_apart(conditioning: str) -> None:
    net = network(conditioning)
    x = torch.randn(512, 5, dtype=torch.float64)
    log_sigma = torch.linspace(-7, 5, 512, dtype=torch.float64)
    before, near, far = (net(x, log_sigma + shift) for shift in (0, 0.1, 3))
    near, far = ((level - before).square().mean(1).sqrt() for level in (near, far))
    assert near.min() > 1e-3 * before.std()
    assert 0.1 * far.mean() < near.mean() < 0.6 * far.mean()  # a tenth of the whole response at least, yet smooth


@both
def test_rows_are_independent_and_a_shared_level_may_be_given_once(conditioning: str) -> None:
    net = network(conditioning)
    x, log_sigma = torch.randn(9, 5, dtype=torch.float64), torch.randn(9, dtype=torch.float64)
    whole = net(x, log_sigma)
    torch.testing.assert_close(torch.cat([net(x[i : i + 1], log_sigma[i : i + 1]) for i in range(9)]), whole)
    torch.testing.assert_close(net(x, log_sigma[:1]), net(x, log_sigma[:1].expand(9)))


@both
def test_torch_func_agrees_with_finite_differences(conditioning: str) -> None:
    net = network(conditioning)
    x, log_sigma = torch.randn(4, 5, dtype=torch.float64), torch.randn(4, dtype=torch.float64)

    def single(x: torch.Tensor, log_sigma: torch.Tensor) -> torch.Tensor:
        return net(x[None], log_sigma[None])[0]

    jacobian = vmap(jacrev(single))(x, log_sigma)
    assert jacobian.shape == (4, 5, 5)
    v = torch.randn_like(x)
    product = torch.einsum("nij,nj->ni", jacobian, v)
    torch.testing.assert_close(jvp(lambda x: net(x, log_sigma), (x,), (v,))[1], product)
    h = 1e-5
    torch.testing.assert_close((net(x + h * v, log_sigma) - net(x - h * v, log_sigma)) / (2 * h), product, rtol=1e-6, atol=1e-7)


@both
def test_save_and_load(conditioning: str, tmp_path: Path) -> None:
    net = network(conditioning).float()
    net.save_pretrained(tmp_path)
    again = TimeMLP.from_pretrained(tmp_path)
    assert (again.film, again.widths) == (net.film, net.widths) == (conditioning == "film", (32, 24))
    x, log_sigma = torch.randn(3, 5), torch.randn(3)
    assert torch.equal(again(x, log_sigma), net(x, log_sigma))


@pytest.mark.parametrize(
    "arguments",
    [{"conditioning": "add"}, {"features": 0}, {"hidden": ()}, {"hidden": (8, 0)}, {"embedding": 7}, {"embedding": 0}],
)
def test_bad_arguments_are_refused_in_one_line(arguments: dict) -> None:
    with pytest.raises(MvssError) as error:
        TimeMLP(**({"features": 5} | arguments))
    assert "\n" not in str(error.value)


def unet() -> ImageUNet:
    torch.manual_seed(0)
    net = ImageUNet(1, 12, 2, (4, 8, 8))
    torch.nn.init.normal_(net.net.conv_out.weight)
    return net.eval()


def test_a_unet_starts_at_zero_and_keeps_the_shape_of_one_image() -> None:
    net = ImageUNet(3, 8, 2, (8, 16))
    out = net(torch.randn(2, 2, 3, 8, 8), torch.randn(2))
    assert out.shape == (2, 3, 8, 8) and not out.any()


def test_squares_of_pixels_come_back_where_they_were() -> None:
    torch.manual_seed(0)
    net = ImageUNet(1, 8, 2, (8, 16), outputs=2, patch=2)
    whole = ImageUNet(4, 4, 2, (8, 16), outputs=2)
    whole.net.load_state_dict(net.net.state_dict())
    for each in (net, whole):
        torch.nn.init.ones_(each.net.conv_out.weight)
    x, log_sigma = torch.randn(3, 2, 1, 8, 8), torch.randn(3)
    corners = x.reshape(3, 2, 4, 2, 4, 2).permute(0, 1, 3, 5, 2, 4).reshape(3, 2, 4, 4, 4)
    out, expected = net(x, log_sigma), whole(corners, log_sigma)
    assert out.shape == (3, 2, 8, 8) and bool(out.any())
    back = expected.reshape(3, 2, 2, 2, 4, 4).permute(0, 1, 4, 2, 5, 3).reshape(3, 2, 8, 8)
    assert torch.allclose(out, back, atol=1e-6)


def test_a_size_that_is_no_multiple_of_the_patch_is_refused() -> None:
    with pytest.raises(MvssError, match="patch=3"):
        ImageUNet(1, 8, 2, (8,), patch=3)


def test_a_unet_takes_images_of_two_sides_that_both_suit_it() -> None:
    net = build_network(NetworkConfig(blocks=(8, 16)), (1, 4, 6), 2, 1, Stream(0))
    torch.nn.init.ones_(net.net.conv_out.weight)
    again = network_named("ImageUNet", json.loads(net.to_json_string())).eval()
    again.load_state_dict(net.state_dict())
    x, log_sigma = torch.randn(3, 2, 1, 4, 6), torch.randn(3)
    assert net(x, log_sigma).shape == (3, 1, 4, 6) and torch.equal(again(x, log_sigma), net(x, log_sigma))
    for shape in ((1, 4, 7), (1, 7, 4)):
        with pytest.raises(MvssError, match=rf"multiples of 2, not {shape[1]} × {shape[2]}"):
            build_network(NetworkConfig(blocks=(8, 16)), shape, 2, 1, Stream(0))


@torch.no_grad()
def test_a_unet_tells_neighbouring_noise_levels_apart() -> None:
    net, x = unet(), torch.randn(64, 2, 1, 12, 12)
    log_sigma = torch.linspace(-6, 4, 64)
    before, near, far = (net(x, log_sigma + shift) for shift in (0, 0.1, 3))
    near, far = ((level - before).square().mean((1, 2, 3)).sqrt() for level in (near, far))
    assert near.min() > 1e-3 * before.std() and near.mean() > 0.05 * far.mean()


def test_a_unet_is_saved_and_loaded(tmp_path: Path) -> None:
    net = unet()
    net.save_pretrained(tmp_path)
    x, log_sigma = torch.randn(3, 2, 1, 12, 12), torch.randn(3)
    assert torch.equal(ImageUNet.from_pretrained(tmp_path).eval()(x, log_sigma), net(x, log_sigma))


@pytest.mark.parametrize("arguments", [{"size": 30}, {"blocks": ()}, {"blocks": (8, 0)}, {"layers": 0}])
def test_bad_arguments_of_a_unet_are_refused_in_one_line(arguments: dict) -> None:
    with pytest.raises(MvssError, match="U-Net needs"):
        ImageUNet(**({"blocks": (8, 8, 8)} | arguments))


def signals(patch: int = 1) -> SignalUNet:
    torch.manual_seed(0)
    net = SignalUNet(2, 16, 3, (8, 16), outputs=2, patch=patch)
    torch.nn.init.normal_(net.net.out_block.final_conv1d_2.weight)
    return net.eval()


def test_a_unet_of_signals_starts_at_zero_and_keeps_their_shape() -> None:
    net = build_network(NetworkConfig(blocks=(8, 16), signals=True), (2, 16), 3, 1, Stream(0))
    out = net(torch.randn(4, 3, 2, 16), torch.randn(4))
    assert isinstance(net, SignalUNet) and out.shape == (4, 2, 16) and not out.any()
    assert isinstance(build_network(NetworkConfig(), (2, 3), 2, 1, Stream(0)), TimeMLP)  # of vectors, whatever their shape


@torch.no_grad()
def test_neighbours_that_enter_as_channels_come_back_where_they_were() -> None:
    net = signals(patch=2)
    whole = SignalUNet(4, 8, 3, (8, 16), outputs=2)
    whole.net.load_state_dict(net.net.state_dict())
    x, log_sigma = torch.randn(4, 3, 2, 16), torch.randn(4)
    folded = x.reshape(4, 3, 2, 8, 2).permute(0, 1, 2, 4, 3).reshape(4, 3, 4, 8)
    back = whole.eval()(folded, log_sigma).reshape(4, 4, 2, 8).permute(0, 1, 3, 2).reshape(4, 4, 16)
    assert bool(back.any())
    torch.testing.assert_close(net(x, log_sigma), back)


@torch.no_grad()
def test_a_unet_of_signals_tells_neighbouring_noise_levels_apart() -> None:
    net, x, log_sigma = signals(), torch.randn(64, 3, 2, 16), torch.linspace(-6, 4, 64)
    before, near, far = (net(x, log_sigma + shift) for shift in (0, 0.1, 3))
    near, far = ((level - before).square().mean((1, 2)).sqrt() for level in (near, far))
    assert near.min() > 1e-3 * before.std() and near.mean() > 0.02 * far.mean()


@torch.no_grad()
def test_a_unet_of_signals_is_made_again_from_its_config() -> None:
    net = signals(patch=2)
    again = network_named("SignalUNet", net.config).eval()
    again.load_state_dict(net.state_dict())
    x, log_sigma = torch.randn(3, 3, 2, 16), torch.randn(3)
    assert torch.equal(again(x, log_sigma), net(x, log_sigma))


@pytest.mark.parametrize("arguments", [{"length": 30}, {"blocks": (8, 12)}, {"blocks": ()}, {"patch": 3}, {"layers": 0}])
def test_bad_arguments_of_a_unet_of_signals_are_refused_in_one_line(arguments: dict) -> None:
    with pytest.raises(MvssError, match=r"U-Net needs (blocks that are multiples of 8|sides that are multiples)"):
        SignalUNet(**({"blocks": (8, 8, 8)} | arguments))
