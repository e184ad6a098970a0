"""The tests' Tornado server. Tornado watches its sockets by the loop's `add_reader` and `add_writer`."""

import asyncio
import hashlib
import signal
import sys

import inside
import tornado.web
import tornado.websocket
import whilst
from serving import payload


class Facts(tornado.web.RequestHandler):
    def get(self) -> None:
        self.write(inside.facts())


@tornado.web.stream_request_body
class Upload(tornado.web.RequestHandler):
    def prepare(self) -> None:
        self.request.connection.set_max_body_size(1 << 30)
        self.digest, self.size = hashlib.sha256(), 0

    def data_received(self, chunk: bytes) -> None:
        self.digest.update(chunk)
        self.size += len(chunk)

    def post(self) -> None:
        self.write({"size": self.size, "sha256": self.digest.hexdigest()})


class Download(tornado.web.RequestHandler):
    async def get(self) -> None:
        for piece in payload(int(self.get_argument("size"))):
            self.write(piece)
            await self.flush()


class Echo(tornado.websocket.WebSocketHandler):
    async def on_message(self, message: str | bytes) -> None:
        await self.write_message(message, binary=isinstance(message, bytes))


async def main(port: int) -> None:
    inside.check_loop()
    app = tornado.web.Application(
        [("/facts", Facts), ("/upload", Upload), ("/download", Download), ("/echo", Echo)],
    )
    server = app.listen(port, "127.0.0.1")
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    server.stop()
    await server.close_all_connections()
    print(inside.SHUTDOWN)


whilst.run(main(int(sys.argv[1])))
