"""The studio page: its index, its hashed assets and the bundled sample. The same files for everyone, no key needed.

All addresses in the page are relative, so it works under any prefix of the origin's path.
"""

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Path as PathParameter
from fastapi import Request, Response
from fastapi.responses import FileResponse

from api import packed
from api.deps import Held
from api.errors import Problem
from api.routing import router
from jobs.settings import Settings

ROUTER = router("studio")
API = Path(__file__).parents[1]
DIST = API / "web" / "dist"
SAMPLES = {"sample.mp4": "video/mp4", "sample.json": "application/json"}
TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".webp": "image/webp"}
TEXTS = (".js", ".css", ".svg")
FOREVER = "public, max-age=31536000, immutable"
ANY_S3 = "https://*.amazonaws.com"
Name = Annotated[str, PathParameter(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]


def store_origin(settings: Settings) -> str:
    """Where downloads may be redirected to; empty when this API serves the bytes itself."""
    if not settings.store_url.startswith("s3://"):
        return ""
    url = urlsplit(settings.s3_public_endpoint_url or settings.s3_endpoint_url or ANY_S3)
    return f"{url.scheme}://{url.netloc}"


def policy(settings: Settings) -> str:
    """The page's Content-Security-Policy: its own files, this API, and the store that results may lie in."""
    connects = f"'self' {store_origin(settings)}".strip()
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self' blob:; "
        f"connect-src {connects}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


@ROUTER.get("/", include_in_schema=False)
def index(held: Held) -> FileResponse:
    """The page."""
    headers = {"Content-Security-Policy": policy(held.settings), "Cache-Control": "no-cache"}
    return FileResponse(DIST / "index.html", headers=headers, media_type="text/html")


@ROUTER.get("/studio/{name}", include_in_schema=False)
def asset(name: Name, request: Request) -> Response:
    """One of the page's files, by a name that changes with its content; or the sample, which may be revalidated."""
    if name in SAMPLES:
        return FileResponse(API / name, headers={"Cache-Control": "no-cache"}, media_type=SAMPLES[name])
    path = DIST / "studio" / name
    if path.suffix not in TYPES or not path.is_file():
        raise Problem("not_found")
    if path.suffix in TEXTS:
        return packed.answer(request, path.read_bytes(), TYPES[path.suffix], {"Cache-Control": FOREVER})
    return FileResponse(path, headers={"Cache-Control": FOREVER}, media_type=TYPES[path.suffix])
