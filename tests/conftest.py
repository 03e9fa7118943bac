"""Plumbing of the tests: offline, reproducible, and never writing into the checkout.

`pytest_configure` and not a fixture sets all this up, so that it also holds for the notebooks that nbval
executes beside the tests, and, through the environment, for every kernel and subprocess.
"""

import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from xraykit import embedding_compute
from xraykit.notebook_process import THREAD_VARIABLES
from xraykit.threads import cores

OFFLINE = Path(__file__).parent / "offline"

settings.register_profile("xraykit", derandomize=True, deadline=None, database=None)
settings.load_profile("xraykit")


def pytest_configure(config: pytest.Config) -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:  # the workers inherit this environment
        root = Path(tempfile.mkdtemp(prefix="xraykit-tests-"))
        config.add_cleanup(lambda: shutil.rmtree(root, ignore_errors=True))
        os.environ["XRAYKIT_FIGURES_DIR"] = str(root / "figures")
        os.environ["XRAYKIT_DATA_DIR"] = str(root / "data")
        os.environ["IPYTHONDIR"] = str(root / "ipython")
        processes = config.getoption("numprocesses", None) or 1
        if processes > 1:  # else each process and its kernels would start a thread for every core
            os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(max(1, cores() // processes))))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(OFFLINE), os.environ.get("PYTHONPATH"))))
    if "sitecustomize" not in sys.modules or not hasattr(sys.modules["sitecustomize"], "OfflineError"):
        spec = importlib.util.spec_from_file_location("xraykit_offline", OFFLINE / "sitecustomize.py")
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    import matplotlib

    matplotlib.use("Agg")  # not MPLBACKEND, which kernels would inherit and then show no figures


def _real_data(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set; it names the folder of the real images")
    path = Path(value).expanduser().resolve()
    if not path.is_dir():
        pytest.fail(f"{variable}={value} is no folder; unset it or correct it")
    return path


@pytest.fixture(scope="session")
def kermany_dir() -> Path:
    """Real images of Kermany; the test is skipped without them."""
    return _real_data("XRAYKIT_KERMANY_DIR")


@pytest.fixture(scope="session")
def nih_dir() -> Path:
    """A real sample of NIH ChestX-ray14; the test is skipped without it."""
    return _real_data("XRAYKIT_NIH_DIR")


@pytest.fixture(scope="session")
def nih_labels_dir() -> Path:
    """The full label tables of NIH ChestX-ray14; the test is skipped without them."""
    return _real_data("XRAYKIT_NIH_LABELS_DIR")


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of images in each batch that goes to a backbone."""
    sizes: list[int] = []
    original = embedding_compute.network_input
    monkeypatch.setattr(
        embedding_compute, "network_input", lambda x, size: sizes.append(len(x)) or original(x, size)
    )
    return sizes
