"""Progress bars of libraries that look for notebook widgets."""

import warnings


def import_tqdm_quietly() -> None:
    """Import ``tqdm.auto``, which warns in a kernel without ipywidgets; later imports of it are silent.

    umap and optuna import it. Their bars, where they show any, are text then, as ours are.
    """
    from tqdm import TqdmWarning

    with warnings.catch_warnings(category=TqdmWarning, action="ignore"):
        import tqdm.auto  # noqa: F401
