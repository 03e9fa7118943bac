"""Extraction: what it returns, what the key holds, streaming, bad input, damage, full disks."""

import errno
import json
import os
import shutil
import warnings
import weakref
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from toy_backbones import DIM, pictures, toy
from typer.testing import CliRunner

from xraykit import cli, embedding_compute, embedding_engines, embedding_store, embeddings
from xraykit.backbones.base import Backbone, Pretraining, from_module, network_input, weights_hash
from xraykit.devices import BF16_SETS, instruction_set
from xraykit.embedding_choice import import_openvino
from xraykit.embedding_store import Place
from xraykit.embeddings import Embeddings
from xraykit.errors import DataError, StorageError

N, CHUNK = 30, 8
BACKENDS = [
    "torch",
    pytest.param("openvino", marks=pytest.mark.skipif(not import_openvino(), reason="OpenVINO is missing")),
]
BF16 = pytest.mark.skipif(instruction_set() not in BF16_SETS, reason="this processor has no bf16")


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    monkeypatch.setattr(embedding_store, "_CHUNK_ROWS", (CHUNK, CHUNK))


@pytest.fixture
def cache_dir(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def images():
    return pictures(N)


def quiet(images: np.ndarray, backbone: Backbone, cache_dir: Path, **options) -> Embeddings:
    options = {"backend": "torch", "device": "cpu", "threads": 1, "progress": False, **options}
    return embeddings.extract(images, backbone, cache_dir=cache_dir, **options)


def folders(cache_dir: Path) -> list[Path]:
    return sorted(path for path in (cache_dir / "embeddings").iterdir() if path.is_dir())


def network(forward, name: str = "odd") -> Backbone:
    """A backbone with a method `forward` of the test's own."""
    kind = type("Odd", (nn.Module,), {"forward": forward})
    net = kind()
    net.weight = nn.Parameter(torch.ones(1))
    return from_module(net, name=name, size=16, pretraining=Pretraining())


# ---- what it returns


@pytest.mark.parametrize("backend", BACKENDS)
def test_features_are_those_of_the_network(images, cache_dir, backend):
    backbone = toy()
    found = quiet(images, backbone, cache_dir, backend=backend)
    with torch.no_grad():
        expected = torch.cat([backbone.module(network_input(images[i : i + 1], 16)) for i in range(N)])
    assert isinstance(found.features, np.memmap)
    assert (found.features.dtype, found.features.shape) == (np.float32, (N, DIM))
    assert not found.features.flags.writeable
    np.testing.assert_allclose(found.features, expected, rtol=1e-5, atol=1e-6)
    assert (found.name, found.backend, found.precision, found.device, found.cached, found.rank) == (
        *("toy", backend, "fp32", "cpu", False, 0),
    )


def test_a_second_call_computes_nothing(images, cache_dir, computed):
    first = quiet(images, toy(), cache_dir)
    second = quiet(images, toy(), cache_dir)
    assert sum(computed) == N
    np.testing.assert_array_equal(first.features, second.features)
    assert (first.cached, second.cached, first.folder) == (False, True, second.folder)
    assert sorted(path.name for path in first.folder.iterdir()) == ["features.f32", "meta.json"]
    assert (first.folder / "features.f32").read_bytes() == np.asarray(first.features).tobytes()
    about = json.loads((first.folder / "meta.json").read_text())
    assert (about["backbone"], about["n"], about["dim"], about["key"]) == ("toy", N, DIM, first.key)


def test_description(cache_dir):
    features = np.zeros((5840, 2208), np.float32)
    found = Embeddings(features, "densenet161:imagenet", "openvino", "bf16", "cpu", "k", cache_dir, True)
    assert (
        str(found)
        == found.describe()
        == ("densenet161:imagenet, 5,840 images, 2208 numbers each, OpenVINO bf16 on CPU, from the cache")
    )
    now = Embeddings(features[:2, :3], "toy", "torch", "fp32", "cuda", "k", cache_dir, False)
    assert str(now) == "toy, 2 images, 3 numbers each, PyTorch fp32 on CUDA, computed now"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch_size", [1, 3, 8, 50])
def test_the_batch_size_moves_features_by_rounding_only(images, cache_dir, tmp_path, backend, batch_size):
    whole = quiet(images, toy(), cache_dir, backend=backend)
    other = quiet(images, toy(), tmp_path / "other", backend=backend, batch_size=batch_size)
    assert other.key == whole.key
    np.testing.assert_allclose(other.features, whole.features, rtol=1e-5, atol=1e-6)


@BF16
@pytest.mark.parametrize("backend", BACKENDS)
def test_bf16_points_the_same_way(images, cache_dir, backend):
    exact = quiet(images, toy(), cache_dir, backend=backend).features
    rounded = quiet(images, toy(), cache_dir, backend=backend, precision="bf16")
    cosine = (exact * rounded.features).sum(1)
    cosine /= np.linalg.norm(exact, axis=1) * np.linalg.norm(rounded.features, axis=1)
    assert rounded.precision == "bf16"
    assert cosine.min() > 0.999
    assert 0 < np.abs(exact - rounded.features).max() < 0.02


def test_progress_only_when_asked_for(images, cache_dir, tmp_path, capsys):
    quiet(images, toy(), cache_dir, progress=True)
    assert f"toy: 100%|██████████| {N}/{N}" in capsys.readouterr().err
    quiet(images, toy(), tmp_path / "other")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("backend", BACKENDS)
def test_backbone_and_threads_stay_as_they_were(images, cache_dir, backend):
    backbone, threads = toy(), torch.get_num_threads()
    strides = [weight.stride() for weight in backbone.module.parameters()]
    quiet(images, backbone, cache_dir, backend=backend, threads=threads + 1)
    assert torch.get_num_threads() == threads
    assert weights_hash(backbone.module) == backbone.weights_hash
    assert [weight.stride() for weight in backbone.module.parameters()] == strides
    assert not torch.is_inference_mode_enabled()


# ---- keys


def test_everything_that_decides_the_features_is_in_the_key(images, cache_dir, monkeypatch):
    def key(pictures=images, backbone=None, **options):
        return quiet(pictures, backbone or toy(), cache_dir, **options).key

    changed = images.copy()
    changed[-1, -1, -1] ^= 1
    keys = [
        key(),
        key(changed),
        key(images[:-1]),
        key(images.reshape(N, 10, 40)),
        key(backbone=toy(seed=1)),
        key(backbone=toy(std=0.5)),
        key(backbone=toy(size=17)),
    ]
    if import_openvino():
        keys.append(key(backend="openvino"))
    if instruction_set() in BF16_SETS:
        keys.append(key(precision="bf16"))
    assert key(backbone=toy(name="another name")) == keys[0]
    monkeypatch.setattr(torch, "__version__", "99.0")
    keys.append(key())
    assert len(set(keys)) == len(keys)
    assert len(folders(cache_dir)) == len(keys)


def test_a_cache_from_other_weights_is_not_used(images, cache_dir):
    mine, other = (quiet(images, toy(seed), cache_dir) for seed in (0, 1))
    assert not other.cached
    assert np.abs(mine.features - other.features).max() > 0.01
    np.testing.assert_array_equal(quiet(images, toy(0), cache_dir).features, mine.features)


def test_an_edited_forward_is_another_network(images, cache_dir):
    plain = network(lambda self, x: x.mean((2, 3)) * self.weight)
    edited = network(lambda self, x: x.mean((2, 3)) * self.weight * 2)
    assert plain.weights_hash == edited.weights_hash
    first, second = (quiet(images, backbone, cache_dir).features for backbone in (plain, edited))
    np.testing.assert_array_equal(2 * first, second)
    decorated = network(torch.no_grad()(lambda self, x: x.mean((2, 3)) * self.weight * 3))
    default = network(lambda self, x, times=4: x.mean((2, 3)) * self.weight * times)
    other_default = network(lambda self, x, times=5: x.mean((2, 3)) * self.weight * times)
    for times, backbone in ((3, decorated), (4, default), (5, other_default)):
        np.testing.assert_allclose(quiet(images, backbone, cache_dir).features, times * first, rtol=1e-6)


def test_a_plain_attribute_is_in_the_key(images, cache_dir):
    class Scaled(torch.nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.scale = scale

        def forward(self, x):
            return x.mean((2, 3)) * self.scale

    about = {"name": "scaled", "size": 16, "pretraining": Pretraining()}
    one, two = (quiet(images, from_module(Scaled(s), **about), cache_dir).features for s in (1.0, 2.0))
    np.testing.assert_allclose(two, 2 * one)


# ---- streaming


@given(st.integers(1, 3000), st.integers(1, 200_000))
def test_chunks_cover_every_row_once_and_stay_small(n, dim):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding_store, "_CHUNK_ROWS", (32, 256))
        chunks = Place(Path(), {}, n, dim, "").chunks()
    assert [row for chunk in chunks for row in chunk] == list(range(n))
    assert max(map(len, chunks)) <= max(32, min(256, 2**22 // dim))


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_a_few_batches_are_alive(cache_dir, monkeypatch, backend):
    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    most = 0
    original = embedding_compute.network_input

    def counted(images: np.ndarray, size: int) -> torch.Tensor:
        nonlocal most
        batch = original(images, size)
        alive.add(batch)
        most = max(most, len(alive))
        return batch

    monkeypatch.setattr(embedding_compute, "network_input", counted)
    quiet(pictures(120), toy(), cache_dir, backend=backend, batch_size=2)
    assert most <= 3


def test_a_memmap_gives_its_pages_back_and_a_slice_of_it_streams(images, tmp_path, cache_dir, monkeypatch):
    images.tofile(tmp_path / "images.u8")
    mapped = np.memmap(tmp_path / "images.u8", np.uint8, "r", shape=images.shape)
    given_back, original = [], embedding_store.release
    monkeypatch.setattr(embedding_store, "release", lambda x: given_back.append(len(x)) or original(x))
    found = quiet(mapped[4:], toy(), cache_dir)
    assert found.key == quiet(images[4:], toy(), cache_dir).key
    assert given_back.count(N - 4) >= 1 + len(range(0, N - 4, CHUNK))  # a pass for the key, one for features


def test_changes_to_a_copy_on_write_memmap_survive(images, tmp_path, cache_dir):
    images.tofile(tmp_path / "images.u8")
    mapped = np.memmap(tmp_path / "images.u8", np.uint8, "c", shape=images.shape)
    mapped[:] = 255 - images
    found = quiet(mapped, toy(), cache_dir)
    assert (mapped == 255 - images).all()
    np.testing.assert_array_equal(found.features, quiet(255 - images, toy(), tmp_path / "other").features)


# ---- bad input


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((0, 20, 20), np.uint8), "at least one image"),
        (np.zeros((2, 20, 20), np.float32), r"float32 in 0\.\.0: use"),
        (np.zeros((2, 20, 20, 3), np.uint8), "drop the channel axis"),
        ([[1]], "images are a list"),
    ],
)
def test_wrong_images(cache_dir, wrong, message):
    with pytest.raises(DataError, match=message):
        quiet(wrong, toy(), cache_dir)
    assert not cache_dir.exists()


