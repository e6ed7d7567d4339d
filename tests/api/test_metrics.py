"""GET /metrics: what the scripts count and observe, once for each deed."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from jobs.leases import Outcome
from jobs.schema import Progress, StageProgress, Usage


@pytest.fixture
def measured(http):
    """Read the metrics; a function from name and labels to the value."""

    def read():
        families = text_string_to_metric_families(http.get("/metrics").text)
        samples = {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}
        return lambda name, **labels: samples.get((name, *sorted(labels.items())))

    return read


def test_stages_memory_and_what_the_cache_saved_are_measured_at_the_commit(edit, worker, measured):
    job = edit().json()
    before = measured()
    assert before("rf_queue_depth", pool="default", priority="standard") == 1
    assert before("rf_queue_age_seconds", pool="default", priority="standard") >= 0
    assert before("rf_queue_depth", pool="default", priority="batch") == 0
    held = worker.claim(job["id"])
    stages = (
        StageProgress(name="edit", state="done", seconds=3.5),
        StageProgress(name="invert", state="done", seconds=0.2, cache="hit", saved_seconds=41.7),
        StageProgress(name="decode", state="done", seconds=9000),
    )
    end = Outcome("failed", progress=Progress(stages=stages), usage=Usage(peak_vram_bytes=9663676416))
    worker.leases.finish(held, end)
    worker.leases.finish(held, end)  # a lost answer, asked again
    now = measured()
    assert now("rf_queue_depth", pool="default", priority="standard") == 0
    assert now("rf_stage_seconds_bucket", stage="edit", le="5") == 1
    assert now("rf_stage_seconds_count", stage="edit") == 1 and now("rf_stage_seconds_sum", stage="edit") == 3.5
    assert now("rf_stage_seconds_count", stage="invert") is None
    assert now("rf_stage_seconds_bucket", stage="decode", le="+Inf") == 1
    assert now("rf_cache_saved_ms_total") == 41700
    assert now("rf_vram_peak_bytes", worker="w") == 9663676416
    assert now("rf_queue_seconds_count", pool="default") == 1


def test_how_long_a_cancel_takes_is_measured(http, edit, worker, measured):
    job = edit().json()
    held = worker.claim(job["id"])
    assert http.post(job["urls"]["cancel"]).status_code == 202
    worker.finish_canceled(held.job)
    assert measured()("rf_cancel_seconds_count") == 1
