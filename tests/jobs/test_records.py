"""Records on a real Valkey: creation, idempotency, reading, listing, cancel, delete, streams."""

import pytest

from jobs import ids
from jobs.feed import Feed
from jobs.leases import Leases, Outcome, Owner
from jobs.listing import BadCursor, Query, list_jobs
from jobs.records import Idempotency, IdempotencyReuse, NotFound, QueueFull, Records, StateConflict
from jobs.request import JobRequest
from jobs.schema import Job, Output, Progress
from jobs.states import State

OWNER = Owner("w1", "celery@w1", "task-1")


def request(**more: object) -> JobRequest:
    body = {"method": "echo", "input": {"video": {"asset": ids.new(ids.ASSET)}}}
    return JobRequest.model_validate(body | more)


def make(records: Records, tenant: str = "local", **more: object) -> Job:
    return records.create(ids.new(ids.JOB), request(**more), tenant).job


def test_a_created_job_is_queued_and_first_in_line(records: Records) -> None:
    first, second = make(records), make(records)
    assert (first.state, first.queue.position) == (State.QUEUED, 1)
    assert records.get(second.id).queue.position == 2
    assert first.version == 2
    assert first.created_at <= first.queued_at


def test_priority_goes_before_age(records: Records) -> None:
    make(records, priority="batch")
    urgent = make(records, priority="interactive")
    assert urgent.queue.position == 1


def test_the_same_key_gives_the_same_job(records: Records) -> None:
    wanted, key = request(), Idempotency("k", "hash")
    first = records.create(ids.new(ids.JOB), wanted, "local", idempotency=key)
    again = records.create(ids.new(ids.JOB), wanted, "local", idempotency=key)
    assert again.replayed and not first.replayed
    assert again.job.id == first.job.id
    assert records.replay("local", key) == again.job
    with pytest.raises(IdempotencyReuse):
        records.create(ids.new(ids.JOB), wanted, "local", idempotency=Idempotency("k", "other"))
    other_tenant = records.create(ids.new(ids.JOB), wanted, "other", idempotency=key)
    assert not other_tenant.replayed


def test_a_full_queue_is_refused_and_leaves_nothing(records: Records) -> None:
    make(records)
    job_id = ids.new(ids.JOB)
    with pytest.raises(QueueFull):
        records.create(job_id, request(), "local", most_ahead=0)
    assert records.find(job_id) is None
    assert len(list_jobs(records, "local", Query()).items) == 1


def test_a_job_of_another_tenant_does_not_exist(records: Records) -> None:
    job = make(records)
    for ask in (records.get, records.cancel, records.version, records.delete):
        with pytest.raises(NotFound):
            ask(job.id, "other")
    assert records.get(job.id, "local").state == State.QUEUED


def test_cancel_is_at_once_while_queued_and_idempotent(records: Records) -> None:
    job = make(records)
    assert records.cancel(job.id, "local").state == State.CANCELED
    assert records.cancel(job.id, "local").version == records.version(job.id, "local") == 3
    assert Leases(records).claim(job.id, OWNER) is None


def test_a_whole_life_is_told_by_the_stream(records: Records) -> None:
    job, leases = make(records), Leases(records)
    claim = leases.claim(job.id, OWNER)
    assert claim is not None
    assert leases.beat(claim, progress=Progress(fraction=0.5, stage="edit")) == "ok"
    assert records.get(job.id).progress.fraction == 0.5
    assert leases.finalize(claim) == "ok"
    output = Output(name="output.mp4", media_type="video/mp4", size_bytes=3, sha256="00", key="out/x")
    assert leases.finish(claim, Outcome("succeeded", outputs=(output,))) == "succeeded"
    ended = records.get(job.id)
    assert ended.outputs == (output,)
    assert [(attempt.n, attempt.ended) for attempt in ended.attempts] == [(1, "succeeded")]
    told = [(event.type, event.state) for event in records.events(job.id)]
    assert told == [
        ("state", "accepted"),
        ("state", "queued"),
        ("state", "running"),
        ("progress", "running"),
        ("state", "finalizing"),
        ("state", "succeeded"),
        ("end", "succeeded"),
    ]
    versions = [event.version for event in records.events(job.id)]
    assert versions == sorted(versions) and versions[-1] == ended.version
    assert "key" not in ended.model_dump_json() and "local" not in ended.model_dump_json()


