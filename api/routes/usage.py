"""What the caller uses, and what it may."""

from datetime import timedelta

from api.deps import Caller, Held
from api.routing import problems, router
from api.usage_views import QuotaView, RateView, UsageView
from jobs.quotas import use_of

ROUTER = router("operations")


@ROUTER.get("/v1/usage", response_model=UsageView, responses=problems())
def usage(held: Held, tenant: Caller) -> UsageView:
    """How much the caller has running, waiting, used today and stored, and the limits of it."""
    use = use_of(held.records, held.store, tenant)
    tomorrow = use.day + timedelta(days=1)
    return UsageView(
        tenant=tenant,
        concurrent=QuotaView(used=use.running, limit=use.running_cap or None),
        queued=QuotaView(used=use.queued, limit=use.jobs_limit or None),
        gpu_seconds_today=QuotaView(used=use.gpu_seconds, limit=use.gpu_seconds_limit or None, resets_at=tomorrow),
        bytes_stored=QuotaView(used=use.bytes, limit=use.bytes_limit or None),
        rate=RateView(
            reads_per_minute=held.api.rate("reads") or None, writes_per_minute=held.api.rate("writes") or None
        ),
    )
