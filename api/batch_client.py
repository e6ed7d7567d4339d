"""Batches in the Python clients: `client.batches`, the same for both.

batch = client.batches.create([clip.id], ["a blue ball", "a green ball"], ["tokenflow", "fatezero"])
for batch in client.batches.watch(batch.id): ...
for job in client.batches.jobs(batch.id): ...
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from api import batch_calls
from api.batch_calls import Entry
from api.batch_views import BatchPage, BatchView
from api.calls import Call
from api.views import JobView

T = TypeVar("T")
EVERY_SECONDS = 0.5
WAIT_SECONDS = 20


class Sender(Protocol):
    """A blocking client."""

    def send(self, call: Call[T]) -> T:
        """Send one call."""
        ...


class AsyncSender(Protocol):
    """An asynchronous client."""

    async def send(self, call: Call[T]) -> T:
        """Send one call."""
        ...


class Batches:
    """What a client does with batches: `client.batches`."""

    def __init__(self, client: Sender) -> None:
        self._client = client

    def create(
        self,
        videos: Sequence[Entry],
        prompts: Sequence[Entry],
        methods: Sequence[Entry],
        *,
        idempotency_key: str | None = None,
        **options: Any,
    ) -> BatchView:
        """Create every job of a matrix; see `api.batch_calls.matrix_body`."""
        body = batch_calls.matrix_body(videos, prompts, methods, **options)
        return self._client.send(batch_calls.create_matrix(body, idempotency_key=idempotency_key))

    def create_list(self, edits: Iterable[Mapping[str, Any]], *, idempotency_key: str | None = None) -> BatchView:
        """Create many jobs, each from a body of `POST /v1/edits` (`api.calls.edit_body`)."""
        return self._client.send(batch_calls.create_list(edits, idempotency_key=idempotency_key))

    def get(self, batch_id: str) -> BatchView:
        """The batch now."""
        found = self._client.send(batch_calls.batch(batch_id))
        return found if found is not None else self.get(batch_id)

    def page(self, *, cursor: str | None = None, limit: int = 50) -> BatchPage:
        """One page of batches, newest first."""
        return self._client.send(batch_calls.batches(cursor=cursor, limit=limit))

    def jobs(self, batch_id: str) -> Iterator[JobView]:
        """Every job of the batch, in its order."""
        page = self._client.send(batch_calls.batch_jobs(batch_id))
        while True:
            yield from page.data

            if page.next_cursor is None:
                return
            page = self._client.send(batch_calls.batch_jobs(batch_id, cursor=page.next_cursor))

    def watch(self, batch_id: str) -> Iterator[BatchView]:
        """The batch now and as it changes, at most every `EVERY_SECONDS`, until all of its jobs have ended."""
        batch = self.get(batch_id)
        yield batch
        while not batch.ended:
            time.sleep(EVERY_SECONDS)
            changed = self._client.send(batch_calls.batch(batch_id, wait=WAIT_SECONDS, version=batch.version))
            if changed is not None:
                batch = changed
                yield batch

    def cancel(self, batch_id: str) -> BatchView:
        """Ask every job of a batch to stop."""
        return self._client.send(batch_calls.cancel_batch(batch_id))


class AsyncBatches:
    """What an asynchronous client does with batches: `client.batches`."""

    def __init__(self, client: AsyncSender) -> None:
        self._client = client

    async def create(
        self,
        videos: Sequence[Entry],
        prompts: Sequence[Entry],
        methods: Sequence[Entry],
        *,
        idempotency_key: str | None = None,
        **options: Any,
    ) -> BatchView:
        """Create every job of a matrix; see `api.batch_calls.matrix_body`."""
        body = batch_calls.matrix_body(videos, prompts, methods, **options)
        return await self._client.send(batch_calls.create_matrix(body, idempotency_key=idempotency_key))

    async def create_list(self, edits: Iterable[Mapping[str, Any]], *, idempotency_key: str | None = None) -> BatchView:
        """Create many jobs, each from a body of `POST /v1/edits` (`api.calls.edit_body`)."""
        return await self._client.send(batch_calls.create_list(edits, idempotency_key=idempotency_key))

    async def get(self, batch_id: str) -> BatchView:
        """The batch now."""
        found = await self._client.send(batch_calls.batch(batch_id))
        return found if found is not None else await self.get(batch_id)

    async def page(self, *, cursor: str | None = None, limit: int = 50) -> BatchPage:
        """One page of batches, newest first."""
        return await self._client.send(batch_calls.batches(cursor=cursor, limit=limit))

    async def jobs(self, batch_id: str) -> AsyncIterator[JobView]:
        """Every job of the batch, in its order."""
        page = await self._client.send(batch_calls.batch_jobs(batch_id))
        while True:
            for job in page.data:
                yield job
            if page.next_cursor is None:
                return
            page = await self._client.send(batch_calls.batch_jobs(batch_id, cursor=page.next_cursor))

    async def watch(self, batch_id: str) -> AsyncIterator[BatchView]:
        """The batch now and as it changes, at most every `EVERY_SECONDS`, until all of its jobs have ended."""
        batch = await self.get(batch_id)
        yield batch
        while not batch.ended:
            await asyncio.sleep(EVERY_SECONDS)
            changed = await self._client.send(batch_calls.batch(batch_id, wait=WAIT_SECONDS, version=batch.version))
            if changed is not None:
                batch = changed
                yield batch

    async def cancel(self, batch_id: str) -> BatchView:
        """Ask every job of a batch to stop."""
        return await self._client.send(batch_calls.cancel_batch(batch_id))
