"""The scheduler's parts, each against a real Valkey and a real store, without processes."""

import os
import threading
from pathlib import Path

import pytest

from jobs import ids, layout, manifest, sweeps
from jobs.artifacts import Artifacts
from jobs.assets import Assets
from jobs.leases import Leases, Outcome, Owner
from jobs.locks import Lock
from jobs.presence import announce, leave, live_workers
from jobs.queue import Bell, shared_queue
from jobs.records import Records
from jobs.request import JobRequest
from jobs.schema import Job
from jobs.settings import Settings
from jobs.states import State
from jobs.store import Store, open_store
from jobs.submission import submit
from tests.conftest import wait_for
from workers import retention
from workers.retention import Retention
from workers.scheduler import Scheduler
from workers.signs import scheduler_file

OWNER = Owner("w", "w-w@h", "task")


class House:
    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.records = Records(settings)
        self.store: Store = open_store(settings)
        self.bell = Bell(settings)
        self.leases = Leases(self.records)
        self.scheduler = Scheduler(settings)
        clip = folder / "clip"
        clip.write_bytes(b"clip")
        self.asset = Assets(self.store).add("local", clip, name="clip", media_type="video/mp4")

    def submit(self, **more: object) -> Job:
        body = {"method": "echo", "input": {"video": {"asset": self.asset.id}}} | more
        request = JobRequest.model_validate(body)
        return submit(request, "local", records=self.records, store=self.store, bell=self.bell).job


@pytest.fixture
def house(settings: Settings, tmp_path: Path) -> House:
    short = {"lease_seconds": 0.2, "ring_after_seconds": 0.2, "cancel_grace_seconds": 0.1}
    return House(settings.model_copy(update=short), tmp_path)


def wait(seconds: float = 0.3) -> None:
    threading.Event().wait(seconds)


def test_a_lost_workers_job_is_queued_and_rung_three_times_and_then_fails(house: House) -> None:
    job = house.submit()
    for attempt in (1, 2, 3):
        claim = house.leases.claim(job.id, Owner("w", "w-w@h", f"task-{attempt}"))
        assert claim is not None and claim.job.attempt == attempt
        wait()
        assert house.scheduler.tick()
    failed = house.records.get(job.id)
    assert (failed.state, failed.error.code, failed.error.attempt) == (State.FAILED, "worker_lost", 3)
    assert [attempt.ended for attempt in failed.attempts] == ["worker_lost"] * 3
    assert house.bell.waiting() == 3


def test_a_beating_worker_keeps_its_job(house: House) -> None:
    claim = house.leases.claim(house.submit().id, OWNER)
    for _ in range(4):
        wait(0.1)
        assert house.leases.beat(claim) == "ok"
        house.scheduler.tick()
    assert house.records.get(claim.job_id).state == State.RUNNING


def test_lost_bells_ring_again_and_a_full_broker_is_left_alone(house: House) -> None:
    """F11, and no flood: while there are as many messages as jobs, waiting jobs are not rung again."""
    jobs = [house.submit() for _ in range(3)]
    wait()
    house.scheduler.tick()
    assert house.bell.waiting() == 3
    Bell(house.settings)._app.connection_for_write().default_channel._purge(shared_queue("default"))
    assert house.bell.waiting() == 0
    wait()
    house.scheduler.tick()
    assert house.bell.waiting() == len(jobs)


def test_deadlines_end_jobs_that_wait_or_run_too_long(house: House) -> None:
    """F27: never started, never billed."""
    waits = house.submit(deadline={"start_within": 1})
    runs = house.submit(deadline={"finish_within": 1})
    both = house.submit(deadline={"start_within": 1, "finish_within": 100})
    claim, started = house.leases.claim(runs.id, OWNER), house.leases.claim(both.id, Owner("w", "n", "other"))
    for _ in range(12):
        wait(0.1)
        house.leases.beat(claim)
        house.leases.beat(started)
    house.scheduler.tick()
    late, slow = house.records.get(waits.id), house.records.get(runs.id)
    assert (late.state, late.error.code, late.attempts) == (State.EXPIRED, "deadline_start", ())
    assert (slow.state, slow.error.code, slow.attempts[0].ended) == (
        State.EXPIRED,
        "deadline_finish",
        "deadline_finish",
    )
    assert house.leases.beat(claim) == "lost"
    assert house.leases.finish(claim, Outcome("succeeded")) == "lost"
    assert house.leases.beat(started) == "ok"


