"""Small things that must outlive Redis, such as API keys and webhook endpoints: kept in the store, read from Redis.

Redis holds a copy of every object of a kind and a note that the copy is whole; without the note it is read anew.
"""

from jobs import layout
from jobs.records import Records
from jobs.store import ObjectMissing, Store


class Registry:
    """JSON texts of one kind by group and name. Raises QueueUnavailable and StoreUnavailable."""

    def __init__(self, records: Records, store: Store, kind: str) -> None:
        """Keep things of this kind; nothing is read yet."""
        self._records = records
        self._store = store
        self._kind = kind
        self._whole = f"{records.prefix}{kind}-known"

    def find(self, group: str, name: str) -> str | None:
        """Return one text, or None."""
        found: str | None = self._records.ask("HGET", self._hash(group), name)
        if found is None and self.load():
            found = self._records.ask("HGET", self._hash(group), name)
        return found

    def group(self, group: str) -> dict[str, str]:
        """Return all texts of a group by name."""
        self.load()
        found: dict[str, str] = self._records.ask("HGETALL", self._hash(group))
        return found

    def add(self, group: str, name: str, text: str) -> None:
        """Keep something new: in the store before anyone can read it."""
        self._keep(group, name, text)
        self._records.ask("HSET", self._hash(group), name, text)

    def change(self, group: str, name: str, text: str) -> None:
        """Replace something: it holds at once everywhere, or the call fails and is to be repeated."""
        self._records.ask("HSET", self._hash(group), name, text)
        self._keep(group, name, text)

    def remove(self, group: str, name: str) -> None:
        """Forget something; what is not there is no error."""
        self._records.ask("HDEL", self._hash(group), name)
        self._store.delete(layout.registered(self._kind, group, name))

    def load(self) -> bool:
        """Read everything from the store unless Redis has it; returns whether it was read."""
        if self._records.ask("EXISTS", self._whole):
            return False
        for info in list(self._store.list(f"{self._kind}/")):
            _, group, name = info.key.removesuffix(".json").split("/")
            try:
                text = self._store.get_bytes(info.key).decode()
            except ObjectMissing:  # removed since it was listed
                continue
            self._records.ask("HSETNX", self._hash(group), name, text)
        self._records.ask("SET", self._whole, 1)
        return True

    def _keep(self, group: str, name: str, text: str) -> None:
        key = layout.registered(self._kind, group, name)
        self._store.put_bytes(key, text.encode(), media_type="application/json")

    def _hash(self, group: str) -> str:
        return f"{self._records.prefix}{self._kind}:{group}"
