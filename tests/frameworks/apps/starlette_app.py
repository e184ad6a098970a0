"""The tests' Starlette app, for uvicorn."""

import contextlib
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import inside
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    inside.check_loop()
    yield
    print(inside.SHUTDOWN)


async def facts(request: Request) -> Response:
    return JSONResponse(inside.facts())


async def hello(request: Request) -> Response:
    assert request.client is not None
    return JSONResponse({"number": request.query_params["number"], "client": list(request.client)})


async def upload(request: Request) -> Response:
    digest, size = hashlib.sha256(), 0
    try:
        async for piece in request.stream():
            digest.update(piece)
            size += len(piece)
    except ClientDisconnect:
        return Response(status_code=400)
    return JSONResponse({"size": size, "sha256": digest.hexdigest()})


async def held_upload(request: Request) -> Response:
    await inside.Record.released.wait()
    inside.Record.released.clear()
    return await upload(request)


async def release(request: Request) -> Response:
    inside.Record.released.set()
    return Response(status_code=204)


async def download(request: Request) -> Response:
    size = int(request.query_params["size"])

    async def pieces() -> AsyncIterator[bytes]:
        for piece in inside.download(size):
            yield piece

    return StreamingResponse(
        pieces(), headers={"Content-Length": str(size)}, media_type="application/octet-stream"
    )


async def blob(request: Request) -> Response:
    return Response(b"".join(inside.download(int(request.query_params["size"]))))


async def barrier(request: Request) -> Response:
    await inside.barrier(int(request.query_params["count"]))
    return JSONResponse({"number": request.query_params["number"]})


async def never(request: Request) -> Response:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    return Response(status_code=400)


class InFlight:
    """Answers before the request is whole. An ASGI app and no endpoint, since Starlette's
    `StreamingResponse` reads the request itself while it sends, to see the client go away."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"started\n", "more_body": True})
        more = True
        while more:
            message: Any = await receive()
            if message["type"] == "http.disconnect":
                return
            more = message["more_body"]
            await send({"type": "http.response.body", "body": message["body"], "more_body": more})


async def echo(socket: WebSocket) -> None:
    await socket.accept()
    with contextlib.suppress(WebSocketDisconnect):
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                break
            if message.get("text") is not None:
                await socket.send_text(message["text"])
            else:
                await socket.send_bytes(message["bytes"])


async def bye(socket: WebSocket) -> None:
    await socket.accept()
    await socket.close(4000, "bye")


app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/facts", facts),
        Route("/hello", hello),
        Route("/upload", upload, methods=["POST"]),
        Route("/held-upload", held_upload, methods=["POST"]),
        Route("/release", release, methods=["POST"]),
        Route("/download", download),
        Route("/blob", blob),
        Route("/barrier", barrier),
        Route("/never", never),
        Route("/in-flight", InFlight(), methods=["POST"]),
        WebSocketRoute("/echo", echo),
        WebSocketRoute("/bye", bye),
    ],
)
