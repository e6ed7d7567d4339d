"""HTTP to addresses that tenants name: every connection goes to an address that was resolved here and is allowed.

The name is resolved once, all its addresses are checked, and the connection is made to one of those, so a name that
changes in between leads nowhere else. TLS and the Host header keep the name. Redirects are the caller's to follow.
"""

import asyncio
import ssl
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx

from jobs.addresses import Address, Rule, UrlRefused, check, resolve

__all__ = ["Pinned", "UrlRefused", "client"]
CONNECT = (httpx.ConnectError, httpx.ConnectTimeout)
AGENT = "Refilm/1"


@cache
def trust() -> ssl.SSLContext:
    """The certificates that are trusted, read once."""
    return httpx.create_ssl_context(trust_env=False)


class Pinned(httpx.AsyncBaseTransport):
    """Connects to checked addresses only. Raises UrlRefused and Unresolved before anything is sent."""

    def __init__(self, rule: Rule, tls: ssl.SSLContext | None = None) -> None:
        self._rule = rule
        # a connection is never used twice: one address can serve many names
        limits = httpx.Limits(max_keepalive_connections=0)
        self._inner = httpx.AsyncHTTPTransport(verify=tls or trust(), trust_env=False, limits=limits)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request to the first of its host's addresses that answers."""
        url = check(request.url, self._rule)
        port = url.port or (443 if url.scheme == "https" else 80)
        addresses = await asyncio.get_running_loop().run_in_executor(None, resolve, url.host, port, self._rule)
        for address in addresses[:-1]:
            try:
                return await self._send(request, url, address)
            except CONNECT:
                continue
        return await self._send(request, url, addresses[-1])

    async def _send(self, request: httpx.Request, url: httpx.URL, address: Address) -> httpx.Response:
        pinned = httpx.Request(
            request.method,
            url.copy_with(host=str(address)),
            headers=request.headers,  # the Host among them
            stream=request.stream,
            extensions={**request.extensions, "sni_hostname": url.host},
        )
        return await self._inner.handle_async_request(pinned)

    async def aclose(self) -> None:
        """Close what is open."""
        await self._inner.aclose()


def client(rule: Rule, timeout_seconds: float, tls: ssl.SSLContext | None = None) -> httpx.AsyncClient:
    """A client that follows no redirect, asks no proxy, keeps no cookie."""
    return httpx.AsyncClient(
        transport=Pinned(rule, tls),
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        timeout=timeout_seconds,
        follow_redirects=False,
        trust_env=False,
        headers={"User-Agent": AGENT, "Accept-Encoding": "identity"},
    )
