"""Accepting jobs, and getting them back: manifest before record, bell last, everything rebuilt from the store."""

from pathlib import Path

import pytest

from jobs import ids, layout, manifest
from jobs.assets import Assets
from jobs.connection import QueueUnavailable
from jobs.leases import Leases, Outcome, Owner
from jobs.listing import Query, list_jobs
from jobs.queue import Bell
from jobs.records import Idempotency, IdempotencyReuse, QueueFull, Records, StateConflict
from jobs.recovery import forgotten, recover
from jobs.request import JobRequest
from jobs.schema import Output
from jobs.settings import Settings
from jobs.states import State
from jobs.store import ObjectMissing, Store
from jobs.submission import MissingAsset, delete, retry, submit


class House:
    """Records, store and bell of one installation, and an uploaded clip."""

    def __init__(self, records: Records, store: Store, folder: Path) -> None:
        self.records, self.store, self.bell = records, store, Bell(records.settings)
        clip = folder / "clip"
        clip.write_bytes(b"clip")
        self.asset = Assets(store).add("local", clip, name="../../clip.mp4", media_type="video/mp4")

    def request(self, **more: object) -> JobRequest:
        return JobRequest.model_validate({"method": "echo", "input": {"video": {"asset": self.asset.id}}} | more)

    def submit(self, **more: object):
        return submit(self.request(), "local", records=self.records, store=self.store, bell=self.bell, **more)

    def manifests(self) -> list[str]:
        return [job_id for _, job_id, _ in manifest.each(self.store)]

    def recover(self):
        return recover(self.records, self.store, self.bell)

    def end(self, job_id: str) -> None:
        leases = Leases(self.records)
        claim = leases.claim(job_id, Owner("w", "w@h", "t"))
        leases.finalize(claim)
        output = Output(name="o.mp4", media_type="video/mp4", size_bytes=1, sha256="0", key=f"out/local/{job_id}/o.mp4")
        assert leases.finish(claim, Outcome("succeeded", outputs=(output,))) == "succeeded"

    def archive(self, job_id: str) -> None:
        row = self.records.ask("HGETALL", f"rf:job:{job_id}")
        manifest.write_ending(self.store, "local", job_id, row)


@pytest.fixture
def house(records: Records, store: Store, tmp_path: Path) -> House:
    return House(records, store, tmp_path)


def test_an_accepted_job_has_manifest_record_and_bell(house: House) -> None:
    job = house.submit().job
    kept = manifest.read(house.store, "local", job.id)
    assert kept.request == job.request
    assert kept.inputs["video"].sha256 == house.asset.sha256
    assert house.bell.waiting() == 1
    assert house.records.redis.zscore("rf:rings", job.id) > 0


def test_a_dead_broker_costs_nothing_but_the_bell(house: House, settings: Settings) -> None:
    house.bell = Bell(settings.model_copy(update={"broker_url": "redis://127.0.0.1:9/0"}))
    job = house.submit().job
    assert job.state == State.QUEUED
    assert house.records.redis.zscore("rf:rings", job.id) == 0


def test_a_dead_redis_is_told_at_once_and_leaves_nothing(house: House, settings: Settings) -> None:
    house.records = Records(settings.model_copy(update={"redis_url": "redis://127.0.0.1:9/0"}))
    with pytest.raises(QueueUnavailable):
        house.submit()
    assert house.manifests() == []


def test_f10_a_full_redis_is_told_and_leaves_no_partial_record(house: House) -> None:
    """`noeviction` and no memory left."""
    redis = house.records.redis
    house.submit()
    before = sorted(redis.keys())
    redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(QueueUnavailable):
            house.submit()
    finally:
        redis.config_set("maxmemory", 0)
    assert sorted(redis.keys()) == before
    assert len(house.manifests()) == 1


def test_a_missing_or_foreign_asset_is_named(house: House) -> None:
    with pytest.raises(MissingAsset) as caught:
        submit(house.request(), "other", records=house.records, store=house.store, bell=house.bell)
    assert caught.value.inputs == {"video": house.asset.id}
    assert house.manifests() == []


def test_the_same_key_makes_one_job_and_one_manifest(house: House) -> None:
    key = Idempotency("k", "h")
    first, again = house.submit(idempotency=key), house.submit(idempotency=key)
    assert again.replayed and again.job.id == first.job.id
    with pytest.raises(IdempotencyReuse):
        house.submit(idempotency=Idempotency("k", "other"))
    assert house.manifests() == [first.job.id]


def test_a_queue_that_is_too_long_leaves_no_manifest(house: House) -> None:
    house.submit()
    with pytest.raises(QueueFull):
        house.submit(most_ahead=0)
    assert len(house.manifests()) == 1


