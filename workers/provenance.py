"""Signed provenance: a result says in itself what made it and from what, under the operator's certificate (C2PA).

What is told: the method and its version, the checkpoint and its revision, the digest of the source clip, the clip
itself as the parent with whatever history it had, and the other files it was made with. The prompt only when the
request says so, and no name of anyone.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import structlog

from jobs import VERSION
from jobs.assets import digest_of
from jobs.media import SEEN, media_type_of
from jobs.provenance import wanted
from jobs.request import JobRequest
from jobs.schema import Notice
from jobs.settings import Settings
from models.errors import Cancelled
from workers.failures import SigningFailed
from workers.work import Fetched, Made, MadeFile

SEAL = Path(__file__).with_name("seal.py")
EDITED_BY_MODEL = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
CLIP = "video"
ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "LANG", "TMPDIR")
MANIFEST_BYTES = 16 << 20
"""How much longer a file may become: the own history of a clip or picture is taken over."""
MEMORY_BYTES = 1 << 30
LEAST_SECONDS, BYTES_A_SECOND = 60, 8 << 20
TICK_SECONDS = 0.5
log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Signer:
    """The certificates and the private key, as PEM."""

    certificates: str
    key: str = field(repr=False)


@dataclass(frozen=True)
class Watch:
    """How the one who waits is told that it goes on, and says that it shall not."""

    alive: Callable[[], None]
    stop_wanted: Callable[[], bool]


def signer_of(settings: Settings) -> Signer:
    """What this worker signs with. Raises SigningFailed `provenance.unavailable`."""
    if settings.provenance == "off":
        raise SigningFailed("provenance.unavailable", "this worker is set to sign nothing")
    if find_spec("c2pa") is None:
        raise SigningFailed("provenance.unavailable", "this worker lacks the package c2pa-python")
    found = {}
    for name in ("provenance_certificates", "provenance_key"):
        path: Path | None = getattr(settings, name)
        try:
            found[name] = path.read_text() if path else ""
        except (OSError, UnicodeDecodeError) as error:
            log.error("what results are signed with cannot be read", setting=name, exc_info=error)
            raise SigningFailed("provenance.unavailable", f"the worker cannot read REFILM_{name.upper()}") from error
        if "-----BEGIN" not in found[name]:
            raise SigningFailed("provenance.unavailable", f"REFILM_{name.upper()} names no PEM file")
    return Signer(*found.values())


def check(request: JobRequest, settings: Settings, watch: Watch) -> None:
    """See that the result can be signed before it is made, where it must be. Raises SigningFailed, Cancelled."""
    if wanted(request.output, settings) and settings.provenance_failure == "fail":
        _seal(signer_of(settings), {"manifest": _manifest("pixel.gif", "image/gif", "c2pa.created", {})}, 0, watch)


def signed(made: Made, request: JobRequest, inputs: dict[str, Fetched], settings: Settings, watch: Watch) -> Made:
    """The result with its pictures signed, where the request or the installation wants it.

    Raises SigningFailed where nothing may leave unsigned, Cancelled when the job is to stop.
    """
    if not wanted(request.output, settings):
        return made
    try:
        signer, told, files = signer_of(settings), {}, []
        for item in made.files:
            if item.media_type.startswith(SEEN):
                told = _sign_one(item, _order(item, made, request, inputs), signer, watch)
                item = replace(item, unsigned_sha256=digest_of(item.path))
            files.append(item)
    except SigningFailed as failed:
        log.error("a result could not be signed", code=failed.code, reason=failed.reason)
        if settings.provenance_failure == "fail":
            raise
        message = f"the result is not signed: {failed.reason}"
        return replace(made, warnings=(*made.warnings, Notice(code=failed.code, message=message)))
    for item in files:
        if item.unsigned_sha256 is not None:
            _beside(item.path).replace(item.path)
    return replace(made, files=tuple(files), receipt=made.receipt | {"provenance": {"standard": "c2pa"} | told})


def _beside(path: Path) -> Path:
    return path.with_name(f"signed-{path.name}")


def _order(item: MadeFile, made: Made, request: JobRequest, inputs: dict[str, Fetched]) -> dict[str, Any]:
    sources = [_source(name, inputs[name]) for name in sorted(inputs, key=lambda name: (name != CLIP, name))]
    told = _told(made, request, inputs[CLIP])
    return {"manifest": _manifest(item.path.name, item.media_type, "c2pa.edited", told), "sources": sources}


def _source(name: str, given: Fetched) -> dict[str, Any]:
    """The clip is the parent of what is made, masks, pictures and other clips are what it was made with."""
    ingredient = {"title": "source clip", "relationship": "parentOf", "label": "source"}
    if name != CLIP:
        ingredient = {"title": name, "relationship": "inputTo", "label": f"source-{name.replace('/', '-')}"}
    return {"path": str(given.path), "media_type": media_type_of(given.path), "ingredient": ingredient}


def _told(made: Made, request: JobRequest, source: Fetched) -> dict[str, Any]:
    """What made the result, in public words: folders and buckets of the operator's are told by digest alone."""
    model = made.receipt.get("model", {})
    name, revision = str(made.checkpoint or ""), model.get("revision")
    checkpoint = {
        "name": name if revision or "/" not in name else None,
        "revision": revision,
        "sha256": model.get("digest"),
    }
    facts: dict[str, Any] = {
        "refilm.method": made.receipt.get("method", {"id": request.method}),
        "refilm.checkpoint": {word: value for word, value in checkpoint.items() if value},
        "refilm.source_sha256": source.digest,
    }
    return facts | ({"refilm.prompt": request.prompt.model_dump()} if request.output.provenance_prompt else {})


