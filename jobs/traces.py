"""OpenTelemetry traces: one from a request over its job and each attempt at it to the attempt's stages.

Off, and no SDK imported, unless the standard `OTEL_*` variables say where spans go; then the extra `otel` is needed.
The parent of a span is a `traceparent`, which a job's record and manifest carry (`jobs.origin`), so traces outlive
processes. Attributes are ids, names and numbers, never texts or files of anyone, and errors are told by their codes.
A collector that is away costs spans, never jobs.
"""

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Literal

import structlog

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as OtelSpan

Kind = Literal["internal", "server", "producer", "consumer"]
Fact = str | int | float | bool
END_SECONDS = 2.0
EXPORTERS = "opentelemetry_traces_exporter"
PROTOCOLS = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
log = structlog.get_logger(__name__)
_provider: "TracerProvider | None" = None


class Span:
    """A span that is under way; where traces are off, nothing."""

    def __init__(self, held: "OtelSpan | None") -> None:
        """Hold what the SDK began."""
        self._held = held

    @property
    def traceparent(self) -> str:
        """What makes another span a child of this one, also in another process; empty where traces are off."""
        context = self._held.get_span_context() if self._held is not None else None
        if context is None or not context.is_valid:
            return ""
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"

    def tell(self, **facts: Fact) -> None:
        """Add attributes."""
        if self._held is not None:
            self._held.set_attributes(_named(facts))

    def fail(self, code: str) -> None:
        """Mark it as failed by this code or kind of error."""
        if self._held is not None:
            from opentelemetry.trace import StatusCode

            self._held.set_attribute("error.type", code)
            self._held.set_status(StatusCode.ERROR)

    def end(self) -> None:
        """End it; a second time changes nothing."""
        if self._held is not None and self._held.is_recording():
            self._held.end()


def exporters(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Names of the exporters that the standard variables ask for, as packages announce them; none when they do not."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return ()
    sent = any(environment.get(f"OTEL_EXPORTER_OTLP_{part}ENDPOINT") for part in ("", "TRACES_"))
    named = environment.get("OTEL_TRACES_EXPORTER") or ("otlp" if sent else "none")
    protocols = (environment.get(f"OTEL_EXPORTER_OTLP_{part}PROTOCOL") for part in ("TRACES_", ""))
    protocol = next(filter(None, protocols), "http/protobuf")
    names = (name.strip() for name in named.split(","))
    return tuple(PROTOCOLS.get(protocol, protocol) if name == "otlp" else name for name in names if name != "none")


def begin(service: str) -> "TracerProvider | None":
    """Send this process' spans where the environment says, under this name unless it says another.

    None where traces are off. What is asked for and not installed is told in the log, and leaves them off.
    """
    wanted = exporters(os.environ)
    if _provider is None and wanted:
        try:
            use(_build(service, wanted))
        except (ImportError, LookupError) as error:
            log.warning("traces are off: install refilm[otel], or the exporter's own package", missing=str(error))
    return _provider


def use(provider: "TracerProvider | None") -> None:
    """Send spans through this provider, or none."""
    global _provider
    _provider = provider


def end() -> None:
    """Send what waits, and stop; a collector that does not answer holds nobody up."""
    provider = _provider
    use(None)
    if provider is not None:
        last = threading.Thread(target=provider.shutdown, name="last-spans", daemon=True)
        last.start()
        last.join(END_SECONDS)


def start(name: str, *, parent: str = "", kind: Kind = "internal", **facts: Fact) -> Span:
    """Begin a span below a `traceparent`, or a trace of its own without one."""
    if _provider is None:
        return Span(None)
    from opentelemetry.context import Context
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    above = TraceContextTextMapPropagator().extract({"traceparent": parent}, Context())
    tracer = _provider.get_tracer("refilm")
    return Span(tracer.start_span(name, above, SpanKind[kind.upper()], _named(facts)))


@contextmanager
def span(name: str, *, parent: str = "", kind: Kind = "internal", **facts: Fact) -> Iterator[Span]:
    """Surround a block with a span; an exception marks it by its type and passes."""
    begun = start(name, parent=parent, kind=kind, **facts)
    try:
        yield begun
    except BaseException as error:
        begun.fail(type(error).__name__)
        raise
    finally:
        begun.end()


def of_request() -> str:
    """The `traceparent` of the span that FastAPI began for this request. Its query is hidden: it may hold a token."""
    if _provider is None:
        return ""
    from opentelemetry.trace import get_current_span

    held = get_current_span()
    if "url.query" in (getattr(held, "attributes", None) or {}):
        held.set_attribute("url.query", "REDACTED")
    return Span(held).traceparent


def _named(facts: Mapping[str, Fact]) -> dict[str, Fact]:
    return {f"refilm.{name}": value for name, value in facts.items()}


def _build(service: str, wanted: tuple[str, ...]) -> "TracerProvider":
    """Raises ImportError and LookupError for what is not installed."""
    from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    given = OTELResourceDetector().detect()
    named = {} if SERVICE_NAME in given.attributes else {SERVICE_NAME: service}
    provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
    for name in wanted:
        known = tuple(entry_points(group=EXPORTERS, name=name))
        if not known:
            raise LookupError(f"no exporter {name!r}")
        provider.add_span_processor(BatchSpanProcessor(known[0].load()()))
    return provider