def test_events_resume_after_an_id_and_changes_wake_readers(records: Records) -> None:
    feed = Feed(records)
    position = feed.latest()
    job = make(records)
    events = records.events(job.id)
    assert records.events(job.id, events[0].id) == events[1:]
    assert records.events(job.id, events[-1].id, block_ms=10) == []
    position, changes = feed.read(position, block_ms=10)
    assert [(change.job_id, change.version) for change in changes] == [(job.id, 1), (job.id, 2)]
    assert feed.read(position, block_ms=10) == (position, [])


def test_a_reader_of_the_feed_is_called_off_its_read_and_only_that_one(records: Records) -> None:
    feed, other = Feed(records), Feed(records)
    position = feed.latest()
    feed.interrupt()
    assert feed.read(position, block_ms=0) == (position, [])  # would wait for ever
    job = make(records)
    last, changes = feed.read(position, block_ms=0)
    assert [change.job_id for change in changes] == [job.id, job.id]
    assert other.read(last, block_ms=10) == (last, [])


def test_a_lost_answer_can_be_asked_again(records: Records) -> None:
    job, leases = make(records), Leases(records)
    claim, again = leases.claim(job.id, OWNER), leases.claim(job.id, OWNER)
    assert claim is not None and again is not None and claim.fence == again.fence
    assert leases.claim(job.id, Owner("w2", "celery@w2", "task-2")) is None
    assert leases.finish(claim, Outcome("succeeded")) == "succeeded"
    assert leases.finish(claim, Outcome("succeeded")) == "succeeded"
    assert records.counters()["jobs_succeeded"] == 1


def test_delete_wants_an_ended_job(records: Records) -> None:
    job = make(records)
    with pytest.raises(StateConflict):
        records.delete(job.id, "local")
    records.cancel(job.id, "local")
    records.delete(job.id, "local")
    assert records.find(job.id) is None
    assert list_jobs(records, "local", Query()).items == ()


def test_pages_cover_every_job_once_newest_first(records: Records) -> None:
    made = [make(records).id for _ in range(7)]
    make(records, tenant="other")
    seen: list[str] = []
    cursor = None
    while True:
        page = list_jobs(records, "local", Query(limit=3, cursor=cursor))
        seen += [job.id for job in page.items]
        cursor = page.cursor
        if cursor is None:
            break
    assert seen == made[::-1]


def test_filters_of_the_list(records: Records) -> None:
    tagged = make(records, labels={"project": "demo"}, method="fatezero")
    plain = make(records)
    records.cancel(plain.id, "local")

    def found(**filters: object) -> list[str]:
        return [job.id for job in list_jobs(records, "local", Query(**filters)).items]

    assert found(state=frozenset({State.CANCELED})) == [plain.id]
    assert found(method="fatezero") == [tagged.id]
    assert found(label="project") == found(label="project=demo") == [tagged.id]
    assert found(label="project=other") == []
    assert found(created_after=plain.created_at) == []


def test_changed_since_tells_only_what_changed(records: Records) -> None:
    first, second = make(records), make(records)
    start = list_jobs(records, "local", Query()).changed
    assert list_jobs(records, "local", Query(changed_since=start)).items == ()
    records.cancel(first.id, "local")
    page = list_jobs(records, "local", Query(changed_since=start))
    assert [job.id for job in page.items] == [first.id]
    records.cancel(second.id, "local")
    assert [job.id for job in list_jobs(records, "local", Query(changed_since=page.changed)).items] == [second.id]


@pytest.mark.parametrize("cursor", ["", "%%%", "W10", "IngiCg", "bnVsbA"])
def test_a_made_up_cursor_is_refused(records: Records, cursor: str) -> None:
    make(records)
    with pytest.raises(BadCursor):
        list_jobs(records, "local", Query(cursor=cursor))
