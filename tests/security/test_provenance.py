"""S24: a result that is to be signed leaves signed or not at all, and what was signed cannot be changed unseen."""

import json
import re
import subprocess
from hashlib import sha256
from pathlib import Path

import c2pa
import pytest
from PIL import Image

from jobs import layout
from jobs.assets import Assets
from jobs.leases import Owner
from jobs.provenance import refusal
from jobs.request import JobRequest, OutputOptions
from jobs.schema import Job
from jobs.settings import Settings
from jobs.submission import submit
from tests.receiver import Silent
from workers import provenance
from workers.runner import Runner
from workers.work import Edit, Engine, Hooks, Made, MadeFile

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "api" / "sample.mp4"
OFFLINE = {"verify": {"remote_manifest_fetch": False}}
KEY_RECIPE = re.search(r"```sh\n(openssl .*?)```", (ROOT / "docs" / "provenance.md").read_text(), re.DOTALL)[1]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate and a key, made as the documentation says."""
    folder = tmp_path_factory.mktemp("keys")
    subprocess.run(["bash", "-euc", KEY_RECIPE], cwd=folder, check=True, capture_output=True)
    return folder


def stand_in(task: Edit, hooks: Hooks, settings: Settings) -> Made:
    """An engine that makes a small result at once, with weights from a folder of the operator's."""
    path = task.folder / f"output.{task.container}"
    if task.container == "mp4":
        path.write_bytes(SAMPLE.read_bytes())
    else:
        Image.new("RGB", (32, 32), "green").save(path)
    model = {"checkpoint": "/srv/private/weights", "revision": "", "digest": "d" * 64}
    kind = {"mp4": "video/mp4"}.get(task.container, f"image/{task.container}")
    return Made((MadeFile(path, kind),), checkpoint="/srv/private/weights", receipt={"model": model})


class House:
    """A worker in this process."""

    def __init__(self, settings: Settings, engine: Engine | None) -> None:
        self.runner = Runner(settings)
        self.runner.engine = engine or self.runner.engine

    def run(
        self, clip: Path = SAMPLE, target: str = "a blue ball", control: Path | None = None, **output: object
    ) -> Job:
        store, records = self.runner.store, self.runner.records
        files = {"video": clip} | ({"control_video": control} if control else {})
        assets = {
            name: Assets(store).add("local", path, name="holiday.mp4", media_type="video/mp4").id
            for name, path in files.items()
        }
        given = {name: {"asset": asset} for name, asset in assets.items()}
        given = {"video": given.pop("video"), "files": given}
        body = {"method": "frame_by_frame", "input": given, "prompt": {"target": target}}
        steps = {"num_inference_steps": 2, "num_inversion_steps": 2, "max_frames": 2, "seed": 1}
        request = JobRequest.model_validate(body | {"params": steps, "output": output})
        job = submit(request, "local", records=records, store=store, bell=self.runner.bell).job
        self.runner.run(job.id, Owner("test", "w-test@h", job.id))
        return records.get(job.id)

    def receipt(self, job: Job) -> dict:
        found: dict = json.loads(self.runner.store.get_bytes(layout.receipt("local", job.id, job.fence)))
        return found

    def content(self, job: Job) -> bytes:
        return self.runner.store.get_bytes(job.outputs[0].key)


@pytest.fixture
def house(settings: Settings, keys: Path):
    """A worker that signs when it is asked; keywords change its settings."""
    made = []

    def make(engine: Engine | None = stand_in, **changes: object) -> House:
        signing = {
            "checkpoint": "tiny",
            "device": "cpu",
            "provenance": "offered",
            "provenance_certificates": keys / "signer.pem",
            "provenance_key": keys / "signer.key",
        }
        made.append(House(settings.model_copy(update=signing | changes), engine))
        return made[-1]

    yield make
    for house in made:
        house.runner.records.redis.close()


def read(content: bytes, media_type: str, folder: Path) -> tuple[str, dict]:
    """What a reader says of a file: the state, and the manifest it was signed with last."""
    path = folder / "read"
    path.write_bytes(content)
    with path.open("rb") as file:
        context = c2pa.Context(c2pa.Settings.from_dict(OFFLINE))
        found = c2pa.Reader(media_type, file, context=context)
        store = json.loads(found.json())
    return store["validation_state"], store["manifests"][store["active_manifest"]]


