"""POST /v1/uploads and what comes of it: every kind of bad file has its own code and leaves nothing."""

import hashlib

import pytest


@pytest.fixture
def nothing_left(http, settings):
    """After the test, the store and the folder of incoming files hold nothing."""
    yield
    folders = (settings.data_dir / "store", settings.data_dir / "incoming")
    assert [path for folder in folders for path in folder.rglob("*") if path.is_file()] == []


def test_an_upload_becomes_an_asset(http, clip):
    content = clip.read_bytes()
    answer = http.post("/v1/uploads", content=content, headers={"Refilm-Filename": "mein%20Film.mp4"})
    assert answer.status_code == 201
    asset = answer.json()
    assert asset["sha256"] == hashlib.sha256(content).hexdigest()
    assert (asset["name"], asset["media_type"], asset["size_bytes"]) == ("mein Film.mp4", "video/mp4", len(content))
    facts = asset["facts"]
    assert (facts["kind"], facts["width"], facts["height"], facts["frames"], facts["fps"]) == ("video", 64, 64, 4, 8)
    assert answer.headers["location"] == f"/v1/assets/{asset['id']}"
    assert http.get(answer.headers["location"]).json() == asset


def test_a_form_is_the_same_as_the_raw_body(http, clip, upload):
    raw = upload()
    answer = http.post("/v1/uploads", files={"note": (None, "x"), "file": ("a.mp4", clip.read_bytes())})
    assert answer.status_code == 201
    assert answer.json()["id"] == raw["id"]


def test_the_same_content_is_the_same_asset_of_one_tenant_only(http, upload, clip, as_beta):
    assert upload()["id"] == upload()["id"]
    theirs = http.post("/v1/uploads", content=clip.read_bytes(), headers=as_beta)
    assert theirs.json()["id"] != upload()["id"]


@pytest.mark.parametrize("name", ["..%2F..%2Fetc%2Fpasswd", "%2Fetc%2Fpasswd", "a%00b", "x" * 1000, "..\\..\\boot.ini"])
def test_a_name_is_never_a_path(http, clip, settings, name):
    answer = http.post("/v1/uploads", content=clip.read_bytes(), headers={"Refilm-Filename": name})
    assert answer.status_code == 201
    kept = answer.json()["name"]
    assert not set(kept) & set("/\\\0") and ".." not in kept and len(kept) <= 255
    outside = [path for path in settings.data_dir.parent.rglob("*") if path.name in ("passwd", "boot.ini")]
    assert outside == []


def test_a_form_name_is_never_a_path(http, clip):
    answer = http.post("/v1/uploads", files={"file": ("../../etc/passwd", clip.read_bytes())})
    assert answer.json()["name"] == "passwd"


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(
    "content",
    [b"This is no film.\n" * 100, b"", b"#EXTM3U\nfile:///etc/passwd\n", b"ffconcat version 1.0\nfile /etc/passwd\n"],
)
def test_text_named_mp4(http, problem, content):
    answer = http.post("/v1/uploads", content=content, headers={"Refilm-Filename": "clip.mp4"})
    problem(answer, 415, "unsupported_media")


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("part", [0.5, 0.9])
def test_a_clip_cut_off(http, problem, clip, part):
    content = clip.read_bytes()
    problem(http.post("/v1/uploads", content=content[: int(len(content) * part)]), 422, "input.decode_failed")


@pytest.mark.usefixtures("nothing_left")
def test_a_clip_whose_end_holds_the_index_cut_off(http, problem, clip):
    content = clip.read_bytes()
    index = content.index(b"moov") - 4
    moved = content[:index] + content[content.index(b"mdat") - 4 :]  # the index is gone
    problem(http.post("/v1/uploads", content=moved), 422, "input.decode_failed")


@pytest.mark.usefixtures("nothing_left")
def test_a_clip_without_frames(http, problem, make_clip):
    answer = http.post("/v1/uploads", content=make_clip(frames=0).read_bytes())
    problem(answer, 422, "input.no_frames")


