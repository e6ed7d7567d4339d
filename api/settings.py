"""Settings of the API alone, from `REFILM_API_*`; everything else is in `jobs.settings`."""

from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

MIB = 1 << 20


class ApiSettings(BaseSettings):
    """Who may call, and how much one request may hold."""

    model_config = SettingsConfigDict(env_prefix="REFILM_API_", frozen=True, extra="ignore")

    open: bool = False
    """Answer without a key, as tenant `local`: only for a server that listens on loopback."""
    keys: Annotated[tuple[str, ...], NoDecode] = ()
    """`tenant:sha256-of-the-key`, comma-separated; the keys themselves are never stored."""
    max_body_bytes: int = Field(default=2 * MIB, gt=0)
    max_wait_seconds: float = Field(default=60.0, gt=0)
    max_streams: int = Field(default=64, gt=0)
    """Event streams and held polls of one tenant on one process."""

    @field_validator("keys", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(filter(None, value.split(","))) if isinstance(value, str) else value
