"""The tests' FastAPI app, for uvicorn and for gunicorn's uvicorn worker."""

import asyncio
from typing import Annotated, Any

import inside
from fastapi import BackgroundTasks, FastAPI, Form, UploadFile, WebSocket
from pydantic import BaseModel

app = FastAPI()
done: list[str] = []


class Item(BaseModel):
    name: str
    price: float


@app.get("/facts")
async def facts() -> dict[str, Any]:
    return inside.facts()


@app.post("/items/{number}")
async def item(number: int, item: Item, background: BackgroundTasks) -> dict[str, Any]:
    background.add_task(done.append, item.name)
    return {"number": number, "total": item.price * number}


@app.get("/done")
def what_is_done() -> list[str]:
    """Not a coroutine: FastAPI runs it in a thread, by way of the loop's `call_soon_threadsafe`."""
    return done


@app.post("/form")
async def form(key: Annotated[str, Form()], file: UploadFile) -> dict[str, Any]:
    return {"key": key, "size": len(await file.read())}


@app.websocket("/socket")
async def socket(socket: WebSocket) -> None:
    await socket.accept()
    async for text in socket.iter_text():
        await asyncio.sleep(0)
        await socket.send_json({"text": text})
