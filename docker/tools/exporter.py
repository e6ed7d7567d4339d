"""Metrics of the whole installation for Prometheus and KEDA, read from the records: `python exporter.py [--port N]`.

`/metrics` has what the API's own has (`api.metrics`), and by pool queued, held and running jobs, live workers and
`rf_demand_gpu_seconds`: how long one GPU would need for everything that waits and may start, plus what is left of
everything that runs. Jobs over a cap of their tenant or batch are held: no further worker could take them.
`/demand?pools=a,b` is the same number as JSON. The seconds of a job are its forecast, made when it was accepted from
jobs like it that ended (`jobs.forecast`); jobs without one count as the mean of those that have one, and where none
has, as the default.
"""

import argparse
import json
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from api.metrics import Collector
from jobs.connection import QueueUnavailable
from jobs.outlook import remaining_seconds
from jobs.presence import live_workers
from jobs.records import Records
from jobs.schema import Job
from jobs.settings import Settings
from jobs.sweeps import Sweeps

MOST_JOBS = 2000
KEEP_SECONDS = 5.0
SERVICE = {
    "scheduler_leads": "1 while one of the schedulers holds the leadership.",
    "redis_used_bytes": "Memory that Redis uses.",
    "redis_max_bytes": "Memory that Redis may use; 0 when it has no limit.",
}
Demand = dict[str, dict[str, float]]


class Exporter:
    """Reads the records at most every few seconds, however often it is asked."""

    def __init__(self, records: Records, default_seconds: float) -> None:
        """Read these records."""
        self._records = records
        self._default = default_seconds
        self._lock = threading.Lock()
        self._read_at = -KEEP_SECONDS
        self._demand: Demand = {}

    def demand(self) -> Demand:
        """Facts by pool. Raises QueueUnavailable."""
        with self._lock:
            if time.monotonic() - self._read_at >= KEEP_SECONDS:
                self._demand = self._count()
                self._read_at = time.monotonic()
            return self._demand

    def metrics(self) -> bytes:
        """The Prometheus text format. Raises QueueUnavailable."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(Collector(self._records))
        names = {
            "demand_gpu_seconds": "Seconds one GPU needs for jobs that may start and what is left of those that run.",
            "queued_jobs": "Jobs that wait.",
            "held_jobs": "Jobs that wait and may not start, because of a cap of their tenant or batch.",
            "running_jobs": "Jobs that hold a lease.",
            "pool_workers": "Workers that spoke within their life and do not drain.",
            "oldest_queued_seconds": "Age of the job that waits longest.",
        }
        gauges = {name: Gauge(f"rf_{name}", text, ["pool"], registry=registry) for name, text in names.items()}
        for pool, facts in self.demand().items():
            for name, gauge in gauges.items():
                gauge.labels(pool).set(facts.get(name, 0.0))
        for name, value in self._service().items():
            Gauge(f"rf_{name}", SERVICE[name], registry=registry).set(value)
        return generate_latest(registry)

    def _service(self) -> dict[str, float]:
        """Whether a scheduler leads, and how full Redis is."""
        memory = self._records.redis.info("memory")
        leads = self._records.ask("EXISTS", f"{self._records.prefix}lock:leader")
        facts = {"scheduler_leads": leads, "redis_used_bytes": memory["used_memory"]}
        return facts | {"redis_max_bytes": memory.get("maxmemory", 0)}

    def _count(self) -> Demand:
        found: Demand = defaultdict(lambda: defaultdict(float))
        ask, prefix = self._records.ask, self._records.prefix
        startable = Sweeps(self._records).startable()
        for pool in ask("SMEMBERS", f"{prefix}pools"):
            key = f"{prefix}q:pos:{pool}"
            jobs = self._jobs(ask("ZRANGE", key, 0, MOST_JOBS - 1))
            waiting = int(ask("ZCARD", key))
            known, ms = (int(value or 0) for value in ask("HMGET", f"{prefix}q:work:{pool}", "jobs", "ms"))
            ready = min(waiting, startable.get(pool, 0))
            found[pool]["queued_jobs"] = waiting
            found[pool]["held_jobs"] = waiting - ready
            found[pool]["demand_gpu_seconds"] = ready * (ms / known / 1000 if known else self._default)
            found[pool]["oldest_queued_seconds"] = max(map(_age, jobs), default=0.0)
        for job in self._jobs(ask("ZRANGE", f"{prefix}leases", 0, MOST_JOBS - 1)):
            found[job.pool]["running_jobs"] += 1
            found[job.pool]["demand_gpu_seconds"] += self._left(job)
        for worker in live_workers(self._records):
            for pool in worker.pools:
                found[pool]["pool_workers"] += not worker.draining
        return {pool: dict(facts) for pool, facts in found.items()}

    def _left(self, job: Job) -> float:
        """Seconds until a running job ends; of one that nothing is known of, what is left of the default."""
        left = remaining_seconds(job)
        return max(0.0, self._default - _seconds_since(job.started_at)) if left is None else left

    def _jobs(self, ids: Iterable[str]) -> list[Job]:
        return [job for job in map(self._records.find, ids) if job is not None]


def _age(job: Job) -> float:
    return _seconds_since(job.queued_at or job.created_at)


def _seconds_since(moment: datetime | None) -> float:
    return (datetime.now(UTC) - moment).total_seconds() if moment is not None else 0.0


def handler(exporter: Exporter) -> type[BaseHTTPRequestHandler]:
    """The three paths of the server."""

    class Handler(BaseHTTPRequestHandler):
        """Answers GET only."""

        def do_GET(self) -> None:
            """Answer /metrics, /demand or /healthz/live."""
            url = urlsplit(self.path)
            try:
                self._answer(url.path, parse_qs(url.query))
            except QueueUnavailable:
                self._send(503, b"the records cannot be reached\n", "text/plain")

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: a scrape every few seconds is no news."""

        def _answer(self, path: str, query: dict[str, list[str]]) -> None:
            if path == "/metrics":
                return self._send(200, exporter.metrics(), "text/plain; version=0.0.4; charset=utf-8")
            if path == "/demand":
                wanted = query.get("pools", [""])[0].split(",")
                facts = exporter.demand()
                total = sum(facts.get(pool, {}).get("demand_gpu_seconds", 0.0) for pool in wanted)
                return self._send(200, json.dumps({"gpu_seconds": total}).encode(), "application/json")
            known = path == "/healthz/live"
            return self._send(200 if known else 404, b"ok\n" if known else b"not found\n", "text/plain")

        def _send(self, status: int, body: bytes, media_type: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description="Metrics of the installation.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9100)
    parser.add_argument("--default-seconds", type=float, default=60.0, help="of a job whose kind was never seen")
    options = parser.parse_args()
    exporter = Exporter(Records(Settings()), options.default_seconds)
    server = ThreadingHTTPServer((options.host, options.port), handler(exporter))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server.serve_forever()


if __name__ == "__main__":
    main()
