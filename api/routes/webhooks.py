"""Webhook endpoints and what was sent to them."""

from typing import Annotated

from fastapi import Path, Query, Response

from api.deps import Held, Services, WebhookCaller
from api.errors import Problem
from api.routing import problems, router
from api.webhook_views import (
    DeliveryPage,
    DeliveryView,
    EndpointList,
    EndpointView,
    MadeEndpointView,
    WebhookRequest,
    delivery_view,
    endpoint_view,
    made_view,
)
from jobs import ids
from jobs.addresses import Unresolved, UrlRefused, check, resolve, rule
from jobs.deliveries import Deliveries
from jobs.webhooks import MOST_ENDPOINTS, Endpoint, Endpoints, TooMany

ROUTER = router("webhooks")
OVERLAP_SECONDS = 86400.0
EndpointId = Annotated[str, Path(description="Id of an endpoint.", examples=["whe_01k9v3x7q8f4d2m6n0c5b1a7gh"])]
DeliveryId = Annotated[str, Path(description="Id of a delivery.", examples=["msg_01k9v3x7q8f4d2m6n0c5b1a7gh"])]


def endpoints(held: Services) -> Endpoints:
    """The endpoints of all tenants."""
    return Endpoints(held.records, held.store)


def own(held: Services, tenant: str, endpoint_id: str) -> Endpoint:
    """The tenant's endpoint. Raises `not_found`."""
    found = endpoints(held).find(tenant, endpoint_id)
    if found is None:
        raise Problem("not_found")
    return found


def check_url(held: Services, url: str) -> None:
    """Refuse what leads to anything but the internet; looked up again whenever something is sent."""
    allowed = rule(held.settings.webhook_ports, loopback=held.settings.egress_loopback)
    try:
        parsed = check(url, allowed)
        resolve(parsed.host, parsed.port or 443, allowed)
    except (UrlRefused, Unresolved) as error:
        where = {"pointer": "#/url", "code": "url_not_allowed", "message": str(error)}
        raise Problem("url_not_allowed", str(error), errors=[where]) from None


@ROUTER.post("/v1/webhooks", status_code=201, response_model=MadeEndpointView, responses=problems(400, 413, 429))
def create(wanted: WebhookRequest, held: Held, tenant: WebhookCaller, response: Response) -> MadeEndpointView:
    """Make an endpoint. Its secret, for the signatures of Standard Webhooks, is in this answer and nowhere else."""
    check_url(held, wanted.url)
    try:
        made, secret = endpoints(held).create(tenant, wanted.url, events=wanted.events, description=wanted.description)
    except TooMany:
        raise Problem("quota_exceeded", f"a tenant has at most {MOST_ENDPOINTS} endpoints") from None
    response.headers["Location"] = f"/v1/webhooks/{made.id}"
    return made_view(made, secret)


@ROUTER.get("/v1/webhooks", response_model=EndpointList, responses=problems())
def list_all(held: Held, tenant: WebhookCaller) -> EndpointList:
    """The caller's endpoints, without their secrets."""
    return EndpointList(data=tuple(map(endpoint_view, endpoints(held).list(tenant))))


@ROUTER.get("/v1/webhooks/{endpoint_id}", response_model=EndpointView, responses=problems(404))
def get(endpoint_id: EndpointId, held: Held, tenant: WebhookCaller) -> EndpointView:
    """One endpoint, without its secret."""
    return endpoint_view(own(held, tenant, endpoint_id))


@ROUTER.delete("/v1/webhooks/{endpoint_id}", status_code=204, responses=problems(404))
def delete(endpoint_id: EndpointId, held: Held, tenant: WebhookCaller) -> None:
    """Forget an endpoint; what was still to be sent there is dropped."""
    endpoints(held).delete(own(held, tenant, endpoint_id))


@ROUTER.post("/v1/webhooks/{endpoint_id}/rotate", response_model=MadeEndpointView, responses=problems(404))
def rotate(endpoint_id: EndpointId, held: Held, tenant: WebhookCaller) -> MadeEndpointView:
    """Make another secret. For a day everything is signed with both, so that the receiver can change over."""
    made, secret = endpoints(held).rotate(own(held, tenant, endpoint_id), overlap_seconds=OVERLAP_SECONDS)
    return made_view(made, secret)


@ROUTER.post("/v1/webhooks/{endpoint_id}/enable", response_model=EndpointView, responses=problems(404))
def enable(endpoint_id: EndpointId, held: Held, tenant: WebhookCaller) -> EndpointView:
    """Send again to an endpoint that was disabled because it answered 410."""
    return endpoint_view(endpoints(held).enable(own(held, tenant, endpoint_id)))


@ROUTER.get("/v1/webhooks/{endpoint_id}/deliveries", response_model=DeliveryPage, responses=problems(400, 404))
def deliveries(
    endpoint_id: EndpointId,
    held: Held,
    tenant: WebhookCaller,
    cursor: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> DeliveryPage:
    """What was sent to an endpoint and how it went, the newest first."""
    own(held, tenant, endpoint_id)
    if cursor is not None and not ids.valid(cursor, ids.MESSAGE):
        raise Problem("bad_cursor")
    page = Deliveries(held.records).of_endpoint(endpoint_id, before=cursor, limit=limit)
    return DeliveryPage(data=tuple(map(delivery_view, page)), next_cursor=page[-1].id if len(page) == limit else None)


@ROUTER.post(
    "/v1/webhooks/{endpoint_id}/deliveries/{delivery_id}/replay",
    status_code=202,
    response_model=DeliveryView,
    responses=problems(404),
)
def replay(endpoint_id: EndpointId, delivery_id: DeliveryId, held: Held, tenant: WebhookCaller) -> DeliveryView:
    """Send a message again, with the same id and body and a fresh schedule."""
    own(held, tenant, endpoint_id)
    sent = Deliveries(held.records)
    found = sent.find(delivery_id) if ids.valid(delivery_id, ids.MESSAGE) else None
    if found is None or found.endpoint != endpoint_id or not sent.replay(delivery_id):
        raise Problem("not_found")
    return delivery_view(sent.find(delivery_id) or found)
