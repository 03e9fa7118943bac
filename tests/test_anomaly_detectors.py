"""Detectors that look at an autoencoder's errors."""

import numpy as np
import pytest
import torch

from xraykit import anomaly_detectors
from xraykit.anomaly_detectors import OnErrors
from xraykit.autoencoder import Autoencoder, reconstructions
from xraykit.errors import DataError


class Grey(Autoencoder):
    """Gives every image back as mid-grey, 0.5."""

    def reconstruct(self, x: torch.Tensor) -> torch.Tensor:
        return torch.full_like(x, 0.5)


def images(n: int = 5) -> np.ndarray:
    """Black images, image i with i white pixels."""
    made = np.zeros((n, 16, 16), np.uint8)
    for i in range(n):
        made[i].flat[:i] = 255
    return made


def test_scores_by_hand() -> None:
    bright = images()
    bright[3].flat[:64] = 128  # a quarter of the pixels is almost given back
    scores = OnErrors(Grey(width=1), device="cpu").fit(bright, np.arange(2)).score(bright, np.array([0, 3]))
    np.testing.assert_allclose(scores, [0.25, 0.75 * 0.25 + 0.25 * (128 / 255 - 0.5) ** 2], rtol=1e-5)
    largest = OnErrors(Grey(width=1), top=0.5, device="cpu").score(bright, np.array([3]))
    np.testing.assert_allclose(largest, [0.25], rtol=1e-5)


def test_the_inverse_rule_is_the_same_upside_down() -> None:
    both = [
        OnErrors(Autoencoder(width=2), sign=sign, device="cpu").score(images(), np.arange(5))
        for sign in (1, -1)
    ]
    np.testing.assert_array_equal(both[0], -both[1])


def test_batches_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    detector, rows = OnErrors(Autoencoder(width=2), "gradient", device="cpu"), np.array([4, 0, 2])
    whole = detector.score(images(), rows)
    monkeypatch.setattr(anomaly_detectors, "AT_ONCE", 2)
    np.testing.assert_allclose(detector.score(images(), rows), whole, rtol=1e-5)
    np.testing.assert_allclose(detector.maps(images(), rows).mean(axis=(1, 2)), whole, rtol=1e-5)


def test_images_that_do_not_fit() -> None:
    with pytest.raises(DataError, match="images of 30x30 pixels; an autoencoder takes multiples of 16"):
        reconstructions(Autoencoder(width=1), np.zeros((2, 30, 30), np.uint8), np.arange(2), device="cpu")
    with pytest.raises(DataError, match="rows"):
        reconstructions(Autoencoder(width=1), images(), np.array([-1]), device="cpu")