@pytest.mark.parametrize("name", ["batch_size", "threads", "devices", "num_nodes"])
def test_numbers_below_one(images, cache_dir, name):
    with pytest.raises(DataError, match=f"{name} is 0; at least 1 is needed"):
        quiet(images, toy(), cache_dir, **{name: 0})


@pytest.mark.parametrize("backend", BACKENDS)
def test_features_that_are_not_finite_are_named_and_not_stored(images, cache_dir, backend):
    images[19] = 255
    backbone = network(lambda self, x: torch.sqrt(0.9 - x.amin((2, 3))) * self.weight)
    library = {"torch": "PyTorch", "openvino": "OpenVINO"}[backend]
    with pytest.raises(
        DataError, match=rf"odd makes NaN or infinite features of image 19 \({library} fp32 on CPU\)"
    ):
        quiet(images, backbone, cache_dir, backend=backend, batch_size=4)
    (folder,) = folders(cache_dir)
    assert folder.suffix == ".partial"
    assert sorted(path.name for path in folder.iterdir()) == ["000000000.chunk", "000000008.chunk"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_network_whose_output_depends_on_the_batch(images, cache_dir, backend):
    backbone = network(lambda self, x: x.reshape(len(x), -1)[:, : 2 * len(x)] * self.weight)  # D = 2 B
    with pytest.raises(DataError, match=r"D must be 4|\(8, 4\)"):
        quiet(images, backbone, cache_dir, backend=backend, batch_size=8)


@pytest.mark.skipif(not import_openvino(), reason="OpenVINO is missing")
def test_a_network_that_openvino_cannot_convert(images, cache_dir):
    backbone = network(lambda self, x: torch.special.bessel_j0(x).mean((2, 3)) * self.weight)
    with pytest.raises(DataError, match=r"OpenVINO cannot run odd \((?s:.*)use backend='torch'"):
        quiet(images, backbone, cache_dir, backend="openvino")
    assert quiet(images, backbone, cache_dir).features.shape == (N, 1)


def test_a_batch_that_does_not_fit_into_memory(images, cache_dir, monkeypatch):
    def full(self, x):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    backbone = toy()
    monkeypatch.setattr(type(backbone.module), "forward", full)
    with pytest.raises(DataError, match=r"7 images of 16 pixels at once do not fit .* smaller batch_size"):
        quiet(images, backbone, cache_dir, batch_size=7)


# ---- damage and full disks


def truncate(folder: Path) -> None:
    os.truncate(folder / "features.f32", 100)


def flip_a_bit(folder: Path) -> None:
    data = bytearray((folder / "features.f32").read_bytes())
    data[50] ^= 1
    (folder / "features.f32").write_bytes(data)


def no_meta(folder: Path) -> None:
    (folder / "meta.json").unlink()


def half_meta(folder: Path) -> None:
    os.truncate(folder / "meta.json", 30)


def file_instead(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("not a folder")


def foreign(folder: Path) -> None:
    (folder / "meta.json").write_text('["not ours"]')


def edit(name: str, value: object):
    def damage(folder: Path) -> None:
        meta = json.loads((folder / "meta.json").read_text())
        (folder / "meta.json").write_text(json.dumps({**meta, name: value}))

    damage.__name__ = f"edited_{name}"
    return damage


DAMAGES = [truncate, flip_a_bit, no_meta, half_meta, file_instead, foreign]
EDITS = [edit("sha256", "0" * 64), edit("n", N - 1), edit("dim", 1), edit("key", "x"), edit("fields", {})]


@pytest.mark.parametrize("damage", DAMAGES + EDITS, ids=lambda damage: damage.__name__)
def test_a_damaged_cache_is_computed_again_with_a_warning(images, cache_dir, computed, damage):
    first = quiet(images, toy(), cache_dir)
    before = np.array(first.features)
    damage(folders(cache_dir)[0])
    with pytest.warns(UserWarning, match="damaged or incomplete; they are computed again"):
        again = quiet(images, toy(), cache_dir)
    assert not again.cached
    assert sum(computed) == 2 * N
    np.testing.assert_array_equal(again.features, before)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert quiet(images, toy(), cache_dir).cached


@pytest.mark.parametrize("keep", [0, 10, 31, None])
def test_a_damaged_chunk_is_computed_again(images, cache_dir, tmp_path, computed, monkeypatch, keep):
    whole = quiet(images, toy(), tmp_path / "whole")
    monkeypatch.setattr(embedding_store, "merge", lambda place: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        quiet(images, toy(), cache_dir)
    chunk = folders(cache_dir)[0] / "000000008.chunk"
    data = chunk.read_bytes()
    chunk.write_bytes(data[:keep] if keep is not None else bytes([data[0] ^ 1]) + data[1:])
    monkeypatch.undo()
    monkeypatch.setattr(embedding_store, "_CHUNK_ROWS", (CHUNK, CHUNK))
    np.testing.assert_array_equal(quiet(images, toy(), cache_dir).features, whole.features)


def test_too_little_space_is_said_before_computing(images, cache_dir, computed, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6, 1000))
    with pytest.raises(
        StorageError, match=r"features of 30 images need 1,440 bytes in .*, but 1,000 are free"
    ):
        quiet(images, toy(), cache_dir)
    assert computed == []


def test_a_disk_that_fills_up_keeps_what_was_finished(images, cache_dir, computed, monkeypatch):
    original = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        if "000000016" in self.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match=r"cannot write to .* \(No space left on device\); free space"):
        quiet(images, toy(), cache_dir)
    monkeypatch.setattr(Path, "write_bytes", original)
    computed.clear()
    quiet(images, toy(), cache_dir)
    assert sum(computed) == N - 2 * CHUNK


def test_a_folder_that_cannot_be_written(images, cache_dir):
    cache_dir.write_text("not a folder")
    with pytest.raises(StorageError, match=r"cannot write to .*cache/embeddings .*XRAYKIT_DATA_DIR"):
        quiet(images, toy(), cache_dir)


# ---- the command


def test_embed_prints_what_it_did_and_reads_the_cache_next_time(tmp_path, monkeypatch):
    from xraykit import backbones

    monkeypatch.setattr(backbones, "load", lambda spec, *, seed: toy(seed, name=spec))
    command = ["embed", "--size", "32", "-p", "12", "--data-dir", str(tmp_path), "--precision", "fp32"]
    command += ["--backend", "torch", "--device", "cpu", "--seed", "3", "--backbone", "mine"]
    first, second = (CliRunner().invoke(cli.app, command, catch_exceptions=False) for _ in range(2))
    assert (
        f"mine, {len_of(tmp_path)} images, 6 numbers each, PyTorch fp32 on CPU, computed now" in first.output
    )
    assert "images/s, in " in first.output
    assert "PyTorch fp32 on CPU, from the cache" in second.output
    assert str(folders(tmp_path / "cache")[0]) in second.output


def len_of(data_dir: Path) -> int:
    (folder,) = folders(data_dir / "cache")
    return json.loads((folder / "meta.json").read_text())["n"]


@pytest.mark.skipif(not import_openvino(), reason="OpenVINO is missing")
def test_an_openvino_run_closed_half_way_leaves_no_request_running():
    images = pictures(N)
    run = embedding_engines.openvino_run(toy(), precision="fp32", batch_size=2, threads=1)
    for n in (1, 5):
        found = run((i, network_input(images[i : i + 2], 16)) for i in range(0, N, 2))
        assert [next(found)[0] for _ in range(n)] == list(range(0, 2 * n, 2))
        found.close()
