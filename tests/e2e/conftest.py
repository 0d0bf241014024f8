"""One node per engine for all tests that only call it; tests that kill or restart nodes start their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.e2e.node import Node

ENGINES = ("docker", "process")


@pytest.fixture(scope="session", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def node(engine: str) -> Iterator[Node]:
    """Shared: leave it as you found it."""
    made = Node(engine)
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture
def make_node(engine: str) -> Iterator[Callable[..., Node]]:
    """Nodes for one test alone, started by the test; settings by name: ``make_node(queue_depth="5")``."""
    made: list[Node] = []

    def make(**settings: str) -> Node:
        made.append(Node(engine, **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()
