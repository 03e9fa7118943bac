"""xraykit.datasets.download and fetch against a server on this machine: resume, checksums, kills, locks."""

import hashlib
import io
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import kagglehub
import numpy as np
import pytest
from PIL import Image

from xraykit import datasets
from xraykit.datasets import sources
from xraykit.datasets.download import _CHUNK, download_file
from xraykit.errors import DataError, DownloadError, StorageError

CONTENT = np.random.default_rng(0).bytes(3_000_000)
MD5 = hashlib.md5(CONTENT).hexdigest()
MANUAL = "By hand:\n  1. Open https://example.org"


class Handler(BaseHTTPRequestHandler):
    """Serves ``server.files`` with Range requests, and counts what it sends."""

    def do_GET(self) -> None:
        server = self.server
        asked = self.headers.get("Range")
        server.asked.append(asked)
        data = server.files.get(self.path)
        if data is None:
            self.send_error(404)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and server.ranges else 0
        if start >= len(data):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self._send(data[start : start + server.cuts.pop(0)] if server.cuts else data[start:])

    def _send(self, data: bytes) -> None:
        for i in range(0, len(data), 2**16):
            piece = data[i : i + 2**16]
            try:
                self.wfile.write(piece)
            except ConnectionError:  # the other side was killed
                return
            self.server.served += len(piece)
            time.sleep(self.server.delay)

    def log_message(self, *args: object) -> None:
        """Keep the output of the tests clean."""


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.asked, server.cuts = {"/file": CONTENT}, [], []
    server.served, server.ranges, server.delay = 0, True, 0.0
    server.url = f"http://127.0.0.1:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def download(server: ThreadingHTTPServer, target: Path, *, attempts: int = 1, name: str = "file") -> Path:
    return download_file(
        server.url + name, target, md5=MD5, manual=MANUAL, progress=False, attempts=attempts, pause=0
    )


