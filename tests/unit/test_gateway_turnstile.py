"""Whose call begins when more ask than a turn of the event loop takes."""

from __future__ import annotations

import asyncio

import pytest

from faas.gateway.turnstile import MIXED_TURNS, Turnstile

pytestmark = pytest.mark.anyio


class Gate:
    """Notes in which turn of the loop each call began. Unless ``alone``, another namespace has just called."""

    def __init__(self, per_turn: int, *, alone: bool = False) -> None:
        self.turnstile = Turnstile(per_turn)
        self.loop = asyncio.get_running_loop()
        self.begun: list[str] = []
        if not alone:
            assert self.turnstile.free("z", self.loop)

    @classmethod
    async def quiet(cls, per_turn: int) -> Gate:
        """When that call is over."""
        gate = cls(per_turn)
        await gate.turn()
        return gate

    def ask(self, call: str) -> None:
        if self.turnstile.free(call[0], self.loop):
            self.begun.append(call)
        else:
            self.turnstile.wait(call[0], lambda: self.begun.append(call))

    async def turn(self) -> list[str]:
        """What began until the loop has come round."""
        await asyncio.sleep(0)
        found, self.begun = self.begun, []
        return found


async def test_who_comes_alone_never_waits() -> None:
    gate = await Gate.quiet(2)
    for number in range(5):
        gate.ask(f"a{number}")
        assert await gate.turn() == [f"a{number}"]
    assert len(gate.turnstile) == 0


async def test_a_turn_takes_so_many_and_the_rest_in_order() -> None:
    gate = await Gate.quiet(3)
    for number in range(8):
        gate.ask(f"a{number}")
    assert len(gate.turnstile) == 5
    assert [await gate.turn() for _ in range(4)] == [["a0", "a1", "a2", "a3", "a4", "a5"], ["a6", "a7"], [], []]


async def test_a_namespace_that_asks_seldom_is_next() -> None:
    gate = await Gate.quiet(2)
    for number in range(20):
        gate.ask(f"a{number}")
    assert await gate.turn() == ["a0", "a1", "a2", "a3"]
    gate.ask("b0")
    gate.ask("b1")
    assert await gate.turn() == ["a4", "b0"]
    assert await gate.turn() == ["a5", "b1"]
    assert await gate.turn() == ["a6", "a7"]


async def test_nobody_overtakes_those_who_wait() -> None:
    gate = await Gate.quiet(1)
    gate.ask("a0")
    gate.ask("a1")
    gate.ask("a2")
    assert await gate.turn() == ["a0", "a1"]
    gate.ask("a3")
    assert await gate.turn() == ["a2"]
    assert await gate.turn() == ["a3"]


async def test_a_namespace_that_has_the_node_to_itself_never_waits() -> None:
    gate = Gate(2, alone=True)
    for number in range(20):
        gate.ask(f"a{number}")
    assert len(await gate.turn()) == 20
    gate.ask("b0")
    for number in range(20):
        gate.ask(f"a{number}")
    assert len(gate.turnstile) == 19
    for _ in range(MIXED_TURNS + 1):
        gate.ask("a-steady")
        await gate.turn()
    await gate.turn()
    gate.begun.clear()
    for number in range(20):
        gate.ask(f"a{number}")
    assert len(gate.begun) == 20
