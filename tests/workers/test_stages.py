"""The stage cache: three levels that agree, damage that is found, tenants and tensors kept apart, single flight."""

import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from jobs import layout
from jobs.artifacts import Artifacts
from jobs.assets import digest_of
from jobs.records import Records
from jobs.settings import Settings
from jobs.store import Store, StoreUnavailable
from workers.disk import Disk
from workers.flights import Flights
from workers.stages import Memory, Stages

KEY = "ab" * 32
PLACE = layout.artifact("invert", KEY)


class Worker:
    """A worker's own memory and disk before a shared store."""

    def __init__(self, records: Records, store: Store, folder: Path, token: str = "job/1") -> None:
        self.counts: Counter[str] = Counter()
        self.memory, self.disk = Memory(1 << 20), Disk(folder, 1 << 20)
        self.flights = Flights(records, token)
        self.records, self.store = records, store
        self.stages = self.open()

    def open(self, **more: bool) -> Stages:
        return Stages(
            self.store,
            self.disk,
            self.memory,
            self.flights,
            Artifacts(self.records),
            tenant="local",
            settings=Settings(),
            waiting=lambda: None,
            give_up=lambda: False,
            count=lambda name: self.counts.update([name]),
            **more,
        )


@pytest.fixture
def workers(records: Records, store: Store, tmp_path: Path) -> tuple[Worker, Worker]:
    return Worker(records, store, tmp_path / "a", "job/1"), Worker(records, store, tmp_path / "b", "job/2")


def tensors() -> dict[str, torch.Tensor]:
    return {"latents": torch.arange(24.0).reshape(2, 3, 4).transpose(0, 2), "steps": torch.arange(3)}


def test_another_worker_finds_what_one_has_put(workers: tuple[Worker, Worker]) -> None:
    first, second = workers
    assert first.stages.get("invert", KEY) is None
    first.stages.put("invert", KEY, tensors(), {"artifact": "Trajectory"})
    found = second.stages.get("invert", KEY)
    assert found is not None
    for name, tensor in tensors().items():
        assert torch.equal(found[0][name], tensor)
    assert found[1] == {"artifact": "Trajectory"}
    assert second.disk.get(PLACE) is not None
    assert second.counts == {"cache_hits": 1}
    assert second.stages.get("prepare", KEY) is None
    assert Artifacts(first.records).sizes() == {"invert": first.store.head(PLACE).size_bytes}


def test_writing_to_a_found_tensor_reaches_nobody(workers: tuple[Worker, Worker]) -> None:
    stages = workers[0].stages
    given = tensors()
    stages.put("invert", KEY, given, {})
    given["latents"].zero_()
    for _ in range(2):
        latents = stages.get("invert", KEY)[0]["latents"]
        assert torch.equal(latents, tensors()["latents"])
        latents.zero_()


@pytest.mark.parametrize("damage", ["truncate", "flip", "sidecar"])
def test_a_damaged_artifact_in_the_store_is_recomputed(workers: tuple[Worker, Worker], damage: str) -> None:
    """F15."""
    first, second = workers
    first.stages.put("invert", KEY, tensors(), {})
    data = bytearray(first.store.get_bytes(PLACE))
    sidecar = PLACE.replace(".safetensors", ".json")
    if damage == "sidecar":
        first.store.put_bytes(sidecar, b"{")
    else:
        data[-1] ^= 1
        first.store.put_bytes(PLACE, bytes(data[:-9] if damage == "truncate" else data))
    assert second.stages.get("invert", KEY) is None
    if damage != "sidecar":
        assert second.counts["cache_corrupt"] == 1
        assert first.store.head(PLACE) is None
    second.stages.put("invert", KEY, tensors(), {})
    assert second.stages.get("invert", KEY) is not None


def test_a_damaged_file_on_the_disk_is_fetched_again(workers: tuple[Worker, Worker]) -> None:
    first = workers[0]
    first.stages.put("invert", KEY, tensors(), {})
    path = first.disk.get(PLACE)
    path.write_bytes(path.read_bytes()[:-1])
    first.memory = Memory(1 << 20)
    assert first.open().get("invert", KEY) is not None
    assert first.disk.get(PLACE) is not None