def no_space(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": free})())


# One file


def test_a_file_arrives_whole_and_leaves_nothing_beside_it(
    server: ThreadingHTTPServer, tmp_path: Path
) -> None:
    target = tmp_path / "new" / "a.bin"
    assert download(server, target) == target
    assert target.read_bytes() == CONTENT
    assert [p.name for p in target.parent.iterdir()] == ["a.bin"]
    assert server.served == len(CONTENT)


def test_a_file_that_is_there_is_not_asked_for_again(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(CONTENT)
    download(server, tmp_path / "a.bin")
    assert server.asked == []


def test_a_damaged_file_is_replaced(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(CONTENT[:-1])
    assert download(server, tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_wrong_checksum_deletes_what_arrived(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    server.files["/file"] = CONTENT[:-1] + b"x"
    with pytest.raises(DownloadError, match=r"(?s)wrong checksum, so what arrived was deleted.*By hand"):
        download(server, tmp_path / "a.bin")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_a_cut_connection_is_taken_up_within_one_call(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    server.cuts = [1_000_000, 500_000]
    assert download(server, tmp_path / "a.bin", attempts=3).read_bytes() == CONTENT
    assert len(CONTENT) <= server.served <= len(CONTENT) + 2 * _CHUNK
    starts = [int(asked.removeprefix("bytes=").removesuffix("-")) for asked in server.asked[1:]]
    assert 1_000_000 - _CHUNK <= starts[0] <= 1_000_000
    assert starts[0] + 500_000 - _CHUNK <= starts[1] <= starts[0] + 500_000


def test_a_cut_download_goes_on_in_the_next_call(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    server.cuts = [1_000_000]
    with pytest.raises(
        DownloadError, match=r"(?s)\d{3},\d{3} bytes are kept in .*goes on from there.*By hand"
    ):
        download(server, tmp_path / "a.bin")
    assert not (tmp_path / "a.bin").exists()
    assert download(server, tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.served <= len(CONTENT) + _CHUNK


def test_a_server_without_ranges_starts_again(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    server.cuts, server.ranges = [1_000_000], False
    assert download(server, tmp_path / "a.bin", attempts=2).read_bytes() == CONTENT
    assert server.served == len(CONTENT) + 1_000_000


@pytest.mark.parametrize("extra", [b"", b"more"])
def test_a_part_that_is_complete_or_too_long(
    server: ThreadingHTTPServer, tmp_path: Path, extra: bytes
) -> None:
    part = tmp_path / ".incoming" / "a.bin.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT + extra)
    assert download(server, tmp_path / "a.bin", attempts=2).read_bytes() == CONTENT
    assert server.served == (len(CONTENT) if extra else 0)


def test_a_part_of_another_file_is_found_by_the_checksum(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    part = tmp_path / ".incoming" / "a.bin.part"
    part.parent.mkdir()
    part.write_bytes(b"x" * 1000)
    with pytest.raises(DownloadError, match="wrong checksum"):
        download(server, tmp_path / "a.bin")
    assert download(server, tmp_path / "a.bin").read_bytes() == CONTENT


def test_not_found(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"(?s)404.*By hand:\n  1\. Open https://example.org"):
        download(server, tmp_path / "a.bin", name="gone", attempts=3)
    assert len(server.asked) == 1  # no answer will come of asking again


def test_no_network(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(DownloadError, match=r"(?s)cannot download http://127.*By hand"):
        download(server, tmp_path / "a.bin", attempts=2)


def test_a_disk_without_room_is_found_before_the_download(
    server: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_space(monkeypatch, 2_999_999)
    with pytest.raises(StorageError, match=r"needs 3,000,000 bytes .* only 2,999,999 bytes .*--data-dir"):
        download(server, tmp_path / "a.bin")
    assert list((tmp_path / ".incoming").iterdir()) == []


def test_a_resumed_download_needs_room_for_the_rest_only(
    server: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.cuts = [2_000_000]
    with pytest.raises(DownloadError):
        download(server, tmp_path / "a.bin")
    no_space(monkeypatch, 1_000_000 + _CHUNK)
    assert download(server, tmp_path / "a.bin").read_bytes() == CONTENT


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is a full disk that only Linux has")
def test_a_disk_that_fills_up_on_the_way(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    (tmp_path / ".incoming").mkdir()
    (tmp_path / ".incoming" / "a.bin.part").symlink_to("/dev/full")
    with pytest.raises(StorageError, match="No space left on device"):
        download(server, tmp_path / "a.bin")
    assert not (tmp_path / "a.bin").exists()


def test_sigkill_and_resume(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    server.delay = 0.05  # 3 MB take at least 2 s
    target, part = tmp_path / "a.bin", tmp_path / ".incoming" / "a.bin.part"
    code = "import sys; from pathlib import Path; from xraykit.datasets.download import download_file;"
    code += "download_file(sys.argv[1], Path(sys.argv[2]), md5=sys.argv[3], progress=False)"
    run = subprocess.Popen([sys.executable, "-c", code, server.url + "file", str(target), MD5])
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size > 500_000):
        assert run.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    kept = part.stat().st_size
    assert not target.exists()
    server.delay = 0.0
    assert download(server, target).read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={kept}-"]
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]  # not even pooch's temporary file


# Whole sets


@pytest.fixture
def kaggle_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "kagglehub"))
    return tmp_path / "kagglehub"


def image(path: Path, level: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((20, 20), level, np.uint8)).save(path)


def test_kermany_through_kagglehub(
    tmp_path: Path, kaggle_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def stub(handle: str, path: str | None = None) -> str:
        calls.append((handle, path))
        found = kaggle_cache / "datasets" / "chest" / "versions" / "2"
        for split in ("train", "test"):
            image(found / "chest_xray" / split / "NORMAL" / "IM-0001-0001.jpeg")
            image(found / "chest_xray" / split / "PNEUMONIA" / "person1_virus_1.jpeg", 99)
        return str(found)

    monkeypatch.setattr(kagglehub, "dataset_download", stub)
    data = tmp_path / "data"
    assert datasets.fetch("kermany", data_dir=data, progress=False) == data / "kermany"
    assert datasets.fetch("kermany", data_dir=data, progress=False) == data / "kermany"
    assert calls == [("paultimothymooney/chest-xray-pneumonia", None)]
    monkeypatch.delenv("XRAYKIT_KERMANY_DIR", raising=False)
    ds = datasets.load("kermany", data_dir=data, size=16, labels="binary", progress=False)
    assert ds.records["label"].tolist() == ["normal", "pneumonia"] * 2
    assert not (kaggle_cache / "datasets" / "chest" / "versions" / "2").exists()


def test_a_set_mounted_by_kaggle_is_linked(
    tmp_path: Path, kaggle_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted = tmp_path / "input"
    image(mounted / "train" / "NORMAL" / "IM-0001-0001.jpeg")
    monkeypatch.setattr(kagglehub, "dataset_download", lambda handle, path=None: str(mounted))
    target = datasets.fetch("kermany", data_dir=tmp_path / "data", progress=False)
    assert target.is_symlink()
    assert (target / "train" / "NORMAL" / "IM-0001-0001.jpeg").is_file()
    assert mounted.is_dir()


def test_kaggle_without_a_network_lists_the_manual_steps(tmp_path: Path, kaggle_cache: Path) -> None:
    with pytest.raises(
        DownloadError, match=r"(?s)kagglehub could not download paultimothymooney.*3\. Run: xraykit"
    ):
        datasets.fetch("kermany", data_dir=tmp_path / "data", progress=False)
    assert not (tmp_path / "data" / "kermany").exists()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (kagglehub.exceptions.DataCorruptionError("bad checksum"), DownloadError),
        (kagglehub.exceptions.UnauthenticatedError(), DownloadError),
        (OSError(28, "No space left on device"), StorageError),
        (PermissionError(13, "Permission denied"), StorageError),
    ],
)
def test_kaggle_errors(
    tmp_path: Path, kaggle_cache: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, expected: type
) -> None:
    def stub(handle: str, path: str | None = None) -> str:
        raise error

    monkeypatch.setattr(kagglehub, "dataset_download", stub)
    with pytest.raises(expected):
        datasets.fetch("kermany", data_dir=tmp_path / "data", progress=False)


def test_kermany_from_a_zip_put_there_by_hand(tmp_path: Path) -> None:
    image(tmp_path / "one.jpeg")
    (tmp_path / "data").mkdir()
    with zipfile.ZipFile(tmp_path / "data" / "kermany.zip", "w") as archive:
        archive.write(tmp_path / "one.jpeg", "chest_xray/train/NORMAL/IM-0001-0001.jpeg")
    target = datasets.fetch("kermany", data_dir=tmp_path / "data", progress=False)
    assert (target / "chest_xray/train/NORMAL/IM-0001-0001.jpeg").is_file()


def test_a_folder_that_is_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "kermany").mkdir()
    (tmp_path / "kermany" / "thesis.tex").touch()
    with pytest.raises(DataError, match=r"holds thesis\.tex, which is not kermany; move it away"):
        datasets.fetch("kermany", data_dir=tmp_path, progress=False)


@pytest.fixture
def nih(
    tmp_path: Path, server: ThreadingHTTPServer, kaggle_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> ThreadingHTTPServer:
    """A tiny NIH: two archives of two images on the local server, tables from a stub of kagglehub."""
    known = []
    for i in (1, 2):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for number in (0, 1):
                name = f"{i:08d}_{number:03d}.png"
                image(tmp_path / "source" / name, 50 * i + number)
                archive.add(tmp_path / "source" / name, f"images/{name}")
        data = buffer.getvalue()
        server.files[f"/box{i}.gz"] = data
        known.append(sources.Archive(f"box{i}", hashlib.md5(data).hexdigest(), len(data), 2))
    monkeypatch.setattr(sources, "NIH_ARCHIVES", tuple(known))
    monkeypatch.setattr(sources, "BOX", server.url)
    monkeypatch.delenv("XRAYKIT_NIH_DIR", raising=False)
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position\n"
    rows = [f"{p:08d}_{n:03d}.png,No Finding,{n},{p},50,F,AP\n" for p in range(1, 5) for n in (0, 1)]
    tables = {
        "Data_Entry_2017.csv": header + "".join(rows),
        "BBox_List_2017.csv": "Image Index,Finding Label,Bbox [x,y,w,h]\n00000001_000.png,Mass,1,2,3,4\n",
        "train_val_list.txt": "".join(f"{p:08d}_{n:03d}.png\n" for p in (1, 3, 4) for n in (0, 1)),
        "test_list.txt": "00000002_000.png\n00000002_001.png\n",
    }

    def stub(handle: str, path: str | None = None) -> str:
        assert handle == "nih-chest-xrays/data"
        found = kaggle_cache / "datasets" / path
        found.parent.mkdir(parents=True, exist_ok=True)
        found.write_text(tables[path])
        return str(found)

    monkeypatch.setattr(kagglehub, "dataset_download", stub)
    return server


def test_nih_labels_only(nih: ThreadingHTTPServer, tmp_path: Path) -> None:
    target = datasets.fetch("nih", data_dir=tmp_path / "data", labels_only=True, progress=False)
    assert sorted(p.name for p in target.iterdir()) == [
        "BBox_List_2017.csv",
        "Data_Entry_2017.csv",
        "test_list.txt",
        "train_val_list.txt",
    ]
    assert nih.asked == []


def test_nih_first_archive_then_all(nih: ThreadingHTTPServer, tmp_path: Path) -> None:
    target = datasets.fetch("nih", data_dir=tmp_path / "data", archives=1, progress=False)
    assert (target / "images_001" / "images" / "00000001_001.png").is_file()
    assert not (target / "images_002").exists()
    assert not any((target / "archives").iterdir())  # they are deleted once unpacked
    asked = len(nih.asked)
    datasets.fetch("nih", data_dir=tmp_path / "data", progress=False)
    assert len(nih.asked) == asked + 1
    datasets.fetch("nih", data_dir=tmp_path / "data", progress=False)
    assert len(nih.asked) == asked + 1
    ds = datasets.load("nih", data_dir=tmp_path / "data", size=16, progress=False)
    assert ds.records.set_index("image_id")["split"].value_counts()["test"] == 2
    assert len(ds) == 4
    assert ds.boxes["image_id"].tolist() == ["00000001_000.png"]
    rows = datasets.check("nih", data_dir=tmp_path / "data").set_index("item")
    assert rows.loc["images_001", "verdict"] == "ok"


def test_nih_archives_put_there_by_hand_are_unpacked(nih: ThreadingHTTPServer, tmp_path: Path) -> None:
    by_hand = tmp_path / "data" / "nih" / "archives" / "images_001.tar.gz"
    by_hand.parent.mkdir(parents=True)
    by_hand.write_bytes(nih.files["/box1.gz"])
    target = datasets.fetch("nih", data_dir=tmp_path / "data", archives=1, progress=False)
    assert (target / "images_001" / "images" / "00000001_000.png").is_file()
    assert nih.asked == []


def test_nih_unpacked_in_place_is_kept(nih: ThreadingHTTPServer, tmp_path: Path) -> None:
    for i in range(4):
        image(tmp_path / "data" / "nih" / "images" / f"{i}.png")
    datasets.fetch("nih", data_dir=tmp_path / "data", progress=False)
    assert nih.asked == []


def test_nih_needs_room_for_all_archives(
    nih: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets.fetch("nih", data_dir=tmp_path / "data", labels_only=True, progress=False)
    sizes = [archive.size for archive in sources.NIH_ARCHIVES]
    needed = sum(sizes) + max(sizes)
    no_space(monkeypatch, needed - 1)
    with pytest.raises(StorageError, match=rf"needs {needed:,} bytes .* only {needed - 1:,} bytes"):
        datasets.fetch("nih", data_dir=tmp_path / "data", progress=False)
    assert nih.asked == []


def test_the_published_archives_add_up() -> None:
    known = sources.NIH_ARCHIVES
    assert len(known) == 12
    assert sum(archive.images for archive in known) == 112_120
    assert all(re.fullmatch("[0-9a-f]{32}", archive.md5) for archive in known)
    assert all(re.fullmatch("[0-9a-z]{32}", archive.box) for archive in known)
    assert len({archive.md5 for archive in known} | {archive.box for archive in known}) == 24


@pytest.fixture
def medmnist(
    tmp_path: Path, server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> ThreadingHTTPServer:
    monkeypatch.setenv("HOME", str(tmp_path))  # importing medmnist makes ~/.medmnist
    from medmnist.info import INFO

    known = {"url_64": server.url + "file", "MD5_64": MD5, "url": server.url + "gone", "MD5": MD5}
    monkeypatch.setitem(INFO, "pneumoniamnist", INFO["pneumoniamnist"] | known)
    return server


def test_medmnist_by_the_address_and_checksum_of_its_library(
    medmnist: ThreadingHTTPServer, tmp_path: Path
) -> None:
    target = datasets.fetch("pneumoniamnist", data_dir=tmp_path / "data", size=64, progress=False)
    assert (target / "pneumoniamnist_64.npz").read_bytes() == CONTENT
    datasets.fetch("pneumoniamnist", data_dir=tmp_path / "data", size=64, progress=False)
    assert medmnist.served == len(CONTENT)


def test_medmnist_failure_lists_the_manual_steps(medmnist: ThreadingHTTPServer, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"(?s)404.*pneumoniamnist_224\.npz.*zenodo.*2\. Put the file"):
        datasets.fetch("pneumoniamnist", data_dir=tmp_path / "data", size=28, progress=False)


def test_medmnist_is_fetched_at_224_pixels_by_default(
    medmnist: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medmnist.info import INFO

    known = {"url_224": medmnist.url + "file", "MD5_224": MD5}
    monkeypatch.setitem(INFO, "pneumoniamnist", INFO["pneumoniamnist"] | known)
    target = datasets.fetch("pneumoniamnist", data_dir=tmp_path / "data", progress=False)
    assert [p.name for p in target.iterdir()] == ["pneumoniamnist_224.npz"]


def test_two_fetches_at_once_download_once(
    medmnist: ThreadingHTTPServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    medmnist.delay = 0.01
    results: list[Path] = []

    def run() -> None:
        results.append(datasets.fetch("pneumoniamnist", data_dir=tmp_path / "data", size=64, progress=False))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [tmp_path / "data" / "pneumoniamnist"] * 2
    assert medmnist.served == len(CONTENT)
    assert "waiting for another run that fetches pneumoniamnist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("kermani", {}, "no data set is called 'kermani'"),
        ("synthetic", {}, "synthetic is not downloaded: made by the package"),
        ("folder", {}, "folder is not downloaded: set XRAYKIT_FOLDER_DIR"),
        ("kermany", {"labels_only": True}, "kermany has no separate labels .* Leave labels_only out"),
        ("kermany", {"archives": 2}, "kermany has no separate .* Leave archives=2 out"),
        ("kermany", {"size": 64}, "kermany is published at one size, so size=64 .* Leave size out"),
        ("nih", {"size": 224}, "nih is published at one size, so size=224 .* Leave size out"),
        ("nih", {"labels_only": True, "archives": 3}, "labels_only .* archives=3 .* leave one of them out"),
        ("nih", {"archives": 13}, "archives is 13; nih has archives 1 to 12"),
        ("nih", {"archives": 0}, "archives is 0"),
        ("chestmnist", {"size": 32}, r"published at \(28, 64, 128, 224\) pixels, not at 32"),
    ],
)
def test_arguments_that_cannot_be(tmp_path: Path, name: str, options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        datasets.fetch(name, data_dir=tmp_path, progress=False, **options)


def test_a_data_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "data").touch()  # root may write everywhere, but not below a file
    with pytest.raises(StorageError, match="cannot write to"):
        datasets.fetch("kermany", data_dir=tmp_path / "data", progress=False)


def test_a_lock_that_cannot_be_made_names_the_folder(tmp_path: Path) -> None:
    (tmp_path / ".kermany.lock").mkdir()
    with pytest.raises(StorageError, match=rf"cannot write to {tmp_path} \("):
        datasets.fetch("kermany", data_dir=tmp_path, progress=False)
