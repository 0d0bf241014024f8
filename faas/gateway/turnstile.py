"""How many calls begin in one turn of the event loop, and whose: a flood may fill turns, but not make them long.

Theory of operation. When a hundred callers have their next request ready, a loop that serves whatever it finds makes
turns of half a hundred requests and as many answers, and everybody's call, also that of a neighbour who asks once in a
while, waits for two or three of them: to be read, to be answered, to have the answer read. So at most ``per_turn``
calls begin in a turn. The others wait here, read but not begun, by namespace, and namespaces take turns (deficit round
robin of Shreedhar and Varghese, SIGCOMM '95, with calls of equal size): who asks seldom is next. Between two turns the
loop looks at its sockets. While fewer ask than may begin, nobody waits; nor while all calls are one namespace's, which
has nobody to give way to and gets more done in long turns.

Contract. Each call that waits begins exactly once, those of a namespace in their order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

PER_TURN: Final = 4  # a turn of four calls and four answers takes a millisecond
MIXED_TURNS: Final = 1_000  # after the last change from one namespace to another: then one has the node to itself

Begin = Callable[[], None]


class Turnstile:
    """See the module's docstring. Ask ``free``; if it says no, ``wait``."""

    def __init__(self, per_turn: int = PER_TURN) -> None:
        self._per_turn = per_turn
        self._namespace = ""  # whose the last call was
        self._mixed = 0  # turns left in which several namespaces count as calling
        self._begun = 0  # in this turn
        self._armed = False
        self._waiting: dict[str, deque[Begin]] = {}  # by namespace; the first is next

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def free(self, namespace: str, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether a call of this namespace may begin now; if so, it is counted."""
        if namespace != self._namespace:
            self._mixed = MIXED_TURNS if self._namespace else 0
            self._namespace = namespace
        if not self._mixed:
            return True
        if self._begun >= self._per_turn or self._waiting:
            return False
        self._begun += 1
        if not self._armed:
            self._armed = True
            loop.call_soon(self._turn, loop)
        return True

    def wait(self, namespace: str, begin: Begin) -> None:
        """Have the call begun in a later turn; there is one, since something has filled this one."""
        assert self._armed
        self._waiting.setdefault(namespace, deque()).append(begin)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """The next turn: of those who wait, one call of each namespace after the other."""
        self._begun = 0
        self._mixed -= self._mixed > 0
        while self._waiting and (self._begun < self._per_turn or not self._mixed):
            self._begun += 1
            namespace, queue = next(iter(self._waiting.items()))
            begin = queue.popleft()
            del self._waiting[namespace]
            if queue:
                self._waiting[namespace] = queue  # behind the others
            begin()
        self._armed = self._begun > 0
        if self._armed:
            loop.call_soon(self._turn, loop)
