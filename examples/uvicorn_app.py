"""An ASGI app (Starlette) for uvicorn on whilst's loop. Run it in this folder:

    uvicorn --loop whilst:new_event_loop uvicorn_app:app

uvicorn calls what ``--loop MODULE:CALLABLE`` names to make its loop (from uvicorn 0.36 on; before, an
option with that form did not exist, or meant a function that sets a policy).
"""

import asyncio
import hashlib

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route


async def index(request: Request) -> Response:
    """Say hello, and on which loop."""
    loop = type(asyncio.get_running_loop())
    return JSONResponse({"hello": "world", "loop": f"{loop.__module__}.{loop.__qualname__}"})


async def sha256(request: Request) -> Response:
    """The checksum of what is sent, which is never in memory as a whole."""
    digest = hashlib.sha256()
    async for chunk in request.stream():
        digest.update(chunk)
    return PlainTextResponse(digest.hexdigest() + "\n")


app = Starlette(routes=[Route("/", index), Route("/sha256", sha256, methods=["POST"])])
