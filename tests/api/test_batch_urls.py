"""Batches whose clips are fetched: every address is judged, and the jobs wait for their files."""

URL = "https://example.com/{}.mp4"


def matrix(*urls):
    return {
        "videos": [{"video": {"url": url}} for url in urls],
        "prompts": [{"target": "x"}],
        "methods": [{"method": "frame_by_frame"}],
    }


def test_jobs_of_a_batch_wait_for_their_files(http):
    made = http.post("/v1/batches", json=matrix(URL.format("a"), URL.format("b")))
    assert made.status_code == 202, made.text
    rows = http.get("/v1/jobs").json()["data"]
    assert [row["state"] for row in rows] == ["accepted", "accepted"]
    assert http.app.state.services.records.redis.zcard("rf:fetches") == 2


def test_one_bad_address_among_many_refuses_the_batch(http, problem):
    answer = http.post("/v1/batches", json=matrix(URL.format("a"), "https://10.0.0.1/b.mp4"))
    found = problem(answer, 422, "url_not_allowed")
    assert found["errors"][0]["pointer"] == "#/videos/1/video/url"
