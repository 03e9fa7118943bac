"""Bundles to files and back, and what happens to those that are not what they should be."""

import json
import multiprocessing
import os
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save as tensors_to
from toy_bundles import change, estimator, network, refused, save_and_die, xrays, zipped_toy

from xraykit import backbones, bundle_files, bundle_networks
from xraykit.backbones import Pooled, Pretraining, from_module, xrv_nets
from xraykit.bundle import Bundle, Predictor
from xraykit.bundle_files import find, from_zip, load, save, to_zip
from xraykit.bundle_manifest import JSON, LARGEST
from xraykit.errors import BundleError, XraykitError
from xraykit.fewshot_classifiers import CLASSIFIERS
from xraykit.images import Preprocess

POSIX = pytest.mark.skipif(os.name != "posix", reason="signals and links as on Unix")


@pytest.fixture(scope="module")
def pair() -> Bundle:
    return estimator()


@pytest.fixture
def folder(pair: Bundle, tmp_path: Path) -> Path:
    return save(pair, tmp_path / "toy")


# ---- round trips

EVERY = {
    "phantom": estimator,
    "phantom, 3 classes": lambda: estimator(3, classifier="SVC RBF"),
    "pixels": lambda: estimator(backbone="pixels", classifier="nearest class mean"),
    "squeezenet": lambda: estimator(3, n=3, backbone="squeezenet1_0:random", classifier="KNN"),
    "cnn-small": network,
    "cnn-small, findings": lambda: network("multilabel", preprocess=Preprocess(size=64, clahe_clip=2.0)),
    "cnn-group-norm": lambda: network("multiclass", spec="cnn-group-norm", size=32),
    "resnet18": lambda: network(spec="resnet18:random"),
}


@pytest.mark.parametrize("name", EVERY)
def test_answers_are_the_same_after_a_round_trip(name: str, tmp_path: Path) -> None:
    bundle = EVERY[name]()
    images = xrays(3, 3, side=90, seed=5)[0]
    expected = Predictor(bundle).answer(images)
    for again in (load(save(bundle, tmp_path / "toy")), from_zip(to_zip(bundle))):
        found = Predictor(again).answer(images)
        assert found.said == expected.said
        for part in ("features", "probabilities", "distance", "unknown"):
            np.testing.assert_array_equal(getattr(found, part), getattr(expected, part))
        for part in (
            "name",
            "kind",
            "classes",
            "preprocess",
            "architecture",
            "temperature",
            "thresholds",
            "card",
        ):
            assert getattr(again, part) == getattr(bundle, part)
        assert again.backbone.pretraining == bundle.backbone.pretraining
        assert (again.backbone.name, again.backbone.size) == (bundle.backbone.name, bundle.backbone.size)
        for part in ("images", "labels", "features"):
            kept, made = getattr(again.support, part), getattr(bundle.support, part)
            np.testing.assert_array_equal(kept, made)
            assert kept.dtype == made.dtype


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_classifier_survives(name: str, tmp_path: Path) -> None:
    bundle = estimator(3, n=4, classifier=name, pictures=False)
    again = load(save(bundle, tmp_path / "toy"))
    images = xrays(2, 3, seed=7)[0]
    p, q = (Predictor(b).answer(images).probabilities for b in (bundle, again))
    np.testing.assert_array_equal(p, q)
    assert again.support is None
    assert sorted(path.name for path in (tmp_path / "toy").iterdir()) == [
        "backbone.safetensors",
        JSON,
        "head.skops",
        "known.safetensors",
    ]


def test_a_saved_bundle_saves_to_the_same_bytes(tmp_path: Path) -> None:
    bundle = network()
    data = to_zip(bundle)
    assert data == to_zip(bundle) == to_zip(from_zip(data))


def test_the_weights_are_inside(tmp_path: Path, pair: Bundle) -> None:
    """A file of weights is not needed any more once its bundle is saved; nothing is downloaded."""
    state = {
        k.removeprefix("maps."): v for k, v in backbones.load("phantom:random").module.state_dict().items()
    }
    weights = tmp_path / "mine.safetensors"
    weights.write_bytes(
        tensors_to(state, {"size": "48", "mean": "0.25", "std": "0.125", "data": '["kermany"]'})
    )
    bundle = estimator(backbone=f"phantom:{weights}")
    save(bundle, tmp_path / "toy")
    weights.unlink()
    again = load(tmp_path / "toy").backbone
    assert (again.name, again.size, again.pretraining.data) == ("phantom:mine.safetensors", 48, ("kermany",))
    assert again.weights_hash == bundle.backbone.weights_hash != pair.backbone.weights_hash
    assert again.module.mean.item() == 0.25


