"""S15, S20 and S21 on real processes: what they write, what they accept from the broker, what they leave behind."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from kombu import Connection

from jobs.keys import Keys
from jobs.queue import TASK, make_app
from tests.conftest import free_port, wait_for
from tests.workers.conftest import durable_valkey, make_stack, stack

__all__ = ["durable_valkey", "make_stack", "stack"]
pytestmark = pytest.mark.faults
ROOT = Path(__file__).parents[2]


def test_s15_no_process_writes_a_secret(make_stack) -> None:
    """API, worker, scheduler and fetcher at their usual level, through success and failure."""
    stack = make_stack(s3_secret_access_key="s3-secret-1", cache_salt="salt-secret-1", egress_loopback=True)
    salted = {"s3_secret_access_key": "s3-secret-1", "cache_salt": "salt-secret-1"}
    port = free_port()
    stack._start("-m", "api.serve", "--port", str(port), **salted)
    stack._start("-m", "workers", worker_id="w1", **salted)
    stack._start("-m", "workers.scheduler", **salted)
    stack._start("-m", "workers.fetcher", **salted)
    _, key = Keys(stack.records, stack.store).create("local", scopes=("admin",))
    http = httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {key}"}, timeout=30)
    wait_for(lambda: answers(http), 60)
    made = http.post("/v1/webhooks", json={"url": f"http://127.0.0.1:{port}/?hook-token-1"})
    assert made.status_code == 201, made.text
    jobs = [stack.submit(prompt={"target": "prompt-secret-1"}, params={"fault": fault}) for fault in (None, "other")]
    for job in jobs:
        stack.wait(job, "succeeded", "failed")
    body = {"method": "frame_by_frame", "input": {"video": {"url": f"http://127.0.0.1:{port}/x?url-token-1"}}}
    fetched = http.post("/v1/edits", json=body | {"prompt": {"target": "prompt-secret-1"}}).json()
    wait_for(lambda: http.get(f"/v1/jobs/{fetched['id']}").json()["state"] == "failed", 60)
    http.get(f"/v1/jobs?api_key={key}")
    http.close()
    time.sleep(1)
    log = "".join(path.read_text() for path in stack.logs.glob("*.log"))
    assert "job claimed" in log and "a fetch has failed" in log and '"webhook"' in log
    for secret in (key, key[16:], "prompt-secret-1", "s3-secret-1", "salt-secret-1", "hook-token-1", "url-token-1"):
        assert secret not in log, secret
    assert made.json()["secret"] not in log


def answers(http: httpx.Client) -> bool:
    try:
        return http.get("/healthz/ready").status_code == 200
    except httpx.TransportError:
        return False


def forge(stack, body, *, content_type: str, headers: dict) -> None:
    """Put a message of one's own into the queue that workers read, as somebody with the broker's password could."""
    with Connection(stack.settings.broker, transport_options={"global_keyprefix": "rf:"}) as connection:
        channel = connection.channel()
        message = channel.prepare_message(
            body, content_type=content_type, content_encoding="utf-8", headers=headers, properties={}
        )
        channel.basic_publish(message, "", "e.default")


def test_s20_forged_messages_are_thrown_away(stack, tmp_path) -> None:
    owned = tmp_path / "owned"
    program = f"cos\nsystem\n(S'touch {owned}'\ntR."  # a pickle that runs a command
    headers = {"task": TASK, "id": "forged", "lang": "py", "root_id": "forged", "argsrepr": "", "kwargsrepr": ""}
    arguments = json.dumps([["job_" + "0" * 26], {}, {}])
    forge(stack, program, content_type="application/x-python-serialize", headers=headers)
    forge(stack, arguments, content_type="application/json", headers=headers | {"task": "os.system"})
    forge(stack, arguments, content_type="application/json", headers=headers | {"task": "celery.backend_cleanup"})
    forge(stack, json.dumps([[f"touch {owned}"], {}, {}]), content_type="application/json", headers=headers)
    forge(stack, json.dumps([[{"$": 1}], {"a": 2}, {}]), content_type="application/json", headers=headers)
    forge(stack, "not json", content_type="application/json", headers=headers)
    stack.scheduler()
    worker = stack.worker("w1")
    job = stack.wait(stack.submit(), "succeeded", "failed")
    assert job.state == "succeeded" and len(job.attempts) == 1
    assert worker.poll() is None and not owned.exists()


def test_s20_one_task_and_json_alone(stack) -> None:
    app = make_app(stack.settings)
    assert app.conf.accept_content == ["json"] and app.conf.task_serializer == "json"
    program = "import workers.tasks as t; print([name for name in t.app.tasks if not name.startswith('celery.')])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith(f"['{TASK}']")


RUN = """
import hashlib, json, sys
from pathlib import Path
from jobs.settings import Settings
from workers.caches import NoCache
from workers.engine import edit
from workers.work import Edit, Fetched, Hooks
from contextlib import nullcontext


class Alone:
    keeps_results = False
    wanted = lambda self: False
    due = lambda self, seconds: False
    get = put = drop = lambda self, *_: None


hooks = Hooks(NoCache(), lambda *_: None, lambda: False, lambda _: nullcontext(), Alone())
clip, folder = Path(sys.argv[1]), Path(sys.argv[2])
digest = hashlib.sha256(clip.read_bytes()).hexdigest()
for number, (prompt, salt) in enumerate(json.loads(sys.argv[3])):
    own = folder / str(number)
    own.mkdir()
    params = {"prompt": prompt, "seed": 3, "num_inference_steps": 2, "max_frames": 2}
    task = Edit("frame_by_frame", "miniature", params, {"video": Fetched(clip, digest, "x")}, "mp4", own, salt)
    made = edit(task, hooks, Settings(data_dir=folder))
    sys.stdout.write(hashlib.sha256(made.files[0].path.read_bytes()).hexdigest() + "\\n")
"""


def test_s21_a_used_worker_makes_the_same_bytes_as_a_clean_one(tmp_path) -> None:
    """Another tenant's edit in between leaves nothing in memory that shows in this one's result."""
    clip = ROOT / "api" / "sample.mp4"
    ours, theirs = ["a blue ball", "ours"], ["a red square on a green field", "theirs"]

    def run(name: str, *edits: list[str]) -> list[str]:
        folder = tmp_path / name
        folder.mkdir()
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", RUN, str(clip), str(folder), json.dumps(edits)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout.split()

    [clean] = run("clean", ours)
    used = run("used", theirs, ours, ours)
    assert used[1:] == [clean, clean] and used[0] != clean


def test_s21_a_jobs_files_are_gone_when_it_has_ended(stack) -> None:
    stack.scheduler()
    stack.worker("w1")
    for fault in (None, "other"):
        stack.wait(stack.submit(params={"fault": fault}), "succeeded", "failed")
    work = stack.settings.data_dir / "work" / "w1"
    wait_for(lambda: not any(work.iterdir()))
