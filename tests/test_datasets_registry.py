"""xraykit.datasets.registry: names, where a data set is looked for, and arguments that cannot be right."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xraykit import datasets
from xraykit.datasets.registry import locate
from xraykit.errors import DataError, DataNotFoundError
from xraykit.images import Preprocess

NAMES = ["synthetic", "synthetic-nih", "kermany", "nih", "pneumoniamnist", "chestmnist", "folder"]


@pytest.fixture(autouse=True)
def _no_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(datasets.info(name).variable, raising=False)


@pytest.fixture
def two_classes(tmp_path: Path) -> Path:
    root = tmp_path / "own"
    for label, level in (("normal", 50), ("sick", 200)):
        (root / label).mkdir(parents=True)
        for i in range(6):
            Image.fromarray(np.full((16, 16), level + i, np.uint8)).save(root / label / f"{i}.png")
    return root


def test_the_names_are_those_of_the_design() -> None:
    assert datasets.names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_set_says_what_it_is_and_how_to_get_it(name: str) -> None:
    entry = datasets.info(name)
    assert entry.title
    assert entry.licence
    assert entry.citation
    if entry.fetchable:
        assert entry.how_to_get == f"xraykit data fetch {name}"
        assert len(entry.manual) >= 3
        assert "https://" in entry.manual_text()
        assert entry.size_on_disk > 10**8


def test_unknown_name_lists_the_names() -> None:
    with pytest.raises(DataError, match=r"'kermani'.*synthetic, synthetic-nih, kermany, nih"):
        datasets.load("kermani")


def test_unknown_labels_list_what_there_is() -> None:
    with pytest.raises(DataError, match=r"labels='4-class'; choose from 3-class, binary"):
        datasets.load("kermany", labels="4-class")


def test_unknown_option_lists_the_options(two_classes: Path) -> None:
    with pytest.raises(DataError, match=r"folder has no option 'spilt_seed'; it has split_seed"):
        datasets.load("folder", source=two_classes, spilt_seed=1)


def test_sizes_that_contradict_each_other(two_classes: Path) -> None:
    with pytest.raises(DataError, match=r"size=64 but preprocess\.size=32"):
        datasets.load("folder", source=two_classes, size=64, preprocess=Preprocess(size=32))


def test_a_size_given_twice_must_agree_even_at_the_default(two_classes: Path, tmp_path: Path) -> None:
    options = {"source": two_classes, "data_dir": tmp_path / "data", "progress": False}
    with pytest.raises(DataError, match=r"size=224 but preprocess\.size=64; leave `size` out"):
        datasets.load("folder", size=224, preprocess=Preprocess(size=64), **options)
    for size in (None, 64):
        ds = datasets.load("folder", size=size, preprocess=Preprocess(size=64), **options)
        assert ds.images.shape[1:] == (64, 64)
    assert datasets.load("folder", **options).images.shape[1:] == (224, 224)


def test_a_set_that_is_made_has_no_source(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"synthetic is made by .* source='.*'.*leave `source` out"):
        datasets.load("synthetic", source=tmp_path, data_dir=tmp_path)


def test_source_beats_the_variable_which_beats_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("argument", "variable", "data/kermany"):
        (tmp_path / folder).mkdir(parents=True)
    assert locate("kermany", data_dir=tmp_path / "data") == tmp_path / "data" / "kermany"
    monkeypatch.setenv("XRAYKIT_KERMANY_DIR", str(tmp_path / "variable"))
    assert locate("kermany", data_dir=tmp_path / "data") == tmp_path / "variable"
    found = locate("kermany", data_dir=tmp_path / "data", source=tmp_path / "argument")
    assert found == tmp_path / "argument"


def test_the_variable_of_a_name_with_a_hyphen() -> None:
    assert datasets.info("synthetic-nih").variable == "XRAYKIT_SYNTHETIC_NIH_DIR"


def test_missing_set_says_where_it_looked_what_is_there_and_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "nih").mkdir()
    with pytest.raises(DataNotFoundError) as caught:
        datasets.load("kermany", data_dir=tmp_path)
    text = str(caught.value)
    assert str(tmp_path / "kermany") in text
    assert "XRAYKIT_KERMANY_DIR is not set" in text
    assert "holds nih/" in text
    assert "xraykit data fetch kermany" in text
    assert "By hand:\n  1. Open https://" in text


def test_missing_source_and_source_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataNotFoundError, match=r"the argument `source`\): a file, not a folder"):
        datasets.load("nih", source=tmp_path / "file")
    with pytest.raises(DataNotFoundError, match="no such folder"):
        datasets.load("nih", source=tmp_path / "none")


def test_variable_that_points_nowhere_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XRAYKIT_NIH_DIR", str(tmp_path / "gone"))
    with pytest.raises(DataNotFoundError, match=r"gone \(XRAYKIT_NIH_DIR\): no such folder"):
        datasets.load("nih", data_dir=tmp_path)


def test_a_set_that_is_made_takes_preprocess_too(tmp_path: Path) -> None:
    options = {"size": 32, "n_patients": 12, "data_dir": tmp_path, "progress": False}
    plain = datasets.load("synthetic", **options)
    brighter = datasets.load("synthetic", preprocess=Preprocess(size=32, brightness=20), **options)
    expected = np.minimum(plain.images.astype(int) + 20, 255)
    assert np.array_equal(brighter.images, expected)
    assert datasets.load("synthetic", labels="binary", **options).classes == ("normal", "pneumonia")


def test_nothing_heavy_is_imported_and_nothing_is_made(tmp_path: Path) -> None:
    heavy = ("torch", "kagglehub", "medmnist", "pooch", "requests")
    code = (
        f"import sys, xraykit.datasets as d; d.info('nih'); print([m for m in {heavy} if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert run.stdout.strip() == "[]"
    assert list(tmp_path.iterdir()) == []
