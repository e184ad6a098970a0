"""A small Quart site: a page from a template file, and a form that is answered.

Run it from the folder above this one, by its own ``__main__`` (which calls hypercorn's ``serve`` under
``whilst.run``):

    python -m quart_site --port 8000

or by hypercorn's own command under the command ``whilst``, which needs no line of code for it:

    whilst -m hypercorn --bind 127.0.0.1:8000 quart_site:app
"""

import asyncio

from quart import Quart, render_template, request

app = Quart(__name__)


def loop_name() -> str:
    """The class of the loop that runs this request, for the foot of the page."""
    loop = type(asyncio.get_running_loop())
    return f"{loop.__module__}.{loop.__qualname__}"


@app.get("/")
async def index() -> str:
    """The page with the form."""
    return await render_template("index.html", key=None, loop=loop_name())


@app.post("/")
async def answer() -> str:
    """The page again, with what was sent.

    The brackets are the point: ``await request.form.get('key')`` would look for ``get`` on the coroutine,
    which has none.
    """
    key = (await request.form).get("key")
    return await render_template("index.html", key=key, loop=loop_name())
