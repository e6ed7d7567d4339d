"""F29: whatever the order of create, claim, beat, finish, cancel, lease loss and deadlines, the Lua keeps its promises.

Hypothesis drives the real scripts on a real Valkey with three jobs and two workers, and keeps stale claims to misuse.
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
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis.exceptions import ResponseError

from jobs import ids
from jobs.leases import Claim, Leases, Outcome, Owner
from jobs.records import Records, StateConflict
from jobs.request import JobRequest
from jobs.schema import Job, JobError, Output, Progress
from jobs.states import OWNED, TRANSITIONS, State, allowed
from jobs.sweeps import Sweeps

PAST = 1
NUMBERS = st.integers(0, 5)


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

    @precondition(lambda self: sum(not state.terminal for _, _, state in self.seen.values()) < 3)
    @rule(ready=st.sampled_from([True, True, True, False]), finish=st.booleans())
    def create(self, ready: bool, finish: bool) -> None:
        body = {"method": "echo", "input": {"video": {"asset": ids.new(ids.ASSET)}}}
        within = {"finish_within": 100} if finish else {"start_within": 100}
        request = JobRequest.model_validate(body | {"deadline": within})
        self.seen[self.shared.create(ids.new(ids.JOB), request, "local", ready=ready).job.id] = (0, 0, State.ACCEPTED)

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
        after = self.shared.cancel(before.id, "local").state
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
            self.shared.delete(before.id, "local")
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

    def teardown(self) -> None:
        for key in self.seen:
            events = [event for event in self.shared.events(key, count=1000) if event.type == "state"]
            steps = [(a.state, b.state) for a, b in pairwise(events)]
            assert all(allowed(before, after) for before, after in steps), steps
            versions = [event.version for event in events]
            assert versions == sorted(set(versions))


@pytest.mark.parametrize(
    ("examples", "steps"), [(40, 30), pytest.param(150, 50, marks=[pytest.mark.faults, pytest.mark.timeout(900)])]
)
def test_no_interleaving_breaks_a_promise(records: Records, examples: int, steps: int) -> None:
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
