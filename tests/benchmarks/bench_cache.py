"""Reading an epoch from the image cache against torchvision, memory of building one, reduced JPEG decoding.

Run as ``python tests/benchmarks/bench_cache.py``; takes a few minutes and about 2 GB in the temporary folder.
With XRAYKIT_KERMANY_DIR set, the pictures are real ones (upscaled to 1500x1200 for the large set).
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
from PIL import Image

from xraykit.image_cache import build
from xraykit.images import Preprocess, read_grey, resize

ROUNDS = 3
BATCH = 32
WORKERS = 2
SETS = {"224x224 JPEG": ((224, 224), 1500), "1500x1200 JPEG": ((1500, 1200), 300)}
MEMORY_COUNTS = (2_000, 20_000)

# VmHWM and not getrusage: ru_maxrss of a child starts at the size of the process that started it.
MEMORY_CHILD = """
import sys
from pathlib import Path
from xraykit.image_cache import build
from xraykit.images import Preprocess
root, cache_dir, n = sys.argv[1:]
paths = [f"{i:05d}.png" for i in range(int(n))]
build(Path(root), paths, Preprocess(), cache_dir=Path(cache_dir), progress=False)
status = Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


def main() -> None:
    """Print the three tables."""
    with tempfile.TemporaryDirectory(prefix="xraykit-bench-") as folder:
        print(memory_table(Path(folder)).to_string(index=False), end="\n\n", flush=True)
        print(epoch_table(Path(folder)).to_string(index=False), end="\n\n", flush=True)
        print(decode_table(Path(folder)).to_string(index=False))


def memory_table(folder: Path) -> pd.DataFrame:
    """Peak memory of a process that builds a cache of few and of many images."""
    root = folder / "many"
    root.mkdir()
    for i in range(max(MEMORY_COUNTS)):
        pixels = np.full((64, 64), 128, np.uint8)
        pixels[0, :8] = np.frombuffer(i.to_bytes(8, "little"), np.uint8)
        Image.fromarray(pixels).save(root / f"{i:05d}.png", compress_level=1)
    peaks: dict[int, list[float]] = {n: [] for n in MEMORY_COUNTS}
    for _ in range(ROUNDS):
        for n in MEMORY_COUNTS:
            with tempfile.TemporaryDirectory(dir=folder) as cache_dir:
                command = [sys.executable, "-c", MEMORY_CHILD, str(root), cache_dir, str(n)]
                kib = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            peaks[n].append(kib / 1024)
    first = median(peaks[MEMORY_COUNTS[0]])
    rows = [
        {
            "images built": n,
            "pixels written (MB)": round(n * 224 * 224 / 1e6),
            "peak memory (MiB)": round(median(values)),
            "lowest to highest": f"{min(values):.0f} to {max(values):.0f}",
            "ratio": round(median(values) / first, 3),
        }
        for n, values in peaks.items()
    ]
    return pd.DataFrame(rows)


def epoch_table(folder: Path) -> pd.DataFrame:
    """Seconds of one shuffled epoch in uint8 batches of 32 at 224 pixels, alternating between the readers."""
    rows = []
    for name, (shape, n) in SETS.items():
        root = folder / name.replace(" ", "-")
        paths = make_files(root, shape, n)
        building, cached, folders = [], [], []
        for turn in range(ROUNDS):
            with tempfile.TemporaryDirectory(dir=folder) as cache_dir:
                start = time.perf_counter()
                images = build(
                    root, paths, Preprocess(), cache_dir=Path(cache_dir), workers=WORKERS, progress=False
                ).images
                building.append(time.perf_counter() - start)
                cached.append(epoch_from_cache(images, turn))
                folders.append(epoch_from_folder(root, turn))
        rows.append(
            {
                "files": name,
                "images": n,
                "cache, build (s)": round(median(building), 2),
                "cache, epoch (s)": round(median(cached), 4),
                "ImageFolder, epoch (s)": round(median(folders), 2),
                "epoch ratio": round(median(folders) / median(cached)),
                "build + epoch ratio": round(median(folders) / (median(building) + median(cached)), 2),
            }
        )
    return pd.DataFrame(rows)


def decode_table(folder: Path) -> pd.DataFrame:
    """Milliseconds to decode one 1500x1200 JPEG and resize it, in one thread, and how far results differ."""
    files = sorted((folder / "1500x1200-JPEG").rglob("*.jpg"))[:60]
    rows = []
    for size in (64, 128, 224):
        seconds: dict[int | None, list[float]] = {None: [], size: []}
        for _ in range(ROUNDS):
            for target, times in seconds.items():
                start = time.perf_counter()
                for file in files:
                    resize(read_grey(file, target=target), size)
                times.append(time.perf_counter() - start)
        errors = [
            np.abs(
                resize(read_grey(file), size) - np.int16(resize(read_grey(file, target=size), size))
            ).mean()
            for file in files
        ]
        full, reduced = (1000 * median(times) / len(files) for times in seconds.values())
        rows.append(
            {
                "to size": size,
                "full decode (ms)": round(full, 1),
                "reduced decode (ms)": round(reduced, 1),
                "ratio": round(full / reduced, 2),
                "mean difference (grey levels)": round(float(np.mean(errors)), 2),
            }
        )
    return pd.DataFrame(rows)


def make_files(root: Path, shape: tuple[int, int], n: int) -> list[str]:
    """n JPEG files of shape (width, height) in two class folders."""
    kermany = os.environ.get("XRAYKIT_KERMANY_DIR")
    real = sorted(Path(kermany).expanduser().glob("train/*/*.jpeg")) if kermany else []
    paths = [f"{'ab'[i % 2]}/{i:04d}.jpg" for i in range(n)]
    for i, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if real:
            picture = (
                Image.open(real[i * len(real) // n]).convert("L").resize(shape, Image.Resampling.BICUBIC)
            )
        else:
            x, y = np.linspace(0, 1, shape[0]), np.linspace(0, 1, shape[1])[:, None]
            picture = Image.fromarray((127 + 120 * np.sin(3 * x + i) * np.cos(4 * y)).astype(np.uint8))
        picture.save(root / path, quality=92)
    return sorted(paths)


def epoch_from_cache(images: np.ndarray, seed: int) -> float:
    """Seconds to copy every image out of the memmap, shuffled, in batches."""
    start = time.perf_counter()
    order = np.random.default_rng(seed).permutation(len(images))
    seen = 0
    for first in range(0, len(order), BATCH):
        batch = images[order[first : first + BATCH]]
        seen += len(batch)
    assert seen == len(images)
    return time.perf_counter() - start


def epoch_from_folder(root: Path, seed: int) -> float:
    """Seconds for the same through torchvision's ImageFolder and a DataLoader, workers' start included."""
    import torch  # after the memory table, whose children must not inherit its size
    from torchvision import datasets, transforms

    steps = transforms.Compose(
        [transforms.Resize((224, 224)), transforms.Grayscale(), transforms.PILToTensor()]
    )
    loader = torch.utils.data.DataLoader(
        datasets.ImageFolder(root, steps),
        batch_size=BATCH,
        shuffle=True,
        num_workers=WORKERS,
        generator=torch.Generator().manual_seed(seed),
    )
    start = time.perf_counter()
    seen = sum(len(batch) for batch, _ in loader)
    assert seen == len(loader.dataset)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
