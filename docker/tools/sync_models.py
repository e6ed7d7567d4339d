"""Fill the model cache with pinned checkpoints: `python sync_models.py MANIFEST.json`.

The manifest is a list of `{"id": "org/name", "revision": <40 hex digits>, "files": {path: sha256}}`. Only these files
are fetched, each must have its sha256, and safetensors are the only weights. Run again it verifies what is there and
fetches what is missing. Workers then run offline, with the cache mounted read-only; `--wait` before the manifest only
waits until this very manifest has been verified, which is what they do before they start.
"""

import hashlib
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from models.digest import digest_file

COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")
ALLOWED = (".safetensors", ".json", ".txt", ".model")


class Refused(Exception):
    """The manifest is not one that may be fetched, or a file is not what the manifest says."""


def check(entry: dict[str, Any]) -> None:
    """Raise Refused unless everything is pinned."""
    if not COMMIT.fullmatch(entry["revision"]):
        raise Refused(f"{entry['id']}: the revision is not a commit of 40 hex digits, so it could change")
    for path, sha256 in entry["files"].items():
        if not path.endswith(ALLOWED):
            raise Refused(f"{entry['id']}: {path} is not one of {', '.join(ALLOWED)}")
        if not SHA256.fullmatch(sha256):
            raise Refused(f"{entry['id']}: {path} has no sha256")


def fetch(entry: dict[str, Any]) -> None:
    """Fetch one checkpoint and verify every file; a file that is not what it should be is removed."""
    check(entry)
    for name, sha256 in sorted(entry["files"].items()):
        try:
            file = Path(hf_hub_download(entry["id"], name, revision=entry["revision"]))
        except EntryNotFoundError:
            raise Refused(f"{entry['id']}@{entry['revision']} has no {name}") from None
        found = digest_file(file)
        if found != sha256:
            file.resolve().unlink()
            file.unlink(missing_ok=True)
            raise Refused(f"{entry['id']}: {name} has the sha256 {found}, not {sha256}; it was removed")


def marker(manifest: Path) -> Path:
    """The file that says that this manifest, to the byte, has been verified in this cache."""
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    return Path(os.environ["HF_HOME"]) / f"verified-{digest[:16]}"


def wait(manifest: Path, every: float = 2.0) -> None:
    """Return when the manifest has been verified, by whoever fills the cache."""
    while not marker(manifest).exists():
        time.sleep(every)


def main(arguments: list[str]) -> int:
    """Exit status 0 when everything in the manifest is there and verified."""
    manifest = Path(arguments[-1])
    if arguments[0] == "--wait":
        wait(manifest)
        return 0
    marker(manifest).unlink(missing_ok=True)
    for entry in json.loads(manifest.read_text()):
        try:
            fetch(entry)
        except Refused as error:
            sys.stderr.write(f"{error}\n")
            return 1
        sys.stderr.write(f"{entry['id']}@{entry['revision']}: {len(entry['files'])} files verified\n")
    marker(manifest).touch()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
