"""What the error codes mean: the `type` of every problem document leads here."""

from typing import Annotated

from fastapi import Path

from api.errors import DOCS, KINDS, Problem
from api.routing import problems, router
from api.views import View

ROUTER = router("errors")


class CodeView(View):
    """One error code."""

    code: str
    type: str
    title: str
    status: int
    """HTTP status of a request that is refused with it."""
    retryable: bool
    billed: bool
    """Whether compute time spent before it counts as used."""
    fixed_by: str
    """`caller`, `operator` or `nobody`."""
    hint: str | None = None


class CodeList(View):
    """Every error code."""

    data: tuple[CodeView, ...]


def describe(code: str) -> CodeView:
    """One code as an answer."""
    kind = KINDS[code]
    return CodeView(
        code=code,
        type=DOCS + code,
        title=kind.title,
        status=kind.status,
        retryable=kind.retryable,
        billed=kind.billed,
        fixed_by=kind.fixed_by or ("caller" if kind.status < 500 else "operator"),
        hint=kind.hint or None,
    )


@ROUTER.get("/v1/errors", response_model=CodeList)
def list_codes() -> CodeList:
    """Every code a problem document or `job.error` can carry."""
    return CodeList(data=tuple(describe(code) for code in sorted(KINDS)))


@ROUTER.get("/v1/errors/{code}", response_model=CodeView, responses=problems(404))
def get_code(code: Annotated[str, Path(examples=["queue_full"])]) -> CodeView:
    """One code."""
    if code not in KINDS:
        raise Problem("not_found", f"there is no code {code!r}")
    return describe(code)
