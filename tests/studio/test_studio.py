"""What a person does with the page."""

import json
from pathlib import Path

import av


def has_ended(page, state):
    page.locator(f"article[data-state={state}]").wait_for()


def test_upload_edit_progress_compare_download(page, start, client, tmp_path):
    job_id = start()
    page.locator("[data-stage=edit]").wait_for()
    has_ended(page, "succeeded")
    request = client.job(job_id)
    assert request.metadata["studio"]["target"] == "a blue ball"
    player = page.locator(".player")
    player.wait_for()
    page.get_by_label("Source", exact=True).wait_for(state="attached")
    assert page.locator(".films video").count() == 2
    page.get_by_role("button", name="Pause").click()
    page.get_by_label("Frame", exact=True).fill("3")
    page.get_by_role("button", name="One frame on").click()
    page.get_by_text("5 / 6").wait_for()
    times = page.locator(".films video").evaluate_all("all => all.map(one => one.currentTime)")
    assert [round(time * 8 - 0.5) for time in times] == [4, 4]  # both show the fifth frame
    before = page.locator(".film.over").evaluate("one => one.style.clipPath")
    page.get_by_label("Wipe").fill("20")
    assert page.locator(".film.over").evaluate("one => one.style.clipPath") != before
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download").click()
    target = tmp_path / "edited.mp4"
    waiting.value.save_as(target)
    with av.open(str(target)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 6
    page.get_by_text("Log", exact=True).click()
    page.get_by_label("Log, oldest first").get_by_text("Edit begun").wait_for()
    page.get_by_text("Receipt", exact=True).click()
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Save the receipt").click()
    receipt = json.loads(Path(waiting.value.path()).read_text())
    assert receipt["job"] == job_id and receipt["request"]["prompt"]["target"] == "a blue ball"


def test_figures_of_every_frame_are_drawn_and_can_be_read(page, start):
    start("a brown ball")
    has_ended(page, "succeeded")
    plot = page.get_by_role("slider", name="Frame on the plot of warp error")
    plot.wait_for()
    page.get_by_role("button", name="Pause").click()
    page.get_by_label("Frame", exact=True).fill("0")
    plot.focus()
    plot.press("ArrowRight")
    page.get_by_text("2 / 6").wait_for()
    assert plot.get_attribute("aria-valuenow") == "2"
    shown = page.locator(".plot-value").inner_text()
    assert shown in plot.get_attribute("aria-valuetext")
    page.get_by_text("Warp error as a table").click()
    rows = page.locator(".plot-table tbody tr")
    assert rows.count() == 6 and rows.nth(0).inner_text().split() == ["1", "–"]
    assert rows.nth(1).inner_text().split() == ["2", shown]
    box = plot.bounding_box()
    page.mouse.click(box["x"] + box["width"] - 2, box["y"] + 20)
    page.get_by_text("6 / 6").wait_for()
    page.get_by_label("Figure to plot").select_option("PSNR to source")
    assert rows.nth(0).inner_text().split()[1] != "–"


def test_results_of_one_clip_play_in_lock_step_beside_each_other(page, start):
    for prompt in ("a silver ball", "a golden ball"):
        start(prompt)
        has_ended(page, "succeeded")
        page.get_by_role("link", name="Change and edit again").click()
        page.get_by_text("6 frames").wait_for()
    page.go_back()
    page.get_by_role("button", name="Side by side").click()
    page.get_by_role("group", name="Compare with").get_by_role("button", name="a silver ball").first.click()
    page.locator(".films video").nth(2).wait_for()
    page.get_by_role("button", name="Pause").click()
    page.get_by_label("Frame", exact=True).fill("4")
    page.wait_for_function(
        "() => [...document.querySelectorAll('.films video')].every(one => Math.round(one.currentTime * 8 - 0.5) === 4)"
    )
    assert page.locator(".films video").count() == 3
    assert page.locator(".plot-legend li").count() == 2
    page.get_by_role("button", name="Side by side").click()
    page.get_by_label("Wipe").wait_for()
    assert page.locator(".films video").count() == 2


def test_a_second_prompt_says_what_the_cache_saved(page, start):
    start("a green ball", 4)
    has_ended(page, "succeeded")
    page.get_by_role("link", name="Change and edit again").click()
    prompt = page.locator("#f-prompt")
    prompt.wait_for()
    page.get_by_text("6 frames").wait_for()
    assert prompt.input_value() == "a green ball"
    prompt.fill("a yellow ball")
    page.locator(".estimate").get_by_text("from the cache").wait_for()
    assert page.locator(".estimate strong").inner_text().startswith("About ")
    page.get_by_role("button", name="Start edit").click()
    page.get_by_role("heading", name="a yellow ball").wait_for()
    has_ended(page, "succeeded")
    page.get_by_text("The cache saved").wait_for()
    assert "from the cache" in page.locator("[data-stage=invert]").inner_text()


def test_cancel_and_reload_in_the_middle(page, start, client):
    job_id = start("a white ball", 900)
    page.locator("[data-stage=edit].running").wait_for()
    page.reload()
    page.locator("[data-stage=edit].running").wait_for()
    seen = page.locator("[data-stage=edit] .stage-word")
    page.wait_for_function("one => /step [1-9]/.test(one.textContent)", arg=seen.element_handle())
    page.get_by_alt_text("The edit so far").wait_for()
    page.get_by_role("button", name="Cancel").click()
    has_ended(page, "canceled")
    assert client.job(job_id).state == "canceled"
    page.get_by_role("button", name="Retry").wait_for()


def test_progress_also_comes_by_polling(page, start):
    page.route("**/v1/jobs/*/events", lambda route: route.abort())
    start("an orange ball", 900)
    page.get_by_text("polling").wait_for()
    page.locator("[data-stage=edit] .stage-word", has_text="of 900").wait_for()
    page.get_by_role("button", name="Cancel").click()
    has_ended(page, "canceled")


def test_a_failed_job_shows_its_hint(page, fill):
    fill()
    page.route("**/v1/edits", late_start)
    page.get_by_role("button", name="Start edit").click()
    has_ended(page, "failed")
    told = page.get_by_role("alert").inner_text()
    assert "no frame" in told
    page.locator("[role=alert] .hint", has_text="then edit again").wait_for()


def late_start(route):
    """Let the edit begin after the clip's end: only a worker can tell that this is wrong."""
    body = json.loads(route.request.post_data)
    body["params"]["start_seconds"] = 5.0
    route.continue_(post_data=json.dumps(body))


def test_a_refused_field_is_marked_and_focused(page, fill):
    fill()
    page.locator("#f-width").fill("65")
    page.get_by_role("button", name="Start edit").click()
    page.get_by_text("A multiple of 8.").wait_for()
    assert page.evaluate("document.activeElement.id") == "f-width"
    assert "#/jobs" not in page.url


def test_trimming_reaches_the_job(page, fill):
    fill()
    page.get_by_label("Start of the part to edit, seconds").fill("0.25")
    with page.expect_request("**/v1/edits") as sent:
        page.get_by_role("button", name="Start edit").click()
    assert sent.value.post_data_json["input"]["trim"] == {"start": 0.25}
    has_ended(page, "succeeded")
    page.get_by_text("/ 4").wait_for()


def test_the_library_filters_searches_and_deletes(page, start, client, stack):
    job_id = start("a ball of glass")
    has_ended(page, "succeeded")
    page.get_by_role("link", name="Library").click()
    card = page.locator(f"[data-job={job_id}]")
    card.locator("video").wait_for()
    page.get_by_label("Search jobs").fill("of glass")
    assert page.locator("[data-job]").count() == 1
    page.get_by_role("button", name="Active").click()
    card.wait_for(state="detached")
    page.get_by_role("button", name="Done").click()
    card.wait_for()
    page.on("dialog", lambda dialog: dialog.accept())
    card.get_by_role("button", name="Delete").click()
    card.wait_for(state="detached")
    assert job_id not in [job.id for job in client.jobs().data]


def test_the_sample_brings_its_words(page):
    page.get_by_role("button", name="Use the sample").click()
    page.get_by_text("16 frames").wait_for()
    assert "fox" in page.locator("#f-source_prompt").input_value()


def test_the_code_says_what_is_sent(page, fill):
    fill()
    page.get_by_text("The same as code").click()
    code = page.locator("pre").inner_text()
    assert '"num_inference_steps": 3' in code
    page.get_by_role("button", name="Python").click()
    python = page.locator("pre").inner_text()
    compile(python, "copied", "exec")
    assert 'prompt="a blue ball"' in python


def test_a_batch_is_made_on_the_page_and_its_matrix_fills_in(page, ball, stack):
    page.get_by_role("link", name="Batch", exact=True).click()
    page.locator("input[type=file]").set_input_files(str(ball))
    page.get_by_label("What ball.mp4 shows").fill("a red ball")
    page.get_by_label("Prompt 1", exact=True).fill("a violet ball")
    page.get_by_role("button", name="Add a prompt").click()
    page.get_by_label("Prompt 2", exact=True).fill("a pink ball")
    for method in ("frame_by_frame", "medm"):
        page.locator(f"[data-method={method}] input").check()
    assert page.locator("[data-method=ground_a_video] input").is_disabled()  # it needs boxes, drawn on one clip
    page.get_by_text("Settings they share").click()
    page.locator("#f-num_inference_steps").fill("3")
    page.get_by_text("1 × 2 × 2 = 4 edits").wait_for()
    page.get_by_role("button", name="Start batch").click()
    page.wait_for_url("**/#/batches/bat_*")
    page.locator("td[data-cell]").nth(3).wait_for()
    page.reload()  # and it goes on filling in
    page.locator("article[data-state=completed]").wait_for()
    states = page.locator("td[data-cell]").evaluate_all("all => all.map(one => one.dataset.state)")
    assert states == ["succeeded"] * 4
    page.locator("td .thumb video").nth(3).wait_for()
    page.get_by_role("link", name="Compare the methods: a pink ball").click()
    page.locator(".films.beside video").nth(2).wait_for()
    names = page.locator(".films .tag").all_inner_texts()
    assert names == ["Source", "MeDM", "Frame by frame"]
    page.get_by_role("link", name="its batch").click()
    page.get_by_role("link", name="Library").click()
    page.locator("[data-batch]").first.wait_for()
    page.get_by_text("4 of 4 done").first.wait_for()
