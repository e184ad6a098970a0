"""The command ``whilst top``: what the event loop of a running program does, in a terminal.

The program answers on its control socket, which it has if it was started with ``WHILST_CONTROL=1``. Here it is asked
(``client.py``), what it answers becomes a picture (``model.py``), a picture becomes lines of text (``view.py``), and those are
drawn by curses (``screen.py``) or printed. When it is asked, and for what, is ``session.py``'s and ``keys.py``'s.
Nothing here imports asyncio, or loads the loop.
"""

from whilst._top.command import main

__all__ = ["main"]
