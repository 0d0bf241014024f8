"""Queues wake functions, on a real node: what arrives, what comes again, what is given up, what survives kills."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.node import Node
from tests.e2e.processes import wait_until
from tests.e2e.test_contract_life import sandboxes

# Says what it got. "bad" is named as failed, "poison" raises, "kill" ends the process, "slow" sleeps at first.
EATER = """
import json, os, time

def handler(event, context):
    attempt = int(event["Records"][0]["attributes"]["ApproximateReceiveCount"])
    bodies = [record["body"] for record in event["Records"]]
    print(json.dumps({"bodies": bodies, "attempt": attempt, "trigger": context.trigger, "first": event["Records"][0]}))
    if "poison" in bodies:
        raise ValueError("I cannot eat this")
    if "kill" in bodies:
        os._exit(3)
    if "slow" in bodies and attempt == 1:
        time.sleep(30)
    failed = [record["messageId"] for record in event["Records"] if record["body"] == "bad"]
    return {"batchItemFailures": [{"itemIdentifier": each} for each in failed]}
"""


ENDS = ("acked", "dead", "dropped")


class Eater:
    """A function and the queue it eats from, both of the name ``name``."""

    def __init__(self, node: Node, name: str) -> None:
        self.node, self.name = node, name

    def deploy(self, *, attempts: int = 3, queue: dict[str, Any] | None = None, **settings: Any) -> None:
        trigger = {"name": self.name, **(queue or {})}
        self.node.deploy(self.name, EATER, queue=[trigger], retry={"attempts": attempts}, **settings)

    def send(self, *bodies: Any, **more: Any) -> None:
        messages = [{"body": body, **more} for body in bodies]
        response = self.node.client.post(f"/v1/queues/{self.name}/messages", json=messages)
        assert response.status_code == 201, response.text

    def state(self) -> dict[str, Any]:
        found = self.node.get(f"/v1/queues/{self.name}")
        assert isinstance(found, dict)
        return found

    def counts(self, **wanted: int) -> None:
        """Wait until this became of the messages, and none is left."""

        def so() -> bool:
            state = self.state()
            ended = sum(state["counts"][name] for name in ENDS)
            return bool(state["depth"] == 0 and ended == state["counts"]["sent"])

        wait_until(so, f"{self.name} is empty", 30)
        counts = self.state()["counts"]
        assert {name: counts[name] for name in wanted} == wanted

    def meals(self, at_least: int) -> list[dict[str, Any]]:
        """What the handler said, once it said so much."""
        found: list[dict[str, Any]] = []

        def there() -> bool:
            lines = self.node.get(f"/v1/functions/{self.name}/logs")["lines"]
            found[:] = [json.loads(line["text"]) for line in lines if line["text"].startswith("{")]
            return len(found) >= at_least

        wait_until(there, f"{self.name} said {at_least} lines", 30)
        return found

    def pause(self, enabled: bool) -> None:
        response = self.node.client.patch(f"/v1/triggers/{self.name}.{self.name}", json={"enabled": enabled})
        assert response.status_code == 200, response.text

    def dead(self) -> list[dict[str, Any]]:
        found = self.node.get(f"/v1/queues/{self.name}/dead")["messages"]
        assert isinstance(found, list)
        return found

    def remove(self) -> None:
        self.node.delete(self.name)
        assert self.node.client.delete(f"/v1/queues/{self.name}").status_code in (200, 204)


@pytest.fixture
def eater(node: Node, request: pytest.FixtureRequest) -> Iterator[Eater]:
    made = Eater(node, f"eat-{request.node.originalname.removeprefix('test_')[:30].replace('_', '-').rstrip('-')}")
    yield made
    made.remove()


def test_messages_come_in_batches_as_sqs_delivers_them(eater: Eater) -> None:
    eater.send(*(f"m{n}" for n in range(7)), {"n": 7}, attributes={"kind": "test"})
    eater.deploy(queue={"batch": 4, "max_concurrency": 2})
    eater.counts(sent=8, acked=8, retried=0, dead=0)
    meals = eater.meals(2)
    assert [len(meal["bodies"]) for meal in meals] == [4, 4]
    *texts, document = sorted(body for meal in meals for body in meal["bodies"])
    assert texts == [f"m{n}" for n in range(7)]
    assert json.loads(document) == {"n": 7}
    first = meals[0]["first"]
    assert meals[0]["trigger"] == "queue"
    assert first["eventSourceARN"] == f"arn:faas:default:queue:{eater.name}"
    assert first["messageAttributes"] == {"kind": {"stringValue": "test", "dataType": "String"}}
    wait_until(
        lambda: (
            [each["trigger"] for each in eater.node.get(f"/v1/functions/{eater.name}/invocations")["invocations"]]
            == ["queue", "queue"]
        ),
        "both calls are on record",
    )
    assert eater.node.metric("faas_messages_total", queue=eater.name, outcome="acked") == 8
    assert eater.node.metric("faas_queue_depth", queue=eater.name, namespace="default") == 0


def test_only_what_the_handler_names_comes_again(eater: Eater) -> None:
    eater.send("a", "bad", "b")
    eater.deploy(attempts=2)
    eater.counts(acked=2, retried=1, dead=1)
    assert [(meal["bodies"], meal["attempt"]) for meal in eater.meals(2)] == [(["a", "bad", "b"], 1), (["bad"], 2)]
    (letter,) = eater.dead()
    assert (letter["body"], letter["attempts"]) == ("bad", 2)
    assert "batchItemFailures" in letter["reason"]


def test_poison_ends_in_the_dead_letters_and_takes_nobody_with_it(eater: Eater) -> None:
    eater.send("a", "poison", "b", "c", group="one")
    eater.send("d", "kill", "e")
    eater.deploy(attempts=2)
    eater.counts(sent=7, acked=5, dead=2)
    letters = {letter["body"]: letter for letter in eater.dead()}
    assert {body: letter["attempts"] for body, letter in letters.items()} == {"poison": 2, "kill": 2}
    assert "I cannot eat this" in letters["poison"]["reason"]
    assert "instance-crashed" in letters["kill"]["reason"]
    assert eater.node.metric("faas_queue_dead_letters", queue=eater.name) == 2


def test_a_paused_trigger_takes_nothing_until_it_is_resumed(eater: Eater) -> None:
    eater.deploy()
    eater.send("a")
    eater.counts(acked=1)
    eater.pause(enabled=False)
    wait_until(lambda: not eater.state()["consumers"][0]["enabled"], "it is paused")
    eater.send("b", "c")
    eater.deploy(env={"VERSION": "2"})
    assert eater.state()["ready"] == 2
    eater.pause(enabled=True)
    eater.counts(acked=3)


def test_a_filter_wakes_the_function_only_for_what_it_wants(eater: Eater) -> None:
    eater.send({"kind": "order", "total": 5}, {"kind": "order", "total": 500}, "junk")
    eater.deploy(queue={"filter": {"body": {"kind": ["order"], "total": [{"numeric": [">", 100]}]}}})
    eater.counts(acked=1, dropped=2)
    assert [[json.loads(body)["total"] for body in meal["bodies"]] for meal in eater.meals(1)] == [[500]]


def test_an_idle_trigger_keeps_its_function_at_zero_and_a_message_wakes_it(eater: Eater) -> None:
    eater.deploy(keep_alive="0s")
    wait_until(lambda: not sandboxes(eater.node, eater.name), "nothing of it is left", 30)
    eater.send("a")
    eater.counts(acked=1)
    wait_until(lambda: not sandboxes(eater.node, eater.name), "nothing of it is left again", 30)


def test_what_a_killed_node_or_store_had_in_its_hands_comes_again() -> None:
    """A node is killed with a batch in its hands, then the store under the next one."""
    node = Node("process")
    try:
        node.start()
        eater = Eater(node, "killed")
        eater.deploy(timeout="3s", queue={"batch": 2, "lease": "3s"})
        eater.send("slow", "a", "b", "c")
        eater.meals(2)
        wait_until(lambda: eater.state()["counts"]["acked"] == 2, "the other batch is done")
        node.kill()
        node.start()
        eater.counts(sent=4, acked=4, dead=0, retried=0, expired=2)
        assert sorted(body for meal in eater.meals(3) for body in meal["bodies"] if meal["attempt"] > 1) == [
            "a",
            "slow",
        ]
        node.valkey().kill()
        eater_sends_again(eater)
        eater.counts(sent=5, acked=5, dead=0)
    finally:
        node.close()


def eater_sends_again(eater: Eater) -> None:
    """As a sender does whom the store's absence was told."""

    def sent() -> bool:
        message = {"body": "later", "dedup_id": "later"}
        return eater.node.client.post(f"/v1/queues/{eater.name}/messages", json=message).status_code == 201

    wait_until(sent, "the store takes messages again", 30)
