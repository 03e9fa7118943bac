"""`xraykit predict`: clean output, messages on standard error, exit status, and files that are whole."""

import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from xraykit import bundle_build, bundle_files, cli, predict_run
from xraykit.bundle import Bundle
from xraykit.datasets import synthetic
from xraykit.errors import DataError, XraykitError
from xraykit.not_xrays import not_xrays
from xraykit.predict import Answered, answered


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """uint8 (40, 64, 64), twenty normal and twenty not, of as many patients."""
    ds = synthetic.load("synthetic", size=64, n_patients=120, progress=False)
    first = np.unique(ds.patients, return_index=True)[1]
    ill = ds.labels[first] > 0
    return ds.images[np.concatenate([first[~ill][:20], first[ill][:20]])]


@pytest.fixture(scope="module")
def bundle(images: np.ndarray) -> Bundle:
    return bundle_build.few_shot(images, np.repeat([0, 1], 20), ("normal", "ill"), name="a small one")


@pytest.fixture
def place(tmp_path: Path, images: np.ndarray, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with the bundle ``small``, and ``in`` with two X-rays, a photograph and a broken file."""
    monkeypatch.delenv("XRAYKIT_BUNDLES_DIR", raising=False)
    monkeypatch.setenv("XRAYKIT_DATA_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    bundle_files.save(bundle, tmp_path / "bundles" / "small")
    (tmp_path / "in").mkdir()
    photograph = not_xrays(64, seed=0, n=1)["page of text"][0]
    for name, image in (("a", images[0]), ("b", images[20]), ("c", photograph)):
        Image.fromarray(image).save(tmp_path / "in" / f"{name}.png")
    (tmp_path / "in" / "d.png").write_bytes(b"broken")
    return tmp_path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, ["predict", *arguments, "--model", "small"], catch_exceptions=False)


@pytest.mark.parametrize("form", ["csv", "json"])
def test_output_is_clean_and_the_rest_is_on_standard_error(place: Path, form: str) -> None:
    done = call("in", "--format", form)
    assert done.exit_code == 1
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(done.stdout)))
        unknown = [row["unknown"] for row in rows]
        assert unknown == ["no", "no", "yes"]
    else:
        rows = json.loads(done.stdout)
        assert [row["unknown"] for row in rows] == [False, False, True]
    assert list(rows[0]) == ["image", "said", "p_normal", "p_ill", "threshold", "unknown", "distance"]
    assert [row["image"] for row in rows] == ["in/a.png", "in/b.png", "in/c.png"]
    assert [row["said"] for row in rows[:2]] == ["normal", "ill"]
    lines = done.stderr.splitlines()
    assert lines[0].startswith("1 of 3 images did not look like the X-rays that this classifier knows")
    assert lines[1:3] == [
        "For teaching and research, not for clinical use.",
        "1 of 4 files could not be read:",
    ]
    assert lines[3].startswith("  in/d.png: is not a JPEG, PNG, BMP, TIFF or DICOM image")
    assert len(lines) == 4


def test_the_table_is_the_default(place: Path) -> None:
    (place / "in" / "d.png").unlink()
    done = call("in/c.png", "in", "in/a.png")
    assert (done.exit_code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line[:12].rstrip() for line in lines[1:4]] == ["!  in/c.png", "   in/a.png", "   in/b.png"]
    assert lines[4].startswith("! 1 of 3 did not look like")
    assert lines[5] == "For teaching and research, not for clinical use."


def test_a_file_takes_its_format_from_its_suffix(place: Path) -> None:
    (place / "said.json").write_text("old")
    done = call("in", "--out", "said.json")
    assert (done.exit_code, done.stdout) == (1, "")
    assert len(json.loads((place / "said.json").read_text())) == 3
    assert sorted(p.name for p in place.iterdir()) == ["bundles", "in", "said.json"]


def test_a_bundle_by_path_gives_the_same(place: Path, bundle: Bundle) -> None:
    (place / "b.zip").write_bytes(bundle_files.to_zip(bundle))
    by_name = call("in/a.png", "--format", "csv").stdout
    for path in ("bundles/small", "b.zip"):
        done = CliRunner().invoke(cli.app, ["predict", "in/a.png", "--format", "csv", "--model", path])
        assert done.stdout == by_name


def test_backends_agree(place: Path) -> None:
    (place / "in" / "d.png").unlink()
    rows = {
        backend: json.loads(call("in", "--format", "json", "--backend", backend).stdout)
        for backend in ("torch", "openvino", "auto")
    }
    assert rows["auto"] == rows["torch"]  # so few images are not worth the start of another library
    for one, other in zip(rows["torch"], rows["openvino"], strict=True):
        assert (one["said"], one["unknown"]) == (other["said"], other["unknown"])
        assert one["p_ill"] == pytest.approx(other["p_ill"], abs=1e-3)


def test_auto_takes_openvino_for_many_images(
    place: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(predict_run, "OPENVINO_FROM", 3)
    monkeypatch.setattr(predict_run, "Predictor", lambda *a, backend, **o: asked.append(backend))
    monkeypatch.setattr(predict_run, "answered", lambda *a, **o: iter(()))
    for n in (2, 3):
        predict_run.run(predict_run.Job(paths=[Path("x")] * n, bundle=bundle, backend="auto"))
    assert asked == ["torch", "auto"]


def test_overlays(place: Path) -> None:
    speck = np.full((640, 640), 90, np.uint8)
    speck[0, 0] = 91  # gone after resizing
    Image.fromarray(speck).save(place / "in" / "d.png")
    (place / "heat").mkdir()
    (place / "heat" / "a.png").write_bytes(b"of somebody else")
    (place / "heat" / "a.gradcam.png").write_bytes(b"of an earlier run")
    for _ in range(2):
        done = call("in", "--overlays", "heat", "--batch-size", "3")
        assert done.exit_code == 0
        made = [f"{name}.gradcam.png" for name in "abc"]
        assert sorted(p.name for p in (place / "heat").iterdir()) == ["a.gradcam.png", "a.png", *made[1:]]
        assert (place / "heat" / "a.png").read_bytes() == b"of somebody else"
        (line,) = done.stderr.splitlines()
        assert line.startswith("in/d.png: no overlay: image 0 has the grey level 90 everywhere")
        for name in made:
            with Image.open(place / "heat" / name) as drawn:
                assert min(drawn.size) > 200


def test_overlays_below_the_images_are_not_answered(place: Path) -> None:
    (place / "in" / "d.png").unlink()
    answers = [call("in", "--overlays", "in/heat", "--format", "csv") for _ in range(2)]
    assert [done.exit_code for done in answers] == [0, 0]
    assert answers[0].stdout == answers[1].stdout
    assert len(list((place / "in" / "heat").iterdir())) == 3


def test_one_grey_level_is_no_image(place: Path) -> None:
    Image.new("L", (90, 64), 255).save(place / "in" / "d.png")
    done = call("in", "--format", "csv", "--overlays", "heat")
    assert done.exit_code == 1
    assert [row["image"] for row in csv.DictReader(io.StringIO(done.stdout))] == [
        "in/a.png", "in/b.png", "in/c.png",
    ]  # fmt: skip
    assert done.stderr.splitlines()[-2:] == [
        "1 of 4 files could not be read:",
        "  in/d.png: has the grey level 255 everywhere; nothing can be said about it",
    ]


def test_an_image_that_is_named_as_output_stays(place: Path) -> None:
    before = (place / "in" / "a.png").read_bytes()
    with pytest.raises(DataError, match=r"in/a\.png is one of the images"):
        call("in", "--out", "in/a.png")
    assert (place / "in" / "a.png").read_bytes() == before


def interrupted(*arguments: object, **options: object) -> Iterator[Answered]:
    yield next(answered(*arguments, **options))
    raise KeyboardInterrupt


@pytest.mark.parametrize("form", ["csv", "json", "table"])
def test_ctrl_c_keeps_what_was_written(place: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict_run, "answered", interrupted)
    (place / "said.txt").write_text("old")
    done = call("in", "--out", "said.txt", "--format", form, "--batch-size", "2")
    assert done.exit_code == 130
    assert done.stderr == "interrupted after 2 of 4 images; they are in said.txt.partial\n"
    assert (place / "said.txt").read_text() == "old"
    kept = (place / "said.txt.partial").read_text()
    if form == "json":
        assert [row["image"] for row in json.loads(kept)] == ["in/a.png", "in/b.png"]
    else:
        assert "in/b.png" in kept
        assert "in/c.png" not in kept
    done = call("in", "--format", form, "--batch-size", "2")
    assert (done.exit_code, done.stderr) == (130, "interrupted after 2 of 4 images\n")
    assert "in/b.png" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone.png"], "gone.png does not exist; give image files or folders of them"),
        (["bundles"], "bundles has no image in it or below"),
        (
            ["in", "--model", "large"],
            "no bundle 'large': .*large does not exist, and .*bundles has none of that name, only small",
        ),
        (["in", "--format", "xml"], "format 'xml'; choose of table, csv, json"),
        (["in", "--out", "in"], "in is a folder; give the name of a file"),
        (["in", "--out", "in/b.png"], "in/b.png is one of the images"),
        (["in", "--out", "bundles/small/bundle.json"], "bundle.json lies in the bundle .*small"),
        (["in", "--overlays", "bundles/small"], r"small lies in the bundle .* \(--overlays\)"),
        (["in", "--overlays", "in"], "in holds the image a.png; choose a folder of their own"),
        (["in", "--backend", "jax"], "'jax' is unknown; use one of auto, openvino, torch"),
        (["in", "--model", "in/a.png"], "a.png is no usable bundle"),
    ],
)
def test_mistakes_are_said_before_anything_is_computed(
    place: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict_run, "answered", lambda *a, **o: pytest.fail("it computes"))
    model = [] if "--model" in arguments else ["--model", "small"]
    with pytest.raises(XraykitError, match=message):
        CliRunner().invoke(cli.app, ["predict", *arguments, *model], catch_exceptions=False)
    assert sorted(p.name for p in place.iterdir()) == ["bundles", "in"]


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"classifier": "KNN"}, "KNeighborsClassifier"),
        ({"backbone": "pixels"}, "pixels has no feature maps of its own"),
    ],
)
def test_a_head_without_maps_is_said_first(
    place: Path, images: np.ndarray, about: dict, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bundle_build.few_shot(images, np.repeat([0, 1], 20), ("normal", "ill"), name="k", **about)
    monkeypatch.setattr(predict_run, "Predictor", lambda *a, **o: pytest.fail("it computes"))
    with pytest.raises(DataError, match=message):
        predict_run.run(predict_run.Job(paths=[Path("in/a.png")], bundle=made, overlays=Path("heat")))
    assert not (place / "heat").exists()


def test_the_default_is_the_embedded_bundle(
    place: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_build, "embedded", lambda data_dir, progress: place / "bundles" / "small")
    done = CliRunner().invoke(cli.app, ["predict", "in/a.png"], catch_exceptions=False)
    assert done.exit_code == 0
    assert done.stderr.splitlines()[0] == f"no --model: {bundle.name}, in {place / 'bundles' / 'small'}"


def test_several_labels(place: Path, bundle: Bundle) -> None:
    job = predict_run.Job(
        paths=[Path("in/a.png")],
        bundle=replace(bundle, kind="multilabel", thresholds=(0.99, 0.999)),
        form="csv",
        out=Path("said.csv"),
    )
    assert predict_run.run(job) == 0
    (row,) = csv.DictReader((place / "said.csv").open())
    assert (row["threshold_normal"], row["threshold_ill"]) == ("0.99", "0.999")


def test_nothing_heavy_is_imported_for_help() -> None:
    code = "import sys, xraykit.cli_predict; print(sorted({'torch', 'numpy', 'sklearn'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
