"""`fetch`: download a data set into ``<data_dir>/<name>``, in the layout its loader reads."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from xraykit import paths
from xraykit.datasets.archives import extract
from xraykit.datasets.catalogue import DatasetInfo
from xraykit.datasets.download import check_space, download_file, from_kaggle
from xraykit.datasets.registry import describe, info
from xraykit.errors import DataError, DataNotFoundError
from xraykit.storage import locked

KERMANY_HANDLE = "paultimothymooney/chest-xray-pneumonia"
NIH_HANDLE = "nih-chest-xrays/data"
NIH_TABLES = ("Data_Entry_2017.csv", "BBox_List_2017.csv", "train_val_list.txt", "test_list.txt")
_TABLES_BYTES = 16_000_000
MEDMNIST_SIZE = 224
BOX = "https://nihcc.box.com/shared/static/"


class Archive(NamedTuple):
    """One NIH image archive: the file on the Box share, its MD5 (as the NIH's FAQ, question 7, gives it), its
    bytes and the number of images in it."""

    box: str
    md5: str
    size: int
    images: int

    @property
    def url(self) -> str:
        """Where it is downloaded from."""
        return f"{BOX}{self.box}.gz"


NIH_ARCHIVES = (
    Archive("vfk49d74nhbxq3nqjg0900w5nvkorp5c", "fe8ed0a6961412fddcbb3603c11b3698", 2_008_470_987, 4_999),
    Archive("i28rlmbvmfjbl8p2n3ril0pptcmcu9d1", "ab07a2d7cbe6f65ddd97b4ed7bde10bf", 3_952_623_504, 10_000),
    Archive("f1t00wrtdk94satdfb9olcolqx20z2jp", "2301d03bde4c246388bad3876965d574", 3_929_234_850, 10_000),
    Archive("0aowwzs5lhjrceb3qp67ahp0rd1l1etg", "9f1b7f5aae01b13f4bc8e2c44a4b8ef6", 3_838_903_983, 10_000),
    Archive("v5e3goj22zr6h8tzualxfsqlqaygfbsn", "1861f3cd0ef7734df8104f2b0309023b", 3_935_496_531, 10_000),
    Archive("asi7ikud9jwnkrnkj99jnpfkjdes7l6l", "456b53a8b351afd92a35bc41444c58c8", 3_986_301_172, 10_000),
    Archive("jn1b4mw4n6lnh74ovmcjb8y48h8xj07n", "1075121ea20a137b87f290d6a4a5965e", 4_016_328_426, 10_000),
    Archive("tvpxmn7qyrgl0w8wfh9kqfjskv6nmm1j", "b61f34cec3aa69f295fbb593cbd9d443", 4_018_347_353, 10_000),
    Archive("upyy3ml7qdumlgk2rfcvlb9k6gvqq2pj", "442a3caa61ae9b64e61c561294d1e183", 4_111_327_929, 10_000),
    Archive("l6nilvfa9cg3s28tqv1qc1olm3gnz54p", "09ec81c4c31e32858ad8cf965c494b74", 4_181_556_296, 10_000),
    Archive("hhq8fkdgvcari67vfhs7ppg2w6ni4jze", "499aefc67207a5a97692424cf5dbeed5", 4_187_084_020, 10_000),
    Archive("ioqwiy20ihqwyr8pf4c24eazhh281pbu", "dc9fda1757c2de0032b63347a7d2895c", 2_914_187_733, 7_121),
)


def fetch(
    name: str,
    *,
    data_dir: str | Path | None = None,
    labels_only: bool = False,
    archives: int | None = None,
    size: int | None = None,
    progress: bool = True,
) -> Path:
    """Download data set `name` and return its folder, ``<data_dir>/<name>``. What is there already is kept,
    and an interrupted download goes on; a second call at the same time waits for the first.

    Args:
        labels_only: of `nih`, only the tables and the official lists (about 10 MB).
        archives: of `nih`, only the first 1 to 12 image archives (the first: 4,999 images, 2 GB).
        size: of the MedMNIST sets, pixels: 28, 64, 128 or 224 (None is 224).

    Raises:
        DataError: unknown name, a set that is not downloaded, an option of another set, options that
            contradict each other.
        DownloadError: the download failed; the message lists the manual steps.
        StorageError: not enough free space, or the folder cannot be written.
    """
    entry = info(name)
    if not entry.fetchable:
        raise DataError(f"{name} is not downloaded: {entry.how_to_get}")
    _check_options(entry, labels_only=labels_only, archives=archives, size=size)
    n_archives = 0 if labels_only else archives or len(NIH_ARCHIVES)
    pixels = MEDMNIST_SIZE if size is None else size
    target = paths.data_dir(data_dir) / name
    steps: dict[str, Callable[[], None]] = {
        "kermany": partial(_kermany, entry, target, progress=progress),
        "nih": partial(_nih, entry, target, n_archives=n_archives, progress=progress),
    }
    lock = target.parent / f".{name}.lock"
    with locked(lock, waiting=f"waiting for another run that fetches {name}"):
        steps.get(name, partial(_medmnist, entry, target, size=pixels, progress=progress))()
    return target


def _check_options(entry: DatasetInfo, *, labels_only: bool, archives: int | None, size: int | None) -> None:
    name = entry.name
    if name != "nih" and (labels_only or archives is not None):
        option = "labels_only" if labels_only else f"archives={archives}"
        raise DataError(f"{name} has no separate labels or archives; only nih does. Leave {option} out")
    if labels_only and archives is not None:
        raise DataError(
            f"labels_only fetches no archive, so archives={archives} would be ignored; leave one of them out"
        )
    if archives is not None and not 1 <= archives <= len(NIH_ARCHIVES):
        raise DataError(f"archives is {archives}; nih has archives 1 to {len(NIH_ARCHIVES)}")
    if size is not None and entry.module != "medmnist_sets":
        raise DataError(
            f"{name} is published at one size, so size={size} would be ignored; only the MedMNIST sets have "
            "several. Leave size out here, and give it to `load`"
        )


def _kermany(entry: DatasetInfo, target: Path, *, progress: bool) -> None:
    from xraykit.datasets.kermany import find_root

    if target.exists() and any(target.iterdir()):
        try:
            find_root(target)
        except DataNotFoundError as error:
            raise DataError(f"{describe(target)}, which is not {entry.name}; move it away") from error
        return
    if target.exists():
        target.rmdir()
    by_hand = target.with_suffix(".zip")
    if by_hand.is_file():
        extract(by_hand, target, progress=progress)
    else:
        from_kaggle(KERMANY_HANDLE, target, needed=entry.size_on_disk, manual=entry.manual_text())


def _nih(entry: DatasetInfo, target: Path, *, n_archives: int, progress: bool) -> None:
    from xraykit.datasets.nih_labels import find_table

    for name in NIH_TABLES:
        there = find_table(target, Path(name).stem) if name.endswith(".csv") else target / name
        if there is None or not there.is_file():
            from_kaggle(
                NIH_HANDLE, target / name, path=name, needed=_TABLES_BYTES, manual=entry.manual_text()
            )
    folders = {target / f"images_{i:03d}": a for i, a in enumerate(NIH_ARCHIVES[:n_archives], start=1)}
    todo = {folder: archive for folder, archive in folders.items() if not folder.is_dir()}
    if not todo or _unpacked_by_hand(target) >= sum(archive.images for archive in folders.values()):
        return
    sizes = [archive.size for archive in todo.values()]
    # Images hardly shrink in the archives: each set of images as large as its archive, and one archive beside
    # them.
    check_space(target, sum(sizes) + max(sizes))
    for folder, archive in todo.items():
        file = target / "archives" / f"{folder.name}.tar.gz"
        download_file(archive.url, file, md5=archive.md5, manual=entry.manual_text(), progress=progress)
        extract(file, folder, progress=progress)
        file.unlink()


def _unpacked_by_hand(target: Path) -> int:
    """Images in ``images/``, where all archives unpack to when somebody unpacks them in place."""
    from xraykit.datasets.files import scan

    return len(scan(target / "images").images) if (target / "images").is_dir() else 0


def _medmnist(entry: DatasetInfo, target: Path, *, size: int, progress: bool) -> None:
    from xraykit.datasets.medmnist_sets import file_name

    file = target / file_name(entry.name, size)
    if file.is_file():
        return
    from medmnist.info import INFO  # imports torch, and makes ~/.medmnist: only when it is needed

    suffix = "" if size == 28 else f"_{size}"
    known = INFO[entry.name]
    # The addresses and checksums are medmnist's. Its own download neither resumes nor renames when complete.
    download_file(
        known[f"url{suffix}"],
        file,
        md5=known[f"MD5{suffix}"],
        manual=entry.manual_text(),
        progress=progress,
    )
