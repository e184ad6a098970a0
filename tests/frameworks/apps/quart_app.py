"""The tests' Quart app, for hypercorn."""

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import inside
from quart import Quart, request, websocket

app = Quart(__name__)
app.config["MAX_CONTENT_LENGTH"] = None


@app.before_serving
async def start() -> None:
    inside.check_loop()


@app.after_serving
async def stop() -> None:
    print(inside.SHUTDOWN)


@app.get("/facts")
async def facts() -> dict[str, Any]:
    return inside.facts()


@app.get("/hello")
async def hello() -> dict[str, Any]:
    return {"number": request.args["number"], "client": list(request.scope["client"])}


@app.post("/upload")
async def upload() -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    async for piece in request.body:
        digest.update(piece)
        size += len(piece)
    return {"size": size, "sha256": digest.hexdigest()}


@app.get("/download")
async def download() -> Any:
    size = int(request.args["size"])

    async def pieces() -> AsyncIterator[bytes]:
        for piece in inside.download(size):
            yield piece

    return pieces(), {"Content-Length": str(size), "Content-Type": "application/octet-stream"}


@app.get("/blob")
async def blob() -> bytes:
    return b"".join(inside.download(int(request.args["size"])))


@app.get("/barrier")
async def barrier() -> dict[str, Any]:
    await inside.barrier(int(request.args["count"]))
    return {"number": request.args["number"]}


@app.post("/in-flight")
async def in_flight() -> Any:
    body = request.body

    async def pieces() -> AsyncIterator[bytes]:
        yield b"started\n"
        async for piece in body:
            yield piece

    return pieces()


@app.websocket("/echo")
async def echo() -> None:
    while True:
        await websocket.send(await websocket.receive())


@app.websocket("/bye")
async def bye() -> None:
    await websocket.accept()
    await websocket.close(4000, "bye")


if __name__ == "__main__":
    import whilst
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    config = Config()
    config.bind = [f"127.0.0.1:{inside.port()}"]
    if (file := inside.tls()) is not None:
        # With TLS hypercorn offers HTTP/2 by ALPN.
        config.certfile = config.keyfile = str(file)
    config.graceful_timeout = 20
    # hypercorn forgets a connection that its client has closed only when this time is over; the tests wait
    # for that.
    config.keep_alive_timeout = 1 if inside.tls() is None else 2
    whilst.run(serve(app, config))
