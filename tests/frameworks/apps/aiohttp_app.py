"""The tests' aiohttp server."""

import asyncio
import contextlib
import hashlib

import inside
import whilst
from aiohttp import WSMsgType, web

SHUTDOWN = web.AppKey("SHUTDOWN", asyncio.Event)

routes = web.RouteTableDef()


@routes.get("/facts")
async def facts(request: web.Request) -> web.Response:
    return web.json_response(inside.facts())


@routes.get("/hello")
async def hello(request: web.Request) -> web.Response:
    assert request.transport is not None
    client = request.transport.get_extra_info("peername")
    return web.json_response({"number": request.query["number"], "client": list(client)})


@routes.post("/upload")
async def upload(request: web.Request) -> web.Response:
    digest, size = hashlib.sha256(), 0
    try:
        async for piece in request.content.iter_any():
            digest.update(piece)
            size += len(piece)
    except ConnectionError:
        # This is how aiohttp tells a handler of a client that went away; what the handler lets through is
        # logged.
        return web.Response(status=400)
    return web.json_response({"size": size, "sha256": digest.hexdigest()})


@routes.post("/held-upload")
async def held_upload(request: web.Request) -> web.Response:
    await inside.Record.released.wait()
    inside.Record.released.clear()
    return await upload(request)


@routes.post("/release")
async def release(request: web.Request) -> web.Response:
    inside.Record.released.set()
    return web.Response(status=204)


@routes.get("/download")
async def download(request: web.Request) -> web.StreamResponse:
    size = int(request.query["size"])
    response = web.StreamResponse(headers={"Content-Length": str(size)})
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        for piece in inside.download(size):
            await response.write(piece)
        await response.write_eof()
    return response


@routes.get("/blob")
async def blob(request: web.Request) -> web.Response:
    return web.Response(body=b"".join(inside.download(int(request.query["size"]))))


@routes.get("/barrier")
async def barrier(request: web.Request) -> web.Response:
    await inside.barrier(int(request.query["count"]))
    return web.json_response({"number": request.query["number"]})


@routes.post("/in-flight")
async def in_flight(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"started\n" + await request.content.readexactly(5))
    # Once aiohttp shuts down it reads no more from any connection, so the signal to go on is the shutdown
    # itself.
    await request.app[SHUTDOWN].wait()
    await response.write(await request.content.read())
    await response.write_eof()
    return response


@routes.get("/echo")
async def echo(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(max_msg_size=0)
    await socket.prepare(request)
    with contextlib.suppress(ConnectionError):
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await socket.send_str(message.data)
            elif message.type is WSMsgType.BINARY:
                await socket.send_bytes(message.data)
    return socket


@routes.get("/bye")
async def bye(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    await socket.close(code=4000, message=b"bye")
    return socket


async def start(app: web.Application) -> None:
    inside.check_loop()
    app[SHUTDOWN] = asyncio.Event()


async def begin_stop(app: web.Application) -> None:
    app[SHUTDOWN].set()


async def stop(app: web.Application) -> None:
    print(inside.SHUTDOWN)


app = web.Application()
app.add_routes(routes)
app.on_startup.append(start)
app.on_shutdown.append(begin_stop)
app.on_cleanup.append(stop)
web.run_app(
    app,
    host="127.0.0.1",
    port=inside.port(),
    ssl_context=inside.tls_context(),
    loop=whilst.new_event_loop(),
    shutdown_timeout=20,
)