def edited(manifest: dict) -> dict:
    """The action that says what was done."""
    [actions] = [item["data"]["actions"] for item in manifest["assertions"] if item["label"] == "c2pa.actions.v2"]
    assert [action["action"] for action in actions] == ["c2pa.opened", "c2pa.edited"]
    assert actions[1]["digitalSourceType"].endswith("/compositeWithTrainedAlgorithmicMedia")
    return actions[1]


def test_s24_a_signed_result_tells_what_made_it_and_a_changed_byte_is_seen(house, tmp_path):
    """The real engine; the receipt makes the same again, whatever is signed."""
    signing = house(engine=None)
    job, plain = (signing.run(target="a secret wish", **output) for output in ({"provenance": "c2pa"}, {}))
    assert job.error is None and [item.provenance for item in job.outputs] == ["c2pa", "none"], job.error
    content, receipt, output = signing.content(job), signing.receipt(job), job.outputs[0]
    assert output.sha256 == sha256(content).hexdigest() != output.unsigned_sha256
    assert output.unsigned_sha256 == receipt["outputs"][0]["unsigned_sha256"] == plain.outputs[0].sha256
    assert receipt["provenance"]["subject"] and "PRIVATE" not in json.dumps(receipt)
    assert (plain.outputs[0].provenance, plain.outputs[0].unsigned_sha256) == ("none", None)

    state, manifest = read(content, "video/mp4", tmp_path)
    told, [parent] = edited(manifest)["parameters"], manifest["ingredients"]
    assert state == "Valid" and parent["relationship"] == "parentOf"
    assert told["refilm.method"] == receipt["method"] and told["refilm.checkpoint"]["name"] == "tiny"
    assert told["refilm.source_sha256"] == sha256(SAMPLE.read_bytes()).hexdigest()
    for private in (b"secret wish", b"holiday", job.id.encode(), b"local"):
        assert private not in content
    for place in (len(content) // 2, content.index(b"frame_by_frame"), len(content) - 1):
        changed = bytearray(content)
        changed[place] ^= 1
        assert read(bytes(changed), "video/mp4", tmp_path)[0] == "Invalid"


@pytest.mark.parametrize("container", ["gif", "webp"])
def test_s24_every_container_is_signed_and_the_prompt_is_told_on_request_only(house, tmp_path, container):
    signing = house(provenance="default")
    job = signing.run(target="a red cube", container=container, provenance_prompt=True)
    state, manifest = read(signing.content(job), f"image/{container}", tmp_path)
    told = edited(manifest)["parameters"]
    assert state == "Valid" and told["refilm.prompt"]["target"] == "a red cube"
    assert told["refilm.checkpoint"] == {"sha256": "d" * 64}  # a folder of the operator's is nobody's business


def test_s24_a_clip_brings_its_history_and_nobody_is_called_for_more(house, tmp_path, keys):
    """The first clip holds what it was made from; the second only names an address where that is to be had."""
    signing, listener = house(), Silent()
    first = signing.run(provenance="c2pa")
    known, named = tmp_path / "known.mp4", tmp_path / "named.mp4"
    known.write_bytes(signing.content(first))
    _, manifest = read(signing.content(signing.run(known, provenance="c2pa")), "video/mp4", tmp_path)
    assert manifest["ingredients"][0]["active_manifest"]
    certificates, key = ((keys / name).read_bytes() for name in ("signer.pem", "signer.key"))
    signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo(b"es256", certificates, key, None))
    created = {"assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [{"action": "c2pa.created"}]}}]}
    created["assertions"][0]["data"]["actions"][0]["digitalSourceType"] = provenance.EDITED_BY_MODEL
    context = c2pa.Context(c2pa.Settings.from_dict({"verify": {"verify_after_sign": False}}), signer)
    builder = c2pa.Builder(json.dumps(created), context=context)
    builder.set_no_embed()
    builder.set_remote_url(f"http://127.0.0.1:{listener.port}/history.c2pa")
    with SAMPLE.open("rb") as clip, named.open("w+b") as into:
        builder.sign("video/mp4", clip, into)
    assert b"history.c2pa" in named.read_bytes()
    state, manifest = read(signing.content(signing.run(named, provenance="c2pa")), "video/mp4", tmp_path)
    assert state == "Valid" and "active_manifest" not in manifest["ingredients"][0]
    assert not listener.touched()
    listener.close()


def test_s24_all_that_it_was_made_with_is_named(house, tmp_path):
    """One with a history, one whose history cannot be read, because this container has no place for one."""
    signing = house()
    known, unread = tmp_path / "known.mp4", tmp_path / "unread.webm"
    known.write_bytes(signing.content(signing.run(provenance="c2pa")))
    unread.write_bytes(b"\x1aE\xdf\xa3" + bytes(100))
    for control, history in ((known, True), (unread, False)):
        job = signing.run(control=control, provenance="c2pa")
        state, manifest = read(signing.content(job), "video/mp4", tmp_path)
        told = {one["relationship"]: one for one in manifest["ingredients"]}
        assert state == "Valid" and set(told) == {"parentOf", "inputTo"}
        assert told["inputTo"]["title"] == "control_video" and ("active_manifest" in told["inputTo"]) == history
        edited(manifest)


def broken_keys(keys: Path, folder: Path) -> dict[str, dict[str, object]]:
    """Settings of signers that cannot sign."""
    other, garbage = folder / "other.key", folder / "garbage.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ED25519", "-out", other], check=True, capture_output=True)
    garbage.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    return {
        "none": {"provenance_key": None},
        "not there": {"provenance_key": folder / "nowhere.key"},
        "not a key": {"provenance_key": keys / "signer.pem"},
        "of another": {"provenance_key": other},
        "not a certificate": {"provenance_certificates": garbage},
        "of the issuer": {"provenance_certificates": keys / "ca.pem", "provenance_key": keys / "ca.key"},
        "off": {"provenance": "off"},
    }