@pytest.mark.usefixtures("nothing_left")
def test_pictures_too_large(http, problem, make_clip):
    answer = http.post("/v1/uploads", content=make_clip(frames=1, size=(1280, 960)).read_bytes()[: 1 << 20])
    found = problem(answer, 422, "input.too_large_frame")
    assert "1280x960" in found["detail"]


@pytest.mark.usefixtures("nothing_left")
def test_a_clip_too_long(http, problem, make_clip):
    answer = http.post("/v1/uploads", content=make_clip(frames=3, seconds_apart=3600).read_bytes())
    problem(answer, 422, "input.too_long")


@pytest.mark.usefixtures("nothing_left")
def test_a_clip_of_too_many_frames(http, problem, make_clip):
    answer = http.post("/v1/uploads", content=make_clip(frames=201, fps=60).read_bytes())
    problem(answer, 422, "input.too_long")


@pytest.mark.usefixtures("nothing_left")
def test_a_file_too_large(http, problem):
    problem(http.post("/v1/uploads", content=b"\0" * ((1 << 20) + (1 << 16) + 1)), 413, "upload_too_large")
    pieces = (b"\0" * 4 + b"ftypisom" + b"\0" * 100_000 for _ in range(13))
    problem(http.post("/v1/uploads", content=pieces), 413, "upload_too_large")


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(
    ("content_type", "body", "status", "code"),
    [
        ("application/json", b"{}", 422, "validation_failed"),
        ("text/plain", b"hello", 415, "unsupported_media"),
        ("multipart/form-data", b"hello", 400, "malformed_request"),
        ("multipart/form-data; boundary=x", b"hello", 400, "malformed_request"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n--x--\r\n',
            400,
            "malformed_request",
        ),
    ],
)
def test_bodies_that_are_no_file(http, problem, content_type, body, status, code):
    problem(http.post("/v1/uploads", content=body, headers={"Content-Type": content_type}), status, code)


def test_pictures_and_sound_are_assets_too(http, png):
    assert http.post("/v1/uploads", content=png).json()["facts"]["kind"] == "image"


def test_content_whole_and_in_ranges(http, upload, clip):
    content, url = clip.read_bytes(), upload()["urls"]["content"]
    whole = http.get(url)
    assert (whole.status_code, whole.content) == (200, content)
    assert whole.headers["accept-ranges"] == "bytes"
    assert whole.headers["content-disposition"].startswith("attachment")
    for header, part in {"bytes=0-9": content[:10], "bytes=10-": content[10:], "bytes=-7": content[-7:]}.items():
        answer = http.get(url, headers={"Range": header})
        assert (answer.status_code, answer.content) == (206, part)
        assert answer.headers["content-range"].endswith(f"/{len(content)}")
        assert answer.headers["content-length"] == str(len(part))
    assert http.get(url, headers={"Range": "bytes=0-1,4-5"}).status_code == 200


def test_ranges_and_validators(http, upload, clip, problem):
    size, url = clip.stat().st_size, upload()["urls"]["content"]
    etag = http.get(url).headers["etag"]
    assert http.get(url, headers={"If-None-Match": etag}).status_code == 304
    assert http.get(url, headers={"Range": "bytes=0-1", "If-Range": '"other"'}).status_code == 200
    assert http.get(url, headers={"Range": "bytes=0-1", "If-Range": etag}).status_code == 206
    answer = http.get(url, headers={"Range": f"bytes={size}-"})
    problem(answer, 416, "range_not_satisfiable")
    assert answer.headers["content-range"] == f"bytes */{size}"


def test_another_tenants_asset_is_not_found(http, upload, as_beta, problem):
    asset = upload()
    for url in asset["urls"].values():
        problem(http.get(url, headers=as_beta), 404, "not_found")
    problem(http.get("/v1/assets/..%2f..%2fetc"), 404, "not_found")


def test_content_that_is_there_is_not_sent_again(http, upload, as_beta, problem):
    asset = upload()
    wanted = {"sha256": asset["sha256"]}
    assert http.post("/v1/assets/from-hash", json=wanted).json() == asset
    problem(http.post("/v1/assets/from-hash", json=wanted, headers=as_beta), 404, "not_found")
    problem(http.post("/v1/assets/from-hash", json={"sha256": "../../etc"}), 422, "validation_failed")
