"""Where a checkpoint's files lie: references to folders, safetensors only, sha256 recorded.

A reference is `org/name` or `org/name@revision` (the Hugging Face hub), a folder, `s3://bucket/prefix` (through the
caller's fetch function) or the name of an embedded checkpoint. Every folder is in the diffusers layout: one subfolder
for each role, configurations in JSON and weights in safetensors. Pickled weights are refused: loading one runs code.
"""

import contextlib
import json
import math
import os
import re
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

from models.digest import digest_file, digest_json
from models.errors import WeightsUnavailable

Fetch = Callable[[str], Path]
"""Bring the files under an `s3://bucket/prefix` to a local folder and return it; give up with OSError."""

SD_ROLES = ("tokenizer", "text_encoder", "vae", "unet", "scheduler")
MINIATURE = Path(__file__).parent / "miniature" / "weights"
MINIATURE_SOFTEDGE = "miniature-softedge"
"""The miniature's ControlNet, which sees soft edges."""
EMBEDDED = {"miniature": MINIATURE, MINIATURE_SOFTEDGE: MINIATURE / "controlnet_softedge"}
HUB_NAME = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?")
WEIGHT_STEMS = ("diffusion_pytorch_model", "model")
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
MAX_HEADER_BYTES = 100 << 20
BITS = {"F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16, "U16": 16}
BITS |= {"F8_E4M3": 8, "F8_E5M2": 8, "I8": 8, "U8": 8, "BOOL": 8}

DIGESTS = Path("~/.cache/refilm/sha256.json")
"""Digests of large files already read once, by path, inode, size and time of change."""
LARGE_BYTES = 64 << 20

OFFLINE_HINT = (
    "Without a connection: copy the model cache of a connected machine (its HF_HOME folder, by default "
    "~/.cache/huggingface) to this one; or give a local folder in the diffusers layout, or an s3:// prefix."
)


def resolve(reference: str, *, roles: Sequence[str] = SD_ROLES, fetch: Fetch | None = None) -> Path:
    """Return the local folder of a checkpoint, its weights' headers checked, downloading what is missing.

    `roles` are the subfolders needed ("" is the folder itself). Raises WeightsUnavailable: `model.unavailable` when a
    file cannot be had, `model.integrity` when one is a pickle or not a well-formed safetensors file.
    """
    folder = _locate(reference, roles, fetch)
    for role in roles:
        if not (folder / role).is_dir():
            hint = "A checkpoint has the diffusers layout: model_index.json and a subfolder for each component."
            raise WeightsUnavailable(f"the checkpoint {reference} has no {role} folder", hint=hint)
        for path in weight_files(folder / role):
            check_header(path)
    return folder


def _locate(reference: str, roles: Sequence[str], fetch: Fetch | None) -> Path:
    if reference in EMBEDDED:
        return _existing(EMBEDDED[reference], reference)
    if reference.startswith("s3://"):
        return _fetched(reference, fetch)
    if reference.startswith(("/", ".", "~", "file://")) or Path(reference).is_dir():
        return _existing(Path(reference.removeprefix("file://")).expanduser(), reference)
    match = HUB_NAME.fullmatch(reference)
    if match is None:
        names = ", ".join(EMBEDDED)
        hint = f"Give org/name@revision of the Hugging Face hub, a folder, an s3:// prefix, or one of: {names}."
        raise WeightsUnavailable(f"{reference!r} is not a reference to a checkpoint", hint=hint)
    return _from_hub(match["id"], match["revision"] or "main", roles)


def _existing(folder: Path, reference: str) -> Path:
    if folder.is_dir():
        return folder
    raise WeightsUnavailable(f"the checkpoint {reference} has no folder here", hint=OFFLINE_HINT)


def _fetched(reference: str, fetch: Fetch | None) -> Path:
    if fetch is None:
        raise WeightsUnavailable(
            f"{reference} needs an object store, and none is configured", hint="Give a local folder instead."
        )
    try:
        return fetch(reference)
    except OSError as error:
        hint = "Check the bucket, the prefix and the credentials of the object store."
        raise WeightsUnavailable(f"the checkpoint {reference} cannot be fetched: {error}", hint=hint) from error


def _from_hub(name: str, revision: str, roles: Sequence[str]) -> Path:
    """Download the roles' files, or take them from the hub's local cache when there is no connection."""
    patterns = hub_patterns(roles)
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, httpx.HTTPError) as error:
        failure = error
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns, local_files_only=True))
    except LocalEntryNotFoundError:
        reason = (str(failure) or type(failure).__name__).splitlines()[0].removeprefix("Got: ")
        message = f"{name}@{revision} is neither in the local model cache nor to be had from the hub: {reason}"
        raise WeightsUnavailable(message, hint=OFFLINE_HINT) from failure


