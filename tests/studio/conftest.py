"""The page in Debian's Chromium against the whole embedded stack, with the miniature."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from playwright import sync_api as playwright

from api.client import Client
from api.embedded import Stack

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SETTINGS = {"checkpoint": "miniature", "lease_seconds": "3", "scheduler_interval_seconds": "0.3"}
FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SECONDS = 240  # a bound on waiting, not a measure: machines differ


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.studio)
            item.add_marker(pytest.mark.timeout(4 * SECONDS))


@pytest.fixture(scope="session")
def stack(tmp_path_factory):
    with Stack(tmp_path_factory.mktemp("stack"), settings=SETTINGS) as stack:
        yield stack


@pytest.fixture
def client(stack):
    with Client(stack.url) as client:
        yield client


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """Chromium with a fresh profile."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    assert found, "the tests of the page need Debian's package `chromium`"
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox", *FLAGS])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def scribbling(tmp_path_factory):
    """The address of a service whose people have added a method: one file, then the catalogue was made."""
    house = tmp_path_factory.mktemp("house")
    for room in ("api", "jobs", "workers", "models"):
        shutil.copytree(ROOT / room, house / room, ignore=shutil.ignore_patterns("node_modules", "src", "__pycache__"))
    shutil.copy(HERE / "scribble.py", house / "models" / "methods" / "scribble.py")
    variables = os.environ | {"PYTHONPATH": str(house)} | {f"REFILM_{k.upper()}": v for k, v in SETTINGS.items()}
    here = {"cwd": house, "env": variables}
    subprocess.run([sys.executable, "-m", "models", "catalogue"], check=True, **here)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    up = [sys.executable, "-m", "api.cli", "up", "--port", str(port), "--data-dir", str(house / "data")]
    with subprocess.Popen(up, **here) as service:
        url = f"http://127.0.0.1:{port}"
        until(lambda: answers(url) or service.poll() is not None)
        yield url
        service.send_signal(signal.SIGINT)
        service.wait(60)


def answers(url):
    try:
        return httpx.get(f"{url}/healthz/ready").is_success
    except httpx.TransportError:
        return False


def until(true):
    end = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < end, "the service did not start"
        time.sleep(0.2)


@pytest.fixture
def page(browser, request):
    """The page on a desktop; every request it makes stays on the service, and nothing is written to its console."""
    url = (
        request.getfixturevalue("scribbling")
        if "scribbling" in request.fixturenames
        else request.getfixturevalue("stack").url
    )
    context = browser.new_context(viewport={"width": 1440, "height": 900}, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(SECONDS * 1000)
    asked, complaints = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda line: complaints.append(line.text) if "Content Security Policy" in line.text else None)
    page.goto(url)
    yield page
    context.close()
    assert not complaints
    assert [url for url in asked if not url.startswith((url, f"blob:{url}"))] == []


@pytest.fixture
def fill(page, ball):
    """Fill in the form of `frame_by_frame` for a quick edit of the ball, with so many steps."""

    def filled(prompt="a blue ball", steps=3):
        page.locator("input[type=file][accept='video/*']").first.set_input_files(str(ball))
        page.get_by_text("6 frames").wait_for()
        page.locator("[data-method=frame_by_frame] input").check()
        page.locator("#f-source_prompt").fill("a red ball")
        page.locator("#f-prompt").fill(prompt)
        page.locator("fieldset details").evaluate_all("all => all.forEach(one => (one.open = true))")
        for name, value in {"width": 64, "height": 64, "num_inversion_steps": 3, "num_inference_steps": steps}.items():
            page.locator(f"#f-{name}").fill(str(value))

    return filled


@pytest.fixture
def start(page, fill):
    """Fill in, submit, and the id of the job."""

    def started(prompt="a blue ball", steps=3):
        fill(prompt, steps)
        page.get_by_role("button", name="Start edit").click()
        page.wait_for_url("**/#/jobs/job_*")
        return page.url.rpartition("/")[2]

    return started
