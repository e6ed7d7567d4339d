"""Job states: one enum and one transition table. The Lua scripts receive this table; nobody repeats it."""

from enum import StrEnum


class State(StrEnum):
    """Every word a job can be in; the only place these words are written in Python."""

    ACCEPTED = "accepted"
    QUEUED = "queued"
    RUNNING = "running"
    FINALIZING = "finalizing"
    CANCELING = "canceling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    EXPIRED = "expired"

    @property
    def terminal(self) -> bool:
        """True when the job can never change again."""
        return self in TERMINAL

    @property
    def owned(self) -> bool:
        """True while a worker holds the job through a lease."""
        return self in OWNED


TERMINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELED, State.EXPIRED})
OWNED = frozenset({State.RUNNING, State.FINALIZING, State.CANCELING})

# A lease lost in `finalizing` goes the way of `running`; a cancel there is refused, because the commit decides.
TRANSITIONS: dict[State, frozenset[State]] = {
    State.ACCEPTED: frozenset({State.QUEUED, State.FAILED, State.CANCELED, State.EXPIRED}),
    State.QUEUED: frozenset({State.RUNNING, State.CANCELED, State.EXPIRED}),
    State.RUNNING: frozenset({State.FINALIZING, State.QUEUED, State.CANCELING, State.FAILED, State.EXPIRED}),
    State.FINALIZING: frozenset({State.SUCCEEDED, State.FAILED, State.QUEUED}),
    State.CANCELING: frozenset({State.CANCELED}),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELED: frozenset(),
    State.EXPIRED: frozenset(),
}


def allowed(before: State, after: State) -> bool:
    """True when the table has the transition `before` to `after`."""
    return after in TRANSITIONS[before]


class BatchState(StrEnum):
    """Every word a batch can be in. `accepted`: its jobs are still being created; `completed`: every job has ended."""

    ACCEPTED = "accepted"
    RUNNING = "running"
    CANCELING = "canceling"
    COMPLETED = "completed"
    CANCELED = "canceled"

    @property
    def terminal(self) -> bool:
        """True when the batch can never change again."""
        return self in (BatchState.COMPLETED, BatchState.CANCELED)
