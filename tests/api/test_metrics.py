"""GET /metrics: what the scripts count and observe, once for each deed."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from jobs.leases import Outcome
from jobs.schema import Progress, StageProgress, Usage
from jobs.store import ObjectMissing, StoreUnavailable, open_store
from jobs.store_errors import counted, counted_by


@pytest.fixture
def measured(http):
    """Read the metrics; a function from name and labels to the value."""

    def read():
        families = text_string_to_metric_families(http.get("/metrics").text)
        samples = {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}
        return lambda name, **labels: samples.get((name, *sorted(labels.items())))

    return read


# what an operator is promised to see: the topics of the service's list of metrics, and by which names it is shown
PROMISED = {
    "queue depth": ["rf_queue_depth"],
    "queue age": ["rf_queue_age_seconds"],
    "forecast error": ["rf_eta_error_ms_total", "rf_eta_jobs_total"],
    "lease expiries": ["rf_lease_expired_total"],
    "fenced commits": ["rf_fenced_commits_total"],
    "rings repeated": ["rf_rings_repeated_total"],
    "attempts": ["rf_claims_total", "rf_preemptions_total"],
    "seconds of stages": ["rf_stage_seconds_bucket"],
    "cache": ["rf_cache_hits_total", "rf_cache_misses_total", "rf_cache_saved_ms_total"],
    "model loads": ["rf_model_loads_total"],
    "memory": ["rf_vram_peak_bytes"],
    "cancel latency": ["rf_cancel_seconds_bucket"],
    "webhook lag": ["rf_webhook_seconds_bucket"],
    "storage errors": ["rf_storage_errors_total"],
}


def test_the_whole_list_is_shown(http, edit, worker, measured, s3_settings):
    held = worker.claim(edit().json()["id"])
    stages = (StageProgress(name="edit", state="done", seconds=3.5),)
    worker.leases.finish(held, Outcome("failed", progress=Progress(stages=stages), usage=Usage(peak_vram_bytes=1)))
    for histogram in ("cancel_seconds", "webhook_seconds"):
        worker.records.ask("HSET", f"rf:hist:{histogram}", "|inf", 1, "|sum", 2)
    gone = open_store(s3_settings.model_copy(update={"store": "s3://no-such-bucket/x"}), counted_by(worker.records))
    for call in (lambda: gone.put_bytes("a", b"b"), lambda: gone.get_bytes("a"), lambda: gone.get_bytes("a")):
        with pytest.raises(StoreUnavailable):
            call()
    text = http.get("/metrics").text
    shown = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
    assert [topic for topic, names in PROMISED.items() if not shown.issuperset(names)] == []
    now = measured()
    errors = [now("rf_storage_errors_total", operation=f"{verb}Object", code="NoSuchBucket") for verb in ("Put", "Get")]
    assert errors == [1, 2]


def test_what_is_not_there_is_no_error_of_the_store(s3_settings, records):
    store = open_store(s3_settings, counted_by(records))
    assert store.head("nothing") is None and store.put_bytes("a", b"b", if_none_match=True)
    assert not store.put_bytes("a", b"c", if_none_match=True)
    with pytest.raises(ObjectMissing):
        store.get_bytes("nothing")
    assert counted(records) == {}


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
