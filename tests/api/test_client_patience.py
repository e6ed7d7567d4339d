"""The Python client against servers that go away."""

import json

import httpx
import pytest

from api.client import Client, RefilmError
from api.idempotency import HOLD_SECONDS, RETRY_SECONDS


def test_a_first_try_that_died_with_its_server_is_outlived(monkeypatch):
    """Two connections are lost, then the key is held until the dead request's hold ends; pauses are the shortest."""
    slept, lost = [], iter([True, True])
    monkeypatch.setattr("api.client.random.uniform", lambda low, high: low)
    monkeypatch.setattr("api.client.time.sleep", slept.append)

    def answer(request: httpx.Request) -> httpx.Response:
        if next(lost, False):
            raise httpx.ConnectError("gone", request=request)
        if sum(slept) <= HOLD_SECONDS:
            document = {"code": "idempotency_in_progress", "detail": "still runs"}
            body = json.dumps(document, separators=(",", ":"))
            return httpx.Response(409, content=body, headers={"Retry-After": str(RETRY_SECONDS)})
        return httpx.Response(404, json={"code": "not_found", "detail": "answered at last"})

    client = Client("http://refilm.test", transport=httpx.MockTransport(answer))
    with client, pytest.raises(RefilmError, match="answered at last"):
        client.edit(method="frame_by_frame", video="ast_1", prompt="x")
    assert sum(slept) > HOLD_SECONDS
