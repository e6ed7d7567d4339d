"""The account of the stage cache in the store: how large each artifact is, whose, and when it was last used."""

from collections.abc import Iterable

from jobs.records import Records

BATCH = 200


class Artifacts:
    """Sizes and uses by place in the store. Raises QueueUnavailable. What is lost here costs nothing but order."""

    def __init__(self, records: Records) -> None:
        """Keep the account in this Redis."""
        self._records = records
        self._settings = records.settings

    def written(self, place: str, tenant: str, size_bytes: int) -> None:
        """Note that the tenant put an artifact into the store."""
        self._records.run("cas_used", tenant, 0, place, size_bytes, "")

    def used(self, place: str, tenant: str) -> None:
        """Note that an artifact was found; one whose account was lost is taken up by `adopt`."""
        self._records.run("cas_used", tenant, 0, place, "", "")

    def adopt(self, found: Iterable[tuple[str, int, int]]) -> None:
        """Take up artifacts that have no account yet: place, bytes, and milliseconds of their last change."""
        rows = [item for row in found for item in row]
        if rows:
            self._records.run("cas_used", "", 1, *rows)

    def forget(self, place: str) -> None:
        """Close the account of an artifact that was deleted."""
        self._records.run("cas_forget", place)

    def over_quota(self) -> list[str]:
        """Return the places to delete, those that were not used for longest first; empty when all is within quota."""
        quotas = self._settings.cache_kind_bytes
        pairs = [item for kind, most in sorted(quotas.items()) for item in (kind, most)]
        store, tenant = self._settings.cache_store_bytes, self._settings.cache_tenant_bytes
        return list(self._records.run("cas_over", BATCH, store, tenant, *pairs))

    def sizes(self) -> dict[str, int]:
        """Return how many bytes lie in the store, by kind; for metrics."""
        row = self._records.ask("HGETALL", f"{self._records.prefix}cas:bytes")
        return {name.removeprefix("kind/"): int(size) for name, size in row.items() if name.startswith("kind/")}
