"""The shape of `GET /v1/usage`."""

from datetime import datetime

from api.views import View


class QuotaView(View):
    """Use and limit of one thing; `limit` is null when there is none."""

    used: float
    limit: float | None = None
    resets_at: datetime | None = None


class RateView(View):
    """Requests allowed in a minute; null when they are not counted."""

    reads_per_minute: int | None = None
    writes_per_minute: int | None = None


class UsageView(View):
    """The caller's use and limits."""

    tenant: str
    concurrent: QuotaView
    """Jobs that run; over the limit they wait, nothing is refused."""
    queued: QuotaView
    """Jobs that wait; the limit is on those that wait and run together."""
    gpu_seconds_today: QuotaView
    """Device seconds of jobs that ended since midnight UTC; a processor's seconds do not count."""
    bytes_stored: QuotaView
    """Uploads and results, counted at most a minute ago."""
    rate: RateView
