"""uvicorn's worker for gunicorn, with whilst's loop: the class that a project would write."""

from uvicorn.workers import UvicornWorker


class WhilstWorker(UvicornWorker):
    CONFIG_KWARGS = {"loop": "whilst:new_event_loop", "http": "auto"}  # noqa: RUF012
