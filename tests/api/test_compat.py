"""The OpenAI Videos API: its own client against our server, and what happens on the wire."""

import httpx
import openai
import pytest
from openai.types import Video

EDITS = "/openai/v1/videos/edits"
JSON = {"Content-Type": "application/json"}
pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")


@pytest.fixture
def sdk(serve, settings, api):
    with (
        serve(settings, api) as url,
        openai.OpenAI(base_url=f"{url}/openai/v1", api_key="key-of-alpha", max_retries=0) as client,
    ):
        yield client


def test_the_official_client_edits_lists_fetches_and_deletes(sdk, clip, worker):
    video = sdk.videos.edit(prompt="a blue ball", video=clip, extra_body={"model": "frame_by_frame", "seed": "7"})
    assert (video.object, video.status, video.progress, video.model) == ("video", "queued", 0, "frame_by_frame")
    assert (video.prompt, video.size) == ("a blue ball", "64x64") and float(video.seconds) == pytest.approx(0.5)
    request = worker.records.get(video.id).request
    assert request.params == {"seed": 7} and request.prompt.target == "a blue ball"

    held = worker.claim(video.id)
    worker.progress(held, 0.42, "edit")
    running = sdk.videos.with_raw_response.retrieve(video.id)
    assert int(running.headers["openai-poll-after-ms"]) >= 1000
    assert (running.parse().status, running.parse().progress) == ("in_progress", 42)
    with pytest.raises(openai.ConflictError):
        sdk.videos.delete(video.id)

    worker.succeed(video.id, clip.read_bytes(), held)
    done = sdk.videos.retrieve(video.id)
    assert (done.status, done.progress) == ("completed", 100) and done.completed_at >= done.created_at
    assert sdk.videos.download_content(video.id).read() == clip.read_bytes()

    body = {"prompt": "a red ball", "video": {"id": video.id}, "model": "frame_by_frame"}
    again = sdk.post("/videos/edits", body=body, cast_to=Video)
    assert again.remixed_from_video_id == video.id
    assert [item.id for item in sdk.videos.list()] == [again.id, video.id]
    first = sdk.videos.list(limit=1, order="asc")
    assert [item.id for item in first.data] == [video.id] and first.has_more
    assert [item.id for item in sdk.videos.list(limit=1, order="asc", after=video.id).data] == [again.id]
    assert sdk.videos.delete(video.id).deleted
    with pytest.raises(openai.NotFoundError):
        sdk.videos.retrieve(video.id)


def test_a_video_from_text_alone_is_refused_and_one_with_a_source_is_an_edit(sdk, clip):
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        sdk.videos.create(prompt="a blue ball")
    assert refused.value.param == "input_reference" and "this server edits videos" in refused.value.message
    made = sdk.videos.create(prompt="a blue ball", input_reference=clip, model="frame_by_frame")
    assert made.status == "queued"


def test_a_failed_job_is_a_failed_video(sdk, clip, worker):
    video = sdk.videos.edit(prompt="x", video=clip)
    assert video.model == "tokenflow"
    worker.fail(video.id, "gpu.out_of_memory", "too many frames")
    failed = sdk.videos.retrieve(video.id)
    assert (failed.status, failed.error.code, failed.error.message) == (
        "failed",
        "gpu.out_of_memory",
        "too many frames",
    )
    with pytest.raises(openai.NotFoundError):
        sdk.videos.download_content(video.id)


@pytest.mark.parametrize(
    ("over", "param"),
    [
        ({"model": "sora-2"}, None),
        ({"n": 2}, "n"),
        ({"prompt": ""}, "prompt"),
        ({"video": {"id": "ast_01k9v3x7q8f4d2m6n0c5b1a7gh"}}, None),
        ({"params": "{"}, "params"),
        ({"params": {"guidance_scale": -1}}, "params/guidance_scale"),
        ({"seconds": "soon"}, "seconds"),
        ({"video": "x"}, "video"),
    ],
)
def test_refusals_have_openais_envelope(http, upload, over, param):
    body = {"prompt": "x", "model": "frame_by_frame", "video": {"id": upload()["id"]}} | over
    answer = http.post("/openai/v1/videos/edits", json=body)
    error = answer.json()["error"]
    assert answer.status_code in (404, 422), answer.text
    assert set(error) == {"message", "type", "param", "code"} and error["param"] == param and error["message"]


@pytest.mark.parametrize(
    ("call", "status", "code"),
    [
        (lambda http: http.post(EDITS, content=b"{", headers=JSON), 400, "malformed_json"),
        (lambda http: http.post(EDITS, content=b'{"a": "\xff"}', headers=JSON), 400, "malformed_json"),
        (lambda http: http.post(EDITS, content=b"[]", headers=JSON), 400, "malformed_json"),
        (lambda http: http.post(EDITS, content=b"--", headers={"Content-Type": "multipart/form-data"}), 400, None),
        (lambda http: http.post(EDITS, content=bytes(2 << 20), headers=JSON), 413, "upload_too_large"),
        (lambda http: http.post(EDITS, content=iter([bytes(2 << 20)]), headers=JSON), 413, "upload_too_large"),
        (lambda http: http.get("/openai/v1/nothing"), 404, "not_found"),
        (lambda http: http.put(EDITS), 405, "method_not_allowed"),
        (lambda http: http.get("/openai/v1/videos", params={"limit": 0}), 422, "validation_failed"),
        (lambda http: http.get("/openai/v1/videos", headers={"Authorization": "Bearer x"}), 401, "unauthorized"),
    ],
)
def test_every_refusal_has_openais_envelope(http, call, status, code):
    answer = call(http)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(answer.json()) == {"error"} and set(error) == {"message", "type", "param", "code"}
    assert error["message"] and error["type"].endswith("_error") and code in (None, error["code"])


def test_what_breaks_has_openais_envelope_with_the_id_in_the_log(http, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr("api.routes.compat.oldest_or_newest", broken)
    answer = http.get("/openai/v1/videos")
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"]) == (500, "server_error", "internal")
    assert "log_id " in error["message"] and "secret" not in answer.text


def test_other_tenants_and_strangers_see_nothing(http, edit, as_beta):
    video = f"/openai/v1/videos/{edit().json()['id']}"
    assert http.get(video).json()["status"] == "queued"
    for path in (video, f"{video}/content"):
        refused = http.get(path, headers=as_beta)
        assert (refused.status_code, refused.json()["error"]["type"]) == (404, "not_found_error")
    assert http.get("/openai/v1/videos", headers=as_beta).json()["data"] == []
    stranger = http.get(video, headers={"Authorization": "Bearer wrong"})
    assert (stranger.status_code, stranger.json()["error"]["type"]) == (401, "authentication_error")


def test_a_form_names_nested_fields_as_the_official_client_does(served, clip):
    with httpx.Client(base_url=served) as http:
        asset = http.post("/v1/uploads", content=clip.read_bytes()).json()
        form = {"prompt": "x", "model": "frame_by_frame", "video[id]": asset["id"], "params[seed]": "3"}
        refused = http.post("/openai/v1/videos/edits", files={name: (None, value) for name, value in form.items()})
        assert refused.status_code == 422  # a form knows only text, and the seed is a number
        form |= {"params": '{"seed": 3}'}
        del form["params[seed]"]
        made = http.post("/openai/v1/videos/edits", files={name: (None, value) for name, value in form.items()})
        assert made.status_code == 200, made.text
