"""`python -m api.serve [--host H] [--port N] [--fd N]`: one API process; `--fd` takes over a listening socket."""

import argparse
import asyncio
import socket

import uvicorn
from fastapi import FastAPI

from api.app import create_app
from jobs.log import configure
from jobs.settings import Settings

GRACE_SECONDS = 4
KEEP_ALIVE_SECONDS = 75
"""How long an idle connection is kept: longer than clients and load balancers keep theirs (often 60 s), because a
server that closes first may cut a request that was just sent; 5 s, the default, is how long our client keeps them too.
"""


class Server(uvicorn.Server):
    """Ends held polls and event streams first, so that a stop does not wait for them."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell the waiters, then stop as usual."""
        self._app.state.services.watch.close()
        await super().shutdown(sockets)


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m api.serve", description="One API process.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--fd", type=int, default=None, help="listening socket to take over")
    options = parser.parse_args()
    settings = Settings()
    configure(settings)
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=options.host,
        port=options.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )
    taken = [socket.socket(fileno=options.fd)] if options.fd is not None else None
    asyncio.run(Server(config, app).serve(sockets=taken))


if __name__ == "__main__":
    main()
