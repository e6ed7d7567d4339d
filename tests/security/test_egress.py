"""S01 to S05: what a tenant's address can make the service call, with sockets that listen for what must not come."""

import asyncio
import gzip
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from jobs import addresses
from jobs.addresses import Rule, UrlRefused, resolve, rule
from jobs.deliveries import Deliveries, Try
from jobs.keys import USUAL
from jobs.records import Records
from jobs.settings import Settings
from jobs.store import open_store
from jobs.webhooks import Endpoints
from tests.receiver import Silent
from workers import egress
from workers.download import Bounds, DownloadFailed, download
from workers.outbox import Outbox

CLIP = (Path(__file__).parents[2] / "api" / "sample.mp4").read_bytes()
BOMB = gzip.compress(b"\0" * (8 << 20), 1)
BOUNDS = Bounds(max_bytes=1 << 20, max_seconds=5.0)
ATTACKS = [
    "https://127.0.0.1:{port}/",
    "http://127.0.0.1:{port}/",
    "https://169.254.169.254/latest/meta-data/",
    "https://[::1]:{port}/",
    "https://[::ffff:10.0.0.1]/",
    "https://[::ffff:7f00:1]/",
    "https://[64:ff9b::7f00:1]/",
    "https://0.0.0.0:{port}/",
    "https://2130706433:{port}/",
    "https://017700000001/",
    "https://0x7f000001/",
    "https://127.1/",
    "https://localhost:{port}/",
    "https://localhost./",
    "https://metadata.google.internal/",
    "https://redis/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:{port}/_x",
    "ftp://example.com/clip.mp4",
    "https://user:password@example.com/",
    "https://example.com@127.0.0.1:{port}/",
    "https://example.com:6379/",
    "https://example.com:22/",
    "https://exa\\mple.com/",
    "https://example.com/\r\nHost: x",
    "//127.0.0.1/",
    "127.0.0.1",
]
HERE = ipaddress.ip_address("127.0.0.1")


def only(address: str, *ports: int) -> Rule:
    """A rule for which this one address is the whole internet; http is allowed so that tests need no certificate."""
    return Rule(ports or (443,), lambda found: found == ipaddress.ip_address(address), plain=not ports)


@pytest.fixture
def silent() -> Iterator[Silent]:
    listener = Silent()
    yield listener
    listener.close()


@pytest.fixture
def trap() -> Iterator[Callable[[int], Silent]]:
    """A listener at another address of this machine, which stands for everything private."""
    made: list[Silent] = []

    def listen(port: int = 0) -> Silent:
        made.append(Silent("127.0.0.2", port))
        return made[-1]

    yield listen
    for listener in made:
        listener.close()


def test_s01_an_address_inside_is_refused_and_nothing_is_sent(http, silent, problem):
    clip = {"asset": "ast_" + "0" * 26}
    for attack in ATTACKS:
        url = attack.format(port=silent.port)
        body = {"method": "frame_by_frame", "input": {"video": {"url": url}}, "prompt": {"target": "x"}}
        refused = problem(http.post("/v1/edits", json=body), 422, "url_not_allowed")
        assert refused["errors"][0]["pointer"] == "#/input/video/url", url
        body["input"] = {"video": clip, "files": {"mask": {"url": url}}}
        assert http.post("/v1/edits", json=body).status_code == 422, url
    assert not silent.touched() and http.get("/v1/jobs").json()["data"] == []


@pytest.mark.parametrize("url", ATTACKS)
def test_s01_the_fetcher_does_not_call_it_either(silent, tmp_path, url):
    """Whoever gets past the API meets the same rule again."""
    with pytest.raises(DownloadFailed) as refused:
        address = url.format(port=silent.port)
        asyncio.run(download(address, tmp_path / "file", rule((443,), loopback=False), BOUNDS))
    assert refused.value.code in ("url_not_allowed", "input.fetch_failed")
    assert not silent.touched() and not (tmp_path / "file").exists()


def test_s01_a_public_address_is_accepted(http):
    body = {"method": "frame_by_frame", "input": {"video": {"url": "https://example.com/a.mp4"}}}
    answer = http.post("/v1/edits", json=body | {"prompt": {"target": "x"}})
    assert (answer.status_code, answer.json()["state"]) == (202, "accepted")


