"""`refilm recover`: rebuild records and queue from the store after Redis was lost, beside the running service."""

import typer

from api.operate import Folder, settings_of
from api.terminal import FAILED, fail, tell
from jobs import recovery
from jobs.connection import QueueUnavailable
from jobs.queue import Bell
from jobs.records import Records
from jobs.store import StoreUnavailable, open_store


def recover(data_dir: Folder = None) -> None:
    """Give every job in the store its record again: those that had not ended are queued, the others restored.

    The scheduler does the same by itself when it finds an empty Redis, and compares both every hour. Safe at any time.
    """
    settings = settings_of(data_dir)
    records = Records(settings)
    try:
        done = recovery.recover(records, open_store(settings), Bell(settings))
    except (QueueUnavailable, StoreUnavailable) as error:
        raise fail(f"records and store cannot be reached ({error}); do they run?", FAILED) from None
    finally:
        records.redis.close()
    if done.swept:
        tell(f"{done.swept} removed: another job of the same request is there")
    typer.echo(f"{done.queued} queued again, {done.restored} restored")
