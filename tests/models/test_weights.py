"""Weights: where a reference leads, what is refused, and that a digest follows the content."""

import json
import struct
from fnmatch import fnmatch

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import save_file

from models import weights
from models.digest import digest_file
from models.errors import WeightsUnavailable

ROLE = ("unet",)


def checkpoint(folder, value=0.0):
    """A checkpoint with one component of one small weight."""
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    save_file({"w": torch.full((2, 3), value)}, folder / "unet" / "diffusion_pytorch_model.safetensors")
    return folder


def raw(path, header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def refused(code, call, *args, **kwargs):
    with pytest.raises(WeightsUnavailable) as caught:
        call(*args, **kwargs)
    assert caught.value.code == code
    assert caught.value.hint
    return str(caught.value)


def test_folder_by_path_and_by_file_uri(tmp_path):
    folder = checkpoint(tmp_path / "mine")
    assert weights.resolve(str(folder), roles=ROLE) == folder
    assert weights.resolve(f"file://{folder}", roles=ROLE) == folder


def test_folder_relative_to_the_working_folder(tmp_path, monkeypatch):
    checkpoint(tmp_path / "a" / "b")
    monkeypatch.chdir(tmp_path)
    assert weights.resolve("a/b", roles=ROLE).resolve() == tmp_path / "a" / "b"


@pytest.mark.parametrize("reference", ["/nowhere/at/all", "no reference", "", "a/b/c", "https://host/a/b"])
def test_what_leads_nowhere_is_unavailable(reference):
    refused("model.unavailable", weights.resolve, reference, roles=ROLE)


def test_missing_role_is_named(tmp_path):
    folder = checkpoint(tmp_path / "mine")
    assert "vae" in refused("model.unavailable", weights.resolve, str(folder), roles=("unet", "vae"))


def test_s3_goes_through_the_callers_fetch(tmp_path):
    folder = checkpoint(tmp_path / "mine")
    asked = []

    def fetch(reference):
        asked.append(reference)
        return folder

    assert weights.resolve("s3://bucket/sd15", roles=ROLE, fetch=fetch) == folder
    assert asked == ["s3://bucket/sd15"]


def test_s3_without_a_store_or_without_an_answer_is_unavailable():
    def fetch(reference):
        raise ConnectionError("no route")

    refused("model.unavailable", weights.resolve, "s3://bucket/sd15")
    assert "no route" in refused("model.unavailable", weights.resolve, "s3://bucket/sd15", fetch=fetch)


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "model.ckpt", "weights.pt"])
def test_pickles_are_refused(tmp_path, name):
    folder = checkpoint(tmp_path / "mine")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "unet" / name).write_bytes(b"\x80\x04.")
    assert name in refused("model.integrity", weights.resolve, str(folder), roles=ROLE)


def test_shards_are_all_needed_and_only_beside_their_index(tmp_path):
    folder = checkpoint(tmp_path / "mine") / "unet"
    (folder / "diffusion_pytorch_model.safetensors").rename(folder / "part-1.safetensors")
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "part-1.safetensors"}}))
    assert weights.weight_files(folder) == [folder / "part-1.safetensors"]
    index.write_text(json.dumps({"weight_map": {"w": "part-1.safetensors", "v": "part-2.safetensors"}}))
    assert "part-2" in refused("model.unavailable", weights.weight_files, folder)
    index.write_text(json.dumps({"weight_map": {"w": "../../secret.safetensors"}}))
    refused("model.integrity", weights.weight_files, folder)


def test_header_of_a_sound_file(tmp_path):
    path = tmp_path / "ok.safetensors"
    save_file({"a": torch.zeros(2, 3), "b": torch.zeros(4, dtype=torch.float16)}, path, metadata={"made": "here"})
    assert weights.check_header(path) == {"a": ("F32", (2, 3)), "b": ("F16", (4,))}


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "body"),
    [
        (b"not json at all", b""),
        ([1, 2], b""),
        ({"w": ENTRY}, b"\0" * 7),
        ({"w": ENTRY}, b"\0" * 9),
        ({"w": {**ENTRY, "shape": [3]}}, b"\0" * 8),
        ({"w": {**ENTRY, "shape": [-2]}}, b"\0" * 8),
        ({"w": {**ENTRY, "dtype": "PICKLE"}}, b"\0" * 8),
        ({"w": {"dtype": "F32"}}, b"\0" * 8),
        ({"w": ENTRY, "v": ENTRY}, b"\0" * 8),
        ({"w": ENTRY, "v": {**ENTRY, "data_offsets": [12, 20]}}, b"\0" * 20),
        ({"w": 7}, b""),
    ],
)
def test_headers_that_lie_are_refused(tmp_path, header, body):
    refused("model.integrity", weights.check_header, raw(tmp_path / "bad.safetensors", header, body))