def test_a_late_doorbell_after_the_start_deadline_starts_nothing(house: House) -> None:
    job = house.submit(deadline={"start_within": 1})
    wait(1.1)
    assert house.leases.claim(job.id, OWNER) is None
    assert house.records.get(job.id).error.code == "deadline_start"


def test_an_ignored_cancel_ends_by_itself(house: House) -> None:
    claim = house.leases.claim(house.submit().id, OWNER)
    house.records.cancel(claim.job_id, "local")
    wait(0.15)
    house.leases.beat(claim)  # beats, and does not obey
    house.scheduler.tick()
    house.scheduler.tick()
    ended = house.records.get(claim.job_id)
    assert (ended.state, ended.attempts[0].ended) == (State.CANCELED, "worker_lost")
    assert house.leases.finish(claim, Outcome("succeeded")) == "lost"


def test_endings_are_archived_and_lives_end_in_two_steps(house: House) -> None:
    job = house.submit()
    house.store.put_bytes(layout.attempt_folder("local", job.id, 1) + "output.mp4", b"x")
    house.records.cancel(job.id, "local")
    house.scheduler.tick()
    assert manifest.read_ending(house.store, "local", job.id)["state"] == "canceled"
    assert house.records.redis.zcard("rf:archive") == 0
    expiry = {f"local/{job.id}": 1}
    house.records.redis.zadd("rf:expiry", expiry)
    house.scheduler.tick()
    assert house.records.get(job.id).media_gone and list(house.store.list("out/")) == []
    assert manifest.read(house.store, "local", job.id).id == job.id
    house.records.redis.zadd("rf:expiry", expiry)
    house.scheduler.tick()
    assert list(house.store.list("jobs/")) == [] and house.records.redis.zcard("rf:expiry") == 0


