"""One node per engine for all tests that only call it; tests that kill or restart nodes start their own."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

import pytest

from tests.e2e.node import Node

ENGINES = ("docker", "process")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With a failed test, what the shared node said and how it stands."""
    report = yield
    node = getattr(item, "funcargs", {}).get("node")
    if report.failed and isinstance(node, Node):
        report.sections.append(("the node", f"{node.said()}\n{node.state()}"))
    return report


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
