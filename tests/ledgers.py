"""Comparing two ledgers number by number: what must be equal on every machine, and how nearly."""

from pathlib import Path

from xraykit import results

KEY = list(results.KEY)
TRAINED = ("05", "06", "07", "08", "09")  # notebooks that train networks
SEED = 0.1  # of a number, or absolute below 1: how far another seed moves what a small network learns


def differences(made: Path, committed: Path, notebook: str) -> list[str]:
    """What differs between the quick numbers of `notebook` in two folders of figures.

    A number with an interval may move by a quarter of the interval's width, as another processor rounds
    differently on the way to it; one without is a count or a share and must agree to four digits. A network
    that was trained may move as with another seed, since every step of training enlarges what the first one
    rounded: by twice the width of its interval, which is over patients alone, or by `SEED` where that is
    more. (On another processor the similarity of a network's maps moved by .06, its interval .03 wide.)
    """
    tables = [results.numbers(folder, profile="quick").set_index(KEY) for folder in (made, committed)]
    new, old = (t[t.index.get_level_values("notebook") == notebook] for t in tables)
    found = [f"only made now: {key}" for key in new.index.difference(old.index)]
    found += [f"only committed: {key}" for key in old.index.difference(new.index)]
    both = new.index.intersection(old.index)
    a, b = new.loc[both], old.loc[both]
    size, width = b["value"].abs(), b["ci_high"] - b["ci_low"]
    allowed = (0.25 * width).fillna(1e-4 * size)
    if notebook in TRAINED:
        seed = (SEED * size.clip(lower=1)).where(width.notna() | (size <= 1), 1e-4 * size)
        allowed = seed.combine(2 * width.fillna(0), max)
    far = (a["value"] - b["value"]).abs() > allowed + 1e-9
    return found + [f"{key}: {a['value'][key]} and {b['value'][key]}" for key in both[far]]