def test_a_round_archives_and_retires_all_that_is_due(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a batch, within the round's time; what is left when that is over waits for the next one."""
    monkeypatch.setattr(sweeps, "BATCH", 3)
    jobs = [house.submit() for _ in range(10)]
    for job in jobs:
        house.records.cancel(job.id, "local")
    monkeypatch.setattr(retention, "BUDGET_SECONDS", 0.0)
    house.scheduler._retention.archive()
    assert house.records.redis.zcard("rf:archive") == 7
    monkeypatch.setattr(retention, "BUDGET_SECONDS", 60.0)
    house.scheduler._retention.archive()
    assert house.records.redis.zcard("rf:archive") == 0
    assert all(manifest.read_ending(house.store, "local", job.id) for job in jobs)
    for _ in range(2):
        house.records.redis.zadd("rf:expiry", {f"local/{job.id}": 1 for job in jobs})
        house.scheduler._retention.retire()
    assert list(house.store.list("jobs/")) == []
    for index in ("expiry", "jobs:local", "changed:local"):
        assert house.records.redis.zcard(f"rf:{index}") == 0


def test_events_of_an_ended_job_go_long_before_its_record(house: House) -> None:
    job = house.submit()
    house.records.cancel(job.id, "local")
    events, record = house.records.redis.pttl(f"rf:ev:{job.id}"), house.records.redis.pttl(f"rf:job:{job.id}")
    assert 0 < events <= house.settings.events_ttl_seconds * 1000 < record


def test_the_scheduler_signs_every_round(house: House) -> None:
    stop, sign = threading.Event(), scheduler_file(house.settings)
    quick = Scheduler(house.settings.model_copy(update={"scheduler_interval_seconds": 0.01}))
    runs = threading.Thread(target=quick.run, args=(stop,))
    runs.start()
    wait_for(sign.exists)
    stop.set()
    runs.join(20)
    assert not sign.exists() and not quick._leadership.held()


class Shelf:
    """Artifacts in the store, one letter each."""

    def __init__(self, house: House) -> None:
        self.house, self.artifacts = house, Artifacts(house.records)

    def put(self, kind: str, letter: str, tenant: str, size: int = 100, *, account: bool = True) -> str:
        place = layout.artifact(kind, letter * 8)
        self.house.store.put_bytes(place, b"x" * size)
        self.house.store.put_bytes(layout.sidecar(place), b"{}")
        if account:
            self.artifacts.written(place, tenant, size)
            wait(0.002)
        return place

    def left(self) -> str:
        keys = [info.key for info in self.house.store.list("cas/") if not info.key.endswith(".json")]
        assert len(list(self.house.store.list("cas/"))) == 2 * len(keys)
        return "".join(sorted(key.rpartition("/")[2][0] for key in keys))

    def collect(self, **quotas: object) -> str:
        settings = self.house.settings.model_copy(update={"cache_store_bytes": 0} | quotas)
        Retention(Records(settings), self.house.store).collect()
        return self.left()


@pytest.fixture
def shelf(house: House) -> Shelf:
    return Shelf(house)


def test_what_was_not_used_for_longest_goes_first(shelf: Shelf) -> None:
    places = [shelf.put("invert", letter, "one") for letter in "abcd"]
    shelf.artifacts.used(places[0], "one")
    assert shelf.collect() == "abcd"
    assert shelf.collect(cache_kind_bytes={"invert": 250, "fit": 1}) == "ad"
    assert shelf.artifacts.sizes() == {"invert": 200}
    assert shelf.house.records.counters()["cache_evictions"] == 2


def test_quotas_of_tenants_and_of_the_whole_store(shelf: Shelf) -> None:
    shelf.put("fit", "a", "one"), shelf.put("invert", "b", "one"), shelf.put("invert", "c", "two")
    shelf.put("fit", "d", "two", size=300)
    assert shelf.collect(cache_tenant_bytes=300) == "abd"
    assert shelf.collect(cache_store_bytes=450) == "bd"
    shelf.put("invert", "b", "one", size=50)
    assert shelf.artifacts.sizes() == {"fit": 300, "invert": 50}
    shelf.artifacts.forget(layout.artifact("fit", "d" * 8))
    shelf.artifacts.forget("cas/v1/fit/zz/unknown.safetensors")
    assert shelf.artifacts.sizes() == {"invert": 50}


def test_artifacts_without_an_account_are_taken_up_and_half_written_ones_removed(shelf: Shelf) -> None:
    known = shelf.put("invert", "a", "one")
    shelf.put("invert", "b", "", account=False)
    old, fresh = layout.artifact("fit", "c" * 8), layout.artifact("fit", "d" * 8)
    for place in (old, fresh):
        shelf.house.store.put_bytes(place, b"half")
    os.utime(shelf.house.settings.data_dir / "store" / old, (1, 1))
    shelf.house.scheduler._retention.adopt()
    assert shelf.artifacts.sizes() == {"invert": 200}
    assert shelf.house.store.head(old) is None and shelf.house.store.head(fresh) is not None
    assert shelf.house.records.redis.hget("rf:cas:owner", known) == "one"


def test_a_wiped_redis_is_rebuilt_by_the_next_tick(house: House) -> None:
    job = house.submit()
    house.scheduler.tick()
    house.records.redis.flushall()
    house.scheduler.tick()
    house.scheduler._comparing.join(20)
    assert house.records.get(job.id).state == State.QUEUED
    assert house.bell.waiting() >= 1


def test_only_one_replica_leads_until_it_is_gone(house: House) -> None:
    """F22."""
    other = Scheduler(house.settings)
    assert house.scheduler.tick() and not other.tick()
    house.records.redis.pexpire("rf:lock:leader", 1)
    wait(0.05)
    assert other.tick() and not house.scheduler.tick()


def test_no_lease_is_reaped_right_after_redis_was_away(house: House) -> None:
    claim = house.leases.claim(house.submit().id, OWNER)
    wait()
    house.scheduler._give_grace()
    house.scheduler.tick()
    assert house.records.get(claim.job_id).state == State.RUNNING
    assert house.leases.beat(claim) == "ok"


def test_a_lock_belongs_to_its_token(records: Records) -> None:
    mine, theirs = Lock(records, "x", "a", 10), Lock(records, "x", "b", 10)
    assert mine.take() and not theirs.take() and not theirs.keep()
    theirs.free()
    assert mine.keep() and theirs.held()
    mine.free()
    assert theirs.take()


def test_live_workers_are_those_that_spoke(records: Records) -> None:
    announce(records, "one", pools=("default",), draining=False)
    announce(records, "one", warm=["miniature"])
    announce(records, "two", pools=("large",))
    assert {(worker.id, worker.pools, worker.warm) for worker in live_workers(records)} == {
        ("one", ("default",), ("miniature",)),
        ("two", ("large",), ()),
    }
    leave(records, "two")
    records.redis.delete("rf:w:one")
    assert live_workers(records) == []


def test_a_forged_id_claims_nothing(records: Records) -> None:
    """S20: a doorbell for a job that does not exist."""
    leases = Leases(records)
    assert leases.claim(ids.new(ids.JOB), OWNER) is None
    assert leases.claim("../../x", OWNER) is None
