"""The floor: the least that uvicorn and Starlette can do with a request, an echo of its body.

Run as `python -m tests.bench.echo_server`; it prints `ready http://127.0.0.1:PORT`. One process, uvloop, httptools and
no logs, as the node's gateway runs.
"""

from __future__ import annotations

import socket

import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

PATH = "/v1/functions/{name}/invocations"


async def echo(request: Request) -> Response:
    return Response(await request.body(), media_type="application/json")


async def serve() -> None:
    app = Starlette(routes=[Route(PATH, echo, methods=["POST"])])
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    config = uvicorn.Config(app, loop="uvloop", http="httptools", log_level="warning", access_log=False, lifespan="off")
    print(f"ready http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    await uvicorn.Server(config).serve(sockets=[listener])


if __name__ == "__main__":
    uvloop.run(serve())
