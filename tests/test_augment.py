"""Augmentation: seeded by image, exact where it can be, and the same as SciPy's where it interpolates."""

import math
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage, stats

from xraykit.augment import (
    CHANGES,
    MISTAKES,
    Augment,
    augment,
    quarter_turns_and_flips,
    splitmix64,
    uniforms,
    warp,
)
from xraykit.errors import DataError

OFF = Augment(rotation=0, translation=0, zoom=0, contrast=0, brightness=0)
STRONG = Augment(rotation=45, translation=0.2, zoom=0.5, contrast=0.9, brightness=0.5, flip=0.5)


def grey(n: int, size: int = 24, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 1, size, size, generator=torch.Generator().manual_seed(seed))


def smooth(n: int, size: int = 48) -> torch.Tensor:
    """Random images without sharp edges, .3 to .7."""
    blurred = ndimage.gaussian_filter(grey(n, size).numpy(), (0, 0, 3, 3))
    return torch.from_numpy(0.3 + 0.4 * (blurred - blurred.min()) / np.ptp(blurred))


# The random numbers


def test_hash_is_splitmix64():
    """The first outputs for seed 1234567, as published with implementations in many languages."""
    found = splitmix64(np.array([1234567], np.uint64), np.arange(5, dtype=np.uint64))
    assert found.tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def splitmix64_by_state(seed: int, place: int) -> int:
    """The generator as the paper writes it: a state that moves on, in Python's whole numbers."""
    state, mask = seed, 2**64 - 1
    for _ in range(place + 1):
        state = (state + 0x9E3779B97F4A7C15) & mask
    z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


@given(st.integers(0, 2**63 - 1), st.integers(0, 50), st.integers(0, 50), st.integers(0, 10))
def test_uniforms_are_the_nested_sequences(seed, epoch, image, column):
    state = seed
    for place in (epoch, image, column):
        state = splitmix64_by_state(state, place)
    found = uniforms(np.array([image]), epoch=epoch, seed=seed, columns=range(column, column + 1))
    assert found.tolist() == [[(state >> 11) / 2**53]]


def test_uniforms_are_uniform_for_ids_and_for_epochs():
    by_id = uniforms(np.arange(20_000), epoch=3, seed=0, columns=range(9))
    by_epoch = np.concatenate(
        [uniforms(np.array([5]), epoch=e, seed=0, columns=range(9)) for e in range(5000)]
    )
    for drawn in (by_id, by_epoch):
        assert 0 <= drawn.min() < drawn.max() < 1
        assert min(stats.kstest(column, "uniform").pvalue for column in drawn.T) > 0.001


def test_columns_epochs_seeds_and_neighbouring_ids_are_uncorrelated():
    """Of 20,000 pairs a correlation has standard deviation .007; 5 of them is .035."""
    ids = np.arange(20_000)
    kinds = [
        uniforms(ids + shift, epoch=epoch, seed=seed, columns=range(9))
        for shift, epoch, seed in [(0, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 0), (2**40, 0, 0)]
    ]
    together = np.hstack(kinds)
    assert len(np.unique(together[:, :36])) > 36 * 20_000 - 9 * 20_000  # only shifted ids repeat
    correlation = np.corrcoef(together.T) - np.eye(45)
    assert abs(correlation).max() < 0.035


def test_a_column_does_not_depend_on_which_others_are_asked_for():
    ids = np.array([3, 1, 4])
    drawn = uniforms(ids, epoch=2, seed=7, columns=range(9))
    assert np.array_equal(
        drawn,
        np.hstack([uniforms(ids, epoch=2, seed=7, columns=columns) for columns in (CHANGES, MISTAKES)]),
    )


# Seeded by image


