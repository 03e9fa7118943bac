"""The one shape that every data set has, whatever its source."""

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from xraykit.errors import DataError

SPLITS = ("train", "val", "test")
TASKS = ("multiclass", "multilabel")
# Reason in `XrayDataset.excluded` of a label without its image: the rule in a partial copy, and no bad file.
NO_IMAGE = "no image file"


@dataclass(frozen=True)
class XrayDataset:
    """Grey X-ray images with their records, in the same order.

    Attributes:
        name: registered name (``"kermany"``, ``"synthetic"``, ...).
        images: uint8 array or memmap of shape (N, H, W); 0 is black, 255 white.
        records: DataFrame of exactly N rows with ``image_id`` (unique str), ``patient_id`` (str),
            ``split`` (one of train, val, test) and the labels: for ``task == "multiclass"`` one column
            ``label`` holding a name from `classes`; for ``"multilabel"`` one 0/1 column for each name in
            `classes`. Further columns (``age``, ``sex``, ``view``, ``path``, ``sha256``) where known.
        classes: names in their fixed order.
        task: ``"multiclass"`` or ``"multilabel"``.
        licence, citation: what to name when a figure is used.
        boxes: finding boxes with columns ``image_id, finding, x, y, w, h`` in fractions of the image's
            width and height, or None.
        masks: uint16 array or memmap (N, H, W), bit k set where the finding ``classes[k]`` is, or None.
        excluded: DataFrame ``path, reason`` of files that could not be used (empty when all could), and of
            labels without a file (reason `NO_IMAGE`).
    """

    name: str
    images: np.ndarray
    records: pd.DataFrame
    classes: tuple[str, ...]
    task: str
    licence: str
    citation: str
    boxes: pd.DataFrame | None = None
    masks: np.ndarray | None = None
    excluded: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame({"path": [], "reason": []}, dtype=str)
    )

    def __post_init__(self) -> None:
        _check(self)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def labels(self) -> np.ndarray:
        """int64 codes (N,) into `classes` for multiclass; uint8 indicators (N, K) for multilabel."""
        if self.task == "multilabel":
            return self.records[list(self.classes)].to_numpy(np.uint8)
        return pd.Categorical(self.records["label"], categories=list(self.classes)).codes.astype(np.int64)

    @property
    def patients(self) -> np.ndarray:
        """Patient ids (N,), as str objects."""
        return self.records["patient_id"].to_numpy(object)

    def take(self, index: np.ndarray) -> "XrayDataset":
        """The images at integer positions `index` (or where a boolean mask holds), in that order."""
        index = np.asarray(index)
        index = np.flatnonzero(index) if index.dtype == bool else index
        records = self.records.iloc[index].reset_index(drop=True)
        boxes = None if self.boxes is None else self.boxes[self.boxes["image_id"].isin(records["image_id"])]
        masks = None if self.masks is None else self.masks[index]
        return replace(self, images=self.images[index], records=records, boxes=boxes, masks=masks)

    def split(self, name: str) -> "XrayDataset":
        """The images of one split; raises DataError when it has none."""
        mask = (self.records["split"] == name).to_numpy()
        if not mask.any():
            present = sorted(self.records["split"].unique())
            raise DataError(f"{self.name}: no image in split {name!r}; the splits here are {present}")
        return self.take(mask)

    def mask(self, i: int, finding: str) -> np.ndarray:
        """Boolean (H, W) mask of `finding` in image `i`; raises DataError where there are no masks."""
        if self.masks is None:
            raise DataError(f"{self.name} has no lesion masks; only the synthetic data sets do")
        return (np.asarray(self.masks[i]) >> self.classes.index(finding)) & 1 == 1

    def binary(self) -> "XrayDataset":
        """The same images as normal against the rest; a set of two classes is returned as it is.

        The positive class is ``pneumonia`` where every other class is one (Kermany, synthetic), else
        ``abnormal``. Masks become one bit, bit 1.

        Raises:
            DataError: three classes or more and none of them ``normal``.
        """
        if self.task == "multiclass" and len(self.classes) == 2:
            return self
        if self.task == "multilabel":
            findings = [c for c in self.classes if c != "No Finding"]
            positive, name = self.records[findings].to_numpy().any(axis=1), "abnormal"
        elif "normal" in map(str.lower, self.classes):
            positive = (self.records["label"].str.lower() != "normal").to_numpy()
            name = "pneumonia" if set(self.classes) == {"normal", "bacterial", "viral"} else "abnormal"
        else:
            raise DataError(
                f"{self.name}: no class is called 'normal' among {self.classes}; rename one of them"
            )
        drop = [c for c in self.classes if c in self.records.columns]
        records = self.records.drop(columns=drop).assign(label=np.where(positive, name, "normal"))
        masks = None if self.masks is None else (np.asarray(self.masks) != 0).astype(np.uint16) << 1
        return replace(self, records=records, classes=("normal", name), task="multiclass", masks=masks)


def _check(ds: XrayDataset) -> None:
    images, records = ds.images, ds.records
    if images.dtype != np.uint8 or images.ndim != 3:
        raise DataError(
            f"{ds.name}: images must be uint8 of shape (N, H, W), not {images.dtype} {images.shape}; "
            "scale grey levels to 0..255 and drop the channel axis"
        )
    if len(images) != len(records):
        raise DataError(
            f"{ds.name}: {len(images)} images but {len(records)} records; they must match row by row"
        )
    if len(records) == 0:
        raise DataError(f"{ds.name}: the data set is empty; check the folder and the filters")
    if ds.task not in TASKS:
        raise DataError(f"{ds.name}: task {ds.task!r} is not one of {TASKS}")
    columns = ["image_id", "patient_id", "split", *(ds.classes if ds.task == "multilabel" else ["label"])]
    missing = [c for c in columns if c not in records.columns]
    if missing:
        raise DataError(f"{ds.name}: records lack the columns {missing}; they have {list(records.columns)}")
    _check_values(ds)


def _check_values(ds: XrayDataset) -> None:
    repeated = ds.records["image_id"][ds.records["image_id"].duplicated()]
    if len(repeated):
        raise DataError(
            f"{ds.name}: image_id must be unique; {len(repeated)} repeat, such as {repeated.iloc[0]!r}"
        )
    splits = set(ds.records["split"]) - set(SPLITS)
    if splits:
        raise DataError(f"{ds.name}: unknown split {sorted(map(str, splits))}; use {SPLITS}")
    if ds.task == "multilabel":
        values = ds.records[list(ds.classes)].to_numpy()
        if not np.isin(values, (0, 1)).all():
            raise DataError(f"{ds.name}: label columns must hold 0 or 1 only")
    else:
        unknown = set(ds.records["label"]) - set(ds.classes)
        if unknown:
            raise DataError(f"{ds.name}: labels {sorted(map(str, unknown))} are not in classes {ds.classes}")
    if ds.masks is not None and ds.masks.shape != ds.images.shape:
        raise DataError(f"{ds.name}: masks {ds.masks.shape} do not match images {ds.images.shape}")
