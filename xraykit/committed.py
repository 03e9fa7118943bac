"""What the repository holds of earlier runs: a notebook closes with real results beside its own."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from IPython.display import Image

from xraykit import paths, results

SHOWN = ("synthetic", "synthetic-nih", "synthetic-nih-full", "kermany", "nih")


def rows(*runs: results.Run) -> pd.DataFrame:
    """The committed numbers of the notebook of `runs` on each of `SHOWN`, those of `runs` in place of theirs.

    Columns as in `results.numbers`, and ``data``, the data set.
    """
    folders = {name: paths.project_root() / "figures" / name for name in SHOWN}
    folders |= {run.folder.name: run.folder for run in runs}
    tables = [results.numbers(folder).assign(data=name) for name, folder in folders.items()]
    return pd.concat([table[table["notebook"] == runs[0].notebook] for table in tables], ignore_index=True)


def ledger(run: results.Run, *, notebooks: Sequence[str]) -> Path:
    """The folder of `run` where it holds numbers of all `notebooks`, else the committed one of its data set.

    A single run of a notebook that reads what others wrote has an empty folder of its own.
    """
    there = set(results.load(run.folder)["notebook"])
    return run.folder if there >= set(notebooks) else paths.project_root() / "figures" / run.folder.name


def charts(names: Sequence[str]) -> list[Image | str]:
    """The committed charts ``<dataset>/<name>`` for display; a line of text for one that was never made."""
    found = [(name, paths.project_root() / "figures" / f"{name}.png") for name in names]
    return [Image(path) if path.exists() else f"{name}: not made yet" for name, path in found]