@given(
    st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=9),
    st.integers(0, 1000),
    st.integers(0, 2**63 - 1),
    st.randoms(use_true_random=False),
)
def test_batch_and_order_do_not_matter(ids, epoch, seed, random):
    images, ids = grey(len(ids)), np.array(ids)
    order = random.sample(range(len(ids)), len(ids))
    for change in (
        lambda x, i: augment(x, i, epoch=epoch, seed=seed, options=STRONG),
        lambda x, i: quarter_turns_and_flips(x, i, epoch=epoch, seed=seed),
    ):
        whole = change(images, ids)
        alone = torch.cat([change(images[i : i + 1], ids[i : i + 1]) for i in range(len(ids))])
        torch.testing.assert_close(alone, whole, atol=1e-6, rtol=0)
        torch.testing.assert_close(change(images[order], ids[order]), whole[order], atol=1e-6, rtol=0)
        assert whole.shape == images.shape
        assert 0 <= whole.min() <= whole.max() <= 1


CHILD = """
import numpy as np, torch
from xraykit.augment import Augment, augment
x = torch.linspace(0, 1, 1024).view(1, 1, 32, 32)
print(augment(x, np.array([17]), epoch=2, seed=5, options=Augment()).double().sum().item())
"""


def test_another_process_does_the_same():
    x = torch.linspace(0, 1, 1024).view(1, 1, 32, 32).repeat(4, 1, 1, 1)
    here = augment(x, np.array([3, 17, 9, 1]), epoch=2, seed=5, options=Augment())[1].double().sum().item()
    there = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True).stdout
    assert float(there) == pytest.approx(here, rel=1e-6)


def test_epoch_seed_and_id_each_change_the_image():
    x, ids = smooth(1), np.array([4])
    first = augment(x, ids, epoch=0, seed=0, options=Augment())
    for other in (
        augment(x, ids, epoch=1, seed=0, options=Augment()),
        augment(x, ids, epoch=0, seed=1, options=Augment()),
        augment(x, ids + 1, epoch=0, seed=0, options=Augment()),
    ):
        assert (other - first).abs().mean() > 0.01


def test_inputs_and_the_global_generators_are_left_alone():
    x, ids = grey(3), np.arange(3)
    before, torch_state, numpy_state = x.clone(), torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    for options in (OFF, STRONG):
        augment(x, ids, epoch=0, seed=0, options=options).zero_()
    quarter_turns_and_flips(x, ids, epoch=0, seed=0).zero_()
    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


# What is done to an image


@given(st.integers(0, 10_000))
def test_everything_off_changes_nothing(seed):
    x = grey(3, seed=seed)
    assert torch.equal(augment(x, np.arange(3), epoch=seed, seed=seed, options=OFF), x)


def test_flip_always_is_the_mirror_image_and_half_of_the_time_about_half():
    x, ids = grey(400, size=4), np.arange(400)
    assert torch.equal(
        augment(x, ids, epoch=0, seed=0, options=replace(OFF, flip=1)),
        torch.from_numpy(x.numpy()[..., ::-1].copy()),
    )
    half = augment(x, ids, epoch=0, seed=0, options=replace(OFF, flip=0.5))
    mirrored = (half != x).any(-1).any(-1)[:, 0]
    assert torch.equal(half, torch.where(mirrored.view(-1, 1, 1, 1), x.flip(-1), x))
    assert 150 < mirrored.sum() < 250  # 200, 5 standard deviations of 10


def test_never_mirrored_by_default():
    """What brightens to the right does so after every default change, and the same downwards."""
    ramp = torch.linspace(0, 1, 64).expand(300, 1, 64, 64)
    for x, axis in ((ramp, -1), (ramp.transpose(-1, -2), -2)):
        changed = augment(x, np.arange(300), epoch=0, seed=0, options=Augment())
        first, last = changed.narrow(axis, 0, 16), changed.narrow(axis, 48, 16)
        assert (last.mean((1, 2, 3)) - first.mean((1, 2, 3)) > 0.3).all()


@pytest.mark.parametrize(("right", "down"), [(3, 0), (-5, 2), (0, -1)])
def test_a_shift_by_whole_pixels_moves_the_pixels(right, down):
    x, side = grey(2, size=32), 32
    still = torch.zeros(2)
    moved = warp(
        x,
        size=side,
        angle=still,
        zoom=still + 1,
        right=still + 2 * right / side,
        down=still + 2 * down / side,
    )
    rows, columns = (np.clip(np.arange(side) + by, 0, side - 1) for by in (down, right))
    expected = x.numpy()[..., rows[:, None], columns]  # edges are continued
    np.testing.assert_allclose(moved.numpy(), expected, atol=1e-5)