def test_torchxrayvision_without_its_files(tmp_path: Path) -> None:
    """Its own download is not possible here, so the weights are random."""
    about = {"architecture": "densenet121-res224-all", "built_for": 64, "mean": [0.5], "std": [1 / 2048]}
    maps = torch.nn.Sequential(
        xrv_nets.library().models.DenseNet(weights=None).features, torch.nn.ReLU()
    ).eval()
    module = Pooled(maps, mean=about["mean"], std=about["std"])
    backbone = from_module(module, name="x", size=64, pretraining=Pretraining(labels=("Mass",)))
    seen = {"data": [], "labels": ["Mass"], "source": "", "seeds": ""}
    again, model = bundle_networks.rebuild(
        about | {"name": "x", "size": 64, "pretraining": seen}, module.state_dict()
    )
    assert model is None
    x = torch.rand(1, 1, 64, 64)
    torch.testing.assert_close(again.module(x), backbone.module(x), rtol=0, atol=0)


# ---- places


def test_a_bundle_is_replaced_as_a_whole(folder: Path) -> None:
    assert (folder / "support.safetensors").exists()
    assert save(network(pictures=False), folder) == folder
    assert load(folder).name == "toy network"
    assert sorted(p.name for p in folder.iterdir()) == [JSON, "known.safetensors", "network.safetensors"]
    assert sorted(p.name for p in folder.parent.iterdir()) == [".toy.lock", "toy"]


def test_what_is_no_bundle_is_not_replaced(folder: Path, pair: Bundle, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "file").write_text("precious")
    for name in ("thesis", "file"):
        with pytest.raises(BundleError, match=f"{name} exists and is no bundle, so it is not replaced"):
            save(pair, tmp_path / name)
    assert (tmp_path / "file").read_text() == "precious"
    (folder / "notes.txt").write_text("precious")
    with pytest.raises(BundleError, match=r"toy also holds notes\.txt, so it is not replaced"):
        save(pair, folder)
    assert (folder / "notes.txt").read_text() == "precious"


@POSIX
def test_a_link_is_not_replaced(folder: Path, pair: Bundle) -> None:
    link = folder.with_name("link")
    link.symlink_to(folder)
    with pytest.raises(BundleError, match="link exists and is no bundle"):
        save(pair, link)
    assert load(link).name == "toy"  # reading through the user's own link is fine


def test_bundles_are_found(folder: Path, pair: Bundle) -> None:
    top = folder.parent
    save(pair, top / "deep" / "er" / "b")
    save(pair, top / ".hidden" / "c")
    (top / "a.zip").write_bytes(to_zip(pair))
    (top / "other.zip").write_bytes(b"PK\x03\x04 no zip")
    with zipfile.ZipFile(top / "photos.zip", "w") as opened:
        opened.writestr("a/b/bundle.json", "{}")
    assert find(top) == [top / "a.zip", top / "deep" / "er" / "b", folder]
    assert find(top / "nothing") == []
    assert load(top / "a.zip").name == "toy"


def test_where_bundles_are_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XRAYKIT_BUNDLES_DIR", raising=False)
    assert bundle_files.bundles_dir(tmp_path) == tmp_path / "bundles"
    monkeypatch.setenv("XRAYKIT_BUNDLES_DIR", str(tmp_path / "elsewhere"))
    assert bundle_files.bundles_dir(tmp_path) == tmp_path / "elsewhere"


# ---- kills and two runs


@POSIX
def test_a_kill_at_any_step_leaves_a_whole_bundle_or_none(folder: Path, pair: Bundle) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["xraykit.bundle_build"])
    names = []
    for step in range(7):  # four files, two moves, and none
        child = context.Process(target=save_and_die, args=(folder, step))
        child.start()
        child.join(timeout=60)
        names.append(load(folder).name if folder.exists() else "none")
        done = child.exitcode == 0
        save(pair, folder)  # goes on over what is left
        assert sorted(p.name for p in folder.parent.iterdir()) == [".toy.lock", "toy"]
        if done:
            break
    assert names == [*["toy"] * 5, "none", "toy network"]


def test_a_run_that_was_killed_between_its_moves_is_repaired(folder: Path, pair: Bundle) -> None:
    folder.rename(folder.with_name(".toy.old"))
    with pytest.raises(BundleError):
        save(replace(pair, name=""), folder)  # refused before anything is touched
    save(network(), folder)
    assert load(folder).name == "toy network"
    assert not folder.with_name(".toy.old").exists()


