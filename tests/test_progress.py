"""No library warns about notebook widgets."""

import subprocess
import sys

# What tqdm takes for a kernel, in which no ipywidgets can be imported.
KERNEL = """
import sys, IPython
sys.modules["ipywidgets"] = None
sys.modules["ipykernel.zmqshell"] = IPython
"""


def importing(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", KERNEL + code], capture_output=True, text=True, check=False)


def test_a_kernel_without_widgets_makes_tqdm_warn_and_we_do_not() -> None:
    loud = importing("import tqdm.auto")
    assert "TqdmWarning" in loud.stderr, "tqdm does not warn any more: xraykit.progress can go"
    quiet = importing("from xraykit.progress import import_tqdm_quietly as f; f(); import tqdm.auto")
    assert (quiet.returncode, quiet.stderr) == (0, "")
