"""The supervisor and the guard with small processes, and the probe under its limits."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from api import supervise
from api.supervise import Child, Supervisor
from jobs import media
from jobs.media import Limits, MediaRefused, probe, sniff

SLEEPER = "import time; time.sleep(600)"
# A child that ignores SIGTERM and has a child of its own.
STUBBORN = (
    "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    f"subprocess.Popen([sys.executable, '-c', {SLEEPER!r}]); print('ready', flush=True); time.sleep(600)"
)
LIMITS = Limits(max_pixels=1 << 20, max_duration_seconds=60, max_frames=100)


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def eventually(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not true in time"
        time.sleep(0.05)


@pytest.fixture
def supervisor():
    supervisor = Supervisor()
    yield supervisor
    supervisor.stop()


def child(tmp_path, program, **options):
    return Child("one", [sys.executable, "-c", program], os.environ, tmp_path / "one.log", **options)


def test_a_killed_child_starts_again(supervisor, tmp_path):
    one = supervisor.add(child(tmp_path, SLEEPER))
    first = one.pid
    os.kill(first, signal.SIGKILL)
    eventually(lambda: one.pid not in (0, first))
    assert one.restarts == 1


def test_a_child_that_dies_at_once_is_restarted_more_and_more_slowly(supervisor, tmp_path):
    one = supervisor.add(child(tmp_path, "raise SystemExit(3)"))
    eventually(lambda: one.restarts >= 3)
    assert one.restart_at - one.started_at > 0.3


def test_stop_ends_also_who_ignores_sigterm_and_its_children(supervisor, tmp_path):
    one = supervisor.add(child(tmp_path, STUBBORN, grace_seconds=0.3))
    eventually(lambda: "ready" in one.log_path.read_text())
    family = [one.pid, *(member.pid for member in psutil.Process(one.pid).children(recursive=True))]
    assert len(family) == 2
    supervisor.stop()
    eventually(lambda: not any(map(alive, family)))


def test_nothing_survives_a_supervisor_that_is_killed(tmp_path):
    program = (
        "import os, sys, time; from pathlib import Path; from api.supervise import Child, Supervisor;"
        f"one = Child('one', [sys.executable, '-c', {STUBBORN!r}], os.environ, Path({str(tmp_path / 'one.log')!r}));"
        "Supervisor().add(one); print(one.pid, flush=True); time.sleep(600)"
    )
    environment = supervise.environment({})
    parent = subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    int(parent.stdout.readline())
    eventually(lambda: (tmp_path / "one.log").exists() and "ready" in (tmp_path / "one.log").read_text())
    family = [member.pid for member in psutil.Process(parent.pid).children(recursive=True)]
    assert len(family) == 3  # the guard, the child and the child's child
    parent.kill()
    parent.communicate()
    eventually(lambda: not any(map(alive, family)))


def test_the_probe_runs_alone_and_reads_the_header(clip):
    facts = probe(clip, LIMITS)
    assert (facts["kind"], facts["width"], facts["frames"], facts["fps"]) == ("video", 64, 4, 8)
    program = [sys.executable, "-I", str(media.PROBE), str(clip), json.dumps(vars(LIMITS))]
    assert json.loads(subprocess.run(program, capture_output=True, check=True).stdout) == facts


def test_a_probe_that_takes_too_long_is_ended(clip, monkeypatch):
    monkeypatch.setattr(media, "PROBE_SECONDS", 0.01)
    with pytest.raises(MediaRefused) as refused:
        probe(clip, LIMITS)
    assert refused.value.code == "input.decode_failed"


def test_a_probe_without_memory_refuses_instead_of_crashing(clip):
    with pytest.raises(MediaRefused) as refused:
        probe(clip, Limits(max_pixels=1 << 20, max_duration_seconds=60, max_frames=100, memory_bytes=1 << 20))
    assert refused.value.code == "input.decode_failed"


@pytest.mark.parametrize("playlist", ["#EXTM3U\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile '{}'\n"])
def test_playlists_are_never_followed(clip, tmp_path, playlist):
    wrapped = tmp_path / "wrapped.mp4"
    wrapped.write_text(playlist.format(clip))
    with pytest.raises(MediaRefused) as refused:
        probe(wrapped, LIMITS)
    assert refused.value.code == "input.decode_failed"
    with pytest.raises(MediaRefused):
        sniff(wrapped.read_bytes()[: media.HEAD_BYTES])


def test_damaged_files_never_crash_the_service(clip, tmp_path):
    """Bytes changed at fixed places of the header: an answer or a coded refusal, nothing else."""
    content, codes = clip.read_bytes(), set()
    for place in range(8, min(len(content), 2000), 199):
        damaged = Path(tmp_path / "damaged.mp4")
        damaged.write_bytes(content[:place] + b"\xff\x00\xff" + content[place + 3 :])
        try:
            probe(damaged, LIMITS)
        except MediaRefused as refused:
            codes.add(refused.code)
    assert codes <= {
        "input.decode_failed",
        "input.no_frames",
        "input.not_video",
        "input.too_long",
        "input.too_large_frame",
    }
    assert codes
