"""The shapes of webhook endpoints and deliveries: what is asked and what is answered."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from api.views import View
from jobs.deliveries import Delivery, DeliveryState, Try
from jobs.request import ENDINGS, EventName
from jobs.webhooks import Endpoint


class WebhookRequest(BaseModel):
    """Where to send, and what."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    url: str = Field(min_length=1, max_length=2048, examples=["https://hooks.example.com/refilm"])
    """An https address on the internet."""
    events: tuple[EventName, ...] = Field(default=ENDINGS, max_length=20)
    """What of all jobs and batches is sent; empty sends only what a job itself asks for with `webhook`."""
    description: str = Field(default="", max_length=200)


class EndpointView(View):
    """One endpoint."""

    id: str
    object: str = "webhook"
    url: str
    events: tuple[str, ...]
    description: str = ""
    created_at: datetime
    disabled: str | None = None
    """Why nothing is sent there any more."""
    urls: dict[str, str] = Field(default_factory=dict)


class MadeEndpointView(EndpointView):
    """An endpoint with its new secret."""

    secret: str
    """Signs what is sent. Shown now and never again."""


class EndpointList(View):
    """Every endpoint of the caller's."""

    data: tuple[EndpointView, ...]


class DeliveryView(View):
    """One message to one endpoint, with its last tries."""

    id: str
    """The `webhook-id` it is sent with."""
    object: str = "delivery"
    endpoint: str
    type: str
    state: DeliveryState
    tries: int = 0
    created_at: datetime | None = None
    next_at: datetime | None = None
    attempts: tuple[Try, ...] = ()
    body: str = ""
    urls: dict[str, str] = Field(default_factory=dict)


class DeliveryPage(View):
    """One page of deliveries, the newest first; `next_cursor` is null on the last one."""

    data: tuple[DeliveryView, ...]
    next_cursor: str | None = None


def endpoint_view(endpoint: Endpoint) -> EndpointView:
    """The endpoint without its secrets."""
    return EndpointView(**_fields(endpoint))


def made_view(endpoint: Endpoint, secret: str) -> MadeEndpointView:
    """The endpoint with the secret it was just given."""
    return MadeEndpointView(**_fields(endpoint), secret=secret)


def _fields(endpoint: Endpoint) -> dict[str, Any]:
    url = f"/v1/webhooks/{endpoint.id}"
    urls = {"self": url} | {name: f"{url}/{name}" for name in ("deliveries", "rotate", "enable")}
    return endpoint.model_dump(exclude={"secrets", "tenant"}) | {"urls": urls}


def delivery_view(delivery: Delivery) -> DeliveryView:
    """The delivery with its links."""
    url = f"/v1/webhooks/{delivery.endpoint}/deliveries/{delivery.id}/replay"
    return DeliveryView(**delivery.model_dump(), urls={"replay": url})
