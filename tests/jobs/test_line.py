"""Whose turn it is: priorities, tenants by turns, caps, warm weights first but not for ever, and places in line."""

import json

import pytest

from jobs import ids, routing
from jobs.caps import load_of, set_cap
from jobs.leases import Claim, Leases, Outcome, Owner
from jobs.listing import Query, list_jobs
from jobs.presence import announce
from jobs.queue import Bell, direct_queue, pool_of, shared_queue
from jobs.records import Records
from jobs.request import JobRequest
from jobs.schema import Job, Progress
from jobs.settings import Settings
from jobs.submission import ring
from jobs.sweeps import Sweeps


class Line:
    """Jobs by tenant, and workers that answer bells."""

    def __init__(self, records: Records) -> None:
        self.records, self.leases, self.sweeps = records, Leases(records), Sweeps(records)
        self.bells = 0

    def add(self, tenant: str, *, group: str = "", group_limit: int = 0, pool: str = "default", **more: object) -> Job:
        body = {"method": "echo", "input": {"video": {"asset": ids.new(ids.ASSET)}}} | more
        born = {"group": group, "group_limit": group_limit} if group else {}
        request = JobRequest.model_validate(body)
        return self.records.create(ids.new(ids.JOB), request, tenant, pool=pool, born=born).job

    def take(self, worker: str = "w", *warm: str, pool: str = "default") -> Claim | None:
        self.bells += 1
        return self.leases.take(ids.new(ids.JOB), Owner(worker, worker, f"task-{self.bells}"), pool=pool, warm=warm)

    def order(self, count: int) -> list[str]:
        return [claim.job.tenant for claim in (self.take() for _ in range(count)) if claim is not None]


@pytest.fixture
def line(records: Records) -> Line:
    return Line(records)


def small(records: Records, **numbers: int) -> Line:
    return Line(Records(records.settings.model_copy(update=numbers)))


def test_tenants_take_turns_and_inside_a_tenant_the_oldest_is_first(line: Line) -> None:
    mine = [line.add("a") for _ in range(5)]
    line.add("b"), line.add("c"), line.add("b")
    claims = [line.take() for _ in range(8)]
    assert [claim.job.tenant for claim in claims] == ["a", "b", "c", "a", "b", "a", "a", "a"]
    assert [claim.job.id for claim in claims if claim.job.tenant == "a"] == [job.id for job in mine]
    assert line.take() is None


def test_a_tenant_that_comes_late_goes_before_those_that_had_their_turn(line: Line) -> None:
    for _ in range(50):
        line.add("a", priority="batch")
    line.order(3)
    line.add("b", priority="batch")
    line.add("b", priority="interactive")
    claims = [line.take() for _ in range(3)]
    assert [(claim.job.tenant, claim.job.request.priority) for claim in claims] == [
        ("b", "interactive"),
        ("b", "batch"),
        ("a", "batch"),
    ]


def test_a_batch_shares_its_tenants_turns_with_the_tenants_other_jobs(line: Line) -> None:
    for _ in range(4):
        line.add("a", group="bat_1")
    for _ in range(2):
        line.add("a")
    groups = [line.records.redis.hget(f"rf:job:{line.take().job.id}", "group") for _ in range(6)]
    assert groups == [None, "bat_1", None, "bat_1", "bat_1", "bat_1"]


def test_who_has_as_many_as_allowed_is_passed_over_and_rung_when_one_ends(line: Line) -> None:
    set_cap(line.records, "a", 2)
    jobs = [line.add("a") for _ in range(4)]
    other = line.add("b")
    assert line.sweeps.startable() == {"default": 3}
    claims = [line.take(), line.take(), line.take()]
    assert [claim.job.tenant for claim in claims] == ["a", "b", "a"]
    assert line.take() is None and line.take("w", pool="elsewhere") is None
    waiting = line.records.get(jobs[2].id)
    assert (waiting.state, waiting.queue.reason, waiting.queue.position) == ("queued", "quota", 1)
    assert [job.queue.reason for job in list_jobs(line.records, "a", Query()).items] == ["quota", "quota", None, None]
    assert line.sweeps.startable() == {"default": 0}
    line.sweeps.never_rung()
    assert load_of(line.records, "a").queued == 2 and line.sweeps.never_rung() == []
    assert line.records.get(other.id).queue.reason is None
    line.leases.finish(claims[0], Outcome("succeeded"))
    assert line.sweeps.never_rung() == [jobs[2].id]
    assert line.take().job.id == jobs[2].id and line.take() is None
    load = load_of(line.records, "a")
    assert (load.running, load.queued, load.cap) == (2, 1, 2)
    set_cap(line.records, "a", None)
    line.records.run("wake", "a")
    assert line.take().job.id == jobs[3].id
    with pytest.raises(ValueError, match="0 or more"):
        set_cap(line.records, "a", -1)


