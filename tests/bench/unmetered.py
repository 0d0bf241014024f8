"""`faas up` with a journal and a ledger that take nothing: what the metered node is compared with, and no setting.

Everything else is as it was: the record of each call is made, since the answer's headers are read from it, and thrown
away. Run as ``python -m tests.bench.unmetered``.
"""

from __future__ import annotations

import asyncio
from typing import Any

from faas.cli.main import main
from faas.ports import Entry
from faas.stores import flusher


class NoFlusher:
    """In place of ``faas.stores.flusher.Flusher``."""

    pending = 0

    def __init__(self, *_: Any) -> None:
        self._end = asyncio.Event()

    def record(self, *entries: Entry) -> None:
        """Forget them."""

    async def run(self) -> None:
        await self._end.wait()

    async def close(self) -> None:
        self._end.set()


if __name__ == "__main__":
    vars(flusher)["Flusher"] = NoFlusher  # before `up` loads what puts the node together
    main()
