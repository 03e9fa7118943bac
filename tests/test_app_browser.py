"""The app end to end: a server of its own, and a headless Chromium that clicks through it."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hostile_uploads import HOSTILE, encoded
from processes import free_port

from xraykit import bundle_files
from xraykit.app.parts import BANNER
from xraykit.datasets import synthetic

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH; install one to run this test"),
]
EMBEDDED = "synthetic-phantom"
WAIT = 60_000  # milliseconds: the embedded classifier is made on the first visit


@dataclass
class Served:
    """A running app: its address, its process, and the folders where a file of an upload could stay."""

    url: str
    process: subprocess.Popen
    home: Path
    temporary: Path
    errors: list[str] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    port, folders = free_port(), {name: tmp_path / name for name in ("home", "tmp", "bundles", "data")}
    for folder in folders.values():
        folder.mkdir()
    environment = {
        **os.environ,
        "HOME": str(folders["home"]),
        "TMPDIR": str(folders["tmp"]),
        "XRAYKIT_DATA_DIR": str(folders["data"]),
        "MPLCONFIGDIR": str(tmp_path / "matplotlib"),
    }
    command = [sys.executable, "-m", "xraykit.cli", "app", "--no-browser", "--port", port]
    command += ["--bundles", str(folders["bundles"])]
    with (tmp_path / "log.txt").open("w") as log:
        process = subprocess.Popen(command, env=environment, cwd=folders["home"], stdout=log, stderr=log)
    try:
        for _ in range(300):
            with socket.socket() as client:
                if process.poll() is not None or client.connect_ex(("127.0.0.1", int(port))) == 0:
                    break
            time.sleep(0.1)
        yield Served(f"http://localhost:{port}", process, folders["home"], folders["tmp"])
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def page(served: Served) -> Iterator["sync_api.Page"]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1800}, accept_downloads=True)
        page.set_default_timeout(WAIT)
        page.on("request", lambda request: served.asked.add(urlsplit(request.url).hostname or "localhost"))
        page.on("console", lambda m: served.errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: served.errors.append(str(error)))
        page.goto(served.url)
        yield page
        browser.close()


def xray(patient: int) -> bytes:
    return encoded(synthetic.render(patient, size=256).image)


def payload(name: str, data: bytes) -> dict[str, object]:
    return {"name": name, "mimeType": "image/png", "buffer": data}


def idle(page: "sync_api.Page") -> None:
    page.wait_for_timeout(400)
    page.locator('[data-testid="stApp"][data-test-script-state="notRunning"]').wait_for()


def shot(page: "sync_api.Page", path: Path) -> None:
    idle(page)
    page.wait_for_timeout(1500)  # charts are drawn after the script has ended
    page.screenshot(path=path)
    assert path.stat().st_size > 10_000


def test_use_and_build_in_a_browser(page: "sync_api.Page", served: Served, tmp_path: Path) -> None:
    page.get_by_text("Upload images or choose an example above").wait_for()
    assert page.get_by_text(BANNER).is_visible()
    use(page, tmp_path)
    build(page, tmp_path)
    page.get_by_role("heading", name="mine.png").scroll_into_view_if_needed()
    page.get_by_text("Nearest labelled images").last.scroll_into_view_if_needed()
    sync_api.expect(page.get_by_text(BANNER)).to_be_in_viewport()
    shot(page, tmp_path / "scrolled.png")
    assert page.get_by_text("Traceback").count() == 0
    assert served.asked == {"localhost"}, "the page asked somebody else"
    assert served.errors == []
    left = [p for folder in (served.home, served.temporary) for p in folder.rglob("*") if p.is_file()]
    assert left == []
    assert [p.name for p in (tmp_path / "bundles").iterdir() if not p.name.startswith(".")] == [EMBEDDED]
    assert list((tmp_path / "data").iterdir()) == []
    assert served.process.poll() is None


def use(page: "sync_api.Page", folder: Path) -> None:
    page.get_by_role("button", name="viral 1").click()
    page.locator(".st-key-images input[type=file]").set_input_files(
        [payload("mine.png", xray(2_000_001)), payload("page.png", HOSTILE["page.png"][0])]
    )
    page.get_by_text("page.png: is not a JPEG").wait_for()
    page.get_by_role("heading", name="mine.png").wait_for()
    shot(page, folder / "answers.png")
    heat = page.get_by_alt_text("Grad-CAM").first
    before = heat.get_attribute("src")
    slider = page.get_by_role("slider", name="Opacity of the heat map")
    slider.focus()
    slider.press("Home")
    sync_api.expect(heat).not_to_have_attribute("src", before)
    shot(page, folder / "no_opacity.png")


def build(page: "sync_api.Page", folder: Path) -> None:
    page.get_by_role("tab", name="Build a classifier").click()
    normal = [p for p in range(200) if not synthetic.patients.patient_findings("synthetic", 0, p)][:3]
    ill = [p for p in range(200) if synthetic.patients.patient_findings("synthetic", 0, p)][:3]
    for place, patients in enumerate((normal, ill)):
        uploader = page.locator(f".st-key-images-of-class-{place} input[type=file]")
        uploader.set_input_files([payload(f"{p}.png", xray(p)) for p in patients])
        page.get_by_text("3 images").nth(place).wait_for()
    page.get_by_role("button", name="Build", exact=False).last.click()
    page.get_by_text("my classifier is ready").wait_for()
    page.get_by_text("always saying the same class: 0.333").wait_for()
    shot(page, folder / "built.png")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    saved = folder / download.value.suggested_filename
    download.value.save_as(saved)
    assert saved.name == "my-classifier.zip"
    assert bundle_files.load(saved).classes == ("normal", "pneumonia")
    page.get_by_role("button", name="Use it now").click()
    page.locator("strong", has_text="my classifier").wait_for()
    page.get_by_role("heading", name="mine.png").wait_for()
    shot(page, folder / "used.png")
