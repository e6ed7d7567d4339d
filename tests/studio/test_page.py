"""The page itself: size, headers, prefixes, accessibility, keys."""

import gzip
import http.server
import threading
from pathlib import Path

import httpx
import pytest

AXE = Path("api/web/node_modules/axe-core/axe.min.js")
MOST_BYTES = 250_000


def test_first_load_is_small_and_strict(stack):
    index = httpx.get(stack.url)
    assert index.headers["cache-control"] == "no-cache"
    rules = index.headers["content-security-policy"]
    assert "default-src 'none'" in rules
    assert "unsafe" not in rules
    names = [part.split('"')[0] for part in index.text.split('="./')[1:]]
    assert len(names) == 3
    total = len(gzip.compress(index.content))
    for name in names:
        answer = httpx.get(f"{stack.url}/{name}")
        assert "immutable" in answer.headers["cache-control"]
        total += len(gzip.compress(answer.content))
    assert total < MOST_BYTES
    assert httpx.get(f"{stack.url}/studio/none.js").status_code == 404
    assert httpx.get(f"{stack.url}/studio/..%2F..%2Fapp.py").status_code in (404, 422)


def test_everything_the_first_view_fetches_is_small(page, stack):
    sent = []
    page.on("requestfinished", lambda request: sent.append(request.sizes()["responseBodySize"]))
    page.goto("about:blank")
    page.goto(stack.url)
    page.locator("[data-method=video_p2p] .speed").wait_for(state="attached")
    page.wait_for_load_state("networkidle")
    assert len(sent) > 15  # the page, the list of methods and each method of it
    assert sum(sent) < MOST_BYTES


VIEWS = ("new", "drawn", "batch", "library", "matrix", "job", "failed")


def draw_a_box(page, ball):
    page.locator("input[type=file][accept='video/*']").first.set_input_files(str(ball))
    page.locator("[data-method=ground_a_video] input").check()
    page.get_by_role("button", name="Add a box").click()
    page.get_by_label("Keyframes of boxes").select_option("3")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_axe_finds_nothing_serious(page, stack, client, ball, theme, width):
    page.set_viewport_size({"width": width, "height": 900})
    page.evaluate("theme => localStorage.setItem('refilm.theme', theme)", theme)
    small = {"width": 64, "height": 64, "num_inversion_steps": 2, "num_inference_steps": 2}
    asset = client.upload(ball).id
    words = {"target": "a blue ball", "source": "a red ball"}
    note = {"studio": {"video": asset, "name": "ball.mp4", "start": 0, "params": {}} | words}
    order = {"method": "frame_by_frame", "video": asset, "prompt": "a blue ball", "metadata": note}
    done = client.edit(**order, params=small)
    wrong = client.edit(**order, params=small | {"start_seconds": 5.0})
    for job in (done, wrong):
        list(client.watch(job.id))
    matrix = {"videos": [{"video": {"asset": asset}}], "prompts": [{"target": "a blue ball"}]}
    methods = [{"method": "frame_by_frame", "params": small}]
    batch = httpx.post(f"{stack.url}/v1/batches", json=matrix | {"methods": methods}).json()
    hashes = {"new": "#/new", "drawn": "#/new", "batch": "#/batch", "library": "#/jobs"}
    hashes |= {"matrix": f"#/batches/{batch['id']}", "job": f"#/jobs/{done.id}", "failed": f"#/jobs/{wrong.id}"}
    shown = {"new": "fieldset", "drawn": "fieldset", "batch": ".pick", "library": ".job-card video"}
    shown |= {"matrix": "td[data-state=succeeded] video", "job": ".plot svg", "failed": "[role=alert]"}
    for view in VIEWS:
        page.goto("about:blank")
        page.goto(f"{stack.url}/{hashes[view]}")
        page.locator(shown[view]).first.wait_for()
        if view == "drawn":
            draw_a_box(page, ball)
        page.evaluate(AXE.read_text())
        found = page.evaluate("axe.run().then(report => report.violations)")
        serious = [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")]
        assert serious == [], view
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{view} is wider than the window"


class UnderFilms(http.server.BaseHTTPRequestHandler):
    """A proxy that puts the service at /films/ and strips that from the path; anything else is not its own."""

    service = ""

    def do_GET(self):
        if not self.path.startswith("/films/"):
            self.send_error(404)
            return
        sent = self.rfile.read(int(self.headers.get("content-length", 0)))
        kept = {name: value for name, value in self.headers.items() if name.lower() in ("content-type", "accept")}
        answer = httpx.request(self.command, self.service + self.path[len("/films") :], content=sent, headers=kept)
        self.send_response(answer.status_code)
        for name in ("content-type", "content-security-policy"):
            self.send_header(name, answer.headers[name])
        self.send_header("content-length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    do_POST = do_GET

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def prefixed(stack):
    handler = type("Handler", (UnderFilms,), {"service": stack.url})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/films/"
        server.shutdown()


def test_the_page_works_under_a_prefix(browser, prefixed):
    with browser.new_context() as context:
        page = context.new_page()
        refused = []
        page.on("response", lambda answer: refused.append(answer.url) if answer.status >= 400 else None)
        page.goto(prefixed)
        page.get_by_role("button", name="Use the sample").click()
        page.get_by_text("16 frames").wait_for()
        page.locator("[data-method=tokenflow] .speed").wait_for()
        page.goto(f"{prefixed}#/jobs")
        page.get_by_role("heading", name="Library").wait_for()
        page.wait_for_load_state("networkidle")
        assert refused == []


def test_it_can_be_used_by_keyboard(page):
    page.get_by_role("radiogroup").wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    seen = []
    for _ in range(8):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("(document.activeElement.innerText || document.activeElement.type).trim()"))
    assert seen[:5] == ["Refilm", "New edit", "Batch", "Library", "Theme: auto"]
    assert seen[5:7] == ["file", "Use the sample"]
    page.locator("input[name=method]:checked").press("ArrowDown")
    assert page.locator("input[name=method]:checked").get_attribute("value") != "frame_by_frame"
    page.get_by_role("button", name="Theme: auto").press("Enter")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
