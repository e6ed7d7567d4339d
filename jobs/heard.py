"""Who has heard of an end: written to the store, because Redis may be lost between an end and its webhook.

One empty object for each endpoint, in the folder of the job or batch, removed with it. Recovery tells ends of the last
days again, to those who have none.
"""

from contextlib import suppress

from jobs import ids, layout
from jobs.deliveries import Delivery, Row
from jobs.request import ENDINGS
from jobs.store import Store, StoreUnavailable


def _folder(tenant: str, subject: str) -> str:
    return (layout.job_folder if ids.valid(subject, ids.JOB) else layout.batch_folder)(tenant, subject)


def note(store: Store, delivery: Delivery) -> None:
    """Write down that an endpoint heard of an end, or never will, unless the job or batch was deleted meanwhile.

    Other events are not told again. A store that is away costs no more than a second message after a loss of Redis.
    """
    if delivery.type not in ENDINGS or not delivery.subject:  # an older version did not write the subject down
        return
    folder = _folder(delivery.tenant, delivery.subject)
    with suppress(StoreUnavailable):
        if store.head(f"{folder}manifest.json") is not None:
            store.put_bytes(layout.heard(folder, delivery.endpoint), b"")


def by(store: Store, row: Row, endpoint: str) -> bool:
    """Whether an endpoint heard of what a row tells again. Raises StoreUnavailable."""
    return row.again and store.head(layout.heard(_folder(row.tenant, row.subject), endpoint)) is not None