def test_a_cap_for_everyone_comes_from_the_settings(records: Records) -> None:
    line = small(records, tenant_jobs=1)
    for _ in range(2):
        line.add("a"), line.add("b")
    assert line.order(4) == ["a", "b"]
    set_cap(line.records, "a", 0)
    assert line.order(2) == ["a"]


def test_a_groups_limit_leaves_the_tenants_other_jobs_alone(line: Line) -> None:
    members = [line.add("a", group="bat_1", group_limit=1) for _ in range(3)]
    single = line.add("a", priority="background")
    claims = [line.take(), line.take()]
    assert [claim.job.id for claim in claims] == [members[0].id, single.id]
    assert line.take() is None
    assert line.records.get(members[1].id).queue.reason == "batch_limit"
    line.sweeps.never_rung()
    line.leases.release(claims[0], "stage_timeout", hand_back=True)
    assert members[0].id in line.sweeps.never_rung()
    assert line.take().job.id == members[0].id


def test_warm_weights_are_preferred_a_few_times_and_no_more(records: Records) -> None:
    """The rule behind F32: a stream of jobs for warm weights cannot keep another waiting."""
    line = small(records, look_ahead=4, most_passed=2)
    cold = line.add("a", model="other")
    for _ in range(8):
        line.add("a", model="mine")
    taken = [line.take("w", "mine").job for _ in range(4)]
    assert [job.model for job in taken] == ["mine", "mine", "other", "mine"]
    assert taken[2].id == cold.id
    assert line.records.counters()["affinity_picks"] == 2


def test_only_the_next_few_are_looked_at_and_priority_goes_first(records: Records) -> None:
    line = small(records, look_ahead=2)
    first = line.add("a", model="other")
    line.add("a", model="other"), line.add("a", model="other"), line.add("a", model="mine")
    urgent = line.add("b", model="other", priority="interactive")
    assert [line.take("w", "mine").job.id for _ in range(2)] == [urgent.id, first.id]


def test_a_worker_without_any_weights_takes_the_first(line: Line) -> None:
    first = line.add("a", model="other")
    line.add("a", model="mine")
    assert line.take().job.id == first.id


def test_a_job_is_kept_for_the_worker_it_was_rung_for_but_not_long(line: Line) -> None:
    job = line.add("a")
    line.records.run("hold", job.id, "best", 200)
    assert line.take("other") is None
    assert line.take("best").job.id == job.id
    late = line.add("a")
    line.records.run("hold", late.id, "best", 0)
    assert line.sweeps.never_rung() == [late.id]
    assert line.take("other").job.id == late.id


def test_places_count_in_the_order_in_which_jobs_will_start(line: Line) -> None:
    jobs = [line.add("a") for _ in range(3)] + [line.add("b"), line.add("a", priority="interactive"), line.add("c")]
    told = {job.id: line.records.get(job.id).queue.position for job in jobs}
    started = [line.take().job.id for _ in jobs]
    assert [told[job_id] for job_id in started] == [1, 2, 3, 4, 5, 6]


def test_a_newer_versions_job_waits_for_a_worker_that_knows_it(line: Line) -> None:
    newer, job = line.add("a"), line.add("a")
    line.records.redis.hset(f"rf:job:{newer.id}", "needs", 2)
    assert line.take().job.id == job.id and line.take() is None
    facts = json.dumps({"warm": [], "schema": 2})
    answer = line.records.run("claim", newer.id, "w", "w", "t", 1000, "{}", "default", facts)
    assert (answer[0], answer[2]) == ("ok", newer.id)