def certificate(name: str, folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's TLS with a certificate for this name."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    client = ssl.create_default_context(cafile=str(pem))
    return server, client


class Names:
    """A resolver of the test's own: each name's answers, one after the other, the last for ever."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **names: list[str]) -> None:
        self.asked: list[str] = []
        self._real = socket.getaddrinfo
        self._answers = {name.replace("_", "."): list(found) for name, found in names.items()}
        monkeypatch.setattr(addresses.socket, "getaddrinfo", self.answer)

    def answer(self, host: str, port: int, *more: Any, **named: Any) -> list[Any]:
        if host not in self._answers:
            return self._real(host, port, *more, **named)
        self.asked.append(host)
        given = self._answers[host]
        now = given.pop(0) if len(given) > 1 else given[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in now.split(",")]


def test_s02_a_name_that_changes_leads_nowhere_else(receive, trap, tmp_path, monkeypatch):
    """The name is public when it is checked and private when it is asked again: nobody asks again."""
    server_tls, client_tls = certificate("video.example", tmp_path)
    seen: list[str | None] = []
    server_tls.sni_callback = lambda _, name, __: seen.append(name)
    server = receive(lambda handler: send(handler, CLIP))
    server.server.socket = server_tls.wrap_socket(server.server.socket, server_side=True)
    inside = trap(server.port)
    names = Names(monkeypatch, video_example=["127.0.0.1", "127.0.0.2"])
    url = f"https://video.example:{server.port}/clip.mp4"
    got = asyncio.run(download(url, tmp_path / "file", only("127.0.0.1", server.port), BOUNDS, client_tls))
    assert (tmp_path / "file").read_bytes() == CLIP and got.size_bytes == len(CLIP)
    assert names.asked == ["video.example"] and seen == ["video.example"]
    assert server.seen[0][1]["host"] == f"video.example:{server.port}"
    with pytest.raises(DownloadFailed) as refused:  # and the second time it is private
        asyncio.run(download(url, tmp_path / "file", only("127.0.0.1", server.port), BOUNDS, client_tls))
    assert refused.value.code == "url_not_allowed" and not inside.touched()


def test_s02_a_certificate_of_another_name_is_refused(receive, tmp_path, monkeypatch):
    server_tls, client_tls = certificate("other.example", tmp_path)
    server = receive(200)
    server.server.socket = server_tls.wrap_socket(server.server.socket, server_side=True)
    Names(monkeypatch, video_example=["127.0.0.1"])
    url = f"https://video.example:{server.port}/clip.mp4"
    with pytest.raises(DownloadFailed) as failed:
        asyncio.run(download(url, tmp_path / "file", only("127.0.0.1", server.port), BOUNDS, client_tls))
    assert failed.value.code == "input.fetch_failed" and server.seen == []


@pytest.mark.parametrize("answers", ["127.0.0.1,10.0.0.1", "10.0.0.1", "::1", "169.254.169.254"])
def test_s02_one_private_address_of_a_name_refuses_it(monkeypatch, answers):
    Names(monkeypatch, mixed_example=[answers])
    with pytest.raises(UrlRefused):
        resolve("mixed.example", 443, only("127.0.0.1"))


def send(handler: BaseHTTPRequestHandler, content: bytes, **headers: str) -> None:
    handler.send_response(200)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    for name, value in ({"Content-Length": str(len(content))} | named).items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(content)


@pytest.mark.parametrize(
    "where", ["http://127.0.0.2:{port}/", "//127.0.0.2:{port}/", "gopher://127.0.0.1/", "http://0/"]
)
def test_s03_a_redirect_inside_is_refused(receive, trap, tmp_path, where):
    inside = trap()
    server = receive((302, {"Location": where.format(port=inside.port)}))
    with pytest.raises(DownloadFailed) as refused:
        asyncio.run(download(server.url, tmp_path / "file", only("127.0.0.1"), BOUNDS))
    assert refused.value.code == "url_not_allowed" and not inside.touched()


@pytest.mark.parametrize(("hops", "comes"), [(3, True), (4, False)])
def test_s03_three_redirects_are_followed(receive, tmp_path, hops, comes):
    answers = [(302, {"Location": f"/hop/{number}"}) for number in range(hops)]
    server = receive(*answers, lambda handler: send(handler, CLIP))
    fetching = download(server.url, tmp_path / "file", only("127.0.0.1"), BOUNDS)
    if comes:
        assert asyncio.run(fetching).size_bytes == len(CLIP)
        return
    with pytest.raises(DownloadFailed, match="3 redirects"):
        asyncio.run(fetching)
    assert len(server.seen) == 4


def drip_headers(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.flush_headers()
    drip(handler, b"X-Slow: y\r\n")


def drip_body(handler: BaseHTTPRequestHandler) -> None:
    send(handler, b"", Content_Length="1000000")
    drip(handler, CLIP[:1])


def drip(handler: BaseHTTPRequestHandler, piece: bytes) -> None:
    try:
        for _ in range(200):
            handler.wfile.write(piece)
            time.sleep(0.05)
    except OSError:
        return  # the other side has gone, as it should


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    try:
        for _ in range(1000):
            handler.wfile.write(CLIP[:64] + b"\0" * 65536)
    except OSError:
        return


def lying(handler: BaseHTTPRequestHandler) -> None:
    send(handler, CLIP, Content_Length=str(len(CLIP) * 2))
    handler.close_connection = True


def bomb(handler: BaseHTTPRequestHandler) -> None:
    send(handler, BOMB, Content_Encoding="gzip")


@pytest.mark.parametrize(
    ("attack", "told"),
    [
        (drip_headers, "more than 2 s"),
        (drip_body, "more than 2 s"),
        (endless, "bytes"),
        (lambda handler: send(handler, b"", Content_Length=str(1 << 40)), "bytes"),
        (lying, "connection failed"),
        (bomb, "compresses"),
    ],
    ids=["slow headers", "slow body", "endless body", "too long by its own word", "lying length", "gzip bomb"],
)
def test_s04_time_and_bytes_are_bounded(receive, tmp_path, attack, told):
    path = tmp_path / "file"
    with pytest.raises(DownloadFailed, match=told):
        asyncio.run(download(receive(attack).url, path, only("127.0.0.1"), Bounds(1 << 20, 2.0)))
    assert not path.exists() or path.stat().st_size <= 1 << 20


def test_s04_a_cookie_of_one_download_is_not_in_the_next(receive, tmp_path):
    server = receive((302, {"Location": "/next", "Set-Cookie": "id=1"}), lambda handler: send(handler, CLIP))
    asyncio.run(download(server.url, tmp_path / "file", only("127.0.0.1"), BOUNDS))
    assert all("cookie" not in headers for _, headers, _ in server.seen)


def test_s05_a_webhook_inside_is_refused_when_it_is_made(http, silent, problem):
    for attack in ATTACKS:
        body = {"url": attack.format(port=silent.port)}
        problem(http.post("/v1/webhooks", json=body), 422, "url_not_allowed")
    assert not silent.touched() and http.get("/v1/webhooks").json()["data"] == []


def test_s05_a_webhook_whose_name_is_private_is_refused_when_it_is_made(http, monkeypatch, problem):
    Names(monkeypatch, hooks_example=["10.0.0.1"])
    problem(http.post("/v1/webhooks", json={"url": "https://hooks.example/"}), 422, "url_not_allowed")


def test_s05_a_webhook_whose_name_changed_is_refused_when_it_is_sent(settings: Settings, trap, monkeypatch):
    records, inside = Records(settings), trap()
    endpoints, sent = Endpoints(records, open_store(settings)), Deliveries(records)
    Names(monkeypatch, hooks_example=["127.0.0.2"])
    endpoint, _ = endpoints.create("acme", f"http://hooks.example:{inside.port}/", events=(), description="")
    records.redis.xadd("rf:outbox", {"tenant": "acme", "type": "job.failed", "job": "job_x", "version": 1, "at": 1})
    sent.spread(sent.rows()[0], {endpoint.id: "{}"})
    [delivery] = [sent.find(message) for message in sent.take(1)]

    async def send_once() -> Try:
        outbox = Outbox(settings, records, open_store(settings), only=only("127.0.0.1"))
        async with egress.client(only("127.0.0.1"), 2.0) as client:
            tried, _ = await outbox._send(client, endpoint, delivery)
            return tried

    tried = asyncio.run(send_once())
    assert tried.status is None and "not a public one" in str(tried.error) and not inside.touched()
    records.redis.close()


def test_s05_the_usual_rule_is_the_strict_one(settings: Settings):
    assert settings.egress_loopback is False and rule((443,), loopback=False).plain is False
    with pytest.raises(UrlRefused):
        asyncio.run(egress.client(rule((443,), loopback=False), 2.0).get("https://127.0.0.1/"))
    assert "admin" not in USUAL and httpx.URL("https://[::ffff:7f00:1]").host == "::ffff:7f00:1"
