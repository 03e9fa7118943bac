"""The decoded-image cache: content keys, bad files, two runs at once, kills, full and unwritable disks."""

import errno
import fcntl
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xraykit import file_hashes, image_build, image_cache, storage
from xraykit.errors import DataError, StorageError
from xraykit.image_cache import CachedImages, build
from xraykit.images import Preprocess, mean_std, read_grey

SIZE = 32
SMALL = Preprocess(size=SIZE)
N = 24
CHUNK = 5  # images between two syncs in these tests, so that 24 images take five steps


def make_images(root: Path, n: int = N) -> list[str]:
    """n PNG files of 40 x 48, none alike, with a modification time long past."""
    rng = np.random.default_rng(0)
    paths = [f"{'ab'[i % 2]}/{i:03d}.png" for i in range(n)]
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 48), dtype=np.uint8)).save(root / path)
        age(root / path)
    return sorted(paths)


def age(path: Path, seconds: int = 1000) -> None:
    then = time.time_ns() - seconds * 10**9
    os.utime(path, ns=(then, then))


@pytest.fixture
def root(tmp_path):
    make_images(tmp_path / "in")
    return tmp_path / "in"


@pytest.fixture
def paths(root):
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))


@pytest.fixture
def cache_dir(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def decoded(monkeypatch):
    """Names of the files that are decoded, as they are."""
    names: list[str] = []
    original = image_build.decode
    monkeypatch.setattr(
        image_build,
        "decode",
        lambda data, name, target: names.append(name) or original(data, name=name, target=target),
    )
    return names


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    monkeypatch.setattr(image_build, "_CHUNK_BYTES", CHUNK * SIZE * SIZE)


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    """Files count as settled at once, for no test can set a change time back."""
    monkeypatch.setattr(file_hashes, "_SETTLED_NS", 0)


def quiet(root: Path, paths: list[str], cache_dir: Path, preprocess: Preprocess = SMALL) -> CachedImages:
    return build(root, paths, preprocess, cache_dir=cache_dir, progress=False)


def folders(cache_dir: Path) -> list[Path]:
    return sorted(path for path in (cache_dir / "images").iterdir() if path.is_dir())


def contents(cache_dir: Path) -> dict[str, bytes]:
    """Every file of the one finished cache in `cache_dir`."""
    (folder,) = folders(cache_dir)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ---- what it returns


def test_images_and_files_are_in_the_given_order(root, paths, cache_dir):
    order = paths[::-1]
    cached = quiet(root, order, cache_dir)
    assert cached.images.shape == (N, SIZE, SIZE)
    assert isinstance(cached.images, np.memmap)
    assert not cached.images.flags.writeable
    assert cached.files["path"].tolist() == order
    assert cached.files[["height", "width"]].drop_duplicates().to_numpy().tolist() == [[40, 48]]
    assert len(cached.excluded) == 0
    assert list(cached.excluded.columns) == ["path", "reason"]
    for i, path in enumerate(order):
        np.testing.assert_array_equal(cached.images[i], SMALL.apply(read_grey(root / path)))
        assert cached.files["sha256"][i] == hashlib.sha256((root / path).read_bytes()).hexdigest()


def test_a_second_load_decodes_and_hashes_nothing(root, paths, cache_dir, decoded, monkeypatch):
    first = quiet(root, paths, cache_dir)
    assert len(decoded) == N
    monkeypatch.setattr(file_hashes, "_hash_file", lambda path: pytest.fail("a file was hashed again"))
    second = quiet(root, paths, cache_dir)
    assert len(decoded) == N
    np.testing.assert_array_equal(first.images, second.images)
    assert first.files.equals(second.files)


def test_workers_and_chunks_do_not_change_the_bytes(root, paths, tmp_path, monkeypatch):
    quiet(root, paths, tmp_path / "c1")
    monkeypatch.setattr(image_build, "_CHUNK_BYTES", 1)  # at least one image a chunk
    build(root, paths, SMALL, cache_dir=tmp_path / "c2", workers=1, progress=False)
    assert contents(tmp_path / "c1") == contents(tmp_path / "c2")


def test_progress_is_shown_only_when_asked_for(root, paths, tmp_path, capsys):
    build(root, paths, SMALL, cache_dir=tmp_path / "c1", progress=True)
    shown = capsys.readouterr().err
    assert "hashing" in shown
    assert "decoding" in shown
    assert f"{N}/{N}" in shown
    quiet(root, paths, tmp_path / "c2")
    assert capsys.readouterr().err == ""


# ---- keys


def test_changed_content_gives_a_new_cache(root, paths, cache_dir, decoded):
    before = quiet(root, paths, cache_dir)
    Image.fromarray(np.full((40, 48), 9, np.uint8)).save(root / paths[3])
    after = quiet(root, paths, cache_dir)
    assert (after.images[3] == 9).all()
    assert len(folders(cache_dir)) == 2
    assert before.files["sha256"][3] != after.files["sha256"][3]
    np.testing.assert_array_equal(np.delete(before.images, 3, 0), np.delete(after.images, 3, 0))


def test_a_replacement_of_the_same_size_and_modification_time_is_seen(root, paths, cache_dir, decoded):
    for path in paths[:2]:
        Image.fromarray(np.full((40, 48), 10, np.uint8)).save(root / path, compress_level=0)
        age(root / path)
    quiet(root, paths, cache_dir)
    before = (root / paths[0]).stat()
    Image.fromarray(np.full((40, 48), 20, np.uint8)).save(root / "new", "PNG", compress_level=0)
    os.utime(root / "new", ns=(before.st_atime_ns, before.st_mtime_ns))  # as cp -p and rsync do
    (root / "new").replace(root / paths[0])
    after = (root / paths[0]).stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert quiet(root, paths, cache_dir).images[:2, 0, 0].tolist() == [20, 10]


def test_a_new_change_time_alone_is_hashed_again_but_not_decoded(
    root, paths, cache_dir, decoded, monkeypatch
):
    quiet(root, paths, cache_dir)
    hashed, original = [], file_hashes._hash_file
    monkeypatch.setattr(file_hashes, "_hash_file", lambda path: hashed.append(path) or original(path))
    (root / paths[4]).chmod(0o600)
    quiet(root, paths, cache_dir)
    quiet(root, paths, cache_dir)
    assert hashed == [str(root / paths[4])]
    assert len(decoded) == N


def test_a_file_that_changed_just_now_is_not_remembered(root, paths, cache_dir, monkeypatch):
    monkeypatch.setattr(file_hashes, "_SETTLED_NS", 10**12)  # the files were changed less than 1000 s ago
    quiet(root, paths, cache_dir)
    (index,) = (cache_dir / "images").glob("hashes-*.jsonl")
    assert index.read_bytes() == b""


def test_a_dicom_of_three_samples_is_excluded_and_the_rest_read(root, paths, cache_dir):
    from pydicom.dataset import Dataset, FileMetaDataset

    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = "1.2.3"
    ds.Rows = ds.Columns = 64
    ds.SamplesPerPixel, ds.PlanarConfiguration, ds.PhotometricInterpretation = 3, 0, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.PixelData = (bytes(range(256)) * 48)[: 64 * 64 * 3]
    ds.save_as(root / "z.dcm", enforce_file_format=True)
    cached = quiet(root, [*paths, "z.dcm"], cache_dir)
    assert cached.files["path"].tolist() == paths
    assert cached.excluded["path"].tolist() == ["z.dcm"]
    assert "has 3 samples a pixel" in cached.excluded["reason"][0]


def test_a_change_of_the_same_size_within_one_clock_tick_is_seen(root, paths, cache_dir, monkeypatch):
    monkeypatch.undo()  # files settle as usual
    now = time.time_ns()
    for level in (10, 20):  # same number of bytes, same modification time
        Image.fromarray(np.full((40, 48), level, np.uint8)).save(root / paths[0], compress_level=0)
        os.utime(root / paths[0], ns=(now, now))
        assert (quiet(root, paths, cache_dir).images[0] == level).all()


def test_a_new_modification_time_alone_decodes_nothing(root, paths, cache_dir, decoded):
    quiet(root, paths, cache_dir)
    for path in paths:
        age(root / path, seconds=500)
    quiet(root, paths, cache_dir)
    assert len(decoded) == N
    assert len(folders(cache_dir)) == 1


def test_moving_the_folder_decodes_nothing(root, paths, cache_dir, decoded):
    quiet(root, paths, cache_dir)
    root.rename(root.with_name("elsewhere"))
    quiet(root.with_name("elsewhere"), paths, cache_dir)
    assert len(decoded) == N


def test_preprocessing_and_order_are_part_of_the_key(root, paths, cache_dir):
    variants = [SMALL, Preprocess(size=SIZE, fit="pad"), Preprocess(size=SIZE, brightness=5)]
    results = [quiet(root, paths, cache_dir, variant) for variant in variants]
    quiet(root, paths[::-1], cache_dir)
    assert len(folders(cache_dir)) == 4
    assert not np.array_equal(results[0].images, results[1].images)
    np.testing.assert_array_equal(results[2].images[0], variants[2].apply(read_grey(root / paths[0])))


def test_a_file_that_changes_between_hash_and_decode_is_an_error(root, paths, cache_dir, monkeypatch):
    original = image_cache.file_hashes

    def then_change(*args, **kwargs):
        hashes = original(*args, **kwargs)
        Image.fromarray(np.zeros((40, 48), np.uint8)).save(root / paths[7])
        return hashes

    monkeypatch.setattr(image_cache, "file_hashes", then_change)
    with pytest.raises(DataError, match=rf"{paths[7]} changed while it was"):
        quiet(root, paths, cache_dir)
    monkeypatch.setattr(image_cache, "file_hashes", original)
    assert (quiet(root, paths, cache_dir).images[7] == 0).all()


# ---- bad input


def spoil(root: Path) -> dict[str, str]:
    """Six bad files and, by name, part of the reason each should be excluded for."""
    whole = (root / "a/000.png").read_bytes()
    (root / "a/cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "a/empty.png").touch()
    (root / "a/text.png").write_text("hello")
    (root / "a/folder.png").mkdir()
    Image.fromarray(np.zeros((1, 1), np.uint8)).save(root / "a/dot.png")
    return {
        "a/cut.png": "damaged or truncated",
        "a/empty.png": "0 bytes",
        "a/text.png": "not a JPEG",
        "a/folder.png": "is a folder",
        "a/dot.png": "minimum side is 16",
        "a/missing.png": "No such file",
    }


def test_bad_files_are_excluded_with_reasons_and_stay_so(root, paths, cache_dir, decoded):
    expected = spoil(root)
    everything = sorted([*paths, *expected])
    for _ in range(2):  # decoded, then from the cache
        cached = quiet(root, everything, cache_dir)
        assert cached.files["path"].tolist() == paths
        assert len(cached.images) == N
        assert cached.excluded["path"].tolist() == sorted(expected)
        for path, reason in cached.excluded.itertuples(index=False):
            assert expected[path] in reason
            assert str(root) not in reason
    assert len(decoded) == N + 3  # cut, text and dot reach the decoder, once


def test_a_repaired_file_is_taken_in(root, paths, cache_dir):
    everything = [*paths, "z.png"]
    assert len(quiet(root, everything, cache_dir).images) == N
    shutil.copy(root / paths[0], root / "z.png")
    assert len(quiet(root, everything, cache_dir).images) == N + 1


def test_nothing_readable_lists_the_first_reasons(root, cache_dir):
    bad = sorted(spoil(root))
    with pytest.raises(
        DataError, match=r"none of the 6 images.*a/cut\.png: is damaged.*a/dot\.png.*minimum side is 16"
    ):
        quiet(root, bad, cache_dir)
    assert folders(cache_dir) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([], "no image paths"),
        (["a/000.png", "a/000.png"], "listed twice"),
        (["a/000.png", "a//000.png"], "listed twice"),
        (["/etc/passwd"], "leads out of"),
        (["a/../../x.png"], "leads out of"),
        (["../x.png"], "leads out of"),
        ([os.fsdecode(b"latin\xe9.png")], "not valid UTF-8; rename"),
    ],
)
def test_wrong_paths(root, cache_dir, wrong, message):
    with pytest.raises(DataError, match=message):
        quiet(root, wrong, cache_dir)
    assert not cache_dir.exists()


