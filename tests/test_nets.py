"""Networks of our own."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from xraykit.errors import DataError
from xraykit.nets import BaselineCnn, ResidualBlock, SmallEncoder


def test_the_small_encoder_has_the_size_and_the_maps_it_promises() -> None:
    encoder = SmallEncoder().eval()
    # Stem 5*5*32 + 2*32; a block from c to 2c: 9*c*2c + 9*(2c)^2 + two batch norms of 2c + shortcut c*2c.
    blocks = sum(9 * c * 2 * c + 9 * (2 * c) ** 2 + 8 * c + 2 * c * c for c in (32, 64, 128))
    assert sum(p.numel() for p in encoder.parameters()) == 25 * 32 + 64 + blocks
    assert 1_100_000 < 25 * 32 + 64 + blocks < 1_300_000
    for size in (64, 96, 128):
        assert encoder(torch.rand(2, 1, size, size)).shape == (2, 256, size // 16, size // 16)
    assert SmallEncoder(8)(torch.rand(1, 1, 32, 32)).shape == (1, 64, 2, 2)


def test_a_block_whose_convolutions_are_zero_passes_the_shortcut() -> None:
    block = ResidualBlock(1, 2).eval()
    for parameter in block.body.parameters():
        torch.nn.init.zeros_(parameter)
    block.shortcut[1].weight.data = torch.tensor([2.0, -1.0]).view(2, 1, 1, 1)
    x = torch.arange(16.0).view(1, 1, 4, 4)
    means = torch.tensor([[2.5, 4.5], [10.5, 12.5]])  # of the four 2 x 2 squares
    torch.testing.assert_close(block(x)[0], torch.stack([2 * means, torch.zeros(2, 2)]))


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_the_baseline_has_the_size_and_the_maps_it_promises(norm: str) -> None:
    net = BaselineCnn(norm=norm).eval()
    # Channels of the seven convolutions; each map has two weights of its norm.
    pairs = [(1, 32), (32, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256)]
    count = sum(9 * channels * out + 2 * out for channels, out in pairs)
    assert sum(p.numel() for p in net.parameters()) == count
    assert 1_150_000 < count < 1_250_000
    for size in (8, 30, 64):
        assert net(torch.rand(2, 1, size, size)).shape == (2, 256, size // 8, size // 8)
    assert BaselineCnn(3, norm=norm)(torch.rand(2, 1, 16, 16)).shape == (2, 24, 2, 2)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_the_light_one_has_the_size_and_the_maps_it_promises(norm: str) -> None:
    net = BaselineCnn(16, norm=norm, light=True).eval()
    count = 25 * 16 + 32 + sum(9 * c * 2 * c + 4 * c for c in (16, 32, 64))
    assert sum(p.numel() for p in net.parameters()) == count == 97_648
    for size in (16, 64, 128, 224):
        assert net(torch.rand(2, 1, size, size)).shape == (2, 128, size // 16, size // 16)


def operations(net: nn.Module, size: int) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, 1, size, size))
    return counter.get_total_flops()


@pytest.mark.parametrize("width", [8, 16, 32])
@pytest.mark.parametrize("size", [64, 224])
def test_the_light_one_takes_a_tenth_of_the_operations_and_a_third_of_the_weights(
    width: int, size: int
) -> None:
    full, light = (BaselineCnn(width, light=light).eval() for light in (False, True))
    assert 10 < operations(full, size) / operations(light, size) < 12
    full, light = (sum(p.numel() for p in net.parameters()) for net in (full, light))
    assert light / full == pytest.approx(1 / 3, abs=0.01)
    # By hand: two operations for each weight of a convolution and each pixel of its map.
    maps = [(25, width, size // 2), *((9 * width**2 * 2 * 4**i, 1, size // 2 ** (i + 2)) for i in range(3))]
    expected = sum(2 * weights * channels * side**2 for weights, channels, side in maps)
    assert operations(BaselineCnn(width, light=True), size) == expected


def test_blocks_are_convolution_norm_and_relu_with_pooling_between() -> None:
    kinds = [type(layer).__name__ for layer in BaselineCnn(4).layers]
    one = ["Conv2d", "BatchNorm2d", "ReLU"]
    assert kinds == one + (["MaxPool2d"] + 2 * one) * 3
    light = BaselineCnn(4, light=True).layers
    assert [type(layer).__name__ for layer in light] == one + ["MaxPool2d", *one] * 3
    convolutions = [layer for layer in light if isinstance(layer, nn.Conv2d)]
    assert [layer.kernel_size for layer in convolutions] == [(5, 5)] + [(3, 3)] * 3
    assert [layer.stride for layer in convolutions] == [(2, 2)] + [(1, 1)] * 3


@pytest.mark.parametrize(("width", "groups"), [(32, [8] * 7), (4, [4, *[8] * 6]), (3, [1, 2, 2, 4, 4, 8, 8])])
def test_groups_divide_the_channels(width: int, groups: list[int]) -> None:
    norms = [layer for layer in BaselineCnn(width, norm="group").layers if isinstance(layer, nn.GroupNorm)]
    assert [norm.num_groups for norm in norms] == groups


def test_group_norm_computes_each_image_on_its_own() -> None:
    images = torch.rand(6, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    group, batch = (BaselineCnn(4, norm=norm).train() for norm in ("group", "batch"))
    torch.testing.assert_close(torch.cat([group(images[:2]), group(images[2:])]), group(images))
    assert not torch.allclose(torch.cat([batch(images[:2]), batch(images[2:])]), batch(images), atol=1e-3)


@pytest.mark.parametrize(("width", "norm"), [(0, "batch"), (8, "layer")])
def test_baselines_that_do_not_exist(width: int, norm: str) -> None:
    with pytest.raises(
        DataError, match=f"width = {width} and norm = '{norm}'; use at least 1, and batch or g"
    ):
        BaselineCnn(width, norm=norm)
