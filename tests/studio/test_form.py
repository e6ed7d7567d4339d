"""No field is written by hand: a method that nobody has heard of gets a working form."""

import json

from jobs.catalogue import Catalogue

ASSET = {"type": "string", "format": "asset", "x-media": "video"}
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
        "properties": {"video": ASSET, "mask": {**ASSET, "description": "Where to edit.", "x-stage": "edit"}},
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


def add_toy(route):
    answer = route.fetch()
    body = answer.json()
    body["data"].append({name: TOY[name] for name in ("id", "title", "summary", "paper", "version", "urls")})
    route.fulfill(response=answer, json=body)


def open_toy(page, ball):
    page.route("**/v1/methods", add_toy)
    page.route("**/v1/methods/toy", lambda route: route.fulfill(json=TOY))
    page.reload()
    page.locator("input[type=file][accept='video/*']").set_input_files(str(ball))
    page.get_by_text("6 frames").wait_for()
    page.locator("[data-method=toy] input").check()
    page.get_by_role("heading", name="Toy").wait_for()


def test_a_toy_method_has_a_form_that_works(page, ball):
    open_toy(page, ball)
    assert page.locator("fieldset[data-stage]").evaluate_all("all => all.map(one => one.dataset.stage)") == [
        "prepare",
        "invert",
        "edit",
    ]
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
    page.locator("#f-mask").set_input_files(str(ball))
    page.locator("#f-mask-help strong").wait_for()
    page.route("**/v1/edits", lambda route: route.fulfill(status=503, json={"code": "maintenance", "detail": "later"}))
    with page.expect_request("**/v1/edits") as sent:
        page.get_by_role("button", name="Start edit").click()
    body = sent.value.post_data_json
    wanted = {"haunt": "a wood", "mood": "wild", "zest": 0.25, "hops": 51, "odd": True, "tags": ["one"], "cap": 7}
    assert body["params"] == wanted | {"deep": {"a": [1]}}
    assert body["prompt"] == {"target": "anything"}
    assert set(body["input"]["files"]) == {"mask"}
    known = Catalogue({"toy": TOY})
    params = body["params"] | {"prompt": body["prompt"]["target"]}
    assert known.errors("toy", params, {"video", *body["input"]["files"]}) == []
    page.get_by_role("alert").get_by_text("later").wait_for()


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
