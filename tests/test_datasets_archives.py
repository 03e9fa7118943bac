"""xraykit.datasets.archives: what is unpacked, what is refused before anything is written, and kills."""

import io
import os
import signal
import stat
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from xraykit.datasets.archives import extract
from xraykit.errors import DataError, StorageError

CONTENT = {"images/a.png": b"a" * 1000, "images/sub/b.png": b"b" * 10}


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def make_tar(path: Path, members: dict[str, bytes], *extra: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in extra:
            archive.addfile(info)
    return path


def files_below(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_unpacked_as_the_new_folder(tmp_path: Path, make: object) -> None:
    archive = make(tmp_path / "archive", CONTENT)
    assert extract(archive, tmp_path / "out" / "set", progress=False) == tmp_path / "out" / "set"
    assert files_below(tmp_path / "out") == {f"set/{name}": data for name, data in CONTENT.items()}
    with pytest.raises(DataError, match="exists; move it away"):
        extract(archive, tmp_path / "out" / "set", progress=False)


def test_a_tar_without_the_filters_of_newer_pythons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = tarfile.TarFile.extract

    def of_python_3_11_2(self, member, path="", set_attrs=True, *, numeric_owner=False):
        return original(self, member, path, set_attrs, numeric_owner=numeric_owner)

    monkeypatch.setattr(tarfile.TarFile, "extract", of_python_3_11_2)
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    info = tarfile.TarInfo("images/closed.png")
    info.mode, info.uid = 0o4000, 12345
    archive = make_tar(tmp_path / "archive", CONTENT, info)
    extract(archive, tmp_path / "set", progress=False)
    assert files_below(tmp_path / "set") == {**CONTENT, "images/closed.png": b""}
    found = (tmp_path / "set" / "images" / "closed.png").stat()
    assert (found.st_uid, found.st_mode & 0o4600) == (os.getuid(), 0o600)
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with pytest.raises(DataError, match="'link' is a link or a device"):
        extract(make_tar(tmp_path / "archive", CONTENT, link), tmp_path / "other", progress=False)


@pytest.mark.parametrize("make", [make_zip, make_tar])
@pytest.mark.parametrize(
    "name",
    ["../evil.png", "images/../../evil.png", "/tmp/evil.png", "C:\\evil.png", "..\\evil.png", "C:evil.png"],
)
def test_members_that_climb_out_refuse_the_whole_archive(tmp_path: Path, make: object, name: str) -> None:
    archive = make(tmp_path / "archive", {**CONTENT, name: b"evil"})
    with pytest.raises(DataError, match=r"refused: its member .*evil.* leads out of the folder"):
        extract(archive, tmp_path / "out" / "set", progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["archive"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_refuse_a_tar(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("images/link")
    info.type, info.linkname = kind, "/etc/passwd"
    archive = make_tar(tmp_path / "archive", CONTENT, info)
    with pytest.raises(DataError, match="'images/link' is a link or a device"):
        extract(archive, tmp_path / "out" / "set", progress=False)
    assert not (tmp_path / "out").exists()


def test_links_refuse_a_zip(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match="'link' is a link or a device"):
        extract(tmp_path / "archive", tmp_path / "set", progress=False)


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_truncated_archives(tmp_path: Path, make: object) -> None:
    archive = make(tmp_path / "archive", {f"{i}.png": os.urandom(5000) for i in range(5)})
    archive.write_bytes(archive.read_bytes()[:12_000])
    with pytest.raises(DataError, match="is damaged or incomplete"):
        extract(archive, tmp_path / "set", progress=False)
    assert not (tmp_path / "set").exists()


def test_damage_inside_a_member_is_found(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "archive", {"a.png": os.urandom(5000)})
    data = bytearray(archive.read_bytes())
    data[2000] ^= 255
    archive.write_bytes(data)
    with pytest.raises(DataError, match="is damaged or incomplete"):
        extract(archive, tmp_path / "set", progress=False)
    assert not (tmp_path / "set").exists()


def test_no_archive_at_all(tmp_path: Path) -> None:
    (tmp_path / "archive").write_text("<html>log in first</html>")
    with pytest.raises(DataError, match="is damaged or incomplete"):
        extract(tmp_path / "archive", tmp_path / "set", progress=False)


def test_an_archive_larger_than_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make_zip(tmp_path / "archive", CONTENT)  # 1010 bytes unpacked, fewer packed
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1009})())
    with pytest.raises(StorageError, match=r"needs 1,010 bytes .* only 1,009 bytes"):
        extract(archive, tmp_path / "set", progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["archive"]


def test_a_kill_leaves_no_half_folder_and_the_next_run_completes_it(tmp_path: Path) -> None:
    members = {f"{i:04d}.png": bytes([i % 256]) * 1000 for i in range(3000)}
    archive = make_tar(tmp_path / "archive.tar.gz", members)
    target, partial = tmp_path / "set", tmp_path / ".set.partial"
    code = "import sys; from pathlib import Path; from xraykit.datasets.archives import extract;"
    code += "extract(Path(sys.argv[1]), Path(sys.argv[2]), progress=False)"
    run = subprocess.Popen([sys.executable, "-c", code, str(archive), str(target)])
    deadline = time.monotonic() + 60
    while not (partial.is_dir() and any(partial.iterdir())):
        assert run.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert not target.exists()
    assert partial.exists()
    extract(archive, target, progress=False)
    assert files_below(target) == members
    assert not partial.exists()
