"""Batches from the command line and both Python clients, against a real server."""

import asyncio
import json
import threading

import pytest

from api.async_client import AsyncClient
from api.client import Client


@pytest.fixture
def busy(local_worker):
    """A worker that ends every job it finds; those that ask for a failure fail."""
    stop = threading.Event()

    def work():
        while not stop.wait(0.05):
            for job_id in local_worker.records.redis.zrange("rf:q:pos:default", 0, -1):
                if "fail" in local_worker.records.get(job_id).request.prompt.target:
                    local_worker.fail(job_id, "gpu.out_of_memory", "too many frames")
                else:
                    local_worker.succeed(job_id, b"result")

    thread = threading.Thread(target=work)
    thread.start()
    yield
    stop.set()
    thread.join()


@pytest.mark.usefixtures("busy")
def test_a_matrix_is_followed_and_its_results_are_fetched(refilm, clip, tmp_path):
    out = tmp_path / "out"
    axes = (
        "--video",
        clip,
        "--prompt",
        "a blue ball",
        "--prompt",
        "a red ball",
        "-m",
        "frame_by_frame",
        "-p",
        "seed=7",
    )
    done = refilm("batch", *axes, "--source-prompt", "a ball", "-o", out)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.strip() == str(out / "summary.json")
    assert "2 succeeded" in done.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert summary["counts"]["succeeded"] == 2 and summary["matrix"]["videos"][0]["source"] == "a ball"
    assert [(row["prompt"], row["file"]) for row in summary["jobs"]] == [
        (0, "00000-frame_by_frame.mp4"),
        (1, "00001-frame_by_frame.mp4"),
    ]
    assert (out / "00001-frame_by_frame.mp4").read_bytes() == b"result"
    again = refilm("watch", summary["batch"], "-o", tmp_path / "again")
    assert again.exit_code == 0 and (tmp_path / "again" / "00000-frame_by_frame.mp4").exists()
    followed = refilm("watch", summary["jobs"][0]["job"], "-o", tmp_path / "one.mp4")
    assert followed.exit_code == 0 and (tmp_path / "one.mp4").read_bytes() == b"result"


@pytest.mark.usefixtures("busy")
def test_a_file_of_edits_with_files_of_their_own(refilm, clip, tmp_path):
    edit = {"method": "frame_by_frame", "input": {"video": {"file": clip.name}}, "prompt": {"target": "x"}}
    file = clip.parent / "edits.ndjson"
    file.write_text(json.dumps(edit) + "\n" + json.dumps(edit | {"prompt": {"target": "fail"}}) + "\n")
    done = refilm("batch", file, "-o", tmp_path / "out")
    assert done.exit_code == 1
    assert "1 succeeded, 1 failed" in done.stderr
    rows = json.loads((tmp_path / "out" / "summary.json").read_text())["jobs"]
    assert rows[0]["file"] and rows[1]["error"]["code"] == "gpu.out_of_memory"


def test_wrong_usage_is_exit_2(refilm, clip, tmp_path):
    broken = tmp_path / "broken.ndjson"
    broken.write_text('{"method": ')
    faulty = tmp_path / "faulty.ndjson"
    faulty.write_text('{"method": "frame_by_frame", "input": {"video": {"file": "clip.mp4"}}, "no_such": 1}')
    for arguments, told in (
        (("--video", clip), "--prompt"),
        (("--video", "no.mp4", "--prompt", "x", "-m", "frame_by_frame"), "no.mp4"),
        (
            ("--video", clip, "--prompt", "x", "-m", "frame_by_frame", "--source-prompt", "a", "--source-prompt", "b"),
            "2",
        ),
        ((broken,), "line 1"),
        ((faulty,), "#/no_such"),
    ):
        done = refilm("batch", *arguments)
        assert done.exit_code == 2, done.output
        assert told in done.stderr


def test_the_clients_do_the_same(served, clip, local_worker):
    with Client(served) as client:
        asset = client.upload(clip).id
        made = client.batches.create([asset], ["x", {"target": "y"}], ["frame_by_frame"], labels={"a": "b"})
        assert [batch.id for batch in client.batches.page().data] == [made.id]
        assert [job.batch.prompt for job in client.batches.jobs(made.id)] == [0, 1]
        assert client.batches.cancel(made.id).state == "canceled"
        assert len(client.jobs(batch_id=made.id).data) == 2

    async def whole():
        async with AsyncClient(served) as client:
            edits = [{"method": "frame_by_frame", "input": {"video": {"asset": asset}}, "prompt": {"target": "z"}}]
            made = await client.batches.create_list(edits)
            [job] = [job async for job in client.batches.jobs(made.id)]
            timer = threading.Timer(0.2, lambda: local_worker.succeed(job.id))
            timer.start()
            states = [batch.state async for batch in client.batches.watch(made.id)]
            assert len((await client.batches.page(limit=1)).data) == 1
            assert (await client.batches.cancel(made.id)).state == states[-1]
            other = await client.batches.create([asset], ["x"], ["frame_by_frame"])
            return states[0], states[-1], other.total

    assert asyncio.run(whole()) == ("running", "completed", 1)
