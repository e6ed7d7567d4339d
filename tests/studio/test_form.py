"""No field is written by hand: a method that nobody has heard of gets a working form."""

import io
import json

import httpx
import numpy as np
from PIL import Image

from jobs.catalogue import Catalogue
from jobs.request import JobRequest

ASSET = {"type": "string", "format": "asset", "x-media": "video"}
IMAGE = {"type": "string", "format": "asset", "x-media": "image"}
FRACTION = {"type": "number", "minimum": 0, "maximum": 1}
WORDS = {"type": "array", "items": {"type": "string", "maxLength": 50}, "x-stage": "edit"}


def places(numbers):
    return {"type": "array", "prefixItems": [FRACTION] * numbers, "minItems": numbers, "maxItems": numbers}


DRAWN = {
    "boxes": {
        "type": "array",
        "items": {"type": "array", "items": places(4), "minItems": 1},
        "minItems": 1,
        "x-stage": "invert",
        "x-widget": "boxes",
        "x-labels": ["phrases"],
    },
    "phrases": WORDS,
    "handles": {
        "type": "array",
        "items": places(4),
        "maxItems": 8,
        "default": [],
        "x-stage": "edit",
        "x-widget": "points",
        "x-keyframe": "handle_frame",
    },
    "handle_frame": {"type": "integer", "minimum": 0, "default": 0, "x-stage": "edit"},
    "ways": {
        "type": "array",
        "items": {"type": "array", "items": places(2), "minItems": 2, "maxItems": 4},
        "default": [],
        "x-stage": "edit",
        "x-widget": "trajectory",
    },
}
TOY = {
    "id": "toy",
    "title": "Toy: everything a schema can ask for",
    "summary": "",
    "paper": None,
    "version": 1,
    "documentation": "Toy.\n\nHow it works: it does not.",
    "stages": ["prepare", "invert", "edit", "decode"],
    "urls": {},
    "inputs": {
        "type": "object",
        "additionalProperties": False,
        "required": ["video"],
        "properties": {
            "video": ASSET,
            "pose": {**ASSET, "description": "Another clip.", "x-stage": "edit"},
            "mask": {**IMAGE, "description": "Where to edit.", "x-stage": "edit", "x-widget": "mask"},
            "masks": {"type": "array", "items": IMAGE, "maxItems": 9, "x-stage": "edit", "x-widget": "mask"},
            "pictures": {"type": "array", "items": IMAGE, "maxItems": 3, "x-stage": "prepare", "default": []},
        },
    },
    "params": {
        "type": "object",
        "additionalProperties": False,
        "required": ["prompt", "haunt"],
        "properties": {
            "prompt": {"type": "string", "description": "Words.", "x-stage": "edit", "x-widget": "prompt"},
            "haunt": {"type": "string", "description": "Where it lives.", "x-stage": "edit"},
            "mood": {"enum": ["calm", "wild"], "default": "calm", "description": "Mood.", "x-stage": "edit"},
            "zest": {"type": "number", "minimum": 0, "maximum": 1, "default": 0.5, "x-stage": "invert"},
            "hops": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 50, "x-stage": "invert"},
            "odd": {"type": "boolean", "default": False, "x-stage": "edit"},
            "early": {"type": "boolean", "default": False, "x-stage": "fit"},
            "tags": {"type": "array", "items": {"type": "string"}, "default": [], "x-stage": "edit"},
            "cap": {
                "anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}],
                "default": None,
                "x-stage": "prepare",
                "x-advanced": True,
            },
            "deep": {"type": "object", "default": {}, "x-stage": "edit", "x-advanced": True},
        },
    },
}


SCRIBBLE = TOY | {
    "id": "scribble",
    "title": "Scribble: everything that is drawn",
    "inputs": TOY["inputs"] | {"required": ["video", "mask"]},
    "params": TOY["params"]
    | {
        "required": ["prompt", "boxes", "phrases"],
        "properties": {"prompt": TOY["params"]["properties"]["prompt"], **DRAWN},
    },
}


def open_toy(page, ball, toy=TOY):
    """The page as it is when the catalogue holds one more method."""

    def list_toy(route):
        answer = route.fetch()
        body = answer.json()
        body["data"].append({name: toy[name] for name in ("id", "title", "summary", "paper", "version", "urls")})
        route.fulfill(response=answer, json=body)

    page.route("**/v1/methods", list_toy)
    page.route(f"**/v1/methods/{toy['id']}", lambda route: route.fulfill(json=toy))
    page.reload()
    page.locator("input[type=file][accept='video/*']").first.set_input_files(str(ball))
    page.get_by_text("6 frames").wait_for()
    page.locator(f"[data-method={toy['id']}] input").check()
    page.get_by_role("heading", name=toy["title"].split(":")[0]).wait_for()