def test_files_that_are_no_safetensors_are_refused(tmp_path):
    for content in (b"", b"\1\2\3", struct.pack("<Q", 1 << 60) + b"{}", b"PK\3\4" + b"\0" * 60):
        path = tmp_path / "bad.safetensors"
        path.write_bytes(content)
        refused("model.integrity", weights.check_header, path)


SD15_REPOSITORY = """model_index.json v1-5-pruned.ckpt v1-5-pruned.safetensors v1-5-pruned-emaonly.safetensors README.md
feature_extractor/preprocessor_config.json safety_checker/config.json safety_checker/model.safetensors
safety_checker/pytorch_model.bin scheduler/scheduler_config.json text_encoder/config.json text_encoder/model.safetensors
text_encoder/model.fp16.safetensors text_encoder/pytorch_model.bin tokenizer/merges.txt tokenizer/vocab.json
tokenizer/special_tokens_map.json tokenizer/tokenizer_config.json unet/config.json
unet/diffusion_pytorch_model.safetensors unet/diffusion_pytorch_model.fp16.safetensors
unet/diffusion_pytorch_model.non_ema.safetensors unet/diffusion_pytorch_model.bin vae/config.json
vae/diffusion_pytorch_model.safetensors vae/diffusion_pytorch_model.fp16.safetensors vae/diffusion_pytorch_model.bin"""


def test_hub_patterns_take_what_is_needed_and_nothing_else():
    patterns = weights.hub_patterns(weights.SD_ROLES)
    taken = {name for name in SD15_REPOSITORY.split() if any(fnmatch(name, pattern) for pattern in patterns)}
    assert taken == {
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
        "tokenizer/special_tokens_map.json",
        "tokenizer/tokenizer_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    }


@pytest.fixture
def offline_hub(tmp_path, monkeypatch):
    """An empty hub cache, and no connection."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def cached(hub, revision):
    """A checkpoint in the hub's cache layout, its weights stored under their sha256."""
    commit = "c" * 40
    repository = hub / "models--org--name"
    snapshot = checkpoint(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / revision).write_text(commit)
    link = snapshot / "unet" / "diffusion_pytorch_model.safetensors"
    blob = repository / "blobs" / digest_file(link)
    blob.parent.mkdir()
    link.rename(blob)
    link.symlink_to(blob)
    return snapshot, blob


def test_hub_reference_is_found_in_the_local_cache(offline_hub):
    snapshot, _ = cached(offline_hub, "fp32")
    assert weights.resolve("org/name@fp32", roles=ROLE) == snapshot
    assert len(weights.digest_folder(snapshot, ROLE)) == 64


def test_hub_reference_that_is_nowhere_says_what_to_do(offline_hub):
    cached(offline_hub, "fp32")
    for reference in ("org/name", "org/other@main"):
        with pytest.raises(WeightsUnavailable) as caught:
            weights.resolve(reference, roles=ROLE)
        assert caught.value.code == "model.unavailable"
        assert "HF_HOME" in caught.value.hint
        assert "s3://" in caught.value.hint


def test_damaged_hub_cache_is_found_out(offline_hub):
    snapshot, blob = cached(offline_hub, "main")
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    refused("model.integrity", weights.digest_folder, snapshot, ROLE)


def test_digest_follows_content_and_not_place(tmp_path):
    first, same = checkpoint(tmp_path / "a"), checkpoint(tmp_path / "b")
    other = checkpoint(tmp_path / "c", value=1.0)
    digest = weights.digest_folder(first, ROLE)
    assert weights.digest_folder(same, ROLE) == digest
    assert weights.digest_folder(other, ROLE) != digest
    (same / "unet" / "config.json").write_text("{}")
    assert weights.digest_folder(same, ROLE) != digest


def test_large_files_are_read_once_until_they_change(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "LARGE_BYTES", 1)
    read = []
    monkeypatch.setattr(weights, "digest_file", lambda path: read.append(path.name) or digest_file(path))
    folder, known = checkpoint(tmp_path / "a"), tmp_path / "home" / "known.json"
    digest = weights.digest_folder(folder, ROLE, known=known)
    assert len(read) == 2
    assert weights.digest_folder(folder, ROLE, known=known) == digest
    assert len(read) == 2
    save_file({"w": torch.ones(2, 3)}, folder / "unet" / "diffusion_pytorch_model.safetensors")
    assert weights.digest_folder(folder, ROLE, known=known) != digest
    assert len(read) == 3


def test_a_broken_or_unwritable_memory_of_digests_costs_only_time(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "LARGE_BYTES", 1)
    folder, known = checkpoint(tmp_path / "a"), tmp_path / "known.json"
    known.write_text("not json")
    digest = weights.digest_folder(folder, ROLE, known=known)
    (tmp_path / "file").write_text("")
    assert weights.digest_folder(folder, ROLE, known=tmp_path / "file" / "known.json") == digest
