"""Which addresses the service may call for a tenant: public ones. Checked in the URL, and again when it is called.

A name is only known after it was resolved, so whoever connects resolves it, checks every address, and connects to one
of exactly those; see `workers.egress`.
"""

import ipaddress
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

import httpx

Address = IPv4Address | IPv6Address
MOST_LETTERS = 2048
NAT64 = ipaddress.ip_network("64:ff9b::/96")
PRIVATE_NAMES = ("localhost", "local", "internal", "intranet", "lan", "home", "corp", "onion", "invalid", "arpa")
NUMBER = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)", re.IGNORECASE)


class UrlRefused(ValueError):
    """The URL may not be called, and why."""


class Unresolved(OSError):
    """The name has no address now."""


def public(address: Address) -> bool:
    """True for an address on the internet; addresses that carry another one inside are judged by that too."""
    if address.is_multicast or not address.is_global or address.is_reserved:
        return False
    if isinstance(address, IPv4Address):
        return True
    teredo = address.teredo
    inside = [address.ipv4_mapped, address.sixtofour, teredo[1] if teredo else None]
    inside.append(IPv4Address(int(address) & 0xFFFFFFFF) if address in NAT64 else None)
    return all(public(carried) for carried in inside if carried is not None)


@dataclass(frozen=True)
class Rule:
    """What may be called: https on these ports, at addresses that are `admitted`; with `plain`, http on any port."""

    ports: tuple[int, ...] = (443,)
    admitted: Callable[[Address], bool] = public
    plain: bool = False


def rule(ports: tuple[int, ...], *, loopback: bool) -> Rule:
    """The rule of an installation. `loopback` is for development: also http, any port, and this machine itself."""
    if not loopback:
        return Rule(ports)
    return Rule(ports, lambda address: address.is_loopback or public(address), plain=True)


def check(url: str | httpx.URL, rule: Rule) -> httpx.URL:
    """Return the URL if nothing in it is forbidden; names are not resolved. Raises UrlRefused."""
    text = str(url)
    if len(text) > MOST_LETTERS or not text.isascii() or re.search(r"[\s\x00-\x1f\x7f\\]", text):
        raise UrlRefused(f"a URL has at most {MOST_LETTERS} ASCII characters, no spaces and no backslashes")
    try:
        found = httpx.URL(text)
        port = found.port or {"https": 443, "http": 80}.get(found.scheme)
    except (httpx.InvalidURL, ValueError):
        raise UrlRefused("this is not a URL") from None
    if found.scheme != "https" and not (rule.plain and found.scheme == "http"):
        raise UrlRefused("only https may be called")
    if found.userinfo or "@" in found.netloc.decode():
        raise UrlRefused("a URL with a user or a password may not be called")
    if port not in rule.ports and not rule.plain:
        raise UrlRefused(f"port {port} may not be called, only {', '.join(map(str, rule.ports))}")
    _check_host(found.host, rule)
    return found


def _check_host(host: str, rule: Rule) -> None:
    labels = host.rstrip(".").lower().split(".")
    literal = _literal(host)
    if literal is not None:
        if not rule.admitted(literal):
            raise UrlRefused("the address is not a public one")
    elif NUMBER.fullmatch(labels[-1]):  # what resolvers read as decimal, octal or hexadecimal addresses
        raise UrlRefused("write the address as four decimal numbers")
    elif not rule.plain and (len(labels) < 2 or not all(labels) or labels[-1] in PRIVATE_NAMES):
        raise UrlRefused("the name is not a public one")


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None


def resolve(host: str, port: int, rule: Rule) -> tuple[Address, ...]:
    """Return the addresses of a name, every one of them admitted. Blocks. Raises UrlRefused and Unresolved."""
    try:
        answers = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise Unresolved("the name has no address") from None
    found = tuple(dict.fromkeys(ipaddress.ip_address(str(answer[4][0]).partition("%")[0]) for answer in answers))
    if not all(map(rule.admitted, found)):
        raise UrlRefused("the name leads to an address that is not a public one")
    return found
