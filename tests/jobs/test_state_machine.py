"""F29: whatever the order of create, claim, beat, finish, cancel, lease loss and deadlines, the Lua keeps its promises.

Hypothesis drives the real scripts on a real Valkey with four jobs of two tenants, caps that change and two workers, and
keeps stale claims to misuse. At the end of every run all caps are lifted, and every job must come to its end.
"""

from itertools import pairwise
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis.exceptions import ResponseError

from jobs import ids
from jobs.caps import load_of, set_cap
from jobs.leases import Claim, Leases, Outcome, Owner
from jobs.records import Records, StateConflict
from jobs.request import BROKER_PRIORITY, JobRequest
from jobs.schema import Job, JobError, Output, Progress
from jobs.states import OWNED, TRANSITIONS, State, allowed
from jobs.sweeps import Sweeps

PAST = 1
NUMBERS = st.integers(0, 5)
TENANTS = ("local", "other")
GROUP = "bat_1"


class Jobs(RuleBasedStateMachine):
    shared: ClassVar[Records]
    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.shared.redis.flushdb()
        self.leases, self.sweeps = Leases(self.shared), Sweeps(self.shared)
        self.seen: dict[str, tuple[int, int, State]] = {}
        self.commits: dict[str, int] = {}
        self.canceled: set[str] = set()
        self.doorbells = 0

    def _some(self, number: int, *states: State) -> Job | None:
        """One of the jobs in these states; without states, of those that have not ended."""
        known = [self.shared.get(key) for key in self.seen]
        fitting = [job for job in known if (job.state in states if states else not job.state.terminal)]
        return fitting[number % len(fitting)] if fitting else None

    @precondition(lambda self: sum(not state.terminal for _, _, state in self.seen.values()) < 4)
    @rule(
        ready=st.sampled_from([True, True, True, False]),
        finish=st.booleans(),
        tenant=st.sampled_from(TENANTS),
        limit=st.sampled_from([0, 0, 1]),
        priority=st.sampled_from(["standard", "standard", "batch"]),
    )
    def create(self, ready: bool, finish: bool, tenant: str, limit: int, priority: str) -> None:
        body = {"method": "echo", "input": {"video": {"asset": ids.new(ids.ASSET)}}, "priority": priority}
        within = {"finish_within": 100} if finish else {"start_within": 100}
        request = JobRequest.model_validate(body | {"deadline": within})
        born = {"group": GROUP, "group_limit": limit} if limit else {}
        made = self.shared.create(ids.new(ids.JOB), request, tenant, ready=ready, born=born)
        self.seen[made.job.id] = (0, 0, State.ACCEPTED)

    @rule(tenant=st.sampled_from(TENANTS), cap=st.sampled_from([0, 1, 1, 2]))
    def cap(self, tenant: str, cap: int) -> None:
        set_cap(self.shared, tenant, cap)

    @rule(target=claims, worker=st.sampled_from(["a", "b"]))
    def take(self, worker: str) -> Claim:
        """Answer a bell: the caps hold, no startable job waits at a higher priority, and nothing is left lying."""
        waiting = {key: job for key in self.seen if (job := self.shared.get(key)).state == State.QUEUED}
        free = {key: job for key, job in waiting.items() if job.queue.reason is None}
        self.doorbells += 1
        owner = Owner(worker, f"w-{worker}@h", f"task-{self.doorbells}")
        claim = self.leases.take("job_unknown", owner, pool="default")
        if claim is None:
            assert not free
            return multiple()
        best = min(BROKER_PRIORITY[job.request.priority] for job in free.values())
        assert claim.job.id in free and BROKER_PRIORITY[claim.job.request.priority] == best
        return claim

    @precondition(lambda self: self._some(0, State.ACCEPTED))
    @rule(number=NUMBERS, bad=st.booleans())
    def admit(self, number: int, bad: bool) -> None:
        job = self._some(number, State.ACCEPTED)
        self.shared.admit(job.id, JobError.of("input.not_video") if bad else None)

    @precondition(lambda self: self._some(0, State.QUEUED))
    @rule(target=claims, number=NUMBERS, worker=st.sampled_from(["a", "b"]))
    def claim(self, number: int, worker: str) -> Claim:
        job = self._some(number, State.QUEUED)
        self.doorbells += 1
        claim = self.leases.claim(job.id, Owner(worker, f"w-{worker}@h", f"task-{self.doorbells}"))
        assert claim is not None and claim.job.state == State.RUNNING
        assert self.leases.claim(job.id, Owner("c", "w-c@h", "another doorbell")) is None
        return claim

    @rule(claim=claims)
    def beat(self, claim: Claim) -> None:
        assert self.leases.beat(claim, progress=Progress(fraction=0.5)) == self._expected(claim)

    @rule(claim=claims)
    def finalize(self, claim: Claim) -> None:
        assert self.leases.finalize(claim) == self._expected(claim)

    @rule(claim=claims, well=st.booleans())
    def finish(self, claim: Claim, well: bool) -> None:
        expected, before = self._expected(claim), self.shared.get(claim.job_id)
        output = Output(name="o", media_type="video/mp4", size_bytes=1, sha256="0", key=f"attempt-{claim.fence}/o")
        good = Outcome("succeeded", outputs=(output,))
        bad = Outcome("failed", error=JobError.of("internal"))
        answer = self.leases.finish(claim, good if well else bad)
        wanted = {"ok": "succeeded" if well else "failed", "cancel": "canceled", "lost": "lost"}[expected]
        repeated = before.state.terminal and before.fence == claim.fence and answer == before.state
        assert answer == wanted or repeated
        if answer == "succeeded" and not repeated:
            self.commits[claim.job_id] = self.commits.get(claim.job_id, 0) + 1
            assert self.shared.get(claim.job_id).outputs == (output,)

    @rule(claim=claims, back=st.booleans())
    def release(self, claim: Claim, back: bool) -> None:
        expected, before = self._expected(claim), self.shared.get(claim.job_id)
        answer = self.leases.release(claim, "stage_timeout", hand_back=back)
        after = self.shared.get(claim.job_id)
        last = not back and before.attempt == 3
        assert answer == {"lost": "lost", "cancel": "canceled", "ok": "failed" if last else "queued"}[expected]
        assert expected == "lost" or after.attempt == before.attempt - (back and expected == "ok")

    @precondition(lambda self: self._some(0))
    @rule(number=NUMBERS)
    def cancel(self, number: int) -> None:
        before = (self._some(number, *OWNED) if number else None) or self._some(number)
        after = self.shared.cancel(before.id, before.tenant).state
        ends = {State.ACCEPTED: State.CANCELED, State.QUEUED: State.CANCELED, State.RUNNING: State.CANCELING}
        assert after == ends.get(before.state, before.state)
        if before.state in ends:
            self.canceled.add(before.id)

    @precondition(lambda self: self._some(0, *OWNED))
    @rule(number=NUMBERS)
    def lose_lease(self, number: int) -> None:
        before = self._some(number, *OWNED)
        self.shared.redis.zadd("rf:leases", {before.id: PAST}, xx=True)
        again = State.FAILED if before.attempt == 3 else State.QUEUED
        assert self.sweeps.reap() == {before.id: State.CANCELED if before.state == State.CANCELING else again}

    @precondition(lambda self: self._some(0))
    @rule(number=NUMBERS)
    def miss_deadline_or_delete(self, number: int) -> None:
        before = self._some(number)
        with pytest.raises(StateConflict):
            self.shared.delete(before.id, before.tenant)
        if number % 3:
            return
        self.shared.redis.zadd("rf:deadlines", {before.id: PAST}, xx=True)
        ended = self.sweeps.expire_due()
        assert before.id not in ended or before.state in {State.ACCEPTED, State.QUEUED, State.RUNNING}

    def _expected(self, claim: Claim) -> str:
        now = self.shared.get(claim.job_id)
        if not now.state.owned or now.fence != claim.fence:
            return "lost"
        return "cancel" if now.state == State.CANCELING else "ok"

    @invariant()
    def promises_hold(self) -> None:
        for key, (version, fence, state) in list(self.seen.items()):
            job = self.shared.get(key)
            assert job.version >= version and job.fence >= fence
            assert not state.terminal or (job.version, job.fence, job.state) == (version, fence, state)
            assert job.attempt <= 3 and self.commits.get(key, 0) <= 1
            assert not (key in self.canceled and job.state == State.SUCCEEDED)
            assert bool(job.outputs) == (job.state == State.SUCCEEDED)
            assert job.state != State.FAILED or job.error is not None
            self.seen[key] = (job.version, job.fence, job.state)
            self._indexes_agree(key, job.state)

    def _indexes_agree(self, key: str, state: State) -> None:
        def held(name: str) -> bool:
            return self.shared.redis.zscore(f"rf:{name}", key) is not None

        assert held("leases") == state.owned
        assert held("q:pos:default") == held("rings") == (state == State.QUEUED)
        assert held("canceling") == (state == State.CANCELING)
        assert held("archive") == state.terminal
        job = self.shared.get(key)
        group = self.shared.redis.hget(f"rf:job:{key}", "group") or ""
        lane = f"line:default:{BROKER_PRIORITY[job.request.priority]}:{job.tenant}:{group}"
        assert held(lane) == (state == State.QUEUED)
        for busy in {f"rf:busy:{job.tenant}", f"rf:busy:{job.tenant}:{group}" if group else f"rf:busy:{job.tenant}"}:
            assert self.shared.redis.sismember(busy, key) == state.owned

    @invariant()
    def loads_add_up(self) -> None:
        jobs = [self.shared.get(key) for key in self.seen]
        for tenant in TENANTS:
            mine = [job.state for job in jobs if job.tenant == tenant]
            load = load_of(self.shared, tenant)
            assert load.running == sum(state.owned for state in mine)
            assert load.queued == mine.count(State.QUEUED)

    def _every_job_ends(self) -> None:
        for tenant in TENANTS:
            set_cap(self.shared, tenant, 0)
        for key in self.seen:
            self.shared.redis.zadd("rf:leases", {key: PAST}, xx=True)
        self.sweeps.reap()
        for key, (_, _, state) in list(self.seen.items()):
            if state == State.ACCEPTED and self.shared.get(key).state == State.ACCEPTED:
                self.shared.admit(key)
        for number in range(2 * len(self.seen)):
            claim = self.leases.take("job_unknown", Owner("w", "n", f"last-{number}"), pool="default")
            if claim is not None:
                self.leases.finish(claim, Outcome("failed", error=JobError.of("internal")))
        assert all(self.shared.get(key).state.terminal for key in self.seen)
        assert self.shared.redis.keys("rf:line:*") == self.shared.redis.keys("rf:busy:*") == []

    def teardown(self) -> None:
        self._every_job_ends()
        for key in self.seen:
            events = [event for event in self.shared.events(key, count=1000) if event.type == "state"]
            steps = [(a.state, b.state) for a, b in pairwise(events)]
            assert all(allowed(before, after) for before, after in steps), steps
            versions = [event.version for event in events]
            assert versions == sorted(set(versions))


@pytest.mark.parametrize(
    ("examples", "steps"), [(30, 30), pytest.param(150, 50, marks=[pytest.mark.faults, pytest.mark.timeout(900)])]
)
def test_f29_no_interleaving_breaks_a_promise(records: Records, examples: int, steps: int) -> None:
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    profile = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=checks, database=None
    )
    run_state_machine_as_test(type("Bound", (Jobs,), {"shared": records}), settings=profile)


def test_terminal_states_have_no_way_out_and_every_state_is_in_the_table() -> None:
    assert set(TRANSITIONS) == set(State)
    assert {state for state, after in TRANSITIONS.items() if not after} == {s for s in State if s.terminal}


def test_an_illegal_transition_is_refused_by_the_script_itself(records: Records) -> None:
    """The table travels into Lua: what it does not have cannot be done, whatever a script asks for."""
    body = {"method": "echo", "input": {"video": {"asset": ids.new(ids.ASSET)}}}
    job = records.create(ids.new(ids.JOB), JobRequest.model_validate(body), "local").job
    records.redis.hset(f"rf:job:{job.id}", "state", "finalizing")
    with pytest.raises(ResponseError, match="illegal transition finalizing to canceled"):
        Leases(records).finish(Claim(job, 0), Outcome("canceled"))