def test_a_full_disk_leaves_the_old_bundle(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        path.write_bytes(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle_files, "_write", full)
    with pytest.raises(XraykitError, match="No space left on device"):
        save(network(), folder)
    assert load(folder).name == "toy"
    assert sorted(p.name for p in folder.parent.iterdir()) == [".toy.lock", "toy"]


# ---- damage, and other versions


def test_the_sentence_on_its_use_cannot_be_changed(folder: Path, pair: Bundle) -> None:
    change(folder, lambda m: m["card"].update(use="approved for clinical use"))
    assert load(folder).card == pair.card
    assert pair.card["use"] == "for teaching and research, not for clinical use"
    clinical = replace(pair, card=pair.card | {"use": "clinical"})
    assert "clinical use" in json.loads((save(clinical, folder) / JSON).read_text())["card"]["use"]


def test_a_damaged_copy(folder: Path, pair: Bundle) -> None:
    for name in sorted(set(LARGEST) - {JSON, "network.safetensors"}):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[:-3])
        refused(
            folder, f"{name} is damaged: it has {len(whole) - 3:,} bytes instead of {len(whole):,}; copy it"
        )
        (folder / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        refused(folder, rf"{name} is damaged: its SHA-256 is not the one in bundle\.json; copy it again")
        (folder / name).unlink()
        refused(folder, f"{name} is missing; copy the whole folder again")
        (folder / name).write_bytes(whole)
    assert load(folder).name == "toy"


@given(st.data())
@settings(max_examples=60)
def test_no_damage_of_a_zip_goes_unnoticed(data: st.DataObject) -> None:
    whole = zipped_toy()
    cut = data.draw(st.integers(0, len(whole) - 1))
    broken = data.draw(
        st.sampled_from([whole[:cut], whole[:cut] + bytes([whole[cut] ^ 0x55]) + whole[cut + 1 :]])
    )
    try:
        again = from_zip(broken)
    except BundleError:
        return
    # What is not read, such as a date in the zip, may change.
    assert to_zip(again) == whole


def test_a_newer_format(folder: Path) -> None:
    change(folder, lambda m: m.update(format=2))
    refused(folder, r"made by a newer xraykit \(format 2, this reads 1\); pip install -U xraykit")


def test_another_version_of_scikit_learn_warns(folder: Path) -> None:
    change(folder, lambda m: m["versions"].update({"scikit-learn": "1.4.2"}))
    with pytest.warns(
        UserWarning, match=r"saved with scikit-learn 1\.4\.2, and this is .* answers may differ"
    ):
        assert load(folder).name == "toy"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert from_zip(to_zip(network())).name == "toy network"


MANIFESTS = {
    "format": (lambda m: m.update(format="1"), "'format' is '1'; it must be int"),
    "no format": (lambda m: m.pop("format"), "'format' is missing; it must be int"),
    "format 0": (lambda m: m.update(format=0), "has the format 0"),
    "bool": (lambda m: m.update(format=True), "'format' is True; it must be int"),
    "name": (lambda m: m.update(name="a\x1b[31m"), r"the name 'a\\x1b\[31m', of 6 letters; give a text of"),
    "empty": (lambda m: m.update(classes=["", "b"]), "its names cannot be used: the name '', of 0 letters"),
    "kind": (lambda m: m.update(kind="regression"), "it is 'regression' of 2 classes"),
    "classes": (lambda m: m.update(classes=["a", "b", "c"]), "it is 'binary' of 3 classes"),
    "head": (
        lambda m: m.update(classes=["a", "b", "c"], kind="multiclass", thresholds=[]),
        "its head was fitted to 2 classes; it names 3",
    ),
    "multilabel": (
        lambda m: m.update(kind="multilabel", thresholds=[0.5, 0.5]),
        "a scikit-learn head is binary",
    ),
    "repeat": (lambda m: m.update(classes=["a", "a"]), "two classes are called 'a' and 'a'"),
    "threshold": (
        lambda m: m.update(thresholds=[1.5]),
        r"its thresholds are \[1\.5\]; each is a probability",
    ),
    "thresholds": (lambda m: m.update(thresholds=[0.5, 0.5]), "it has 2 thresholds; binary has 1"),
    "text": (lambda m: m.update(thresholds=["0.5"]), "'thresholds' is '0.5'; it must be int or float"),
    "temperature": (lambda m: m.update(temperature=0), "its temperature is 0"),
    "huge": (
        lambda m: m.update(temperature=10**400),
        r"is no JSON \(10000000000000000000\.\.\. is too large\)",
    ),
    "limit": (lambda m: m["known"].update(limit=-1), "limit -1; give a finite distance above 0"),
    "known": (
        lambda m: m["known"].update(other=1),
        r"its known images have \['features', 'limit', 'other'\]",
    ),
    "size": (lambda m: m["preprocess"].update(size=10**9), r"size is 1000000000; it must lie in"),
    "fit": (lambda m: m["preprocess"].update(fit=["pad"]), "'fit' is .'pad'.; it must be str"),
    "support": (
        lambda m: m["preprocess"].update(size=64),
        r"its support has images uint8 \(12, 96, 96\); 12 of",
    ),
    "std": (lambda m: m["network"].update(std=[0]), "std above 0"),
    "mean": (lambda m: m["network"].update(mean=[0, 0, 0]), "not of phantom, which has 1 channel"),
    "side": (lambda m: m["network"].update(built_for=10**6), r"made for 1000000; a side is 16\.\.1024"),
    "network": (lambda m: m["network"].update(size=10**6), r"takes 1000000 pixels"),
    "other": (
        lambda m: m["network"].update(architecture="cnn"),
        "its weights are not those of cnn: .* tensors",
    ),
    "unknown": (
        lambda m: m["network"].update(architecture="os.system"),
        "architecture 'os.system' is unknown here",
    ),
    "outputs": (lambda m: m["network"].update(n_outputs=1, model="x", dropout=0), "another kind of head"),
    "climb": (
        lambda m: m["files"].update({"../../etc/passwd": {}}),
        r"lists the files .*, which are not those of",
    ),
    "fewer": (lambda m: m["files"].pop("head.skops"), r"lists the files .*, which are not those of a bundle"),
    "bytes": (lambda m: m["files"]["head.skops"].update(bytes=2**40), "said to have 1,099,511,627,776 bytes"),
    "sha256": (lambda m: m["files"]["head.skops"].update(sha256="../x"), "is '../x', not 64 hex digits"),
    "files": (lambda m: m.update(files=[]), "'files' is .*; it must be dict"),
    "entry": (lambda m: m["files"].update({"head.skops": 7}), "head.skops is 7, not its size and hash"),
    "card": (lambda m: m.update(card=None), "'card' is None; it must be dict"),
    "huge format": (lambda m: m.update(format=10**400), r"\(10{19}\.\.\. is too large\); get"),
    "tiny limit": (lambda m: m["known"].update(limit=1e-320), "its limit is 1e-320, so that distances in"),
    "fingerprint": (
        lambda m: m["card"]["training"].update(fingerprint=["x"]),
        r"the training fingerprint \['x'\] instead of 64 hex digits",
    ),
    "no training": (lambda m: m["card"].update(training="x"), "the training fingerprint None instead"),
    "versions": (
        lambda m: m["card"].update(versions={"torch": 2}),
        r"the versions \{'torch': 2\} instead of",
    ),
    "no versions": (lambda m: m["card"].pop("versions"), "the versions None instead of one text a package"),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_that_were_altered(name: str, folder: Path) -> None:
    edit, message = MANIFESTS[name]
    change(folder, edit)
    refused(folder, message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no JSON"),
        ("[1]", "holds a list, not a bundle"),
        ("[" * 100_000, "is no JSON"),
        ('{"format": NaN}', "is no JSON .*NaN is not allowed"),
        ('{"format": 1e999}', "is no JSON .*1e999 is too large"),
        ('{"format": ' + "9" * 5000 + "}", "is no JSON"),
        ('"' + "x" * 2**20 + '"', "bundle.json is larger than 1,048,576 bytes, the limit"),
        ("\udcff\udcfe", "is no JSON"),
    ],
)
def test_manifests_that_are_none(text: str, message: str, folder: Path) -> None:
    (folder / JSON).write_bytes(text.encode("utf-8", "surrogateescape"))
    refused(folder, message)


def test_no_bundle_at_all(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "it does not exist; give the folder or the zip of a bundle")
    refused(tmp_path, r"it has no bundle\.json; give the folder")
    (tmp_path / "x.zip").write_bytes(b"no zip")
    refused(tmp_path / "x.zip", "it is no zip file, or a damaged one")
    with pytest.raises(BundleError, match="this zip is no usable bundle: it is no zip file"):
        from_zip(b"")
