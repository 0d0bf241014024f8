"""Calls sent ahead: to an instance that is busy, so that it finds its next call when it has answered the last.

Theory of operation. With calls shorter than a millisecond most of what a call costs is two processes that wake each
other, and an instance idles from its answer until the node has come round. So where calls are known to be that short,
where instances answer one call after the other, and where more instances would not help, up to ``AHEAD_MAX`` calls
wait in an instance's socket instead of the function's queue (the prefetch count of message queues, HTTP/1.1's
pipelining). Their time runs from the answer before theirs: that is when the pool dispatches them.

What must not happen is that a call waits behind one that turns out to be long while others are free. So whatever has
waited too long is asked back (``Recall``). Only the sandbox can say what had not begun, and answers ``Recalled``: those
calls are at the head of the queue again, and if the long one still runs their function does not send ahead for a while.
A call is never given to a second instance unless the first is known not to have begun it, by that answer or by its end
(``InstanceDown``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from faas.model.invocation import StartKind
from faas.pool import contention, growth
from faas.pool.messages import Dispatch, Prefetch, Recall, Recalled, Return
from faas.pool.scaling import BUSY_MIN
from faas.pool.states import InstanceState

if TYPE_CHECKING:
    from faas.pool.entities import Call, Function, Instance
    from faas.pool.pool import Pool

AHEAD_MAX: Final = 3  # calls that wait in one instance; with it they are as many as a busy node answers in a turn
RUN_NS_MAX: Final = 1_000_000
RECALL_NS: Final = 20_000_000  # how late an answer may be before they are asked back
PAUSE_NS: Final = 250_000_000  # without sending ahead, after that


def review(pool: Pool, function: Function, now: int) -> None:
    """At each tick: decide whether the function's calls are such that sending them ahead is good for them."""
    run_ns = function.run_estimate_ns
    function.ahead = (
        function.recalls
        and function.spec.concurrency == 1
        and not function.spec.stops  # who leaves may take along what waits behind, and it may just have begun
        and 0 < run_ns <= RUN_NS_MAX
        and function.serving >= min(BUSY_MIN, function.spec.max_instances)
        and now >= function.apart_until_ns
        and not pool.closing
        and not contention.must_wait(pool, function.tenant)  # its instances are to be given back between two calls
    )


def recall(pool: Pool, now: int) -> None:
    """At each tick: ask for calls back that wait behind one that takes long."""
    if not pool.ahead:
        return
    for instance in pool.instances.values():
        waits = instance.ahead and not instance.recalled and instance.state is InstanceState.BUSY
        if waits and now - instance.began_ns > RECALL_NS:
            instance.recalled = True
            instance.late_ns = instance.began_ns
            pool.emit(Recall(instance.id))


def send(pool: Pool, call: Call, function: Function) -> bool:
    """Send the call ahead to the instance whose turn it is; False when none has room."""
    roomy = function.roomy
    while roomy:
        instance = roomy.popleft()
        if _has_room(instance):
            _send(pool, call, instance)
            if len(instance.ahead) < AHEAD_MAX:
                roomy.append(instance)
            else:
                instance.listed = False
            return True
        instance.listed = False
    return False


def fill(pool: Pool, function: Function) -> None:
    """Send ahead what waits, as far as there is room."""
    queue = function.queue
    while queue and send(pool, queue[0], function):
        queue.popleft()
        pool.queued -= 1


def offer(instance: Instance) -> None:
    """The instance has become busy, or has room again."""
    if not instance.listed:
        instance.listed = True
        instance.function.roomy.append(instance)


def advance(pool: Pool, instance: Instance, now: int) -> None:
    """The instance has answered and begins what was sent ahead; what waits moves up."""
    function = instance.function
    call = instance.ahead.popleft()
    pool.ahead -= 1
    call.ahead_on = None
    call.instance = instance
    instance.calls[call.id] = call
    instance.began_ns = now
    function.running += 1
    pool.emit(Dispatch(call.id, instance.id, StartKind.WARM, 0))
    if function.ahead:
        offer(instance)
        fill(pool, function)


def returned(pool: Pool, event: Recalled, now: int) -> None:
    """The instance will not begin these calls: they are first in the queue again."""
    instance = pool.instances.get(event.instance)
    if instance is None:
        return
    instance.recalled = False
    function = instance.function
    back = [call for each in event.calls if (call := pool.calls.get(each)) is not None]
    for call in back:
        if call.instance is instance:  # it seemed to be its turn
            call.instance = None
            del instance.calls[call.id]
            function.running -= 1
        elif call.ahead_on is instance:
            instance.ahead.remove(call)
            pool.ahead -= 1
            call.ahead_on = None
    if back:
        if instance.began_ns == instance.late_ns:  # still at it: it was not the node that was late
            function.ahead, function.apart_until_ns = False, now + PAUSE_NS
        requeue(pool, function, back)
    if not instance.calls and instance.state is InstanceState.BUSY:
        function.available.append(instance)
        instance.move(InstanceState.IDLE, now)
    pool.serve(function, now)
    growth.grow(pool, function, now)


def orphans(pool: Pool, instance: Instance, unbegun: tuple[str, ...]) -> list[Call]:
    """What was sent ahead to an instance that has ended. Those it had not begun are queued again; the others."""
    calls = list(instance.ahead)
    instance.ahead.clear()
    pool.ahead -= len(calls)
    for call in calls:
        call.ahead_on = None
    requeue(pool, instance.function, [call for call in calls if call.id in unbegun])
    return [call for call in calls if call.id not in unbegun]


def requeue(pool: Pool, function: Function, calls: list[Call]) -> None:
    """Put calls back at the head of their queue, oldest first."""
    for call in reversed(calls):
        pool.emit(Return(call.id))
        function.queue.appendleft(call)
    pool.queued += len(calls)


def _has_room(instance: Instance) -> bool:
    return (
        instance.state is InstanceState.BUSY
        and len(instance.ahead) < AHEAD_MAX
        and bool(instance.calls)
        and not instance.recalled
    )


def _send(pool: Pool, call: Call, instance: Instance) -> None:
    call.ahead_on = instance
    instance.ahead.append(call)
    pool.ahead += 1
    pool.emit(Prefetch(call.id, instance.id))
