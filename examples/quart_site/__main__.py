"""Serve the site with hypercorn on whilst's loop, from a program."""

import argparse

import whilst
from hypercorn.asyncio import serve
from hypercorn.config import Config

from . import app

parser = argparse.ArgumentParser(prog="python -m quart_site", description="A Quart site on whilst's loop.")
parser.add_argument("--host", default="127.0.0.1")
parser.add_argument("--port", type=int, default=8000)
arguments = parser.parse_args()

config = Config()
config.bind = [f"{arguments.host}:{arguments.port}"]
# hypercorn takes SIGINT (Ctrl-C) and SIGTERM itself: it stops listening and lets requests under way finish.
whilst.run(serve(app, config))
