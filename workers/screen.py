"""Files of tenants are decoded once in a limited process of their own, before they are decoded here.

What crashes a decoder, or never ends, does so there: the job gets a code and the worker goes on. What comes through is
decoded here under the same limits, with the same short lists of containers and protocols.
"""

from collections.abc import Mapping

from jobs.media import MediaRefused, limits_of, media_type_of, probe
from jobs.settings import Settings
from models.video import Limits
from workers.work import Fetched

SECONDS = 100.0
CPU_SECONDS = 90
REMEMBERED = 1000
_passed: dict[str, None] = {}
"""Digests that came through, in this process."""


def screen(inputs: Mapping[str, Fetched], settings: Settings) -> None:
    """Decode every frame of every input elsewhere, each content once. Raises MediaRefused."""
    bounds = limits_of(settings, cpu_seconds=CPU_SECONDS, decode="all")
    for given in inputs.values():
        if given.digest in _passed:
            continue
        _look(given)
        probe(given.path, bounds, seconds=SECONDS)
        _passed[given.digest] = None
        if len(_passed) > REMEMBERED:
            _passed.pop(next(iter(_passed)))


def _look(given: Fetched) -> None:
    """Refuse by the first bytes what no decoder needs to see."""
    try:
        media_type_of(given.path)
    except MediaRefused as refused:
        raise MediaRefused("input.not_video", refused.detail) from None


def limits(settings: Settings) -> Limits:
    """The installation's limits for what is decoded here."""
    return Limits(
        max_pixels=settings.max_pixels,
        max_duration_seconds=settings.max_duration_seconds,
        max_frames=settings.max_frames,
        max_bytes=settings.max_upload_bytes,
    )