def test_missing_root_and_no_workers(root, paths, cache_dir):
    with pytest.raises(DataError, match="nowhere is not a folder"):
        quiet(root / "nowhere", paths, cache_dir)
    with pytest.raises(DataError, match="workers is 0"):
        build(root, paths, SMALL, cache_dir=cache_dir, workers=0, progress=False)


def test_odd_file_names(root, cache_dir):
    names = ["new\nline.png", 'comma, quote".png', "ünï.png", "0012.png"]
    for name in names:
        shutil.copy(root / "a/000.png", root / name)
    for _ in range(2):
        assert quiet(root, names, cache_dir).files["path"].tolist() == names


# ---- damage


def damage_short_pixels(folder: Path) -> None:
    os.truncate(folder / "images.u8", 1000)


def damage_no_meta(folder: Path) -> None:
    (folder / "meta.json").unlink()


def damage_half_meta(folder: Path) -> None:
    os.truncate(folder / "meta.json", 20)


def damage_table(folder: Path) -> None:
    lines = (folder / "files.jsonl").read_bytes()
    (folder / "files.jsonl").write_bytes(lines.replace(b"a/000", b"a/999"))


def damage_foreign(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "meta.json").write_text('["not ours"]')


def damage_file_instead(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("not a folder")


@pytest.mark.parametrize(
    "damage",
    [
        damage_short_pixels,
        damage_no_meta,
        damage_half_meta,
        damage_table,
        damage_foreign,
        damage_file_instead,
    ],
)
def test_a_damaged_cache_is_built_again_with_a_warning(root, paths, cache_dir, damage):
    quiet(root, paths, cache_dir)
    before = contents(cache_dir)
    damage(folders(cache_dir)[0])
    with pytest.warns(UserWarning, match="is damaged or incomplete; it is built again"):
        quiet(root, paths, cache_dir)
    assert contents(cache_dir) == before


def test_a_damaged_hash_index_costs_only_time(root, paths, cache_dir, decoded):
    quiet(root, paths, cache_dir)
    (index,) = (cache_dir / "images").glob("hashes-*.jsonl")
    lines = index.read_bytes().splitlines(keepends=True)
    index.write_bytes(
        b"".join(lines[:4]) + b'{"not": "ours"}\n"text"\n7\n[[], 1, 2, 3]\n\xff\xfe\n[1]\n' + lines[5][:30]
    )
    quiet(root, paths, cache_dir)
    quiet(root, paths, cache_dir)
    assert len(decoded) == N


# ---- kills: the child runs the real build and is killed by SIGKILL at a chosen write

CHILD = """
import os, signal, sys, time
from pathlib import Path
from xraykit import image_build
from xraykit.image_cache import build
from xraykit.images import Preprocess

root, cache_dir, size, chunk, kill_at, keep, pause = sys.argv[1:]
image_build._CHUNK_BYTES = int(chunk) * int(size) ** 2
writes = 0
append, decode = image_build._append, image_build.decode
count = []

def append_and_die(file, data):
    global writes
    writes += 1
    if writes == int(kill_at):
        append(file, data[: int(len(data) * float(keep))])
        os.kill(os.getpid(), signal.SIGKILL)
    append(file, data)

def slow(data, name, target):
    count.append(name)
    time.sleep(float(pause))
    return decode(data, name=name, target=target)

image_build._append, image_build.decode = append_and_die, slow
paths = sorted(p.relative_to(root).as_posix() for p in Path(root).rglob("*.png"))
cached = build(Path(root), paths, Preprocess(size=int(size)), cache_dir=Path(cache_dir), progress=False)
print(len(count), int(cached.images.sum(dtype="int64")))
"""


def start_child(root, cache_dir, *, kill_at: int = 0, keep: float = 1, pause: float = 0) -> subprocess.Popen:
    arguments = [root, cache_dir, SIZE, CHUNK, kill_at, keep, pause]
    command = [sys.executable, "-c", CHILD, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("kill_at", "keep", "finished"),
    [
        (1, 0.5, 0),  # the first pixels half written
        (3, 0.7, CHUNK),  # the second chunk's pixels partly written
        (4, 0.0, CHUNK),  # its pixels written, its lines not
        (4, 0.5, CHUNK + 2),  # two of its lines whole, the third torn
        (10, 1.0, N),  # everything written, not yet described
        (11, 0.5, N),  # meta.json half written
    ],
)
def test_a_killed_build_goes_on_and_ends_the_same(root, paths, tmp_path, decoded, kill_at, keep, finished):
    child = start_child(root, tmp_path / "killed", kill_at=kill_at, keep=keep)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL, errors
    (partial,) = folders(tmp_path / "killed")
    assert partial.suffix == ".partial"

    quiet(root, paths, tmp_path / "killed")
    assert decoded == paths[finished:] or sorted(decoded) == paths[finished:]
    quiet(root, paths, tmp_path / "whole")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_killed_from_outside_at_any_time(root, paths, tmp_path):
    (root / "a/empty.png").touch()  # excluded lines are resumed as well
    everything = sorted([*paths, "a/empty.png"])
    quiet(root, everything, tmp_path / "whole")
    kills = 0
    for _ in range(3):
        child = start_child(root, tmp_path / "killed", pause=0.03)
        before = sum(path.stat().st_size for path in (tmp_path / "killed").rglob("images.u8"))
        while child.poll() is None:
            now = sum(path.stat().st_size for path in (tmp_path / "killed").rglob("images.u8"))
            if now > before:
                child.kill()
            time.sleep(0.002)
        child.communicate()
        kills += child.returncode == -signal.SIGKILL
    assert kills >= 2
    quiet(root, everything, tmp_path / "killed")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_power_loss_that_kept_lines_but_not_pixels(root, paths, cache_dir, tmp_path, decoded):
    child = start_child(root, cache_dir, kill_at=7, keep=1)
    child.communicate(timeout=60)
    (partial,) = folders(cache_dir)
    os.truncate(partial / "images.u8", 7 * SIZE * SIZE + 100)
    quiet(root, paths, cache_dir)
    assert sorted(decoded) == paths[7:]
    quiet(root, paths, tmp_path / "whole")
    assert contents(cache_dir) == contents(tmp_path / "whole")


def test_two_processes_at_once_decode_each_image_once(root, paths, cache_dir, tmp_path):
    children = [start_child(root, cache_dir, pause=0.02) for _ in range(2)]
    answers = [child.communicate(timeout=60) for child in children]
    assert [child.returncode for child in children] == [0, 0], answers
    counts, sums = zip(*(map(int, answer[0].split()) for answer in answers), strict=True)
    assert sorted(counts) == [0, N]
    quiet(root, paths, tmp_path / "whole")
    assert contents(cache_dir) == contents(tmp_path / "whole")
    assert sums == (int(quiet(root, paths, cache_dir).images.sum(dtype=np.int64)),) * 2


def test_waiting_for_another_run_is_said(root, paths, cache_dir, capsys):
    child = start_child(root, cache_dir, pause=0.1)
    while not list(cache_dir.rglob("*.partial")):
        assert child.poll() is None, child.communicate()
        time.sleep(0.005)
    build(root, paths, SMALL, cache_dir=cache_dir)
    assert "another run is decoding these images; waiting" in capsys.readouterr().err
    assert child.communicate(timeout=60)[0].split()[0] == str(N)


# ---- storage


def test_a_file_in_place_of_the_cache_folder(root, paths, tmp_path):
    (tmp_path / "cache").write_text("not a folder")
    with pytest.raises(
        StorageError, match=r"cannot write to .*cache/images \(Not a directory|File exists.*XRAYKIT_DATA_DIR"
    ):
        quiet(root, paths, tmp_path / "cache")


def test_too_little_space_is_said_before_decoding(root, paths, cache_dir, decoded, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6 - 1000, 1000))
    needed = N * (SIZE * SIZE + 300)
    with pytest.raises(
        StorageError, match=rf"24 images needs {needed:,} bytes.* 1,000 are free; .*XRAYKIT_DATA_DIR"
    ):
        quiet(root, paths, cache_dir)
    assert decoded == []


