"""A web server of a test's own on the loopback: it notes what comes and answers as it is told."""

import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[BaseHTTPRequestHandler], None]


class Receiver:
    """`answers` are used one after the other, the last one for ever: a status, headers with it, or a function."""

    def __init__(self, *answers: Any, host: str = "127.0.0.1") -> None:
        self.answers = list(answers) or [200]
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                if len(body) < length:  # the sender was killed: no web framework would call its handler for that
                    return
                receiver.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
                now = receiver.answers.pop(0) if len(receiver.answers) > 1 else receiver.answers[0]
                if callable(now):
                    now(self)
                    return
                status, headers = now if isinstance(now, tuple) else (now, {})
                self.send_response(status)
                for name, value in ({"Content-Length": "0"} | headers).items():
                    self.send_header(name, value)
                self.end_headers()

            do_GET = do_POST = answer

            def log_message(self, *_: object) -> None:
                return

        self.server = ThreadingHTTPServer((host, 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # who hangs up in the middle is what some tests are about
        self.port: int = self.server.server_port
        self.url = f"http://{host}:{self.port}/hook"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Silent:
    """A listening socket that must never hear anything: `touched()` says whether somebody connected."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.socket = socket.create_server((host, port))
        self.socket.settimeout(0.2)
        self.host, self.port = host, self.socket.getsockname()[1]

    def touched(self) -> bool:
        try:
            connection, _ = self.socket.accept()
        except TimeoutError:
            return False
        connection.close()
        return True

    def close(self) -> None:
        self.socket.close()
