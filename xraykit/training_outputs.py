"""What ``xraykit train`` does around `training.fit`: which images take part, and which files are left."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from xraykit import classifiers
from xraykit.datasets import XrayDataset
from xraykit.errors import DataError
from xraykit.storage import write_atomic
from xraykit.training_config import Config
from xraykit.training_files import Fitted


def plan(out: Path) -> dict[str, Path]:
    """The files that will be written: ``"best"`` and ``"last"`` weights, ``"history"``.

    Raises:
        DataError: `out` does not end with ``.safetensors``, or one of the files is there already.
    """
    if out.suffix != ".safetensors":
        raise DataError(f"{out} does not end with .safetensors")
    files = {"best": out, "last": out.with_suffix(".last.safetensors"), "history": out.with_suffix(".csv")}
    there = [str(path) for path in files.values() if path.exists()]
    if there:
        raise DataError(f"{there[0]} exists and is not overwritten; choose another --out, or remove it")
    return files


def write(
    fitted: Fitted, files: Mapping[str, Path], *, network: str, ds: XrayDataset, config: Config
) -> None:
    """Write the history, the last and the best weights; `classifiers.restore` reads them into `network`.

    Raises:
        StorageError: a file cannot be written; the run itself is in the cache.
    """
    write_atomic(files["history"], fitted.history.to_csv(index=False).encode())
    about = {
        "network": network,
        "dataset": ds.name,
        "classes": list(ds.classes),
        "task": classifiers.kind_of(ds),
        "size": ds.images.shape[1],
        "config": asdict(config),
    }
    monitor = config.monitor[0]
    epochs = {"last": len(fitted.history), monitor: fitted.best[monitor]}
    for file, which in (("last", "last"), ("best", monitor)):
        classifiers.save(fitted.model(which), files[file], **about, epoch=epochs[which])


def summary(
    fitted: Fitted,
    files: Mapping[str, Path],
    *,
    images: tuple[int, int],
    left_out: Mapping[str, str],
) -> str:
    """Lines that say what was trained on, the validation scores of the best epoch, and what was written.

    Args:
        images: to train on, and to validate.
        left_out: findings without training, and why.
    """
    (monitor, epoch), *_ = fitted.best.items()
    scores = fitted.history.iloc[epoch - 1].filter(like="val_")
    told = ", ".join(f"{name.removeprefix('val_')} {value:.3f}" for name, value in scores.items())
    lines = [
        f"trained on {images[0]} images, validated on {images[1]} of other patients",
        *(f"left out: {finding}, {why}" for finding, why in left_out.items()),
        f"validation in epoch {epoch} of {len(fitted.history)}, the best by {monitor}: {told}",
        f"{fitted.seconds:.1f} s, {fitted.precision} on {fitted.device}"
        + (", from the cache" if fitted.cached else ""),
        f"written: {', '.join(map(str, files.values()))}",
    ]
    return "\n".join(lines)
