"""A web page out of a template that is read from its file for every request, on whilst's loop, with aiohttp.

    python template_server.py --port 8080

Open ``http://127.0.0.1:8080/?name=Ada`` or the like; edit ``templates/page.html`` beside this program, and the
next request shows it. End the server with Ctrl-C.

Web servers load templates, and who waits for a disk in a handler makes every other request wait. ``whilst.open`` makes only this
one wait: the ring reads the file, or a thread of the loop's where there is no ring.
"""

import argparse
import html
import string
from pathlib import Path

import whilst
from aiohttp import web

TEMPLATES = Path(__file__).parent / "templates"


async def page(request: web.Request) -> web.Response:
    """Answer with the template, filled in."""
    async with whilst.open(TEMPLATES / "page.html") as file:
        template = string.Template(await file.read())
    name = html.escape(request.query.get("name", "you"))
    return web.Response(text=template.safe_substitute(name=name), content_type="text/html")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A page out of a template, on whilst's loop.")
    parser.add_argument("--port", type=int, default=8080, help="0 takes any free port (default: %(default)s)")
    arguments = parser.parse_args()
    app = web.Application()
    app.router.add_get("/", page)
    web.run_app(app, host="127.0.0.1", port=arguments.port, loop=whilst.new_event_loop())
