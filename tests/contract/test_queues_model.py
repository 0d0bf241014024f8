"""Random histories of a queue on a real Valkey, held step by step against a model in plain lists.

Time passes when the history says so: the scores of what is delayed or leased are put into the past.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from faas.model.message import Ack, Again, Batch, Bury, Drop, Message, Outcome, QueueName, Release, Send, Wanted
from faas.stores.queues import RedisQueues
from faas.stores.redis_client import connect

Q = QueueName("default", "orders")
LONG_MS = 600_000
TRIGGERS = ("default/a.orders", "default/b.orders")


class Model:
    """Where each message is: in exactly one of these, or done."""

    def __init__(self) -> None:
        self.group: dict[str, str] = {}
        self.is_delayed: dict[str, bool] = {}  # by its sender, and that time has not come
        self.tries: dict[str, int] = {}
        self.new: list[str] = []
        self.again: list[str] = []
        self.delayed: list[str] = []
        self.due: list[str] = []
        self.waiting: dict[str, list[str]] = {}
        self.heads: set[str] = set()
        self.batches: dict[str, tuple[str, dict[str, str]]] = {}  # name -> trigger, receipt -> id
        self.ended: set[str] = set()  # batches whose lease has
        self.dead: list[str] = []
        self.done: set[str] = set()

    def enter(self, message: str) -> None:
        group = self.group[message]
        if group and group in self.heads:
            self.waiting.setdefault(group, []).append(message)
            return
        self.heads |= {group} - {""}
        self.place(message, later=self.is_delayed[message])

    def place(self, message: str, *, later: bool) -> None:
        where = self.delayed if later else self.again if self.tries[message] else self.new
        where.append(message)

    def leave(self, message: str) -> None:
        """The head of a group, or one of none, is done with."""
        group = self.group[message]
        self.heads.discard(group)
        if self.waiting.get(group):
            following = self.waiting[group].pop(0)
            self.heads.add(group)
            self.place(following, later=self.is_delayed[following])

    def take(self, trigger: str, count: int, at_once: int, batches: int) -> list[list[str]]:
        for name in sorted(self.ended):
            for message in self.batches.pop(name)[1].values():
                self.tries[message] += 1
                self.place(message, later=False)
        self.ended.clear()
        for message in sorted(self.due):
            self.is_delayed[message] = False
            self.place(message, later=False)
        self.due.clear()
        room = min(at_once - sum(owner == trigger for owner, _ in self.batches.values()), batches)
        if room <= 0:
            return []
        if self.again:
            return [[self.again.pop(0)]]
        taken = self.new[: count * room]
        del self.new[: count * room]
        return [taken[at : at + count] for at in range(0, len(taken), count)]

    def settle(self, receipt: str, outcome: Outcome) -> None:
        name = receipt.partition(".")[0]
        message = self.batches[name][1].pop(receipt)
        if not self.batches[name][1]:
            del self.batches[name]
            self.ended.discard(name)
        match outcome:
            case Again(delay_ms=delay_ms):
                self.tries[message] += 1
                self.place(message, later=delay_ms > 0)
            case Release(delay_ms=delay_ms):
                self.place(message, later=delay_ms > 0)
            case _:
                if isinstance(outcome, Bury):
                    self.dead.append(message)
                else:
                    self.done.add(message)
                self.leave(message)

    @property
    def out(self) -> list[str]:
        return [message for _, held in self.batches.values() for message in held.values()]

    @property
    def held(self) -> tuple[int, ...]:
        waiting = sum(map(len, self.waiting.values()))
        ready = len(self.new) + len(self.again) + len(self.due)
        return ready, len(self.delayed), waiting, len(self.out), len(self.dead)


class History(RuleBasedStateMachine):
    """``url`` is set by the test."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.runner = asyncio.Runner()
        self.client = connect(self.url)
        self.queues = RedisQueues(self.client)
        self.run(self.client.flushall())
        self.last = 0

    def run(self, asked: Any) -> Any:
        async def answer() -> Any:
            return await asked

        return self.runner.run(answer())

    def key(self, part: str) -> str:
        return f"faas:queue:{Q}:{part}"

    @rule(groups=st.lists(st.sampled_from(["", "", "g", "h"]), min_size=1, max_size=5), delayed=st.booleans())
    def send(self, groups: list[str], delayed: bool) -> None:
        messages = []
        for group in groups:
            self.last += 1
            message = Message(f"{self.last:032x}", b"", group=group, delay_ms=LONG_MS if delayed else 0)
            self.model.group[message.id] = group
            self.model.tries[message.id], self.model.is_delayed[message.id] = 0, delayed
            self.model.enter(message.id)
            messages.append(message)
        sends = [Send(Q, message) for message in [*messages, messages[0]]]
        assert self.run(self.queues.send(sends)) == [send.message.id for send in sends]

    @rule(
        trigger=st.sampled_from(TRIGGERS), count=st.integers(1, 4), at_once=st.integers(1, 4), batches=st.integers(1, 3)
    )
    def take(self, trigger: str, count: int, at_once: int, batches: int) -> None:
        asked = Wanted(count, LONG_MS, at_once=at_once, batches=batches)
        batch: Batch = self.run(self.queues.take(Q, trigger, "node-1", asked))
        taken = [some for some in (batch.deliveries, *batch.more) if some]
        wanted = self.model.take(trigger, count, at_once, batches)
        assert [[each.message.id for each in some] for some in taken] == wanted
        for some in taken:
            assert [each.attempt for each in some] == [self.model.tries[each.message.id] + 1 for each in some]
            name = some[0].receipt.partition(".")[0]
            self.model.batches[name] = (trigger, {each.receipt: each.message.id for each in some})

    @precondition(lambda self: self.model.batches)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        receipts = sorted(receipt for _, held in self.model.batches.values() for receipt in held)
        ours = data.draw(st.lists(st.sampled_from(receipts), min_size=1, max_size=6, unique=True))
        ways: list[Callable[[str], Outcome]] = [
            Ack,
            lambda r: Again(r, 0, "x"),
            lambda r: Again(r, LONG_MS, "x"),
            lambda r: Bury(r, "x"),
            Drop,
        ]
        ways += [lambda r: Release(r, 0), lambda r: Release(r, LONG_MS)]
        outcomes: list[Outcome] = [data.draw(st.sampled_from(ways))(receipt) for receipt in ours]
        asked: list[Outcome] = [*outcomes, outcomes[0], Ack("strange.1")]
        assert self.run(self.queues.settle(Q, asked)) == [ours[0], "strange.1"]
        for receipt, outcome in zip(ours, outcomes, strict=True):
            self.model.settle(receipt, outcome)

    @rule()
    def delays_end(self) -> None:
        for message in self.model.delayed:
            self.run(self.client.zadd(self.key("delayed"), {message: 0}, xx=True))
        self.model.due += self.model.delayed
        self.model.delayed.clear()

    @precondition(lambda self: self.model.batches)
    @rule(data=st.data())
    def a_lease_ends(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.model.batches)))
        self.run(self.client.zadd(self.key("leases"), {name: 0}, xx=True))
        self.model.ended.add(name)

    @precondition(lambda self: self.model.batches)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.model.batches)))
        assert self.run(self.queues.renew(Q, ["strange.1", *self.model.batches[name][1]], LONG_MS)) == ["strange.1"]
        self.model.ended.discard(name)

    @precondition(lambda self: self.model.dead)
    @rule(limit=st.integers(1, 3))
    def redrive(self, limit: int) -> None:
        assert self.run(self.queues.redrive(Q, None, limit)) == min(limit, len(self.model.dead))
        for message in self.model.dead[:limit]:
            self.model.tries[message], self.model.is_delayed[message] = 0, False
            self.model.enter(message)
        del self.model.dead[:limit]

    @rule()
    def purge(self) -> None:
        model = self.model
        gone = [
            *model.new,
            *model.again,
            *model.delayed,
            *model.due,
            *[m for some in model.waiting.values() for m in some],
        ]
        assert self.run(self.queues.purge(Q)) == len(gone)
        model.new, model.again, model.delayed, model.due, model.waiting = [], [], [], [], {}
        model.heads = {model.group[message] for message in model.out} - {""}
        model.done |= set(gone)

    @invariant()
    def is_as_in_the_model(self) -> None:
        state = self.run(self.queues.state(Q))
        if state is None:
            assert not self.last
            return
        assert (state.ready, state.delayed, state.waiting, state.in_flight, state.dead) == self.model.held
        assert [each.delivery.message.id for each in self.run(self.queues.dead(Q, 1000))] == self.model.dead
        assert bool(self.run(self.queues.busy())) == (sum(self.model.held[:4]) > 0)

    def teardown(self) -> None:
        """Every message comes to its end, and then nothing of it is left."""
        self.delays_end()
        for name in self.model.batches:
            self.run(self.client.zadd(self.key("leases"), {name: 0}, xx=True))
        left = self.model.held
        ended = 0
        while self.last:
            batch = self.run(self.queues.take(Q, "t", "n", Wanted(100, LONG_MS, at_once=1000)))
            ended += len(batch.deliveries)
            assert self.run(self.queues.settle(Q, [Ack(each.receipt) for each in batch.deliveries])) == []
            if not batch.deliveries:
                if not self.run(self.client.zcard(self.key("delayed"))):
                    break
                for message in self.run(self.client.zrange(self.key("delayed"), 0, -1)):
                    self.run(self.client.zadd(self.key("delayed"), {message: 0}))
        assert ended == sum(left[:4])
        for part in ("waiting", "data", "groups", "open", "leases", "old", "delayed"):
            assert not self.run(self.client.exists(self.key(part))), part
        for part in ("new", "again"):
            assert not self.run(self.client.xlen(self.key(part)))
        counts = self.run(self.client.hkeys(self.key("counts")))
        assert not [field for field in counts if field.startswith(b"out:")]
        self.run(self.client.aclose())
        self.runner.close()


def test_every_message_is_where_the_model_says(valkey_url: str) -> None:
    History.url = valkey_url
    run_state_machine_as_test(
        History,
        settings=settings(
            max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
