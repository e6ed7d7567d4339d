"""What the store keeps of unfinished stages: written, found elsewhere, replaced, damaged, dropped, swept."""

import os
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from jobs import layout
from jobs.store import Store, StoreUnavailable, open_store
from workers.disk import Disk
from workers.handover import Handover
from workers.retention import Retention

STATE = {"0": torch.arange(6.0).view(2, 3).t(), "1": torch.tensor(3)}


class Heart(SimpleNamespace):
    """A heartbeat that says what the test wants."""

    def __init__(self, verdict: str | None = None, draining: bool = False) -> None:
        super().__init__(verdict=verdict, took=None)
        self.draining = lambda: draining
        self.stop_wanted = lambda: verdict is not None
        self.alive = lambda: None
        self.loading = nullcontext

    def allow(self, *, handover_seconds: float) -> None:
        self.took = handover_seconds


def attempt(store: Store, folder: Path, heart: Any = None, scope: str = "") -> Handover:
    return Handover(store, Disk(folder, 1 << 20), heart or Heart(), every_seconds=60, scope=scope)


def keys(store: Store) -> list[str]:
    return [info.key for info in store.list(layout.PARTIALS)]


def test_another_worker_finds_the_newest_state_and_drops_it(store, tmp_path) -> None:
    first = attempt(store, tmp_path / "a")
    assert first.get("ab12-0") is None
    first.put("ab12-0", {"0": torch.zeros(2)}, {"step": "1"})
    first.put("ab12-0", STATE, {"step": "2"})
    assert len(keys(store)) == 2  # one state, and what names it
    second = attempt(store, tmp_path / "b")
    tensors, meta = second.get("ab12-0")
    assert meta == {"step": "2"} and all(torch.equal(tensors[name], tensor) for name, tensor in STATE.items())
    second.put("ab12-0", STATE, {"step": "3"})
    assert len(keys(store)) == 2 and first.get("ab12-0")[1] == {"step": "3"}
    second.drop("ab12-0")
    assert keys(store) == []


def test_a_damaged_state_is_not_used(store, tmp_path) -> None:
    one = attempt(store, tmp_path / "a")
    one.put("ab12-0", STATE, {"step": "2"})
    (data,) = [key for key in keys(store) if key.endswith(".safetensors")]
    store.put_bytes(data, store.get_bytes(data)[:-1] + b"!")
    assert attempt(store, tmp_path / "b").get("ab12-0") is None


def test_states_of_a_job_that_uses_no_cache_are_its_own_until_it_ends(store, tmp_path) -> None:
    one = attempt(store, tmp_path / "a", scope="job_1")
    one.put("ab12-0", STATE, {"step": "2"})
    one.drop("ab12-0")
    assert attempt(store, tmp_path / "b").get("ab12-0") is None
    again = attempt(store, tmp_path / "b", scope="job_1")
    assert again.get("ab12-0")[1] == {"step": "2"}
    again.forget()
    assert keys(store) == []


def test_a_store_that_is_away_costs_the_state_and_nothing_else(store, tmp_path, monkeypatch) -> None:
    one = attempt(store, tmp_path / "a", Heart("preempt"))

    def away(*_: object, **__: object) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(one._store, "put_file", away)
    monkeypatch.setattr(one._store, "get_bytes", away)
    one.put("ab12-0", STATE, {"step": "2"})
    assert one.get("ab12-0") is None and one.wanted()


@pytest.mark.parametrize(("draining", "seconds", "due"), [(False, 59, False), (False, 60, True), (True, 2, True)])
def test_it_is_time_every_minute_and_more_often_in_a_shutdown(store, tmp_path, draining, seconds, due) -> None:
    one = attempt(store, tmp_path / "a", Heart(draining=draining))
    assert one.due(seconds) is due
    one._took = 10.0  # a state that takes long to write
    assert not one.due(seconds) and one.due(200)


def test_the_scheduler_deletes_what_nobody_went_on_with(records) -> None:
    store, settings = open_store(records.settings), records.settings
    for name in ("aa1-0", "bb2-0"):
        store.put_bytes(f"{layout.partial(name)}latest.json", b"{}")
    (old,) = (settings.data_dir / "store").rglob("*aa1-0/latest.json")
    long_ago = time.time() - settings.step_state_ttl_seconds - 10
    os.utime(old, (long_ago, long_ago))
    Retention(records, store).forget_partials()
    assert keys(store) == [f"{layout.partial('bb2-0')}latest.json"]