def by_scipy(image: np.ndarray, *, degrees: float, factor: float, right: float, down: float) -> np.ndarray:
    """Turned counter-clockwise and magnified about the middle; `right`, `down` in pixels of the image."""
    cos, sin = math.cos(math.radians(degrees)) / factor, math.sin(math.radians(degrees)) / factor
    matrix = np.array([[cos, sin], [-sin, cos]])  # (row, column) of the result to those of the image
    middle = (np.array(image.shape) - 1) / 2
    offset = middle + np.array([down, right]) - matrix @ middle
    return ndimage.affine_transform(image.astype(float), matrix, offset, order=1, mode="nearest")


@pytest.mark.parametrize(
    ("degrees", "factor", "right", "down"), [(30, 1, 0, 0), (-10, 1.2, 3.3, -1.7), (4, 0.8, 0, 5)]
)
def test_warp_is_scipys_affine_transform(degrees, factor, right, down):
    x = smooth(1, size=40)
    found = warp(
        x,
        size=40,
        angle=torch.tensor([math.radians(degrees)]),
        zoom=torch.tensor([1 / factor]),
        right=torch.tensor([right / 20]),
        down=torch.tensor([down / 20]),
    )
    expected = by_scipy(x[0, 0].numpy(), degrees=degrees, factor=factor, right=right, down=down)
    np.testing.assert_allclose(found[0, 0].numpy(), expected, atol=2e-5)


def test_a_quarter_turn_of_warp_is_counter_clockwise():
    x, still = grey(1), torch.zeros(1)
    turned = warp(x, size=24, angle=still + math.pi / 2, zoom=still + 1, right=still, down=still)
    np.testing.assert_allclose(turned[0, 0], np.rot90(x[0, 0].numpy()), atol=1e-4)


@pytest.mark.parametrize("options", [Augment(), replace(STRONG, flip=1)])
def test_augment_is_the_drawn_change_by_scipy(options):
    """The whole chain image by image, from the draws, in float64."""
    x, ids, side = smooth(6), np.array([5, 0, 9, 77, 2**40, 1]), 48
    found = augment(x, ids, epoch=4, seed=11, options=options)
    drawn = uniforms(ids, epoch=4, seed=11, columns=CHANGES)
    for image, result, u in zip(x[:, 0].numpy(), found[:, 0], drawn, strict=True):
        angle, right, down, zoom, contrast, brightness = 2 * u[:6] - 1
        image = image[:, ::-1] if options.flip == 1 else image
        moved = by_scipy(
            image,
            degrees=options.rotation * angle,
            factor=1 + options.zoom * zoom,
            right=options.translation * right * side,
            down=options.translation * down * side,
        )
        c, b = 1 + options.contrast * contrast, options.brightness * brightness
        expected = ((moved - moved.mean()) * c + moved.mean() + b).clip(0, 1)
        np.testing.assert_allclose(result, expected, atol=5e-5)


def test_contrast_keeps_the_mean_and_scales_the_deviation():
    x, ids = smooth(50), np.arange(50)
    changed = augment(x, ids, epoch=0, seed=0, options=replace(OFF, contrast=0.2))
    torch.testing.assert_close(changed.mean((1, 2, 3)), x.mean((1, 2, 3)), atol=1e-5, rtol=0)
    factors = changed.std((1, 2, 3)) / x.std((1, 2, 3))
    assert 0.8 <= factors.min() < 0.85 < 1.15 < factors.max() <= 1.2


def test_brightness_adds_one_number_to_an_image():
    x, ids = smooth(50), np.arange(50)
    added = augment(x, ids, epoch=0, seed=0, options=replace(OFF, brightness=0.1)) - x
    assert added.std((1, 2, 3)).max() < 1e-6
    assert -0.1 <= added.min() < -0.08 < 0.08 < added.max() <= 0.1


def test_grey_levels_are_cut_not_wrapped():
    x = torch.full((200, 1, 8, 8), 0.98)
    changed = augment(x, np.arange(200), epoch=0, seed=0, options=replace(OFF, brightness=0.1))
    assert changed.max() == 1
    assert (changed == 1).all((1, 2, 3)).sum() > 50  # 2 in 5 are raised by more than .02


