"""Watching a program: when it is asked, what its answers become, and what is said where there are none. Without a terminal."""

import time
from typing import Any

from whilst._top.client import Client, Ended, Unreachable, is_alive
from whilst._top.keys import request
from whilst._top.model import Picture, Pictures
from whilst._top.text import harmless
from whilst._top.view import Choice

# The second answer, with which there are rates, is asked for early.
FIRST_INTERVAL = 0.25
# For how long an answer may be missing until that is said.
SILENCE = 2.0


class Session:
    """A program that is watched, and the last picture of it."""

    def __init__(self, client: Client, interval: float) -> None:
        """Asks for the first picture, and waits for it. Raises what :meth:`Client.ask` does."""
        self.client = client
        self.interval = interval
        self.choice = Choice()
        self.ended = False
        self._pictures = Pictures()
        self._asked: float | None = None
        self._next = time.monotonic() + min(interval, FIRST_INTERVAL)
        answer = client.ask(request(self.choice, None))
        picture = self._pictures.add(answer)
        if picture is None:
            # The socket is there from the first loop on, and loops are closed.
            raise Unreachable(f"process {client.pid} has no event loop of whilst at present")
        self.picture: Picture = picture

    @property
    def awaits_answer(self) -> bool:
        return self._asked is not None

    def timeout(self) -> float:
        """For how many seconds there is nothing to do, if neither an answer nor a key comes."""
        now = time.monotonic()
        if self._asked is not None:
            return max(0.1, min(self._asked + SILENCE - now, 1.0))
        if self.ended or self.choice.paused:
            return 1.0
        return max(0.0, self._next - now)

    def ask_now(self) -> None:
        """Something else is wanted: do not wait for the next turn."""
        self._next = time.monotonic()

    def turn(self) -> None:
        """Ask, if it is time; say how long the program has been silent, if it is."""
        now = time.monotonic()
        if self._asked is not None:
            if now - self._asked >= SILENCE:
                self.choice.trouble = (
                    f"the program has not answered for {now - self._asked:.0f} s; these are its last figures"
                )
        elif self.ended:
            self._say_ended()
        elif now >= self._next and not self.choice.paused:
            self._asked = now
            self._next = now + self.interval
            try:
                self.client.send(request(self.choice, self.picture))
            except Ended:
                self._end()

    def receive(self) -> bool:
        """Take the answer, if it is all there. Returns whether something has changed."""
        try:
            answer = self.client.receive()
        except Ended:
            self._end()
            return True
        if answer is None:
            return False
        self._asked = None
        self._take(answer)
        return True

    def _take(self, answer: dict[str, Any]) -> None:
        if "error" in answer:
            self.choice.trouble = harmless(f"the program refuses to answer: {answer['error']}"[:200])
            return
        picture = self._pictures.add(answer, self.choice.loop)
        if picture is None:
            self.choice.trouble = "the program runs no event loop any more; these are its last figures"
        elif not self.choice.paused:
            self.choice.trouble = ""
            self.picture = picture

    def _end(self) -> None:
        self.ended = True
        self._asked = None
        self._say_ended()

    def _say_ended(self) -> None:
        self.choice.trouble = (
            "the program has closed the connection; these are its last figures"
            if is_alive(self.client.pid)
            else "the program has ended; these are its last figures"
        )