def hub_patterns(roles: Sequence[str]) -> list[str]:
    """File patterns for the roles: configurations and full-precision safetensors, no variants, no pickles."""
    patterns = ["model_index.json"]
    for role in roles:
        inside = f"{role}/" if role else ""
        patterns += [f"{inside}*.json", f"{inside}*.txt"]
        patterns += [f"{inside}{stem}{tail}" for stem in WEIGHT_STEMS for tail in (".safetensors", "-0*.safetensors")]
    return patterns


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of one component, shards included; none for a tokenizer or a scheduler.

    Raises WeightsUnavailable (`model.integrity`) when the component's weights exist only as pickles.
    """
    if not (folder / "config.json").is_file():
        return []
    for stem in WEIGHT_STEMS:
        index = folder / f"{stem}.safetensors.index.json"
        single = folder / f"{stem}.safetensors"
        names = _shards(index) if index.is_file() else {single.name} if single.is_file() else set()
        missing = [name for name in sorted(names) if not (folder / name).is_file()]
        if missing:
            raise WeightsUnavailable(f"{folder.name} lacks the weight file {missing[0]}", hint=OFFLINE_HINT)
        if names:
            return [folder / name for name in sorted(names)]
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles:
        message = f"the weights of {folder.name} are pickled ({pickles[0]}); only safetensors are loaded"
        hint = "Take a revision with .safetensors files, or convert the file on a machine that may run its code."
        raise WeightsUnavailable(message, code="model.integrity", hint=hint)
    raise WeightsUnavailable(f"{folder.name} has no weights ({WEIGHT_STEMS[0]}.safetensors)", hint=OFFLINE_HINT)


def _shards(index: Path) -> set[str]:
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _broken(index, "its shard index cannot be read") from error
    if not all(isinstance(name, str) and re.fullmatch(r"[\w.-]+\.safetensors", name) for name in names):
        raise _broken(index, "its shard index names files that are not safetensors beside it")
    return names


def check_header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the dtype and shape of every tensor of a safetensors file, read without loading any.

    Raises WeightsUnavailable (`model.integrity`) unless the header is JSON and its tensors fill the file exactly, each
    as long as its shape and dtype say, none overlapping another.
    """
    size_bytes = path.stat().st_size
    with path.open("rb") as handle:
        start = handle.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
        if not 2 <= length <= min(MAX_HEADER_BYTES, size_bytes - 8):
            raise _broken(path, "it does not begin with a safetensors header")
        raw = handle.read(length)
    try:
        entries: dict[str, Any] = dict(json.loads(raw))
        entries.pop("__metadata__", None)
        spans = sorted((*_span(entry), name) for name, entry in entries.items())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _broken(path, f"its header is malformed ({error})") from error
    position = 0
    for begin, end, name in spans:
        if begin != position:
            raise _broken(path, f"its tensors overlap or leave gaps at {name}")
        position = end
    if position != size_bytes - 8 - length:
        raise _broken(path, "it is longer or shorter than its header says: an interrupted download?")
    return {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in entries.items()}


def _span(entry: dict[str, Any]) -> tuple[int, int]:
    begin, end = entry["data_offsets"]
    shape: list[int] = entry["shape"]
    if not all(type(side) is int and side >= 0 for side in [*shape, begin, end]):
        raise ValueError("a shape or an offset is not a natural number")
    if 8 * (end - begin) != math.prod(shape) * BITS[entry["dtype"]]:
        raise ValueError("a tensor's length does not fit its shape")
    return begin, end


def _broken(path: Path, reason: str) -> WeightsUnavailable:
    hint = "Delete the file and fetch the checkpoint again."
    return WeightsUnavailable(
        f"{path.parent.name}/{path.name} cannot be used: {reason}", code="model.integrity", hint=hint
    )


def digest_folder(folder: Path, roles: Sequence[str] = SD_ROLES, *, known: Path = DIGESTS) -> str:
    """The sha256 over `file_digests`: the identity of a checkpoint."""
    return digest_json(file_digests(folder, roles, known=known))


def file_digests(folder: Path, roles: Sequence[str] = SD_ROLES, *, known: Path = DIGESTS) -> dict[str, str]:
    """The sha256 of every file a checkpoint is loaded from, by path: weights, configurations, vocabularies.

    Files of 64 MiB and more are read once and remembered in `known` until they change. Raises WeightsUnavailable
    (`model.integrity`) when a file of the hub's cache is not what its name, a sha256, says.
    """
    remembered = _read_json(known.expanduser())
    before = dict(remembered)
    digests: dict[str, str] = {}
    for role in roles:
        text = [path for path in (folder / role).iterdir() if path.suffix in (".json", ".txt")]
        for path in sorted([*text, *weight_files(folder / role)]):
            digests[path.relative_to(folder).as_posix()] = _digest(path.resolve(), remembered)
    if remembered != before:
        _write_json(known.expanduser(), remembered)
    return digests


def _digest(path: Path, remembered: dict[str, str]) -> str:
    stat = path.stat()
    key = f"{path}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}"
    digest = remembered.get(key) or digest_file(path)
    if re.fullmatch(r"[0-9a-f]{64}", path.name) and path.name != digest:
        raise _broken(path, "its content has another sha256 than the hub recorded")
    if stat.st_size >= LARGE_BYTES:
        remembered[key] = digest
    return digest


def _read_json(path: Path) -> dict[str, str]:
    with contextlib.suppress(OSError, ValueError):
        return {str(key): str(value) for key, value in dict(json.loads(path.read_bytes())).items()}
    return {}


def _write_json(path: Path, value: dict[str, str]) -> None:
    """Replace the file at once; a read-only home only means that the next load reads the weights again."""
    part = path.with_name(f"{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(value))
        part.replace(path)
