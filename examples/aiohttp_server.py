"""An aiohttp server on whilst's loop: a page, and a WebSocket that echoes.

    python aiohttp_server.py --port 8080

``web.run_app`` makes its own loop unless it is given one, so the loop is the one line that changes. Ctrl-C
ends it.
"""

import argparse
import asyncio

import whilst
from aiohttp import WSMsgType, web

routes = web.RouteTableDef()


@routes.get("/")
async def index(request: web.Request) -> web.Response:
    """Say hello, and on which loop."""
    loop = type(asyncio.get_running_loop())
    name = request.query.get("name", "world")
    return web.json_response({"hello": name, "loop": f"{loop.__module__}.{loop.__qualname__}"})


@routes.get("/echo")
async def echo(request: web.Request) -> web.WebSocketResponse:
    """A WebSocket: every text message comes back in capitals."""
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await socket.send_str(message.data.upper())
    return socket


def make_app() -> web.Application:
    """The application, of which each server needs one of its own."""
    app = web.Application()
    app.add_routes(routes)
    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="An aiohttp server on whilst's loop.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    arguments = parser.parse_args()
    web.run_app(make_app(), host=arguments.host, port=arguments.port, loop=whilst.new_event_loop())