def _manifest(title: str, media_type: str, action: str, told: dict[str, Any]) -> dict[str, Any]:
    agent = {"name": "Refilm", "version": VERSION}
    done = {"action": action, "digitalSourceType": EDITED_BY_MODEL, "softwareAgent": agent, "parameters": told}
    opened = {"action": "c2pa.opened", "parameters": {"ingredientIds": ["source"]}}
    actions = [opened, done] if action == "c2pa.edited" else [done]
    return {
        "claim_generator_info": [agent],
        "title": title,
        "format": media_type,
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": actions}}],
    }


def _sign_one(item: MadeFile, order: dict[str, Any], signer: Signer, watch: Watch) -> dict[str, str]:
    """Write the signed file beside the other."""
    place = {"path": str(item.path), "media_type": item.media_type, "signed": str(_beside(item.path))}
    return _seal(signer, order | {"made": place}, item.path.stat().st_size, watch)


def _seal(signer: Signer, order: dict[str, Any], size: int, watch: Watch) -> dict[str, str]:
    seconds = LEAST_SECONDS + size // BYTES_A_SECOND
    longest = size + MANIFEST_BYTES * max(1, len(order.get("sources", ())))
    limits = {"memory_bytes": MEMORY_BYTES + 2 * size, "cpu_seconds": seconds, "file_bytes": longest}
    whole = order | {"certificates": signer.certificates, "key": signer.key, "limits": limits}
    answer = _ask(json.dumps(whole), seconds, watch)
    if "code" in answer:
        raise SigningFailed(answer["code"], answer["detail"])
    told: dict[str, str] = answer["signer"]
    return told


def _ask(order: str, seconds: float, watch: Watch) -> dict[str, Any]:
    """Run `seal.py` without the service's secrets in its environment. Raises SigningFailed, Cancelled."""
    kept = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    command, pipe = [sys.executable, "-I", str(SEAL)], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=kept) as child:  # noqa: S603 -- our own file
        try:
            written, complaint = _wait(child, order, time.monotonic() + seconds, watch)
        finally:
            child.kill()
    if child.returncode != 0:
        log.error("signing crashed", status=child.returncode, complaint=complaint[-500:])
        raise SigningFailed("provenance.failed", "signing crashed or needed too much memory")
    answer: dict[str, Any] = json.loads(written)
    return answer


def _wait(child: "subprocess.Popen[str]", order: str, end: float, watch: Watch) -> tuple[str, str]:
    given: str | None = order
    while True:
        try:
            return child.communicate(given, timeout=TICK_SECONDS)
        except subprocess.TimeoutExpired:
            given = None
        watch.alive()
        if watch.stop_wanted():
            raise Cancelled("stopped while the result was signed")
        if time.monotonic() > end:
            raise SigningFailed("provenance.failed", "signing took too long")