def test_of_two_writers_the_first_one_counts(workers: tuple[Worker, Worker]) -> None:
    """F16: the second is told that the artifact exists; one object stays, and it is whole."""
    first, second = workers
    first.stages.put("invert", KEY, tensors(), {"by": "first"})
    second.stages.put("invert", KEY, tensors(), {"by": "second"})
    assert second.counts["cache_races"] == 1
    assert len(list(first.store.list("cas/"))) == 2
    second.memory = Memory(1 << 20)
    second.disk.drop(PLACE)
    assert second.open().get("invert", KEY)[1] == {"by": "first"}


def test_refresh_finds_nothing_and_replaces(workers: tuple[Worker, Worker]) -> None:
    first, second = workers
    first.stages.put("invert", KEY, tensors(), {"by": "first"})
    fresh = first.open(refresh=True)
    assert fresh.get("invert", KEY) is None
    fresh.put("invert", KEY, tensors(), {"by": "second"})
    assert second.stages.get("invert", KEY)[1] == {"by": "second"}


def test_a_store_that_is_away_costs_only_hits(records: Records, tmp_path: Path) -> None:
    class Away:
        def __getattr__(self, name: str):
            def refuse(*_: object, **__: object) -> None:
                raise StoreUnavailable("away")

            return refuse

    worker = Worker(records, Away(), tmp_path / "c")
    assert worker.stages.get("invert", KEY) is None
    worker.stages.put("invert", KEY, tensors(), {})
    worker.memory = Memory(1 << 20)
    assert worker.open().get("invert", KEY) is not None


def test_a_disk_that_takes_nothing_costs_only_hits(workers: tuple[Worker, Worker], tmp_path: Path) -> None:
    first = workers[0]
    first.disk._folder = tmp_path / "gone"
    first.stages.put("invert", KEY, tensors(), {})
    assert first.stages.get("invert", KEY) is not None
    assert list(first.store.list("cas/")) == []


def test_while_one_computes_the_other_waits_and_then_has_it(workers: tuple[Worker, Worker]) -> None:
    first, second = workers
    assert first.stages.get("invert", KEY) is None
    found: list[object] = []
    waiter = threading.Thread(target=lambda: found.append(second.stages.get("invert", KEY)))
    waiter.start()
    time.sleep(0.3)
    assert found == []
    first.stages.put("invert", KEY, tensors(), {})
    waiter.join(5)
    assert found[0] is not None
    assert second.counts == {"cache_hits": 1}


def test_when_the_one_that_computes_dies_the_other_does_the_work(workers: tuple[Worker, Worker]) -> None:
    first, second = workers
    assert first.stages.get("invert", KEY) is None
    first.records.redis.pexpire(f"rf:lock:cas:{KEY}", 200)
    began = time.monotonic()
    assert second.stages.get("invert", KEY) is None
    assert 0.1 < time.monotonic() - began < 3
    assert second.records.redis.get(f"rf:lock:cas:{KEY}") == "job/2"
    first.flights.end_all()
    assert second.records.redis.get(f"rf:lock:cas:{KEY}") == "job/2"
    second.flights.end_all()
    assert second.records.redis.exists(f"rf:lock:cas:{KEY}") == 0


def test_memory_and_disk_drop_the_least_recently_used(tmp_path: Path) -> None:
    memory = Memory(100)
    for name in ("a", "b"):
        memory.put(name, ({"x": torch.zeros(10)}, {}))
    memory.get("a")
    memory.put("c", ({"x": torch.zeros(10)}, {}))
    assert [name for name in "abc" if memory.get(name)] == ["a", "c"]
    memory.put("huge", ({"x": torch.zeros(1000)}, {}))
    assert memory.get("huge") is None and memory.get("a") is not None

    disk = Disk(tmp_path, 25)
    for number, name in enumerate(("a", "b", "c")):
        with disk.scratch() as path:
            path.write_bytes(b"0123456789")
            disk.put(f"cas/{name}.safetensors", path, digest_of(path))
        time.sleep(0.01)
        if number == 1:
            assert disk.get("cas/a.safetensors") is not None
    assert [name for name in "abc" if disk.get(f"cas/{name}.safetensors")] == ["a", "c"]
    assert list(tmp_path.glob("new-*")) == []
