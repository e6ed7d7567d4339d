"""How many jobs of a tenant may run at the same time, and how many do. Over the cap, jobs wait; nothing is refused."""

from dataclasses import dataclass

from jobs.records import Records


@dataclass(frozen=True)
class Load:
    """A tenant's jobs: `running` on workers, `queued` in all pools, and the `cap` on running ones (0 = none)."""

    running: int
    queued: int
    cap: int


def set_cap(records: Records, tenant: str, cap: int | None) -> None:
    """Let at most `cap` jobs of the tenant run at once; 0 lifts the limit, None goes back to the setting.

    Raises ValueError for a negative number, and QueueUnavailable. A lower cap ends no job that runs.
    """
    if cap is None:
        records.ask("HDEL", f"{records.prefix}caps", tenant)
    elif cap < 0:
        raise ValueError(f"a cap is 0 or more, not {cap}")
    else:
        records.ask("HSET", f"{records.prefix}caps", tenant, cap)
        records.run("wake", tenant)


def load_of(records: Records, tenant: str) -> Load:
    """Return what the tenant has running and waiting. Raises QueueUnavailable."""
    running, queued, cap = records.run("load", tenant)
    return Load(int(running), int(queued), int(cap))
