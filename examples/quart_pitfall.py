"""The pitfall of the introduction to asyncio, in a Quart app: ``await request.form.get('key')`` awaits the wrong thing.

Run it under the command, which explains the failure in the server's log:

    whilst -m hypercorn --bind 127.0.0.1:8000 quart_pitfall:app
    curl --data key=value http://127.0.0.1:8000/
"""

from quart import Quart, request

app = Quart(__name__)


@app.post("/")
async def answer() -> str:
    """Fail: `request.form` is a coroutine, which has no `get`. The note on the exception says how it was meant."""
    key = await request.form.get('key')  # fmt: skip
    return f"You sent: {key}"


@app.post("/right")
async def right() -> str:
    """With brackets around what must be awaited first."""
    key = (await request.form).get('key')  # fmt: skip
    return f"You sent: {key}"
