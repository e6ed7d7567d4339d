"""Many HTTP clients on one event loop, lighter than a client library: what takes time is to be the server."""

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field

PATIENCE = 120


class Line:
    """One connection that is kept open."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def __aenter__(self) -> "Line":
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    async def ask(self, path: str, **headers: str) -> tuple[int, dict[str, str]]:
        """Send a request and read the head of its answer: the status and the headers, in lower case."""
        lines = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1", *(f"{name}: {text}" for name, text in headers.items())]
        self.writer.write("\r\n".join([*lines, "", ""]).encode())
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        fields = (line.partition(": ") for line in head[1:] if line)
        return int(head[0].split()[1]), {name.lower(): text for name, _, text in fields}

    async def get(self, path: str, **headers: str) -> tuple[int, dict[str, str]]:
        """The same, and its body read to the end."""
        status, told = await self.ask(path, **headers)
        await self.reader.readexactly(int(told.get("content-length", 0)))
        return status, told


@dataclass
class Crowd:
    """Pollers that come when the server says, with our client's jitter, and listeners that follow a job to its end."""

    port: int
    seen: Counter[int] = field(default_factory=Counter)
    spent: list[float] = field(default_factory=list)
    ended: int = 0

    async def poll(self, job_id: str, times: int, within: float) -> None:
        """Read a job so many times, conditionally, the first time at random `within` seconds."""
        pause, etag = random.uniform(0, within), ""
        async with asyncio.timeout(PATIENCE), Line(self.port) as line:
            for _ in range(times):
                await asyncio.sleep(pause)
                asked = time.monotonic()
                status, told = await line.get(f"/v1/jobs/{job_id}", **({"If-None-Match": etag} if etag else {}))
                self.spent.append(time.monotonic() - asked)
                self.seen[status] += 1
                etag = told["etag"]
                pause = float(told["retry-after"]) * random.uniform(0.8, 1.2)

    async def follow(self, job_id: str, within: float) -> None:
        """Follow a job's events to the end, from some time on."""
        await asyncio.sleep(random.uniform(0, within))
        async with Line(self.port) as line:
            status, _ = await line.ask(f"/v1/jobs/{job_id}/events")
            assert status == 200
            while b"event: end" not in await line.reader.readuntil(b"\n"):
                pass
            self.ended += 1