def test_s24_without_a_signer_the_job_fails_before_anything_is_made(house, keys, tmp_path):
    for kind, broken in broken_keys(keys, tmp_path).items():
        job = house(**broken).run(provenance="c2pa")
        assert (job.state, job.error.code) == ("failed", "provenance.unavailable"), (kind, job.error)
        assert job.outputs == () and {stage.state for stage in job.progress.stages} == {"pending"}, kind
        assert str(tmp_path) not in job.error.model_dump_json(), kind


def test_s24_where_it_may_be_missing_it_is_missed_aloud(house, keys, tmp_path):
    without = house(provenance="required", provenance_failure="warn", provenance_key=tmp_path / "nowhere.key")
    job = without.run(provenance="none")
    assert (job.state, job.outputs[0].provenance) == ("succeeded", "none")
    assert [item.code for item in job.warnings] == ["provenance.unavailable"]


def test_s24_a_signing_that_breaks_down_leaves_nothing_unsigned(house, monkeypatch, tmp_path):
    """It crashes, or never ends, once the result is there: the job fails, and nothing is in the store."""
    program = tmp_path / "seal.py"
    for body, reason in (("raise SystemExit(3)", "crashed"), ("while True: pass", "too long")):
        signing = house()
        program.write_text(
            f"import json, sys\nif 'made' in json.load(sys.stdin):\n    {body}\nprint('{{\"signer\": {{}}}}')"
        )
        monkeypatch.setattr(provenance, "SEAL", program)
        monkeypatch.setattr(provenance, "LEAST_SECONDS", 3)
        job = signing.run(provenance="c2pa")
        assert (job.state, job.error.code, job.error.stage) == ("failed", "provenance.failed", "publish")
        assert reason in job.error.detail and not list(signing.runner.store.list(f"out/local/{job.id}/"))


def test_s24_the_api_refuses_what_the_service_does_not_offer(edit, problem, settings):
    refused = problem(edit(output={"provenance": "c2pa"}), 422, "validation_failed")["errors"][0]
    assert refused["pointer"] == "#/output/provenance" and "REFILM_PROVENANCE" in refused["message"]
    told = problem(edit(output={"provenance_prompt": True}), 422, "validation_failed")["errors"][0]
    assert told["pointer"] == "#/output/provenance_prompt"
    assert edit(output={"provenance": "none"}).status_code == 202
    always = settings.model_copy(update={"provenance": "required"})
    assert refusal(OutputOptions(provenance="none"), always) and not refusal(OutputOptions(), always)
