"""xraykit.datasets.nih and nih_labels: the tables, layouts, splits, and the facts of the real set."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from xraykit import datasets
from xraykit.audit import audit
from xraykit.datasets.base import NO_IMAGE, XrayDataset
from xraykit.datasets.nih import list_images, splits
from xraykit.datasets.nih_labels import CLASSES, FINDINGS, read_boxes, read_labels, read_lists
from xraykit.errors import DataError, DataNotFoundError

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
BOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,"


def table(folder: Path, lines: list[str], *, header: str = HEADER, name: str = "Data_Entry_2017.csv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def line(image: str, findings: str = "No Finding", age: str = "58", patient: int | None = None) -> str:
    patient = int(image[:8]) if patient is None else patient
    return f"{image},{findings},0,{patient},{age},M,PA,2682,2749,0.143,0.143"


def image_id(patient: int, number: int) -> str:
    return f"{patient:08d}_{number:03d}.png"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """12 patients with two images each, without official lists."""
    root = tmp_path / "nih"
    ids = [image_id(p, n) for p in range(1, 13) for n in (0, 1)]
    findings = ["Cardiomegaly|Effusion", "No Finding", "Hernia", "No Finding"] * 6
    table(root, [line(i, f) for i, f in zip(ids, findings, strict=True)])
    (root / "images").mkdir()
    for i, name in enumerate(ids):
        Image.fromarray(np.full((20, 20), 10 * i, np.uint8)).save(root / "images" / name)
    return root


def load(root: Path, **options: object) -> XrayDataset:
    data_dir = root.parent / "data"
    return datasets.load("nih", source=root, data_dir=data_dir, size=16, progress=False, **options)


# The label table


def test_labels_become_indicators(tmp_path: Path) -> None:
    path = table(tmp_path, [line("00000001_000.png", "Cardiomegaly|Effusion"), line("00000002_000.png")])
    frame = read_labels(path)
    assert (*sorted(FINDINGS), "No Finding") == CLASSES
    assert frame[list(CLASSES)].to_numpy().tolist() == [
        [0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    ]
    assert frame["patient_id"].tolist() == ["00000001", "00000002"]
    assert frame[["sex", "view"]].iloc[0].tolist() == ["M", "PA"]
    assert frame["follow_up"].dtype == np.int16


@given(st.lists(st.sets(st.sampled_from(FINDINGS)), min_size=1, max_size=20))
def test_indicators_equal_those_of_pandas(
    tmp_path_factory: pytest.TempPathFactory, rows: list[set[str]]
) -> None:
    texts = ["|".join(sorted(row)) or "No Finding" for row in rows]
    folder = tmp_path_factory.mktemp("labels")
    frame = read_labels(table(folder, [line(image_id(i, 0), text) for i, text in enumerate(texts)]))
    expected = pd.Series(texts).str.get_dummies("|").reindex(columns=list(CLASSES), fill_value=0)
    assert np.array_equal(frame[list(CLASSES)].to_numpy(), expected.to_numpy())


@pytest.mark.parametrize(
    ("age", "years"),
    [("58", 58), ("058Y", 58), ("006M", 0.5), ("013M", 13 / 12), ("002W", 2 / 52), ("073D", 0.2)],
)
def test_ages_of_both_revisions(tmp_path: Path, age: str, years: float) -> None:
    frame = read_labels(table(tmp_path, [line("00000001_000.png", age=age)]))
    assert frame["age"].iloc[0] == pytest.approx(years, rel=1e-6)
    assert frame.attrs["notes"] == []


def test_impossible_ages_are_missing_and_noted(tmp_path: Path) -> None:
    lines = [line(image_id(i, 0), age=age) for i, age in enumerate(["412", "120", "148Y"])]
    frame = read_labels(table(tmp_path, lines))
    assert frame["age"].isna().tolist() == [True, False, True]
    assert frame.attrs["notes"] == ["2 ages above 120 years set to missing"]


def test_unreadable_age_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="age 'old' is neither"):
        read_labels(table(tmp_path, [line("00000001_000.png", age="old")]))


def test_sex_column_of_the_other_spelling_and_gzip(tmp_path: Path) -> None:
    text = HEADER.replace("Gender", "Sex") + "\n" + line("00000001_000.png") + "\n"
    (tmp_path / "Data_Entry_2017_v2020.csv.gz").write_bytes(gzip.compress(text.encode()))
    assert read_labels(tmp_path)["sex"].tolist() == ["M"]


def test_the_newest_revision_is_read(tmp_path: Path) -> None:
    table(tmp_path, [line("00000001_000.png", age="5")])
    table(tmp_path, [line("00000001_000.png", age="6")], name="Data_Entry_2017_v2020.csv")
    assert read_labels(tmp_path)["age"].tolist() == [6]


def test_missing_columns_are_named(tmp_path: Path) -> None:
    header = HEADER.replace("Patient ID", "Patient").replace("Patient Gender", "Gender")
    with pytest.raises(DataError, match="no column Patient ID, Patient Gender or Patient Sex"):
        read_labels(table(tmp_path, [line("00000001_000.png")], header=header))


def test_duplicate_ids_are_named(tmp_path: Path) -> None:
    lines = [line("00000001_000.png"), line("00000002_000.png"), line("00000001_000.png", "Mass")]
    with pytest.raises(DataError, match=r"1 image ids occur more than once, such as 00000001_000\.png"):
        read_labels(table(tmp_path, lines))


@pytest.mark.parametrize(
    ("findings", "message"),
    [
        ("Effusion|Flu", "unknown finding 'Flu'"),
        ("No Finding|Mass", "no finding and a finding at once"),
        ("", "1 rows without findings"),
    ],
)
def test_findings_that_cannot_be(tmp_path: Path, findings: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_labels(table(tmp_path, [line("00000001_000.png", findings)]))


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00 no text", b'a,b\n1,2,3\n"x'])
def test_a_file_that_is_no_table(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "Data_Entry_2017.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"Data_Entry_2017\.csv is not a table"):
        read_labels(tmp_path)


def test_a_patient_that_is_no_number(tmp_path: Path) -> None:
    lines = [line("00000001_000.png"), line("00000002_000.png").replace(",0,2,", ",0,two,")]
    with pytest.raises(DataError, match="line 3 has 'two' as patient_id, not a whole number"):
        read_labels(table(tmp_path, lines))


def test_no_table(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").touch()
    with pytest.raises(DataNotFoundError, match=r"Data_Entry_2017\*\.csv\[\.gz\].*holds labels\.csv"):
        read_labels(tmp_path)


# Boxes and lists


def test_boxes_become_fractions_of_the_released_side(tmp_path: Path) -> None:
    rows = ["00000001_000.png,Infiltrate,256,512,128,64,,,"]
    table(tmp_path, rows, header=BOX_HEADER, name="BBox_List_2017.csv")
    boxes = read_boxes(tmp_path)
    assert boxes.to_numpy().tolist() == [["00000001_000.png", "Infiltration", 0.25, 0.5, 0.125, 0.0625]]
    assert list(boxes.columns) == ["image_id", "finding", "x", "y", "w", "h"]
    (tmp_path / "empty").mkdir()
    assert read_boxes(tmp_path / "empty") is None


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.png,Mass,1000,0,30,30,,,", "box of a.png is not within 1024"),
        ("a.png,Mass,10,0,0,30,,,", "box of a.png is not within 1024"),
        ("a.png,Flu,10,0,30,30,,,", "unknown finding 'Flu'"),
    ],
)
def test_boxes_that_cannot_be(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_boxes(table(tmp_path, [row], header=BOX_HEADER, name="BBox_List_2017.csv"))


def test_lists(tmp_path: Path) -> None:
    assert read_lists(tmp_path) is None
    (tmp_path / "test_list.txt").write_text("b.png\n")
    with pytest.raises(DataError, match=r"train_val_list\.txt is not"):
        read_lists(tmp_path)
    (tmp_path / "train_val_list.txt").write_text("a.png\r\nc.png")
    assert read_lists(tmp_path) == ({"a.png", "c.png"}, {"b.png"})
    (tmp_path / "train_val_list.txt").write_text("a.png\nb.png")
    with pytest.raises(DataError, match="1 images are in train_val_list"):
        read_lists(tmp_path)


# Images, splits and the whole set


def test_multilabel_set_with_whole_patients_in_each_split(root: Path) -> None:
    table(root, ["00000001_000.png,Effusion,256,512,128,64,,,"], header=BOX_HEADER, name="BBox_List_2017.csv")
    ds = load(root)
    assert ds.classes == CLASSES
    assert ds.records["image_id"].is_monotonic_increasing
    assert np.abs(ds.images[:, 0, 0].astype(int) - 10 * np.arange(24)).max() == 0
    assert ds.records.groupby("patient_id")["split"].nunique().max() == 1
    assert set(ds.records["split"]) == {"train", "val", "test"}
    assert ds.boxes["image_id"].tolist() == ["00000001_000.png"]
    assert load(root).records.equals(ds.records)
    assert len(ds.excluded) == 0


def test_binary_is_no_finding_against_any(root: Path) -> None:
    ds = load(root, labels="binary")
    assert ds.classes == ("normal", "abnormal")
    assert ds.records["label"].tolist() == ["abnormal", "normal"] * 12


def test_another_seed_gives_another_split(root: Path) -> None:
    one, two = load(root), load(root, split_seed=1)
    assert (one.records["split"] != two.records["split"]).any()


def test_labels_without_files_and_files_without_labels_are_listed(root: Path) -> None:
    (root / "images" / image_id(1, 0)).rename(root / "images" / image_id(77, 0))
    (root / "images" / "notes.txt").touch()
    ds = load(root)
    assert len(ds) == 23
    suffixes = ".png, .jpg, .jpeg, .bmp, .tif, .tiff, .dcm, .dicom"
    assert ds.excluded.set_index("path")["reason"].to_dict() == {
        "images/notes.txt": f"not an image by its suffix; {suffixes} are read",
        "images/00000077_000.png": "no row in the label table",
        "00000001_000.png": NO_IMAGE,
    }


def test_the_audit_of_a_partial_copy_tells_labels_without_images_from_bad_files(root: Path) -> None:
    for patient in range(7, 13):
        (root / "images" / image_id(patient, 0)).unlink()
    (root / "images" / image_id(1, 0)).write_bytes(b"no image")
    summary = audit(load(root), near_threshold=None).summary().set_index("check")
    assert summary.loc["unreadable files"].tolist() == [1, "note"]
    assert summary.loc["labels without an image"].tolist() == [6, "note"]


def test_a_patient_stays_on_its_side_when_more_images_come(root: Path) -> None:
    everything = load(root).records.set_index("image_id")["split"]
    for patient in range(7, 13):
        for number in (0, 1):
            (root / "images" / image_id(patient, number)).unlink()
    fewer = load(root).records.set_index("image_id")["split"]
    assert len(fewer) == 12
    assert fewer.equals(everything.loc[fewer.index])


def test_no_labelled_image_at_all_is_an_error(root: Path) -> None:
    for path in (root / "images").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"none of the 24 labelled images .*no image below images\*/"):
        load(root)
    (root / "images" / "other.png").touch()
    with pytest.raises(DataError, match=r"none of the 24 .*\(other\.png\).*data fetch nih"):
        load(root)


def test_official_lists_are_kept_and_val_comes_out_of_train_val(root: Path) -> None:
    test = [image_id(p, n) for p in (2, 5) for n in (0, 1)]
    train_val = [image_id(p, n) for p in (1, 3, 4, 6, 7, 8, 9, 10, 11) for n in (0, 1)]
    (root / "test_list.txt").write_text("\n".join(test))
    (root / "train_val_list.txt").write_text("\n".join(train_val))
    ds = load(root)
    split = ds.records.set_index("image_id")["split"]
    assert sorted(split.index[split == "test"]) == test
    assert sorted(split.index[split != "test"]) == train_val
    assert (split == "val").sum() == 2
    assert ds.records.groupby("patient_id")["split"].nunique().max() == 1
    assert ds.excluded["path"].tolist() == [f"images/{image_id(12, n)}" for n in (0, 1)]
    assert (ds.excluded["reason"] == "in neither train_val_list.txt nor test_list.txt").all()


@pytest.mark.parametrize("layout", ["images", "images_001/images", "images_001"])
def test_published_layouts(tmp_path: Path, layout: str) -> None:
    (tmp_path / layout).mkdir(parents=True)
    (tmp_path / layout / "00000001_000.png").touch()
    (tmp_path / layout / "._00000001_000.png").touch()
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "00000002_000.png").touch()
    files, left_out = list_images(tmp_path)
    assert files.to_numpy().tolist() == [["00000001_000.png", f"{layout}/00000001_000.png"]]
    assert left_out == []


def test_the_same_name_in_two_folders_is_listed(tmp_path: Path) -> None:
    for folder in ("images_001/images", "images_002/images"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "00000001_000.png").touch()
    files, left_out = list_images(tmp_path)
    assert files["path"].tolist() == ["images_001/images/00000001_000.png"]
    assert left_out == [
        ("images_002/images/00000001_000.png", "the same file name is in another image folder")
    ]


def test_check_of_a_part_of_the_set(root: Path) -> None:
    (root / "images").rename(root / "images_001")
    rows = datasets.check("nih", source=root).set_index("item")
    assert rows.loc["images", ["found", "published", "verdict"]].tolist() == [24, 112120, "partial"]
    assert rows.loc["images_001", ["found", "published", "verdict"]].tolist() == [24, 4999, "partial"]
    assert rows.loc["test_list.txt", "verdict"] == "missing"
    assert rows.loc["images with a label", "verdict"] == "ok"


# The facts of shared/data/README.md


def test_real_sample(nih_dir: Path, tmp_path: Path) -> None:
    ds = datasets.load("nih", source=nih_dir, data_dir=tmp_path, size=16, progress=False)
    counts = dict(zip(ds.classes, ds.labels.sum(axis=0).tolist(), strict=True))
    assert counts == {
        "Effusion": 170,
        "Infiltration": 162,
        "Atelectasis": 95,
        "Cardiomegaly": 83,
        "Consolidation": 42,
        "Pneumothorax": 40,
        "Nodule": 39,
        "Emphysema": 37,
        "Mass": 35,
        "Fibrosis": 32,
        "Edema": 31,
        "Pleural_Thickening": 29,
        "Pneumonia": 11,
        "Hernia": 9,
        "No Finding": 499,
    }
    assert (len(ds), ds.records["patient_id"].nunique(), len(ds.boxes)) == (1000, 264, 9)
    assert ds.records.groupby("patient_id")["split"].nunique().max() == 1
    shares = ds.records["split"].value_counts(normalize=True)
    assert shares["train"] == pytest.approx(0.7, abs=0.03)
    assert shares["test"] == pytest.approx(0.2, abs=0.03)
    assert (ds.records["patient_id"] == ds.records["image_id"].str[:8]).all()


def test_full_label_table(nih_labels_dir: Path) -> None:
    labels = read_labels(nih_labels_dir)
    assert (len(labels), labels["patient_id"].nunique()) == (112_120, 30_805)
    assert (labels["patient_id"] == labels["image_id"].str[:8]).all()
    assert (labels["No Finding"] + labels[list(FINDINGS)].max(axis=1) == 1).all()
    assert labels.memory_usage(deep=True).sum() < 30_000_000
    split = splits(labels, None, seed=0)
    assert labels.assign(s=split).groupby("patient_id")["s"].nunique().max() == 1
    shares = split.value_counts(normalize=True)
    assert shares["train"] == pytest.approx(0.7, abs=0.002)
    hernia = split[labels["Hernia"] == 1].value_counts(normalize=True)
    assert hernia["test"] == pytest.approx(0.2, abs=0.02)


def test_full_box_list(nih_labels_dir: Path) -> None:
    boxes = read_boxes(nih_labels_dir)
    labels = read_labels(nih_labels_dir).set_index("image_id")
    assert (len(boxes), boxes["image_id"].nunique()) == (984, 880)
    # In pixels of the original, 2000 to 3000 wide, boxes would pass 1024 somewhere; none does.
    assert (boxes["x"] + boxes["w"]).max() < 1
    assert (boxes["y"] + boxes["h"]).max() < 1
    assert all(labels.loc[row.image_id, row.finding] == 1 for row in boxes.itertuples())