def test_an_orphan_manifest_is_adopted_and_its_key_then_replays(house: House) -> None:
    """F17: the API died between manifest and record; the client asks again with its key after the reconciler ran."""
    key = Idempotency("k", "h")
    first = house.submit(idempotency=key).job
    house.records.redis.flushall()
    assert house.recover().queued == 1
    again = house.submit(idempotency=key)
    assert again.replayed and again.job.id == first.id
    assert house.manifests() == [first.id]


def test_an_orphan_manifest_is_swept_when_the_client_was_faster(house: House) -> None:
    key = Idempotency("k", "h")
    orphan = house.submit(idempotency=key).job
    house.records.redis.flushall()
    second = house.submit(idempotency=key).job
    assert second.id != orphan.id
    assert house.recover().swept == 1
    assert house.manifests() == [second.id]


def test_everything_comes_back_after_redis_was_wiped(house: House) -> None:
    """F08: queued jobs run again, ended ones stay ended, order and owners' fences are kept apart."""
    key = Idempotency("k", "h")
    jobs = [house.submit(idempotency=key).job, *(house.submit().job for _ in range(3))]
    house.end(jobs[0].id)
    house.archive(jobs[0].id)
    house.records.cancel(jobs[1].id, "local")
    house.archive(jobs[1].id)
    old = Leases(house.records).claim(jobs[2].id, Owner("w", "w@h", "t"))
    house.records.redis.flushall()
    assert forgotten(house.records)
    done = house.recover()
    assert (done.queued, done.restored, done.swept) == (2, 2, 0)
    assert not forgotten(house.records)
    states = [house.records.get(job.id).state for job in jobs]
    assert states == [State.SUCCEEDED, State.CANCELED, State.QUEUED, State.QUEUED]
    assert [job.id for job in list_jobs(house.records, "local", Query()).items] == [job.id for job in jobs][::-1]
    assert house.records.get(jobs[0].id).outputs[0].name == "o.mp4"
    assert Leases(house.records).beat(old) == "lost"
    new = Leases(house.records).claim(jobs[2].id, Owner("w", "w@h", "t2"))
    assert new is not None and new.fence > old.fence
    assert house.bell.waiting() >= 2
    assert house.submit(idempotency=key).job.id == jobs[0].id
    again = house.recover()
    assert (again.queued, again.restored, again.swept) == (0, 0, 0)


def test_retry_is_a_new_job_that_names_the_old_one(house: House) -> None:
    job = house.submit().job
    with pytest.raises(StateConflict):
        retry(job, records=house.records, store=house.store, bell=house.bell)
    canceled = house.records.cancel(job.id, "local")
    again = retry(canceled, records=house.records, store=house.store, bell=house.bell).job
    assert (again.retry_of, again.state, again.request) == (job.id, State.QUEUED, job.request)
    assert house.records.get(job.id).state == State.CANCELED


def test_delete_removes_outputs_and_manifest_for_good(house: House) -> None:
    job = house.submit().job
    with pytest.raises(StateConflict):
        delete(job, records=house.records, store=house.store)
    house.end(job.id)
    house.store.put_bytes(layout.attempt_folder("local", job.id, 1) + "o.mp4", b"x")
    delete(house.records.get(job.id), records=house.records, store=house.store)
    assert list(house.store.list("out/")) == [] and house.manifests() == []
    house.recover()
    assert house.records.find(job.id) is None


def test_the_key_of_a_deleted_job_makes_a_new_one(house: House) -> None:
    key = Idempotency("k", "h")
    job = house.records.cancel(house.submit(idempotency=key).job.id, "local")
    delete(job, records=house.records, store=house.store)
    again = house.submit(idempotency=key)
    assert not again.replayed and again.job.id != job.id


def test_assets_are_kept_once_per_tenant_and_seen_by_it_alone(house: House, tmp_path: Path) -> None:
    assets = Assets(house.store)
    copy = tmp_path / "copy"
    copy.write_bytes(b"clip")
    assert assets.add("local", copy, name="other.mp4", media_type="video/mp4") == house.asset
    theirs = assets.add("other", copy, name="x", media_type="video/mp4")
    assert theirs.id != house.asset.id
    assert assets.find("other", house.asset.id) is None
    assert assets.find("local", "../../etc/passwd") is None
    assert assets.by_digest("local", house.asset.sha256) == house.asset
    assert assets.by_digest("local", "../" * 20) is None
    assert b"".join(assets.read(house.asset, 1, 3)) == b"li"
    assets.delete(house.asset)
    assert assets.find("local", house.asset.id) is None
    assert b"".join(assets.read(theirs)) == b"clip"


def test_reading_a_deleted_manifest_says_missing(house: House) -> None:
    with pytest.raises(ObjectMissing):
        manifest.read(house.store, "local", ids.new(ids.JOB))


@pytest.mark.parametrize("tenant", ["", "a/b", "..", "-a", "a" * 65, "a.b"])
def test_a_tenant_name_cannot_lead_elsewhere(tenant: str) -> None:
    with pytest.raises(ValueError, match="tenant"):
        layout.manifest(tenant, "job")
