"""Bundles from elsewhere: none runs code, reads other files or memory, or fills the disk."""

import copy
import functools
import io
import json
import os
import pickle
import re
import stat
import subprocess
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skops.io
import torch
from safetensors.numpy import load as arrays_from
from safetensors.numpy import save as arrays_to
from safetensors.torch import load as tensors_from
from safetensors.torch import save as tensors_to
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.preprocessing import FunctionTransformer
from toy_bundles import change, estimator, network, put, refused, zipped_toy

from xraykit import backbones, bundle_fit, bundle_head_checks, bundle_heads, bundle_manifest, bundle_networks
from xraykit.backbones import Pooled, Pretraining, from_module
from xraykit.bundle import Bundle
from xraykit.bundle_files import from_zip, load, save
from xraykit.bundle_manifest import JSON
from xraykit.errors import BundleError
from xraykit.fewshot_classifiers import CLASSIFIERS
from xraykit.nets import SmallEncoder
from xraykit.training_mistakes import with_output

POSIX = pytest.mark.skipif(os.name != "posix", reason="signals and links as on Unix")


@pytest.fixture(scope="module")
def pair() -> Bundle:
    return estimator()


@pytest.fixture
def folder(pair: Bundle, tmp_path: Path) -> Path:
    return save(pair, tmp_path / "toy")


# ---- tensors and arrays that do not fit


def test_weights_that_do_not_fit(folder: Path) -> None:
    name = "backbone.safetensors"
    state = tensors_from((folder / name).read_bytes())
    key = "maps.stem.0.weight"
    for value, message in (
        (torch.full_like(state[key], torch.nan), f"have NaN or infinite numbers, in {key}"),
        (state[key].half(), f"not those of phantom: 1 tensors differ, such as {key} torch.float"),
        (state[key][:, :, :3].contiguous(), f"not those of phantom: 1 tensors differ, such as {key}"),
        (torch.zeros(4000, 1, 1, 1), r"has 4000 channels in the first layer; 1\.\.512 are possible"),
        (torch.zeros(8, 1, 5, 5), "not those of phantom"),
    ):
        put(folder, name, tensors_to(state | {key: value}))
        refused(folder, message)
    put(folder, name, tensors_to({k: v for k, v in state.items() if k != "maps.stem.1.bias"}))
    refused(folder, "1 tensors differ, such as maps.stem.1.bias")
    put(folder, name, tensors_to(state | {"more": torch.zeros(1)}))
    refused(folder, "1 tensors differ, such as more")
    put(folder, name, b"\x00" * 100)
    refused(folder, "its parts do not fit together")


