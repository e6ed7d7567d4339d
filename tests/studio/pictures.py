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
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from api.client import Client
from api.embedded import Stack

ROOT = Path(__file__).resolve().parents[2]
SIZES = {"": (1440, 900), "-phone": (390, 844)}
THEMES = ("light", "dark")
SOURCE = "a photo of a red fox in a meadow"
EDITS = (
    ("tokenflow", "a photo of a blue fox in a meadow"),
    ("fatezero", "a photo of a blue fox in a meadow"),
    ("frame_by_frame", "a photo of a blue fox in a meadow"),
    ("tokenflow", "a watercolour of a red fox in a meadow"),
)
SHORT = {"num_inference_steps": 20, "num_inversion_steps": 20}
DONE = {"library", "compare"}
STEPS = {"tokenflow": SHORT, "frame_by_frame": SHORT, "fatezero": {"num_inference_steps": 20}}


def note(asset: str, prompt: str) -> dict[str, object]:
    studio = {"video": asset, "name": "sample.mp4", "start": 0, "target": prompt, "source": SOURCE, "params": {}}
    return {"studio": studio}


def edits(client: Client) -> list[str]:
    """Make the edits that are not there yet; their ids, the first one first."""
    asset = client.upload(ROOT / "api" / "sample.mp4").id
    there = {
        (job.method, job.metadata.get("studio", {}).get("target")): job.id
        for job in client.jobs(state="succeeded").data
    }
    ids = []
    for method, prompt in EDITS:
        if (method, prompt) not in there:
            order = {
                "method": method,
                "video": asset,
                "prompt": prompt,
                "source_prompt": SOURCE,
                "params": STEPS[method],
            }
            there[method, prompt] = client.edit(**order, metadata=note(asset, prompt)).id
        ids.append(there[method, prompt])
    for job_id in ids:
        list(client.watch(job_id))
    return ids


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


def library(page: Page) -> None:
    page.goto(page.url.partition("#")[0] + "#/jobs")
    page.locator(".job-card video").first.wait_for()
    page.wait_for_timeout(1500)


def compare(page: Page, job: str) -> None:
    page.goto(page.url.partition("#")[0] + f"#/jobs/{job}")
    page.locator(".player").wait_for()
    page.get_by_role("button", name="Pause").click()
    page.get_by_label("Frame", exact=True).fill("6")
    page.wait_for_timeout(1000)


def views(ids: list[str]) -> dict[str, object]:
    return {"new": new, "boxes": boxes, "library": library, "compare": lambda page: compare(page, ids[0])}


def take(browser: Browser, url: str, wanted: list[str], ids: list[str], folder: Path) -> None:
    for suffix, (width, height) in SIZES.items():
        for theme in THEMES:
            context = browser.new_context(viewport={"width": width, "height": height}, reduced_motion="no-preference")
            context.add_init_script(f"localStorage.setItem('refilm.theme', '{theme}')")
            page = context.new_page()
            page.goto(url)
            for name, show in views(ids).items():
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
    with service(options.server) as url, Client(url) as client, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        made = edits(client) if not options.views or DONE & set(options.views) else [""]
        take(browser, url, options.views, made, options.folder)
        browser.close()


if __name__ == "__main__":
    main()