def sent_by(page):
    """Submit, refuse, and the request that was made of the form."""
    page.route("**/v1/edits", lambda route: route.fulfill(status=503, json={"code": "maintenance", "detail": "later"}))
    with page.expect_request("**/v1/edits") as sent:
        page.get_by_role("button", name="Start edit").click()
    page.get_by_role("alert").get_by_text("later").wait_for()
    return sent.value.post_data_json


def accepted(toy, body):
    """Whether the service would take this request of the toy method."""
    request = JobRequest.model_validate(body)
    return Catalogue({toy["id"]: toy}).errors(toy["id"], request.engine_params(), set(request.assets())) == []


def test_a_toy_method_has_a_form_that_works(page, ball):
    open_toy(page, ball)
    assert page.locator("fieldset[data-stage]").evaluate_all("all => all.map(one => one.dataset.stage)") == [
        "prepare",
        "invert",
        "edit",
    ]
    assert page.locator("[data-stage=invert] #f-early").count() == 1  # of a stage that it leaves out: the next one
    assert "re-runs from invert; prepare is kept" in page.locator("[data-stage=invert]").inner_text()
    assert page.locator("#f-mood-help").inner_text().strip() == "Mood."
    page.locator("#f-prompt").fill("anything")
    page.locator("#f-haunt").fill("a wood")
    page.locator("#f-mood").select_option("wild")
    page.locator("#f-zest").fill("0.25")
    slider = page.get_by_label("Hops, slider")
    slider.press("ArrowRight")
    page.locator("#f-odd").check()
    page.locator("#f-tags").fill("one")
    page.locator("#f-tags").press("Enter")
    for summary in page.locator("fieldset details > summary").all():
        summary.click()
    page.locator("#f-cap").fill("7")
    page.locator("#f-deep").fill('{"a": [1]}')
    page.locator("#f-pose").set_input_files(str(ball))
    page.locator("[data-field=pose] figure").wait_for()
    body = sent_by(page)
    wanted = {"haunt": "a wood", "mood": "wild", "zest": 0.25, "hops": 51, "odd": True, "tags": ["one"], "cap": 7}
    assert body["params"] == wanted | {"deep": {"a": [1]}}
    assert body["prompt"] == {"target": "anything"}
    assert set(body["input"]["files"]) == {"pose"}
    assert accepted(TOY, body)


def drag(page, locator, start, end):
    """Press at one place of an element and let go at another; places are fractions of it."""
    locator.scroll_into_view_if_needed()
    box = locator.bounding_box()
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
    page.mouse.move(*points[0])
    page.mouse.down()
    page.mouse.move(*points[1], steps=8)
    page.mouse.up()


def near(given, wanted):
    return all(abs(a - b) < 0.03 for a, b in zip(given, wanted, strict=True))


def test_boxes_are_drawn_named_and_moved_at_keyframes(page, ball):
    open_toy(page, ball, SCRIBBLE)
    field = page.locator("[data-field=boxes]")
    drag(page, field.locator("svg"), (0.1, 0.2), (0.4, 0.7))
    page.get_by_label("Phrases of box 1").fill("a square")
    page.get_by_label("Keyframes of boxes").select_option("2")
    field.get_by_role("button", name="frame 6").click()
    drag(page, field.locator("svg"), (0.25, 0.45), (0.55, 0.45))  # inside the box: moves it
    field.get_by_role("button", name="Add a box").press("Enter")
    second = field.get_by_role("button", name="Box 2: ")
    second.focus()
    second.press("ArrowRight")
    second.press("Shift+ArrowDown")
    page.get_by_label("Phrases of box 2").fill("a sky")
    page.locator("#f-prompt").fill("anything")
    page.locator("#f-mask").set_input_files(files=[{"name": "m.png", "mimeType": "image/png", "buffer": picture()}])
    page.locator("[data-field=mask] figure").wait_for()
    body = sent_by(page)
    (first, moved), (still, nudged) = body["params"]["boxes"]
    assert near(first, (0.1, 0.2, 0.4, 0.7)) and near(moved, (0.4, 0.2, 0.7, 0.7))
    assert still == [0.3, 0.3, 0.7, 0.7] and nudged == [0.31, 0.3, 0.71, 0.71]
    assert body["params"]["phrases"] == ["a square", "a sky"]
    assert accepted(SCRIBBLE, body)
    field.get_by_role("button", name="Remove box 1").click()
    assert page.get_by_label("Phrases of box 1").input_value() == "a sky"


