"""Settings of the API alone, from `REFILM_API_*`; everything else is in `jobs.settings`."""

import re
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

MIB = 1 << 20
CONFIGURED_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}:[0-9a-f]{64}(:(read|write|webhooks|admin)(\+\w+)*)?")


class ApiSettings(BaseSettings):
    """Who may call, and how much one request may hold."""

    model_config = SettingsConfigDict(env_prefix="REFILM_API_", frozen=True, extra="ignore")

    open: bool = False
    """Answer without a key, as tenant `local`: only for a server that listens on loopback."""
    keys: Annotated[tuple[str, ...], NoDecode] = ()
    """The first keys of an installation: `tenant:sha256-of-the-key`, comma-separated; `:read+write` after it limits
    what the key may do. The keys themselves are stored nowhere; `refilm keys` makes more."""
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Origins whose pages may call the API with a key, comma-separated: `https://app.example`."""
    openai_method: str = "tokenflow"
    """What edits videos that come by the OpenAI-compatible routes and name no model."""
    max_body_bytes: int = Field(default=2 * MIB, gt=0)
    max_batch_bytes: int = Field(default=32 * MIB, gt=0)
    batch_seconds: float = Field(default=2.0, ge=0)
    """How long a request creates a batch's jobs itself; the scheduler creates the rest."""
    max_wait_seconds: float = Field(default=60.0, gt=0)
    max_streams: int = Field(default=64, gt=0)
    """Event streams and held polls of one tenant on one process."""

    reads_per_minute: int | None = Field(default=None, ge=0)
    """Requests that only look, of one tenant; 0 = any number, left out 6,000, or any number on an open server."""
    writes_per_minute: int | None = Field(default=None, ge=0)
    """All other requests; left out 600, or any number on an open server."""

    def rate(self, bucket: str) -> int:
        """Requests allowed in a minute; 0 = any number."""
        chosen, usual = (self.reads_per_minute, 6000) if bucket == "reads" else (self.writes_per_minute, 600)
        return chosen if chosen is not None else 0 if self.open else usual

    @field_validator("keys", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(filter(None, value.split(","))) if isinstance(value, str) else value

    @field_validator("keys")
    @classmethod
    def _plain(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for number, entry in enumerate(value, start=1):
            if CONFIGURED_KEY.fullmatch(entry) is None:
                raise ValueError(f"entry {number} is not tenant:sha256 or tenant:sha256:scope+scope")
        return value