def test_autocast_does_not_round_the_grid():
    x, ids = grey(4), np.arange(4)
    outside = augment(x, ids, epoch=0, seed=0, options=Augment())
    with torch.autocast("cpu", torch.bfloat16):
        inside = augment(x, ids, epoch=0, seed=0, options=Augment())
    assert torch.equal(inside, outside)


# The mistake


def test_quarter_turns_and_flips_are_numpys_and_equally_frequent():
    x, ids = grey(800, size=5), np.arange(800)
    changed = quarter_turns_and_flips(x, ids, epoch=0, seed=0).numpy()
    counts = np.zeros(8, int)
    for image, result in zip(x.numpy()[:, 0], changed[:, 0], strict=True):
        turned = [np.rot90(image, quarter) for quarter in range(4)]
        same = [np.array_equal(result, option) for option in turned + [np.flipud(t) for t in turned]]
        assert sum(same) == 1
        counts += same
    assert stats.chisquare(counts).pvalue > 0.001


def test_the_mistake_is_drawn_apart_from_augment():
    drawn = uniforms(np.arange(2000), epoch=0, seed=0, columns=range(9))
    assert not set(CHANGES) & set(MISTAKES)
    assert abs(np.corrcoef(drawn.T)[:7, 7:]).max() < 0.12  # 5 standard deviations of 1 / sqrt(2000)


# Bad input


@pytest.mark.parametrize("name", list(asdict(Augment())))
@pytest.mark.parametrize("value", [-0.01, 46, math.nan, math.inf, "much", None])
def test_a_bad_option_is_named_with_its_limit(name, value):
    with pytest.raises(DataError, match=rf"{name} = .*; choose a number from 0 \(off\) to "):
        Augment(**{name: value})


def test_the_limits_themselves_are_allowed():
    limits = Augment(rotation=45, translation=0.5, zoom=0.5, contrast=0.9, brightness=0.5, flip=1)
    changed = augment(grey(20), np.arange(20), epoch=0, seed=0, options=limits)
    assert changed.isfinite().all()
    assert 0 <= changed.min() <= changed.max() <= 1


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 8, 8), r"shape \(2, 8, 8\); give at least one grey square image"),
        (torch.zeros(2, 3, 8, 8), r"grey square image \(B, 1, S, S\)"),
        (torch.zeros(2, 1, 8, 9), "square"),
        (torch.zeros(0, 1, 8, 8), "at least one"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), "torch.uint8; give float32 in 0..1"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.float64), "torch.float64; give float32"),
        (torch.full((2, 1, 8, 8), 255.0), "from 255 to 255; give grey levels 0..1"),
        (torch.full((2, 1, 8, 8), -0.5), "from -0.5 to -0.5"),
        (torch.full((2, 1, 8, 8), math.nan), "from nan to nan"),
    ],
)
def test_images_that_are_not_a_grey_batch(images, message):
    for change in (lambda x, **keys: augment(x, options=OFF, **keys), quarter_turns_and_flips):
        with pytest.raises(DataError, match=message):
            change(images, ids=np.arange(2), epoch=0, seed=0)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.arange(3), r"ids of shape \(3,\) for 2 images"),
        (np.zeros((2, 1), int), r"ids of shape \(2, 1\)"),
        (np.array([0, -1]), "none below 0"),
        (np.array([0.0, 1.0]), "float64 of shape"),
        (np.array(["a", "b"]), "whole numbers"),
    ],
)
def test_ids_that_do_not_name_the_images(ids, message):
    with pytest.raises(DataError, match=message):
        augment(grey(2), ids, epoch=0, seed=0, options=OFF)


@pytest.mark.parametrize("value", [-1, 2**63, 0.5, None])
@pytest.mark.parametrize("name", ["epoch", "seed"])
def test_epoch_and_seed_are_whole_and_not_negative(name, value):
    with pytest.raises(DataError, match=rf"{name} = .*; choose a whole number from 0"):
        augment(grey(1), np.array([0]), **{"epoch": 0, "seed": 0, name: value}, options=OFF)
