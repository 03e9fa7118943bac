"""Comparing two ledgers number by number: what must be equal on every machine, and how nearly."""

from pathlib import Path

from xraykit import results

KEY = list(results.KEY)
TRAINED = ("05", "06", "07", "08", "09")  # notebooks that train networks


def differences(made: Path, committed: Path, notebook: str) -> list[str]:
    """What differs between the quick numbers of `notebook` in two folders of figures.

    A number with an interval may move by a quarter of the interval's width, as another processor rounds
    differently on the way to it; one without is a count or a share and must agree to four digits. A network
    that was trained may move as with another seed, which is as far as its interval is wide: every step of
    training enlarges what the first one rounded.
    """
    tables = [results.numbers(folder, profile="quick").set_index(KEY) for folder in (made, committed)]
    new, old = (t[t.index.get_level_values("notebook") == notebook] for t in tables)
    found = [f"only made now: {key}" for key in new.index.difference(old.index)]
    found += [f"only committed: {key}" for key in old.index.difference(new.index)]
    both = new.index.intersection(old.index)
    a, b = new.loc[both], old.loc[both]
    allowed = ((1.0 if notebook in TRAINED else 0.25) * (b["ci_high"] - b["ci_low"])).fillna(
        1e-4 * b["value"].abs()
    )
    far = (a["value"] - b["value"]).abs() > allowed + 1e-9
    return found + [f"{key}: {a['value'][key]} and {b['value'][key]}" for key in both[far]]