def test_a_disk_that_fills_up_keeps_what_was_done(root, paths, cache_dir, tmp_path, decoded, monkeypatch):
    original, syncs = os.fsync, []

    def full(descriptor):
        syncs.append(descriptor)
        if len(syncs) == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"No space left on device.*was finished is kept"):
        quiet(root, paths, cache_dir)
    decoded.clear()
    quiet(root, paths, cache_dir)
    assert sorted(decoded) == paths[2 * CHUNK :]
    quiet(root, paths, tmp_path / "whole")
    assert contents(cache_dir) == contents(tmp_path / "whole")


def test_a_real_write_that_stops_half_way(root, paths, cache_dir, tmp_path, decoded):
    """The system cuts a write at 12.5 images, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(12.5 * SIZE * SIZE), hard))
    try:
        with pytest.raises(StorageError, match="File too large"):
            quiet(root, paths, cache_dir)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    decoded.clear()
    quiet(root, paths, cache_dir)
    assert sorted(decoded) == paths[2 * CHUNK :]
    quiet(root, paths, tmp_path / "whole")
    assert contents(cache_dir) == contents(tmp_path / "whole")


def test_a_finished_cache_is_read_from_a_read_only_folder(root, paths, cache_dir, monkeypatch):
    quiet(root, paths, cache_dir)

    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(storage.FileLock, "acquire", refuse)
    assert len(quiet(root, paths, cache_dir).images) == N
    with pytest.raises(StorageError, match="Read-only file system"):
        quiet(root, paths, cache_dir, Preprocess(size=16))


def test_a_lock_that_cannot_be_made_names_the_folder(root, paths, tmp_path):
    (tmp_path / "hashes.lock").mkdir()  # root may write everywhere, but not open a folder
    with pytest.raises(StorageError, match=rf"cannot write to {tmp_path} \(.*XRAYKIT_DATA_DIR"):
        file_hashes.file_hashes(root, paths, index=tmp_path / "hashes", progress=False)


def test_waiting_for_another_run_that_hashes_is_said(root, paths, tmp_path, capsys):
    for progress in (True, False):
        held = (tmp_path / "hashes.lock").open("a")
        fcntl.flock(held, fcntl.LOCK_EX)
        threading.Timer(0.2, held.close).start()
        (root / paths[0]).chmod(0o600 + progress)
        file_hashes.file_hashes(root, paths, index=tmp_path / "hashes", progress=progress)
        said = capsys.readouterr().err
        assert ("another run is hashing these images; waiting" in said) == progress


# ---- real images


def test_kermany_mean_and_standard_deviation(kermany_dir, tmp_path, monkeypatch):
    """The published facts of shared/data/README.md, over the training images at their own size."""
    monkeypatch.undo()  # chunks of the usual length
    paths = sorted(
        path.relative_to(kermany_dir).as_posix() for path in (kermany_dir / "train").rglob("*.jpeg")
    )
    cached = quiet(kermany_dir, paths, tmp_path, Preprocess())
    assert len(cached.images) == 5216
    assert len(cached.excluded) == 0
    assert [round(value, 4) for value in mean_std(cached.images)] == [0.4825, 0.2361]


def test_nih_sample_is_read_whole(nih_dir, tmp_path):
    paths = sorted(path.relative_to(nih_dir).as_posix() for path in (nih_dir / "images").rglob("*.png"))
    cached = quiet(nih_dir, paths, tmp_path, Preprocess(size=64))
    assert (len(cached.images), len(cached.excluded)) == (1000, 0)
    assert set(cached.files["height"]) == {64}
    json.loads((folders(tmp_path)[0] / "meta.json").read_text())
