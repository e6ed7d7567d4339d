"""Content digests: what a cache key is made of. Never Python's ``hash()``, which differs between processes."""

import hashlib
import json
import unicodedata
from pathlib import Path
from typing import Any

CHUNK_BYTES = 1 << 20


def digest_file(path: Path) -> str:
    """The sha256 of a file's content, hexadecimal, read in chunks."""
    state = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(CHUNK_BYTES):
            state.update(chunk)
    return state.hexdigest()


def digest_json(value: Any) -> str:
    """The sha256 of a value's canonical JSON: keys sorted, no spaces, text in Unicode NFC."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(unicodedata.normalize("NFC", text).encode()).hexdigest()
