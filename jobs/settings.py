"""Settings of the service, from `REFILM_*` environment variables. One object, passed on, never a global."""

import re
import socket
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

POOL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
GIB = 1 << 30


class Settings(BaseSettings):
    """Everything an operator can set. Durations are seconds, sizes are bytes."""

    model_config = SettingsConfigDict(env_prefix="REFILM_", frozen=True, extra="ignore")

    # where things are
    data_dir: Path = Field(default_factory=lambda: Path.home() / ".refilm")
    redis_url: str = "redis://127.0.0.1:6379/0"
    broker_url: str = ""
    """Broker of the doorbell; empty means the server of `redis_url`, next logical database."""
    redis_prefix: str = "rf:"
    store: str = ""
    """`file:///folder` or `s3://bucket/prefix`; empty means `store` inside the data folder."""
    s3_endpoint_url: str | None = None
    s3_public_endpoint_url: str | None = None
    s3_region: str = "us-east-1"
    s3_addressing_style: Literal["auto", "path", "virtual"] = "auto"
    s3_access_key_id: str | None = None
    s3_secret_access_key: SecretStr | None = None

    # what is run
    engine: str = "workers.engine:edit"
    """`module:function` that performs an edit inside the worker's child process."""
    checkpoint: str = "miniature"
    """Weights used when a request names no model: `miniature`, `org/name@revision`, a folder or `s3://…`."""
    allowed_models: tuple[str, ...] = ("miniature-softedge",)
    """What a request may name beside `checkpoint`: models, and networks in parameters (`control_net`)."""
    device: str = "auto"
    warm_backbones: int = Field(default=1, ge=1)

    # ownership of a job
    lease_seconds: float = Field(default=30.0, gt=0)
    max_attempts: int = Field(default=3, ge=1)
    stall_seconds: float = Field(default=120.0, gt=0)
    """A job that reports no step for this long (or ten times its usual step) gives up its lease."""
    load_seconds: float = Field(default=900.0, gt=0)
    """The same allowance while weights are read and before the first step."""
    cancel_grace_seconds: float = Field(default=20.0, gt=0)
    shutdown_grace_seconds: float = Field(default=30.0, gt=0)
    step_state_seconds: float = Field(default=60.0, gt=0)
    """How often the state of a running loop is kept in the store, so that a killed worker loses no more than this."""

    # whose turn it is
    tenant_jobs: int = Field(default=0, ge=0)
    """Jobs of one tenant that run at the same time; 0 = no limit. `jobs.caps` sets it for single tenants."""
    quota_jobs: int = Field(default=0, ge=0)
    """Jobs of one tenant that wait or run; more are refused. 0 = no limit. `jobs.quotas` sets it for single tenants."""
    quota_gpu_seconds: float = Field(default=0.0, ge=0)
    """Device seconds a day of one tenant; then jobs are refused until midnight UTC. 0 = no limit."""
    quota_bytes: int = Field(default=0, ge=0)
    """Bytes of one tenant's uploads and results; then uploads are refused. 0 = no limit."""
    look_ahead: int = Field(default=8, ge=1)
    """Among so many next jobs a worker may prefer one whose weights it holds."""
    most_passed: int = Field(default=4, ge=0)
    """A job is passed at most so many times for one whose weights are at hand."""

    routes: Annotated[tuple[str, ...], NoDecode] = ()
    """Which pool takes what, comma-separated, the first that fits: `method=pool`, or `model:name=pool`; `*` fits any
    part of a name. Jobs that no route fits wait in `default`, or where the workers are if none serves that."""

    # the worker
    pools: Annotated[tuple[str, ...], NoDecode] = ("default",)
    """Queues this worker serves; comma-separated in the environment."""
    worker_id: str = Field(default_factory=socket.gethostname)
    worker_max_jobs: int = Field(default=200, ge=1)
    worker_max_memory_bytes: int | None = None

    # the scheduler
    scheduler_interval_seconds: float = Field(default=1.0, gt=0)
    leader_ttl_seconds: float = Field(default=10.0, gt=0)
    ring_after_seconds: float = Field(default=60.0, gt=0)
    orphan_after_seconds: float = Field(default=60.0, gt=0)
    reconcile_seconds: float = Field(default=HOUR, gt=0)

    # lifetimes
    media_ttl_seconds: float = Field(default=7 * DAY, gt=0)
    record_ttl_seconds: float = Field(default=30 * DAY, gt=0)
    """Records outlive their media by this long."""
    events_ttl_seconds: float = Field(default=DAY, gt=0)
    """How long the events of an ended job can be resumed; later, a stream begins with its last state."""
    step_state_ttl_seconds: float = Field(default=3 * DAY, gt=0)
    """What is kept of unfinished stages is deleted at this age."""
    idempotency_ttl_seconds: float = Field(default=DAY, gt=0)

    upload_ttl_seconds: float = Field(default=6 * HOUR, gt=0, le=7 * DAY)
    """How long an announced file may be sent; S3 signs addresses for 7 days at most."""

    # limits on what comes in
    upload_part_bytes: int = Field(default=32 << 20, ge=5 << 20)
    """A larger file goes to S3 in parts of this size; 5 MiB is S3's least."""
    max_upload_bytes: int = Field(default=2 * GIB, gt=0)
    max_pixels: int = Field(default=4096 * 2304, gt=0)
    max_duration_seconds: float = Field(default=10 * MINUTE, gt=0)
    max_frames: int = Field(default=2048, gt=0)

    # calls to addresses that tenants name
    egress_loopback: bool = False
    """For development: also http, any port and this machine itself may be called."""
    fetch_ports: Annotated[tuple[int, ...], NoDecode] = (443,)
    fetch_timeout_seconds: float = Field(default=600.0, gt=0)
    """For one file, all redirects included; its size is bounded by `max_upload_bytes`."""
    webhook_ports: Annotated[tuple[int, ...], NoDecode] = (443, 8443)
    webhook_schedule: Annotated[tuple[float, ...], NoDecode] = (
        *(0.0, 5.0, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR),
    )
    """Seconds before each try to deliver, counted from the one before; then the delivery has failed."""
    webhook_timeout_seconds: float = Field(default=15.0, gt=0)
    webhook_ttl_seconds: float = Field(default=14 * DAY, gt=0)
    """How long deliveries are listed."""
    # what may be made
    policy: str = ""
    """`module:function` that judges prompts and pictures, see `jobs.policy`; empty is off."""
    policy_mode: Literal["enforce", "log"] = "enforce"
    policy_frames: int = Field(default=8, ge=1, le=64)
    """Pictures that are looked at of a clip."""
    # signed provenance
    provenance: Literal["off", "offered", "default", "required"] = "off"
    """Whether results are signed (C2PA): never, when a request asks for it, unless it asks for `none`, or always."""
    provenance_certificates: Path | None = None
    """PEM file of the worker's: the signer's certificate, then its issuers' without the root's."""
    provenance_key: Path | None = None
    """PEM file of the worker's with the signer's private key, without a password."""
    provenance_failure: Literal["fail", "warn"] = "fail"
    """What becomes of a job whose result cannot be signed: it fails, or it ends unsigned with a warning."""
    # the stage cache
    cache_memory_bytes: int = Field(default=1 * GIB, ge=0)
    cache_disk_bytes: int = Field(default=20 * GIB, ge=0)
    cache_store_bytes: int = Field(default=500 * GIB, ge=0)
    """Quota of the stage cache in the store; beyond it, what was not used for longest goes. 0 = none."""
    cache_tenant_bytes: int = Field(default=0, ge=0)
    """The same for each tenant's artifacts."""
    cache_kind_bytes: dict[str, int] = Field(default_factory=dict)
    """The same for a kind of artifact, as JSON: `{"invert": 100000000000}`."""
    cache_salt: SecretStr = SecretStr("")
    """Secret mixed with the tenant's name into every cache key, so that keys cannot be guessed across tenants."""

    log_level: str = "INFO"
    log_format: Literal["json", "console"] = "json"

    @field_validator("routes")
    @classmethod
    def _routes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for route in value:
            what, _, pool = route.partition("=")
            if not what or not POOL_NAME.fullmatch(pool):
                raise ValueError(f"a route is method=pool or model:name=pool, not {route!r}")
        return value

    @field_validator("pools", "routes", "fetch_ports", "webhook_ports", "webhook_schedule", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(filter(None, value.split(","))) if isinstance(value, str) else value

    def __hash__(self) -> int:
        """Hash by where it works: a setting may be a mapping, and a process keeps its networks by its settings."""
        return hash((self.data_dir, self.worker_id))

    @property
    def broker(self) -> str:
        """The broker's URL: its own logical database, because visibility timeouts are shared inside one."""
        if self.broker_url:
            return self.broker_url
        parts = urlsplit(self.redis_url)
        database = int(parts.path.strip("/") or "0")
        return urlunsplit(parts._replace(path=f"/{database + 1}"))

    @property
    def store_url(self) -> str:
        """The store's URL, with the default inside the data folder filled in."""
        return self.store or f"file://{(self.data_dir / 'store').resolve()}"