def test_jobs_of_an_older_version_get_their_place_in_line(line: Line) -> None:
    job, moved = line.add("a"), line.add("a")
    line.records.redis.delete("rf:line:default:3", "rf:line:default:3:a", "rf:line:default:3:a:")
    line.records.redis.zadd("rf:line:default:3:a:", {moved.id: 0})
    line.sweeps.relink()
    line.records.redis.hset(f"rf:job:{moved.id}", "state", "running")  # without the index, as the old scripts did
    assert line.take().job.id == job.id and line.take() is None


def test_routes_and_living_workers_decide_the_pool(records: Records) -> None:
    routes = ("tune_*=large", "model:*xl*=xl")
    routed = Records(records.settings.model_copy(update={"routes": routes}))
    body = {"input": {"video": {"asset": ids.new(ids.ASSET)}}}

    def pool(method: str, where: Records = routed, **more: str) -> str:
        where.roster._until = 0.0
        return routing.pool_for(JobRequest.model_validate(body | {"method": method} | more), where)

    assert [pool("tune_a_video"), pool("echo"), pool("echo", model="some/xl@1")] == ["large", "default", "xl"]
    announce(records, "one", pools=("gpu-a",))
    announce(records, "two", pools=("gpu-b", "large"))
    announce(records, "three", pools=("gpu-b",), draining=True)
    assert pool("echo") == "gpu-a"
    announce(records, "four", pools=("default",))
    assert pool("echo") == "default"
    for wrong in ("large", "=large", "x=not a pool"):
        with pytest.raises(ValueError, match="a route is"):
            Settings(routes=wrong)
    assert Settings(routes="a=b,model:c*=d").routes == ("a=b", "model:c*=d")


def test_a_bell_rings_for_a_warm_worker_alone_where_others_would_have_to_load(line: Line) -> None:
    records, bell = line.records, Bell(line.records.settings)

    def where(job: Job) -> str | None:
        records.roster._until = 0.0
        choice = routing.choose(job, records)
        return choice and choice.worker

    job = line.add("a", model="big")
    assert where(job) is None
    announce(records, "cold", pools=("default",), warm=["other"], job=None)
    assert where(job) is None
    announce(records, "warm", pools=("default",), warm=["big"], job=None)
    announce(records, "elsewhere", pools=("large",), warm=["big"], job=None)
    assert where(job) == "warm"
    assert ring(job, records, bell) and bell.waiting() == 0
    channel = bell._app.connection_for_read().default_channel
    assert channel._size(direct_queue("warm")) == 1
    assert line.take("cold") is None
    assert ring(job, records, bell) and bell.waiting() == 1  # the second time for everyone
    assert line.take("warm", "big").job.id == job.id
    busy = line.add("a")
    held = line.leases.claim(busy.id, Owner("warm", "n", "t"))
    announce(records, "warm", job=busy.id)
    waits = line.add("a", model="big")
    assert where(waits) is None  # nothing is known of when it will be free
    line.leases.beat(held, progress=Progress(fraction=0.9))
    assert where(waits) == "warm"
    line.leases.beat(held, progress=Progress(fraction=0.0001))
    records.redis.hset(f"rf:job:{busy.id}", "attempts", json.dumps([{"n": 1, "worker": "warm", "started": 1}]))
    assert where(waits) is None
    announce(records, "cold", job=busy.id)
    assert where(waits) is None


def test_the_time_to_load_is_remembered(records: Records) -> None:
    assert routing.load_seconds(records, "big") == routing.USUAL_LOAD_SECONDS
    routing.note_load(records, "big", 10.0)
    routing.note_load(records, "big", 20.0)
    assert routing.load_seconds(records, "big") == pytest.approx(13.0)


def test_queue_names_tell_the_pool() -> None:
    assert (pool_of(shared_queue("large")), pool_of(direct_queue("w1"))) == ("large", "")
