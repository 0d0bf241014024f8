"""A function that runs whatever code it is sent, a neighbour beside it, and the check that neither node nor neighbour
took harm."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from typing import Any

import httpx2

from tests.e2e.node import Node, code

PROBE = """
def handler(event, context):
    scope = {"context": context}
    exec(event, scope)
    return scope.get("answer")
"""
NEIGHBOUR = """
import os, tempfile
calls = 0

def handler(event, context):
    global calls
    calls += 1
    with tempfile.TemporaryFile() as file:
        file.write(bytes(1_000_000))
    return [os.getpid(), calls]
"""


@dataclass(frozen=True)
class Attack:
    """Code, and what its call must be answered with. ``why`` is matched against the exit, or the error type."""

    name: str
    code: str
    status: int = 200
    why: str = ""
    record: str = "ok"
    answer: Any = None


def ok(name: str, source: str, answer: Any = None) -> Attack:
    return Attack(name, textwrap.dedent(source), answer=answer)


def fails(name: str, source: str, error_type: str) -> Attack:
    return Attack(name, textwrap.dedent(source), 500, error_type, "function_error")


def crashes(name: str, source: str, why: str = ".+") -> Attack:
    return Attack(name, textwrap.dedent(source), 502, why, "oom" if why == "oom" else "crashed")


def times_out(name: str, source: str) -> Attack:
    return Attack(name, textwrap.dedent(source), 504, "", "timeout")


CODES = {500: "function-error", 502: "instance-crashed", 504: "timeout"}


class Range:
    """Where attacks are tried: a probe with time, one with a second of it, and a neighbour, on one node."""

    def __init__(self, node: Node, prefix: str, **settings: Any) -> None:
        self.node = node
        self.probe, self.hasty, self.neighbour = (f"{prefix}-{kind}" for kind in ("probe", "hasty", "neighbour"))
        node.deploy(self.probe, PROBE, timeout="30s", **settings)
        node.deploy(self.hasty, PROBE, timeout="1s", **settings)
        node.deploy(self.neighbour, NEIGHBOUR)
        self._seen = self._look()

    def close(self) -> None:
        for name in (self.probe, self.hasty, self.neighbour):
            self.node.delete(name)

    def run(self, source: str, name: str = "") -> httpx2.Response:
        return self.node.call(name or self.probe, textwrap.dedent(source))

    def value(self, source: str, name: str = "") -> Any:
        response = self.run(source, name)
        assert response.status_code == 200, response.text
        return response.json()

    def unharmed(self, name: str = "") -> None:
        """The probe's next call works, the neighbour's instance is the one it was, the node is well."""
        assert self.value("answer = 'next'", name) == "next"
        pid, calls = self._look()
        assert (pid, calls) == (self._seen[0], self._seen[1] + 1), "the neighbour's instance was replaced"
        self._seen = (pid, calls)
        self.node.healthy()

    def _look(self) -> tuple[int, int]:
        response = self.node.call(self.neighbour)
        assert response.status_code == 200, response.text
        pid, calls = response.json()
        return int(pid), int(calls)

    def attempt(self, attack: Attack) -> httpx2.Response:
        """Run it; check the answer, the record and that nothing else was hit."""
        name = self.hasty if attack.status == 504 else self.probe
        response = self.run(attack.code, name)
        if attack.status == 200:
            assert response.status_code == 200, response.text
            assert attack.answer is None or response.json() == attack.answer, response.text
        else:
            assert code(response) == (attack.status, CODES[attack.status]), response.text
            told = response.json()
            if attack.why:
                found = told["exit"] if attack.status == 502 else told["error_type"]
                assert re.fullmatch(attack.why, found), response.text
        self.unharmed(name)
        self.run("import os; os._exit(0)", name)  # what it did to its own instance is not the next attack's affair
        record = self.node.record(response)
        assert record["status"] == attack.record, record
        assert record["billed_ms"] == int(response.headers["faas-billed-ms"]) >= 1
        if attack.status == 502:
            assert record["exit"] == response.json()["exit"]
        return response
