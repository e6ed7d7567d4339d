"""Bring a job's inputs to the worker's disk and check that they are what was accepted."""

from collections.abc import Callable
from pathlib import Path

from jobs import layout
from jobs.assets import digest_of
from jobs.manifest import Manifest
from jobs.store import ObjectMissing, Store
from workers.failures import FetchFailed
from workers.work import Fetched

SUFFIXES = {
    "video/mp4": ".mp4",
    "video/quicktime": ".mov",
    "video/webm": ".webm",
    "video/x-matroska": ".mkv",
    "image/gif": ".gif",
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
    "audio/wav": ".wav",
    "audio/x-wav": ".wav",
    "audio/mpeg": ".mp3",
}


def fetch(manifest: Manifest, store: Store, folder: Path, alive: Callable[[], None]) -> dict[str, Fetched]:
    """Download every input into `folder` under names of our own. Raises FetchFailed and StoreUnavailable."""
    found = {}
    for number, (name, given) in enumerate(sorted(manifest.inputs.items())):
        path = folder / f"input-{number}{SUFFIXES.get(given.media_type, '')}"
        try:
            store.get_file(layout.asset_blob(manifest.tenant, given.sha256), path)
        except ObjectMissing as error:
            raise FetchFailed(f"the file of input {name!r} was deleted") from error
        alive()
        if digest_of(path) != given.sha256:
            raise FetchFailed(f"the file of input {name!r} is damaged")
        found[name] = Fetched(path, given.sha256, given.name)
    return found
