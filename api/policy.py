"""Texts that the operator's policy forbids are refused when they are sent; see `jobs.policy`.

The worker asks again, so what cannot be decided here (the policy's own libraries are only there, or it failed) is left
to it: nothing forbidden is made, the caller hears of it later.
"""

from functools import cache

import structlog

from api.errors import Problem
from jobs.policy import Judge, Subject, load_judge, texts_of
from jobs.request import JobRequest
from jobs.settings import Settings

LOG = structlog.get_logger(__name__)


@cache
def judge(name: str) -> Judge | None:
    """The policy's function; None, and a line in the log, where it cannot be imported."""
    try:
        return load_judge(name)
    except (ImportError, AttributeError, ValueError) as error:
        LOG.warning("the content policy is asked by workers only", policy=name, error=str(error))
        return None


def check_policy(request: JobRequest, settings: Settings) -> None:
    """Refuse a request whose texts are forbidden. Raises `policy_input` with the policy's reason."""
    asked = judge(settings.policy) if settings.policy and settings.policy_mode == "enforce" else None
    texts = texts_of(request.engine_params())
    if asked is None or not texts:
        return
    try:
        verdict = asked(Subject("input.text", request.method, texts))
    except Exception as error:
        LOG.error("the content policy failed, its worker will decide", exc_info=error)
        return
    if not verdict.allowed:
        LOG.info("content policy", kind="input.text", allowed=False, reason=verdict.reason)
        entry = {"pointer": "#/prompt", "code": "policy_input", "message": verdict.reason}
        raise Problem("policy_input", verdict.reason, errors=[entry])
