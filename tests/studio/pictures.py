"""Take the pictures of the page that the documentation shows: `python tests/studio/pictures.py [VIEW ...]`.

Starts the whole embedded stack with the miniature model, makes some edits of the bundled clip, and takes every view in
both themes on a desktop (1440 px) and a phone (390 px) into docs/images/studio-*.webp. `--server URL` uses a service
that is running already, `--folder` puts them elsewhere.
"""

import argparse
import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from api.client import Client
from api.embedded import Stack

ROOT = Path(__file__).resolve().parents[2]
SIZES = {"": (1440, 900), "-phone": (390, 844)}
THEMES = ("light", "dark")
SOURCE = "a photo of a red fox in a meadow"
PROMPTS = ("a photo of a blue fox in a meadow", "a watercolour of a red fox in a meadow")
METHODS = {
    "tokenflow": {"num_inference_steps": 12, "num_inversion_steps": 12},
    "medm": {"num_inference_steps": 12},
    "frame_by_frame": {"num_inference_steps": 12, "num_inversion_steps": 12},
}
DONE = {"library", "job", "compare", "batch"}


def batch(client: Client, http: httpx.Client) -> dict[str, Any]:
    """Every prompt with every method, made unless the service has them already; the batch once it has ended."""
    there = http.get("/v1/batches").json()["data"]
    there = [known for known in there if known["state"] != "canceled"]
    if there:
        made = there[-1]
    else:
        asset = client.upload(ROOT / "api" / "sample.mp4").id
        body = {
            "videos": [{"video": {"asset": asset}, "source": SOURCE}],
            "prompts": [{"target": prompt} for prompt in PROMPTS],
            "methods": [{"method": method, "params": params} for method, params in METHODS.items()],
            "metadata": {"studio_batch": {"names": ["sample.mp4"]}},
        }
        made = http.post("/v1/batches", json=body).json()
    while made["state"] not in ("completed", "canceled"):
        made = http.get(f"/v1/batches/{made['id']}", params={"wait": 20}).json()
    return made


def new(page: Page) -> None:
    page.goto(page.url.partition("#")[0] + "#/new")
    page.get_by_role("button", name="Use the sample").click()
    page.locator(".trim canvas").wait_for()
    page.wait_for_timeout(1500)


def boxes(page: Page) -> None:
    new(page)
    page.locator("[data-method=ground_a_video] input").check(force=True)
    page.get_by_role("button", name="Add a box").click()
    page.locator("[data-field=boxes]").scroll_into_view_if_needed()
    page.wait_for_timeout(500)


def at(page: Page, place: str, shown: str) -> None:
    page.goto(page.url.partition("#")[0] + place)
    page.locator(shown).first.wait_for()
    page.wait_for_timeout(1500)


def new_batch(page: Page) -> None:
    at(page, "#/batch", ".pick")
    page.get_by_role("button", name="Add the sample").click()
    page.locator(".batch-clips video").wait_for()
    for method in METHODS:
        page.locator(f"[data-method={method}] input").check()
    page.wait_for_timeout(500)


def still(page: Page, place: str) -> None:
    at(page, place, ".plot svg")
    page.get_by_role("button", name="Pause").click()
    page.get_by_label("Frame", exact=True).fill("6")
    page.wait_for_timeout(1000)


def views(made: dict[str, Any], jobs: list[str]) -> dict[str, Callable[[Page], None]]:
    found: dict[str, Callable[[Page], None]] = {"new": new, "boxes": boxes, "new-batch": new_batch}
    if jobs:
        first, others = jobs[0], ",".join(jobs[len(PROMPTS) :: len(PROMPTS)])
        found |= {
            "library": lambda page: at(page, "#/jobs", ".job-card video"),
            "batch": lambda page: at(page, f"#/batches/{made['id']}", ".cell video"),
            "job": lambda page: still(page, f"#/jobs/{first}"),
            "compare": lambda page: still(page, f"#/jobs/{first}?with={others}"),
        }
    return found


def take(browser: Browser, url: str, wanted: list[str], found: dict[str, Callable[[Page], None]], folder: Path) -> None:
    for suffix, (width, height) in SIZES.items():
        for theme in THEMES:
            context = browser.new_context(viewport={"width": width, "height": height}, reduced_motion="no-preference")
            context.add_init_script(f"localStorage.setItem('refilm.theme', '{theme}')")
            page = context.new_page()
            page.goto(url)
            for name, show in found.items():
                if wanted and name not in wanted:
                    continue
                show(page)
                picture = Image.open(io.BytesIO(page.screenshot()))
                picture.convert("RGB").save(folder / f"studio-{name}{suffix}-{theme}.webp", quality=80, method=6)
            context.close()


@contextlib.contextmanager
def service(url: str | None) -> Iterator[str]:
    if url:
        yield url
        return
    with tempfile.TemporaryDirectory() as folder, Stack(Path(folder)) as stack:
        yield stack.url


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("views", nargs="*")
    parser.add_argument("--server")
    parser.add_argument("--folder", type=Path, default=ROOT / "docs" / "images")
    options = parser.parse_args()
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with (
        service(options.server) as url,
        Client(url) as client,
        httpx.Client(base_url=url, timeout=60) as http,
        sync_playwright() as driver,
    ):
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        made, jobs = {}, []
        if not options.views or DONE & set(options.views):
            made = batch(client, http)
            jobs = [job["id"] for job in http.get(f"/v1/batches/{made['id']}/jobs").json()["data"]]
        take(browser, url, options.views, views(made, jobs), options.folder)
        browser.close()


if __name__ == "__main__":
    main()