def picture(size=(96, 64)):
    """A PNG that is white on its left half."""
    image = Image.new("L", size)
    image.paste(255, (0, 0, size[0] // 2, size[1]))
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


def painted(stack, body, name):
    """The pictures of an input, as they came to the service: 1 where they are white."""
    given = body["input"]["files"][name]
    ids = [given["asset"]] if isinstance(given, dict) else [one["asset"] for one in given]
    contents = [httpx.get(f"{stack.url}/v1/assets/{asset}/content").content for asset in ids]
    return [np.asarray(Image.open(io.BytesIO(data)).convert("L")) / 255 for data in contents]


def test_masks_are_painted_and_sent_as_pictures(page, ball, stack):
    open_toy(page, ball, SCRIBBLE)
    page.locator("#f-prompt").fill("anything")
    page.locator("[data-field=boxes]").get_by_role("button", name="Add a box").click()
    page.get_by_label("Phrases of box 1").fill("it")
    brush = page.locator("[data-field=mask] canvas")
    drag(page, brush, (0.1, 0.5), (0.9, 0.5))
    many = page.locator("[data-field=masks]")
    drag(page, many.locator("canvas"), (0.2, 0.2), (0.3, 0.2))
    many.get_by_label("Keyframes of masks").select_option("3")
    many.get_by_role("button", name="frame 6").click()
    many.get_by_role("button", name="Clear").wait_for()
    canvas = many.locator("canvas")
    canvas.focus()
    for key in (*["ArrowDown"] * 10, "Space"):  # from where the pointer was: 30 % across, 20 % down
        canvas.press(key)
    body = sent_by(page)
    (mask,) = painted(stack, body, "mask")
    assert mask.shape == (64, 96) and mask[32, 48] == 1 and mask[4, 48] == 0 and 0.1 < mask.mean() < 0.3
    first, middle, last = painted(stack, body, "masks")
    assert first[13, 24] == 1 and first[26, 29] == 0 and (middle == first).all()
    assert last[13, 24] == 1 and last[26, 29] == 1  # goes on from the one before, and the brush by keyboard
    assert accepted(SCRIBBLE, body)


def test_points_with_a_drag_and_trajectories_reach_the_request(page, ball):
    open_toy(page, ball, SCRIBBLE)
    page.locator("#f-prompt").fill("anything")
    page.locator("[data-field=boxes]").get_by_role("button", name="Add a box").click()
    page.get_by_label("Phrases of box 1").fill("it")
    page.locator("#f-mask").set_input_files(files=[{"name": "m.png", "mimeType": "image/png", "buffer": picture()}])
    handles, ways = page.locator("[data-field=handles]"), page.locator("[data-field=ways]")
    page.get_by_label("Frame of handles").fill("3")
    drag(page, handles.locator("svg"), (0.3, 0.4), (0.6, 0.8))
    handles.get_by_role("button", name="Add a point").click()
    second = handles.get_by_role("button", name="Point 2: ")
    second.press("ArrowLeft")
    second.press("Shift+ArrowUp")
    drag(page, ways.locator("svg"), (0.1, 0.5), (0.7, 0.5))
    ways.get_by_role("button", name="Path 1, place 4 ").press("ArrowDown")
    page.locator("[data-field=mask] figure").wait_for()
    body = sent_by(page)
    drawn, keyed = body["params"]["handles"]
    assert near(drawn, (0.3, 0.4, 0.6, 0.8)) and keyed == [0.49, 0.5, 0.5, 0.49]
    assert body["params"]["handle_frame"] == 3
    ((start, *_, end),) = body["params"]["ways"]
    assert near(start, (0.1, 0.5)) and near(end, (0.7, 0.51)) and len(body["params"]["ways"][0]) == 4
    assert accepted(SCRIBBLE, body)


def test_boxes_reach_a_job_of_a_real_method(page, ball, client):
    page.locator("input[type=file][accept='video/*']").first.set_input_files(str(ball))
    page.get_by_text("6 frames").wait_for()
    page.locator("[data-method=ground_a_video] input").check()
    page.locator("#f-prompt").fill("a blue ball")
    page.get_by_role("button", name="Start edit").click()
    page.get_by_text("This is needed.").first.wait_for()
    assert page.evaluate("document.activeElement.textContent") == "Add a box"
    drag(page, page.locator("[data-field=boxes] svg"), (0.1, 0.2), (0.6, 0.8))
    page.get_by_label("Phrases of box 1", exact=True).fill("a blue ball")
    page.locator("fieldset details").evaluate_all("all => all.forEach(one => (one.open = true))")
    for name, value in {"width": 64, "height": 64, "num_inversion_steps": 2, "num_inference_steps": 2}.items():
        page.locator(f"#f-{name}").fill(str(value))
    page.get_by_role("button", name="Start edit").click()
    page.locator("article[data-state=succeeded]").wait_for()
    note = client.job(page.url.rpartition("/")[2]).metadata["studio"]
    assert near(note["params"]["boxes"][0][0], (0.1, 0.2, 0.6, 0.8)) and note["params"]["phrases"] == ["a blue ball"]
    page.get_by_role("link", name="Change and edit again").click()
    page.get_by_role("button", name="Box 1, a blue ball: ").wait_for()


def test_a_list_of_pictures_is_chosen_shown_and_shortened(page, ball):
    open_toy(page, ball)
    field = page.locator("[data-field=pictures]")
    files = [{"name": f"{n}.png", "mimeType": "image/png", "buffer": picture((96, 60 + n))} for n in range(4)]
    page.locator("#f-pictures").set_input_files(files=files)
    field.locator("figure").nth(2).wait_for()
    assert field.locator("figure").count() == 3  # as many as the method takes
    field.get_by_role("button", name="Remove 1.png").click()
    page.locator("#f-prompt").fill("anything")
    page.locator("#f-haunt").fill("a wood")
    page.get_by_text("The same as code").click()
    page.get_by_role("button", name="Python").click()
    code = page.locator("pre").inner_text()
    body = sent_by(page)
    refs = body["input"]["files"]["pictures"]
    assert len(refs) == 2 and accepted(TOY, body)
    assert f'files={{"pictures": ["{refs[0]["asset"]}", "{refs[1]["asset"]}"]}}' in code


def test_what_is_needed_is_asked_for(page, ball):
    open_toy(page, ball)
    page.get_by_role("button", name="Start edit").click()
    assert page.get_by_text("This is needed.").count() == 2
    assert page.evaluate("document.activeElement.id") == "f-prompt"


def test_every_method_of_the_catalogue_draws(page, client):
    for method in client.methods().data:
        page.locator(f"[data-method={method.id}] input").check()
        described = client.method(method.id)
        page.wait_for_function("id => document.querySelector('pre')?.textContent.includes(id)", arg=f'"{method.id}"')
        drawn = set(page.locator("[data-field]").evaluate_all("all => all.map(one => one.dataset.field)"))
        trimmed = {"start_seconds", "end_seconds"}
        assert set(described.params["properties"]) - trimmed <= drawn, json.dumps(sorted(drawn))


def test_a_method_added_to_the_house_gets_what_is_drawn(page, scribbling, ball):
    """One more file in models/methods and a new catalogue: mask, boxes and points reach its job."""
    page.locator("input[type=file][accept='video/*']").first.set_input_files(str(ball))
    page.get_by_text("6 frames").wait_for()
    page.locator("[data-method=scribble] input").check()
    page.locator("#f-prompt").fill("anything")
    boxes, points, paths = (page.locator(f"[data-field={name}]") for name in ("boxes", "handles", "ways"))
    drag(page, page.locator("[data-field=mask] canvas"), (0.0, 0.5), (1.0, 0.5))
    masks = page.locator("[data-field=masks]")
    drag(page, masks.locator("canvas"), (0.5, 0.1), (0.5, 0.9))
    masks.get_by_label("Keyframes of masks").select_option("2")
    masks.get_by_role("button", name="frame 6").click()
    masks.get_by_role("button", name="Fill").click()
    drag(page, boxes.locator("svg"), (0.1, 0.2), (0.4, 0.7))
    page.get_by_label("Phrases of box 1").fill("a square")
    drag(page, points.locator("svg"), (0.3, 0.4), (0.6, 0.8))
    page.get_by_label("Frame of handles").fill("4")
    drag(page, paths.locator("svg"), (0.1, 0.5), (0.7, 0.5))
    page.get_by_role("button", name="Start edit").click()
    page.locator("article[data-state=succeeded]").wait_for()
    told = page.locator(".notice.warn").all_inner_texts()
    assert "1 boxes: a square" in told and "1 points on frame 4, 1 paths" in told
    shares = next(text for text in told if text.startswith("3 masks")).split()[-3:]
    band, column, filled = (float(share) for share in shares)
    assert 0.05 < band < 0.4 and 0.05 < column < 0.4 and filled == 1
