"""Networks of our own."""

import torch

from xraykit.nets import ResidualBlock, SmallEncoder


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
