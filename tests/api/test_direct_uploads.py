"""Files that are announced first: a signed PUT for a local store, a form or parts for a bucket."""

import asyncio
import hashlib
import json
import struct
import time

import boto3
import httpx
import pytest
from fastapi.testclient import TestClient

from api import transfer
from api.app import create_app
from api.async_client import AsyncClient
from api.client import Client
from api.settings import ApiSettings
from jobs import layout
from jobs.store import open_store
from jobs.uploads import Uploads

MIB = 1 << 20


@pytest.fixture
def large(clip, tmp_path):
    """The clip with 6 MiB of nothing at its end, which MP4 allows: more than one part."""
    path = tmp_path / "large.mp4"
    path.write_bytes(clip.read_bytes() + struct.pack(">I4s", 6 * MIB, b"free") + bytes(6 * MIB - 8))
    return path


@pytest.fixture
def bucket(s3_settings, valkey):
    """Settings of an installation whose store is a bucket, with the smallest parts."""
    return s3_settings.model_copy(update={"redis_url": valkey.url, "upload_part_bytes": 5 * MIB})


@pytest.fixture
def on_s3(bucket):
    with TestClient(create_app(bucket, ApiSettings(open=True)), base_url="http://localhost") as http:
        yield http


def announce(http, file, **over):
    facts = {"name": "a/b/clip.mp4", "media_type": "video/mp4", "size_bytes": file.stat().st_size}
    return http.post("/v1/uploads", json=facts | over)


def send_form(upload, path):
    with path.open("rb") as file:
        return httpx.post(upload["url"], data=upload["fields"], files={"file": file})


def test_a_local_store_takes_an_announced_file_by_a_signed_address(http, clip, problem, as_beta):
    answer = announce(http, clip, sha256=hashlib.sha256(clip.read_bytes()).hexdigest())
    assert answer.status_code == 201
    upload = answer.json()
    assert (upload["object"], upload["method"], upload["name"]) == ("upload", "PUT", "clip.mp4")
    complete = upload["urls"]["complete"]
    problem(http.post(complete), 409, "state_conflict")
    problem(http.post(complete, headers=as_beta), 404, "not_found")
    problem(http.put(upload["url"] + "x", content=b"x"), 401, "unauthorized")
    problem(http.put(upload["url"], content=clip.read_bytes()[:-1]), 409, "hash_mismatch")
    sent = http.put(upload["url"], content=clip.read_bytes(), headers={"Authorization": ""})
    assert sent.status_code == 204
    asset = http.post(complete)
    assert asset.status_code == 200 and asset.json()["facts"]["frames"] == 4
    assert http.post(complete).json() == asset.json()
    assert http.get(asset.json()["urls"]["content"]).content == clip.read_bytes()
    again = http.post("/v1/assets/from-hash", json={"sha256": asset.json()["sha256"]})
    assert again.json()["id"] == asset.json()["id"]