@pytest.mark.parametrize(
    "about",
    [
        {"architecture": "vgg16", "built_for": 1024, "size": 1024, "mean": [0.5] * 3, "std": [1] * 3},
        {"architecture": "vit_b_16", "built_for": 1024, "size": 1024, "mean": [0.5] * 3, "std": [1] * 3},
        {"architecture": "regnet_y_128gf", "built_for": 384, "size": 384, "mean": [0.5] * 3, "std": [1] * 3},
        {"architecture": "resnet50-res512-all", "built_for": 512},
        {"built_for": 1024, "size": 1024},
    ],
    ids=lambda about: about.get("architecture", "phantom"),
)
def test_tensors_are_compared_before_anything_is_built(
    about: dict, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ran(*args: object, **options: object) -> None:
        raise AssertionError("the network was run")

    monkeypatch.setattr(bundle_networks, "from_module", ran)
    put(folder, "backbone.safetensors", tensors_to({"maps.stem.0.weight": torch.zeros(512, 1, 5, 5)}))
    change(folder, lambda m: m["network"].update(about))
    made: list[int] = []

    class Watched(torch.overrides.TorchFunctionMode):
        def __torch_function__(
            self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None
        ) -> object:
            found = func(*args, **(kwargs or {}))
            if isinstance(found, torch.Tensor) and not found.is_meta:
                made.append(found.numel())
            return found

    with Watched():
        refused(
            folder, f"its weights are not those of {about.get('architecture', 'phantom')}: .* tensors differ"
        )
    assert max(made, default=0) < 2**20


@pytest.mark.parametrize("name", ["regnet_y_400mf", "swin_v2_t", "vit_b_32", "inception_v3"])
def test_a_skeleton_becomes_the_network(name: str) -> None:
    """Of the architectures with constants of their own: the same features as the network that was built."""
    expected = backbones.load(f"{name}:random", seed=3)
    pooled = expected.module
    about = {"architecture": name, "name": "x", "size": expected.size, "built_for": expected.size}
    about |= {"mean": pooled.mean.flatten().tolist(), "std": pooled.std.flatten().tolist()}
    about |= {"pretraining": {"data": [], "labels": [], "source": "", "seeds": ""}}
    found, _ = bundle_networks.rebuild(about, pooled.state_dict())
    assert found.weights_hash == expected.weights_hash
    x = torch.rand(1, 1, found.size, found.size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.module(x), pooled(x), rtol=0, atol=0)


@pytest.mark.parametrize("key", ["size", "built_for"])
def test_sides_above_1024_are_refused(key: str, folder: Path, pair: Bundle, tmp_path: Path) -> None:
    change(folder, lambda m: m["network"].update({key: 1025}))
    refused(folder, r"its network takes \d+ pixels, made for \d+; a side is 16\.\.1024")
    with pytest.raises(BundleError, match="takes 1025 pixels, made for 1025"):
        save(replace(pair, backbone=replace(pair.backbone, size=1025)), tmp_path / "large")


def test_known_and_support_that_do_not_fit(folder: Path) -> None:
    for file, key, value, message in (
        (
            "known",
            "features",
            np.zeros((9, 5), np.float32),
            "known images have features .*; 256 each are needed|equal",
        ),
        ("known", "features", np.full((9, 256), np.nan, np.float32), "finite"),
        ("support", "images", np.zeros((12, 96, 95), np.uint8), "its support has images"),
        ("support", "images", np.zeros((12, 96, 96), np.float32), "its support has images float32"),
        ("support", "labels", np.full(12, 2), r"labels int64 \(12,\); codes 0\.\.1 \(12,\) fit"),
        ("support", "labels", np.zeros((12, 2), np.int64), r"labels int64 \(12, 2\)"),
        ("support", "features", np.full((12, 256), np.inf, np.float32), "or some are not finite"),
        ("support", "other", np.zeros(1), "its support holds"),
    ):
        name = f"{file}.safetensors"
        whole = (folder / name).read_bytes()
        put(folder, name, arrays_to(arrays_from(whole) | {key: value}))
        refused(folder, message)
        put(folder, name, whole)


def test_a_head_of_other_features(folder: Path, tmp_path: Path) -> None:
    squeezed = save(estimator(n=3, backbone="squeezenet1_0:random", pictures=False), tmp_path / "squeezed")
    put(folder, "head.skops", (squeezed / "head.skops").read_bytes())
    refused(folder, "its head takes 512 features an image, and phantom makes 256; save it with the backbone")


class Twice(SmallEncoder):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def test_bundles_that_cannot_be_saved(pair: Bundle, tmp_path: Path) -> None:
    own = from_module(torch.nn.Flatten(), name="mine", size=16, pretraining=Pretraining())
    backbones.register("my-net", lambda weights, *, seed, weights_dir: own)
    changed = from_module(
        Pooled(torch.nn.Sequential(pair.backbone.module.maps, torch.nn.ReLU6()), mean=[0.5], std=[0.25]),
        name="changed",
        size=96,
        pretraining=Pretraining(),
    )
    net, raw, twice = network(), backbones.load("phantom", normalise=False), Twice()
    twice.load_state_dict(pair.backbone.module.maps.state_dict())
    twice = Pooled(twice, mean=[0.5], std=[0.25])
    doubled = from_module(twice, name="doubled", size=96, pretraining=Pretraining())
    for bundle, message in (
        (
            replace(pair, architecture="my-net"),
            "'my-net' was registered by you, and a bundle carries no code to",
        ),
        (
            replace(pair, architecture="typo"),
            "the architecture 'typo' is unknown; save bundles of phantom, pixels",
        ),
        (replace(pair, architecture="cnn"), "its weights are not those of cnn"),
        (replace(pair, backbone=changed), "its phantom has 0 channels in the first layer"),
        (
            replace(pair, backbone=own),
            "mine is not the phantom that xraykit builds, and a bundle carries no code",
        ),
        (replace(pair, backbone=doubled), "doubled is not the phantom that xraykit builds"),
        (replace(pair, head=NearestCentroid()), "its head cannot be used: it is a NearestCentroid"),
        (replace(pair, card=pair.card | {"x": np.nan}), "its card cannot be written as JSON"),
        (replace(pair, card=pair.card | {"x": {1, 2}}), "its card cannot be written as JSON"),
        (
            replace(pair, card=pair.card | {"x": "y" * 2**20}),
            "its card makes bundle.json .* the limit is 1,048,576",
        ),
        (replace(pair, card=pair.card | {"x": 10**400}), "is no JSON .*10000000000000000000... is too large"),
        (replace(pair, card={}), "the training fingerprint None instead of 64 hex digits"),
        (replace(pair, temperature=2.0), "calibrated itself"),
        (
            replace(net, head=with_output(net.head, torch.nn.Sigmoid()).eval()),
            "is not the cnn-small that xraykit",
        ),
        (replace(net, head=copy.deepcopy(net.head).train()), "its network is in training mode"),
        (replace(net, thresholds=()), "it has 0 thresholds; binary has 1"),
        (
            replace(net, kind="multiclass", thresholds=()),
            "its network has 1 outputs; multiclass of 2 .* 2",
        ),
    ):
        with pytest.raises(BundleError, match=message):
            save(bundle, tmp_path / "toy")
    assert not (tmp_path / "toy").exists()
    assert load(save(replace(pair, backbone=raw), tmp_path / "raw")).backbone.module.std.item() == 1


# ---- hostile heads


class Attack:
    def __reduce__(self) -> tuple:
        return os.system, (f"touch {os.environ['ATTACKED']}",)


@pytest.fixture
def attacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATTACKED", str(tmp_path / "attacked"))
    return tmp_path / "attacked"


def test_heads_that_would_run_code(folder: Path, attacked: Path) -> None:
    transformer = FunctionTransformer(os.system, kw_args={"x": f"touch {attacked}"})
    ours = bundle_heads.load((folder / "head.skops").read_bytes())
    inside = bundle_heads.load((folder / "head.skops").read_bytes())
    bundle_heads.fitted_part(inside).steps.insert(0, ("attack", transformer))
    ufunc = bundle_heads.load((folder / "head.skops").read_bytes())
    bundle_heads.fitted_part(ufunc).steps.insert(
        0, ("ufunc", FunctionTransformer(np.exp))
    )  # skops trusts this
    method = bundle_heads.load((folder / "head.skops").read_bytes())
    method.attack = ours.predict
    for head, message in (
        (inside, r"its head holds .*os\.system|posix\.system"),
        (transformer, "which is not on the list of what a bundle may hold"),
        (ufunc, r"its head holds .*FunctionTransformer"),
        (method, "MethodNode"),
        (subprocess.Popen, r"its head holds .*subprocess\.Popen"),
        ({"a": io.BytesIO}, "BytesIO"),
    ):
        put(folder, "head.skops", skops.io.dumps(head))
        refused(folder, message)
    for data, message in (
        (pickle.dumps(Attack()), "its head is no skops file"),
        (b"PK\x03\x04", "its head is no skops file"),
    ):
        put(folder, "head.skops", data)
        refused(folder, message)
    assert not attacked.exists()


def rezipped(data: bytes, edit: Callable[[dict], object], *, how: int = zipfile.ZIP_STORED) -> bytes:
    """A skops file with another schema."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as before, zipfile.ZipFile(target, "w", how) as after:
        for item in before.infolist():
            content = before.read(item)
            if item.filename == "schema.json":
                schema = json.loads(content)
                edit(schema)
                content = json.dumps(schema)
            after.writestr(item.filename, content)
    return target.getvalue()


def test_schemas_that_were_altered(folder: Path) -> None:
    data = (folder / "head.skops").read_bytes()
    for edit, message in (
        (
            lambda s: s.update(__module__="os", __class__="system"),
            r"holds os\.system, which is not on the list",
        ),
        (lambda s: s.update(__loader__="FunctionNode"), "holds FunctionNode, which is not on the list"),
        (lambda s: s.update(__loader__="OperatorFuncNode"), "holds OperatorFuncNode"),
        (lambda s: s.update(protocol=99), "its head cannot be read"),
        (lambda s: s.pop("content"), "its head"),
        (lambda s: s.update(content=[]), "its head"),
    ):
        put(folder, "head.skops", rezipped(data, edit))
        refused(folder, message)
    put(folder, "head.skops", rezipped(data, lambda s: None, how=zipfile.ZIP_DEFLATED))
    refused(folder, "its head is compressed, which it is not when it is saved")


def test_a_schema_is_limited_before_it_is_parsed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = rezipped((folder / "head.skops").read_bytes(), lambda s: s.update(more="x" * 2**20))
    with monkeypatch.context() as patched:
        patched.setattr(json, "loads", lambda *a, **o: pytest.fail("parsed"))
        with pytest.raises(BundleError, match=r"described in 1,\d{3},\d{3} bytes; the limit is 1,048,576"):
            bundle_heads.load(large)
    x, y = np.random.default_rng(0).normal(size=(200, 256)), np.arange(200) % 2
    fitted = bundle_fit.fit("SVC RBF", np.float32(x), y, np.arange(200), seed=0)
    with zipfile.ZipFile(io.BytesIO(bundle_heads.dump(fitted))) as opened:
        assert 4 * opened.getinfo("schema.json").file_size < bundle_heads.LONGEST_SCHEMA


def sabotaged(classifier: str, edit: Callable[[object], object]) -> bytes:
    """The skops file of a head after an edit of its classifier, past our own checks."""
    head = bundle_heads.load(bundle_heads.dump(heads()[classifier]))
    edit(bundle_heads.fitted_part(head)[-1])
    return skops.io.dumps(head)


@functools.cache
def heads() -> dict[str, object]:
    return {name: estimator(3, n=4, classifier=name).head for name in CLASSIFIERS}


@pytest.mark.parametrize(
    ("classifier", "edit", "message"),
    [
        ("SVC RBF", lambda c: c.__dict__.update(_n_support=np.int32([9999, 1, 1])), "says to have"),
        ("SVC RBF", lambda c: c.__dict__.update(_n_support=np.int32([-1, 7, 6])), "says to have"),
        ("SVC RBF", lambda c: c.__dict__.update(_dual_coef_=np.zeros((2, 1))), "_dual_coef_ is float64"),
        ("SVC RBF", lambda c: c.__dict__.update(support_=np.zeros(1, np.int32)), "positions of"),
        ("SVC RBF", lambda c: c.__dict__.update(_impl="one_class"), "of another kind"),
        ("SVC RBF", lambda c: c.__dict__.update(_sparse=True), "is sparse"),
        ("SVC RBF", lambda c: c.__dict__.update(kernel="precomputed"), "kernel 'precomputed'"),
        ("SVC RBF", lambda c: c.__dict__.update(_gamma=float("nan")), "not finite"),
        ("SVC poly", lambda c: c.__dict__.update(degree=10**6), "too large"),
        ("SVC linear", lambda c: c.__dict__.update(_intercept_=np.zeros(2)), "_intercept_ is"),
        ("SVC linear", lambda c: c.__dict__.pop("_probA"), "its head is incomplete"),
        ("KNN", lambda c: c.__dict__.update(_y=np.full(12, 10**9)), "labels int64"),
        ("KNN", lambda c: c.__dict__.update(n_neighbors=10**6), "asks 1000000 neighbours of 12"),
        ("KNN", lambda c: c.__dict__.update(_fit_method="kd_tree"), "kept in a tree"),
        ("KNN", lambda c: c.__dict__.update(effective_metric_="precomputed"), "the metric 'precomputed'"),
        ("KNN", lambda c: c.__dict__.update(n_jobs=10**6), "unusual weights"),
        (
            "logistic regression",
            lambda c: c.__dict__.update(coef_=np.zeros((3, 9))),
            r"coef_ is float64 \(3, 9\)",
        ),
        ("logistic regression", lambda c: c.coef_.fill(np.inf), "coef_ has NaN or infinite"),
        ("logistic regression", lambda c: c.__dict__.update(classes_=np.arange(4)), "its labels are"),
        ("logistic regression", lambda c: c.__dict__.update(n_features_in_=9), "takes 256 features and"),
        ("nearest class mean", lambda c: c.__dict__.update(within_class_std_dev_=np.ones(9)), "within_class"),
    ],
)
def test_heads_whose_numbers_do_not_fit(classifier: str, edit: Callable, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        bundle_heads.load(sabotaged(classifier, edit))


def test_heads_that_are_not_ours() -> None:
    tree = bundle_heads.load(bundle_heads.dump(heads()["KNN"]))
    x, y = np.random.default_rng(0).normal(size=(9, 256)), np.arange(9) % 3
    bundle_heads.fitted_part(tree).steps[-1] = ("fit", KNeighborsClassifier(1, algorithm="kd_tree").fit(x, y))
    uncalibrated = bundle_heads.load(bundle_heads.dump(heads()["KNN"]))
    uncalibrated.calibrated_classifiers_[0].calibrators[0].a_ = float("nan")
    cached = bundle_heads.load(bundle_heads.dump(heads()["KNN"]))
    bundle_heads.fitted_part(cached).memory = "/somewhere"
    for head, message in (
        (tree, "kept in a tree"),
        (uncalibrated, "calibrations for 3 classes, or some that are not finite"),
        (cached, "or keeps a cache"),
        (bundle_heads.fitted_part(tree), "it is a Pipeline. A head is a CalibratedClassifierCV"),
        (tree.estimator, "it is a Pipeline"),
        (None, "it is a NoneType"),
    ):
        with pytest.raises(BundleError, match=message):
            bundle_head_checks.check(head)


# ---- links and hostile zips


@POSIX
def test_links_out_of_the_folder_are_not_followed(folder: Path, tmp_path: Path) -> None:
    for name in ("head.skops", JSON):
        outside = tmp_path / name
        (folder / name).rename(outside)
        (folder / name).symlink_to(outside)
        refused(folder, f"{name} is a link, which could lead anywhere; copy the file itself there")
        (folder / name).unlink()
        outside.rename(folder / name)
    (folder / "head.skops").unlink()
    os.mkfifo(folder / "head.skops")
    refused(folder, "head.skops is missing")


def zip_of(files: dict[str, bytes], *, how: int = zipfile.ZIP_STORED, mode: int = 0, flags: int = 0) -> bytes:
    target = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(target, "w", how) as opened:
        warnings.simplefilter("ignore")  # of names that repeat
        for name, data in files.items():
            item = zipfile.ZipInfo(name)
            item.external_attr, item.compress_type = mode << 16, how
            opened.writestr(item, data)
    return target.getvalue()


def test_a_zip_that_was_made_by_hand(folder: Path) -> None:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    below = {f"toy/{name}": data for name, data in files.items()}
    for members in (files, below, below | {"toy/": b"", "__MACOSX/toy/._bundle.json": b"x"}):
        assert from_zip(zip_of(members, how=zipfile.ZIP_DEFLATED)).name == "toy"


@pytest.mark.parametrize(
    "name",
    ["../bundle.json", "/bundle.json", "/etc/bundle.json", "..\\bundle.json", "C:\\bundle.json",
     "C:/bundle.json", "a/b/bundle.json", "./bundle.json", "other/bundle.json", "run.py",
     "a/../../bundle.json"],
)  # fmt: skip
def test_zips_with_other_names(name: str, folder: Path, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(
        BundleError,
        match=f"the zip holds {re.escape(repr(name))}, which is no file of a bundle, or not where",
    ):
        from_zip(zip_of({**files, name: b"{}"}))
    assert not (tmp_path / "bundle.json").exists()


def test_zips_with_links_bombs_and_repeats(folder: Path) -> None:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    bomb = {**files, "support.safetensors": bytes(2**27)}
    repeated = io.BytesIO(zip_of(files))
    with warnings.catch_warnings(), zipfile.ZipFile(repeated, "a") as opened:
        warnings.simplefilter("ignore")
        opened.writestr(JSON, "{}")
    encrypted = bytearray(zip_of(files))
    encrypted[encrypted.rfind(b"PK\x01\x02") + 8] |= 1
    for data, message in (
        (zip_of(files, mode=stat.S_IFLNK | 0o777), "is a link or a device in the zip; nothing was unpacked"),
        (
            zip_of(bomb, how=zipfile.ZIP_DEFLATED),
            "support.safetensors would unpack from .* to 134,217,728 bytes",
        ),
        (zip_of({JSON: b" " * (2**20 + 1)}), "bundle.json would unpack from 1,048,577"),
        (repeated.getvalue(), "holds 'bundle.json', which is .* or is there twice; nothing"),
        (bytes(encrypted), "is encrypted in the zip; unpack it"),
        (zip_of({}), "bundle.json is missing in the zip"),
        (zip_of({n: files[n] for n in files if n != "head.skops"}), "head.skops is missing in the zip"),
    ):
        with pytest.raises(BundleError, match=message):
            from_zip(data)


def test_the_stray_member_is_named(folder: Path) -> None:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    for members in (files | {"../../evil.txt": b"x"}, {"../../evil.txt": b"x"} | files):
        with pytest.raises(BundleError, match=r"the zip holds '\.\./\.\./evil\.txt', which is no file of a"):
            from_zip(zip_of(members))


def test_zips_shrink_at_most_twentyfold(folder: Path) -> None:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    noise = np.random.default_rng(0).bytes(2**20)
    for zeros, message in ((10, "damaged|lists"), (30, r"would unpack from .* to 32,505,856 bytes, more")):
        bomb = zip_of(files | {"support.safetensors": noise + bytes(zeros * 2**20)}, how=zipfile.ZIP_DEFLATED)
        with pytest.raises(BundleError, match=message):
            from_zip(bomb)


def test_all_files_together_are_limited(folder: Path, pair: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    change(folder, lambda m: m["files"]["backbone.safetensors"].update(bytes=2**31))
    refused(folder, r"its files have 2,14\d,\d{3},\d{3} bytes together; the limit is 2,147,483,648")
    whole = zip_of({path.name: path.read_bytes() for path in folder.iterdir()})
    monkeypatch.setattr(bundle_manifest, "MOST", 10_000)
    with pytest.raises(BundleError, match="bytes together; the limit is 10,000"):
        from_zip(whole)
    with pytest.raises(BundleError, match="bytes together; the limit is 10,000"):
        save(pair, folder)


def test_reading_a_zip_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    from_zip(zipped_toy())
    assert list(tmp_path.iterdir()) == []
