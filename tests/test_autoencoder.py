"""The autoencoder: its output is its loss, the loop trains it, and labels do not matter."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from xraykit import training, training_batches
from xraykit.autoencoder import Autoencoder, reconstructions
from xraykit.datasets import XrayDataset
from xraykit.errors import DataError
from xraykit.training_config import Config

CONFIG = Config(epochs=3, batch_size=8, learning_rate=1e-2, augment=None, monitor=("loss",), warmup=0)
FIT, HELD_OUT = np.arange(24), np.arange(24, 32)


@pytest.fixture(scope="module")
def ds() -> XrayDataset:
    """32 pictures of a bright disc that wanders, all normal."""
    y, x = np.mgrid[:32, :32]
    centre = np.random.default_rng(0).uniform(10, 22, (32, 2))
    discs = [(np.hypot(y - a, x - b) < 8) * 200 + 20 for a, b in centre]
    ids = [f"i{i}" for i in range(32)]
    records = pd.DataFrame({"image_id": ids, "patient_id": ids, "split": "train", "label": "normal"})
    return XrayDataset(
        "discs", np.array(discs, np.uint8), records, ("normal", "ill"), "multiclass", "none", "none"
    )


def small(seed: int = 0) -> Autoencoder:
    return Autoencoder(width=4, latent=4, seed=seed)


def fit(ds: XrayDataset, **options) -> training.Fitted:
    return training.fit(small(), ds, train=FIT, val=HELD_OUT, config=CONFIG, progress=False, **options)


def test_the_output_is_the_mean_squared_error(ds: XrayDataset) -> None:
    model = small().eval()
    x = training_batches.read(ds.images, HELD_OUT, "cpu")
    with torch.no_grad():
        back = model.reconstruct(x)
        assert back.shape == x.shape
        assert 0 <= back.min() <= back.max() <= 1
        torch.testing.assert_close(model(x)[:, 0], ((back - x) ** 2).mean(dim=(1, 2, 3)))


def test_the_code_is_a_sixteenth_of_the_picture() -> None:
    assert Autoencoder().encoder(torch.zeros(1, 1, 128, 128)).numel() == 128 * 128 / 16


def test_the_loop_trains_it(ds: XrayDataset) -> None:
    longer = replace(CONFIG, epochs=40)
    fitted = training.fit(small(), ds, train=FIT, val=HELD_OUT, config=longer, progress=False)
    assert list(fitted.history) == ["epoch", "learning_rate", "train_loss", "val_loss", "seconds"]
    x = ds.images[HELD_OUT] / np.float32(255)
    errors = training.predict(fitted.model(), ds.images, rows=HELD_OUT, device="cpu")
    assert errors.mean() < 0.5 * x.var()  # a constant picture is off by the variance
    assert errors.mean() == pytest.approx(fitted.history["val_loss"].min(), rel=1e-5)
    back = reconstructions(fitted.model(), ds.images, HELD_OUT, device="cpu")
    np.testing.assert_allclose(((back - x) ** 2).mean(axis=(1, 2)), errors[:, 0], rtol=1e-4)


def test_labels_do_not_matter(ds: XrayDataset) -> None:
    other = replace(ds, records=ds.records.assign(label=["ill", "normal"] * 16))
    a, b = (fit(d, device="cpu", threads=1).model().state_dict().values() for d in (ds, other))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_killed_run_goes_on(ds: XrayDataset, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit(ds, device="cpu", threads=1).history
    validate = training._validate

    def killed(work, *, epoch):
        if epoch == 1:
            raise KeyboardInterrupt
        return validate(work, epoch=epoch)

    monkeypatch.setattr(training, "_validate", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(ds, device="cpu", threads=1, cache_dir=tmp_path)
    monkeypatch.undo()
    again = fit(ds, device="cpu", threads=1, cache_dir=tmp_path).history
    pd.testing.assert_frame_equal(again.drop(columns="seconds"), whole.drop(columns="seconds"))


def test_seeds_decide_the_weights() -> None:
    a, b, c = (next(small(seed).parameters()) for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_what_it_cannot_do(ds: XrayDataset) -> None:
    with pytest.raises(DataError, match="width = 0, latent = 4; both must be at least 1"):
        Autoencoder(width=0, latent=4)
    with pytest.raises(DataError, match="no head to train alone"):
        small().freeze(True)
    cut = replace(ds, images=ds.images[:, :30, :30])
    with pytest.raises(DataError, match="30x30 is not a multiple of 16"):
        fit(cut)
    watching = replace(CONFIG, monitor=("auroc",))
    with pytest.raises(DataError, match="monitor auroc is not computed for a reconstruction task"):
        training.fit(small(), ds, train=FIT, val=HELD_OUT, config=watching, progress=False)
