"""A handler that does what its event says, for tests of several invocations at once in one instance."""

from __future__ import annotations

import json
from typing import Any

import pytest

from faas.wire import Result
from tests.contract.runtime_node import Peer

# One step after the other. Steps of several invocations are put in order with
# gates, which any of them may open.
SCRIPTED = """
    import asyncio, collections, contextvars, ctypes, logging, os, sys, threading, time
    import atexit; atexit.register(print, "bye")
    gates = collections.defaultdict(GATE)
    variable = contextvars.ContextVar("variable", default=None)
    background = []
    ASYNC def handler(event, context):
        done = []
        for kind, what in event:
            if kind == "wait": AWAIT gates[what].wait()
            elif kind == "open": gates[what].set()
            elif kind == "print": print(what)
            elif kind == "half": print(what, end="")
            elif kind == "error": print(what, file=sys.stderr)
            elif kind == "log": logging.warning(what)
            elif kind == "raw": os.write(1, what.encode() + b"\\n")
            elif kind == "burn":
                until = time.thread_time() + what / 1000
                while time.thread_time() < until: pass
            elif kind == "exit": sys.exit(what)
            elif kind == "raise": raise ValueError(what)
            elif kind == "set": variable.set(what)
            elif kind == "get": done.append(variable.get())
            elif kind == "thread":
                thread = threading.Thread(target=print, args=(what,))
                thread.start(); thread.join()
            elif kind == "fork":
                pid = getattr(ctypes.CDLL(None) if what == "c" else os, "fork")()
                if pid == 0: return "from the child"
                os.waitpid(pid, 0)
            elif kind == "id": done.append(context.aws_request_id)
            EXTRA
        return done
    """
FORMS = {
    "tasks": SCRIPTED.replace("ASYNC ", "async ")
    .replace("AWAIT", "await")
    .replace("GATE", "asyncio.Event")
    .replace(
        "EXTRA",
        """
            if kind == "task": await asyncio.gather(asyncio.to_thread(print, what + " thread"), task(what + " task"))
            elif kind == "later": background.append(asyncio.create_task(later(what)))
    """,
    )
    + """
    async def task(text): print(text)
    async def later(gate):
        await gates[gate].wait()
        print("later")
    """,
    "threads": SCRIPTED.replace("ASYNC ", "")
    .replace("AWAIT", "")
    .replace("GATE", "threading.Event")
    .replace("EXTRA", ""),
}
both = pytest.mark.parametrize("form", FORMS)


def start(peer: Peer, *steps: tuple[str, Any]) -> str:
    return peer.invoke(json.dumps(steps).encode(), "application/json")


def finish(peer: Peer, invocation_id: str) -> Any:
    frame = peer.end_of(invocation_id)
    assert isinstance(frame, Result), frame
    return json.loads(frame.payload)