def test_s14_a_signed_address_is_good_for_its_own_file_and_time(http, clip, settings, problem):
    content = clip.read_bytes()
    mine, other, late = (announce(http, clip).json() for _ in range(3))
    problem(http.put(mine["url"].replace(mine["id"], other["id"]), content=content), 401, "unauthorized")
    tenant = httpx.URL(mine["url"]).params["tenant"]
    problem(http.put(mine["url"].replace(f"tenant={tenant}", "tenant=beta"), content=content), 401, "unauthorized")
    problem(http.put(mine["url"], content=content + b"more"), 409, "hash_mismatch")
    problem(http.post(other["urls"]["complete"]), 409, "state_conflict")
    store = open_store(settings)
    record = layout.upload_record(tenant, late["id"])
    kept = json.loads(store.get_bytes(record)) | {"expires_at": "2020-01-01T00:00:00Z"}
    store.put_bytes(record, json.dumps(kept).encode())
    problem(http.put(late["url"], content=content), 401, "unauthorized")
    assert store.head(layout.upload_file(tenant, late["id"])) is None
    page = b"<script>" * (len(content) // 8 + 1)
    problem(http.put(mine["url"], content=page[: len(content)]), 415, "unsupported_media")
    problem(http.post(mine["urls"]["complete"]), 409, "state_conflict")


@pytest.mark.parametrize(
    ("over", "status", "code"),
    [
        ({"size_bytes": 0}, 422, "validation_failed"),
        ({"size_bytes": 2 * MIB}, 413, "upload_too_large"),
        ({"media_type": "text/html"}, 415, "unsupported_media"),
        ({"sha256": "x"}, 422, "validation_failed"),
        ({"path": "/etc/passwd"}, 422, "validation_failed"),
    ],
)
def test_what_cannot_be_announced_is_refused(http, clip, problem, over, status, code):
    problem(announce(http, clip, **over), status, code)


def test_what_is_not_what_was_announced_is_removed_with_its_upload(http, clip, settings, problem):
    upload = announce(http, clip, sha256="0" * 64).json()
    assert http.put(upload["url"], content=clip.read_bytes()).status_code == 204
    problem(http.post(upload["urls"]["complete"]), 409, "hash_mismatch")
    problem(http.post(upload["urls"]["complete"]), 404, "not_found")
    assert list(open_store(settings).list("")) == []


def test_what_a_bucket_took_is_checked_like_everything_else(on_s3, bucket, tmp_path, problem):
    path = tmp_path / "film.mp4"
    path.write_bytes(b"This is no film." * 9)
    upload = announce(on_s3, path).json()
    assert send_form(upload, path).status_code < 300
    problem(on_s3.post(upload["urls"]["complete"]), 415, "unsupported_media")
    assert list(open_store(bucket).list("")) == []


def test_a_bucket_takes_a_small_file_as_a_form(on_s3, bucket, clip, problem):
    upload = announce(on_s3, clip).json()
    assert upload["method"] == "POST" and upload["url"].startswith(bucket.s3_endpoint_url)
    problem(on_s3.post(upload["urls"]["complete"]), 409, "state_conflict")
    assert send_form(upload, clip).status_code < 300
    asset = on_s3.post(upload["urls"]["complete"]).json()
    assert asset["sha256"] == hashlib.sha256(clip.read_bytes()).hexdigest() and asset["name"] == "clip.mp4"
    assert open_store(bucket).head(layout.upload_file("local", upload["id"])) is None


def test_another_size_than_announced_is_refused_whatever_the_bucket_lets_in(on_s3, bucket, clip, problem):
    upload = announce(on_s3, clip, size_bytes=clip.stat().st_size + 1).json()
    if send_form(upload, clip).status_code < 300:  # moto does not enforce the policy
        problem(on_s3.post(upload["urls"]["complete"]), 409, "hash_mismatch")
    assert open_store(bucket).head(layout.upload_file("local", upload["id"])) is None


def test_both_clients_send_large_files_past_the_api_once(bucket, large, serve, monkeypatch):
    monkeypatch.setattr(transfer, "DIRECT_BYTES", MIB)
    with serve(bucket) as url, Client(url) as client:
        asset = client.upload(large)
        assert asset.size_bytes == large.stat().st_size and asset.facts["frames"] == 4
        monkeypatch.setattr(transfer, "send", None)  # not sent again: its digest is known

        async def again():
            async with AsyncClient(url) as other:
                return await other.upload(large)

        assert asyncio.run(again()).id == asset.id


def test_what_was_never_finished_is_swept(on_s3, bucket, large, clip):
    half, sent = announce(on_s3, large).json(), announce(on_s3, clip).json()
    assert [part["end"] - part["start"] for part in half["parts"]] == [5 * MIB, large.stat().st_size - 5 * MIB]
    assert httpx.put(half["parts"][0]["url"], content=large.read_bytes()[: 5 * MIB]).status_code == 200
    assert send_form(sent, clip).status_code < 300
    store = open_store(bucket)
    assert Uploads(store, bucket).sweep() == 0
    soon = bucket.model_copy(update={"upload_ttl_seconds": 0.01})
    time.sleep(0.02)
    assert Uploads(store, soon).sweep() == 3  # two records, and the parts of one
    assert list(store.list("uploads/")) == []
    client = boto3.client(
        "s3",
        endpoint_url=bucket.s3_endpoint_url,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        region_name="us-east-1",
    )
    assert not client.list_multipart_uploads(Bucket=bucket.store_url.split("/")[2]).get("Uploads")
    client.close()


def test_an_asset_is_deleted_once_no_job_needs_it(http, edit, worker, problem, as_beta):
    job = edit().json()
    asset = f"/v1/assets/{worker.records.get(job['id']).request.input.video.asset}"
    problem(http.delete(asset, headers=as_beta), 404, "not_found")
    problem(http.delete(asset), 409, "asset_in_use")
    worker.succeed(job["id"])
    assert http.delete(asset).status_code == 204
    problem(http.get(asset), 404, "not_found")
    problem(http.get(f"{asset}/content"), 404, "not_found")
    retry = edit()  # brings the clip again
    assert retry.status_code == 202


def test_an_edit_may_name_an_upload_and_a_batch_may_not(http, edit, clip, worker, problem):
    upload = announce(http, clip).json()
    named = {"video": {"upload": upload["id"]}}
    problem(edit(input=named), 409, "state_conflict")
    assert http.put(upload["url"], content=clip.read_bytes()).status_code == 204
    batch = {"videos": [named], "prompts": [{"target": "x"}], "methods": [{"method": "frame_by_frame"}]}
    problem(http.post("/v1/batches", json=batch), 422, "validation_failed")
    job = edit(input=named)
    assert job.status_code == 202
    asset = worker.records.get(job.json()["id"]).request.input.video.asset
    assert http.post(upload["urls"]["complete"]).json()["id"] == asset
    problem(edit(input={"video": {"upload": upload["id"], "asset": asset}}), 422, "validation_failed")
