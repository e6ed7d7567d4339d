"""The service's metrics in the Prometheus text format, read from the records when they are asked for."""

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from jobs.observed import HISTOGRAMS, counters, depths, histograms, memory_peaks
from jobs.presence import live_workers
from jobs.records import Records
from jobs.store_errors import counted


class Collector:
    """Everything at the moment it is asked. Raises QueueUnavailable."""

    def __init__(self, records: Records) -> None:
        """Read these records."""
        self._records = records

    def collect(self) -> Iterable[Metric]:
        """Counters, histograms and gauges."""
        for name, (text, value) in sorted(counters(self._records).items()):
            yield CounterMetricFamily(f"rf_{name}", text, value=value)
        text = "Requests to the bucket that failed, also those that were repeated with success."
        errors = CounterMetricFamily("rf_storage_errors", text, labels=["operation", "code"])
        for labels, number in counted(self._records).items():
            errors.add_metric(labels, number)
        yield errors
        for name, (label, text) in HISTOGRAMS.items():
            family = HistogramMetricFamily(f"rf_{name}", text, labels=[label] if label else [])
            for one in histograms(self._records, name):
                family.add_metric([one.label] if label else [], list(one.buckets), one.total)
            yield family
        yield from self._gauges()

    def _gauges(self) -> Iterator[Metric]:
        workers = len(live_workers(self._records))
        yield GaugeMetricFamily("rf_workers", "Workers that spoke lately.", value=workers)
        depth = GaugeMetricFamily("rf_queue_depth", "Jobs that wait.", labels=["pool", "priority"])
        age = GaugeMetricFamily(
            "rf_queue_age_seconds", "How long the first of them has waited.", labels=["pool", "priority"]
        )
        for one in depths(self._records):
            depth.add_metric([one.pool, one.priority], one.jobs)
            age.add_metric([one.pool, one.priority], one.age_seconds)
        peak = GaugeMetricFamily("rf_vram_peak_bytes", "Most device memory a worker held.", labels=["worker"])
        for worker, size in memory_peaks(self._records).items():
            peak.add_metric([worker], size)
        yield from (depth, age, peak)


def text(records: Records) -> bytes:
    """All metrics. Raises QueueUnavailable."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector(records))
    return generate_latest(registry)
