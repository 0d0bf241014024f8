"""Serving a handler one call at a time: the way nearly all invocations take, as one loop.

Instances of a busy node take turns, so each finds the processor's caches full of the others' memory. What a trivial
call costs is then less its instructions than the pages it looks at, and a call of a Python function is five to ten of
them. So this loop does itself what ``Instance``, ``Gauge``, ``events.direct`` and ``results.direct`` have methods for,
and leaves to those all that is not as usual: a payload that is not JSON, a value that is not, the HTTP trigger, a line
without an end, a failure. Five system calls an invocation: wait, receive, what was used, is there output,
send.
"""

from __future__ import annotations

import sys
from resource import RUSAGE_SELF, getrusage
from time import monotonic_ns

from .codec import BIN32, INVOKE, JSON_RESULT_BYTES, LARGE_BYTES, OK_JSON_UINT64, RESULT_WITH_ID, UINT64, json_result
from .context import Context
from .events import direct, scan
from .pump import BEGUN, FLAGS, SLOT, TAKEN, UPTO
from .results import JSON_HEADERS, PLAIN, RECURSION_LIMIT_SAFE, encode, to_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .instance import Call, Instance


def serve(instance: Instance) -> list[Any] | tuple[Call, Any] | None:
    """Serve until there is something else to do: a frame that is no INVOKE, or a call whose value must be awaited.

    None at the end of the connection.
    """
    channel, gauge, handler, scope = instance.channel, instance.gauge, instance.function.call, instance.output.scope
    assert channel is not None
    receive, send, own = channel.receive, channel.send, channel.own
    look, memory, slot, words, kept = gauge.look, gauge.memory, gauge.at, gauge.words, gauge.kept
    begun, upto = gauge.word + BEGUN, gauge.word + UPTO
    flags, taken, (out, err) = slot + FLAGS, slot + TAKEN, scope.lines
    small_bytes_max = min(instance.function.result_bytes_max, LARGE_BYTES)
    payload: Any
    text: Any
    body: Any
    while True:
        frame = payload = text = event = context = value = body = None  # to wait with nothing of the last call in hand
        frame = receive()
        if frame is None or frame[0] != INVOKE:
            return frame
        number = instance.number = instance.number + 1
        words[begun] = number
        if words[upto] >= number and not kept(number):
            continue
        began_ns = instance.began_ns = monotonic_ns()
        _, invocation_id, _, _, _, content_type, _, request, payload = frame
        scope.id = invocation_id
        id_bytes = invocation_id.encode()
        SLOT.pack_into(memory, slot, id_bytes, 1)
        try:
            if sys.stdout is None or sys.stderr is None:
                instance.output.mend()
        except AttributeError:
            instance.output.mend()
        try:
            if request is not None or content_type != "application/json":
                event = instance.event(frame)
            else:
                try:
                    text = payload.decode()
                    event, end = scan(text, 0)
                except (StopIteration, ValueError, RecursionError):  # empty, white space in front, not JSON
                    text, end = "", -1
                if end != len(text):
                    event = direct(content_type, payload)
            context = Context(frame)
            value = handler(event, context)
            if type(value) not in PLAIN or request is not None or sys.getrecursionlimit() > RECURSION_LIMIT_SAFE:
                awaited = instance.conclude(frame, context, value)
                if awaited is not None:
                    return awaited
                continue
            try:
                body = "".join(encode(value, 0)).encode()
            except (TypeError, ValueError, RecursionError):  # not JSON, or not UTF-8
                body = to_json(value)
            if len(body) > small_bytes_max:
                instance.finish(invocation_id, *instance.capped((200, JSON_HEADERS, body)))
                continue
        except BaseException as error:  # noqa: BLE001 - whatever a handler raises is an answer
            instance.fail(invocation_id, error)
            continue
        usage = getrusage(RUSAGE_SELF)
        cpu_s = usage[0] + usage[1]
        cpu_ns = int((cpu_s - instance.cpu_s) * 1e9)
        instance.cpu_s = cpu_s
        size, busy_ns, peak_bytes = len(body), monotonic_ns() - began_ns, usage[2] * 1024
        head = json_result(
            JSON_RESULT_BYTES + size, RESULT_WITH_ID, id_bytes, OK_JSON_UINT64, busy_ns, UINT64, cpu_ns, UINT64,
            peak_bytes, BIN32, size,
        )  # fmt: skip
        if not own[0] or look(0) or memory[flags] or out.rest or err.rest:
            instance.answer(invocation_id, head, body)
            continue
        memory[taken] = 0
        scope.id = ""
        try:
            send(head + body)
        except OSError as error:
            instance.cut_off(error)
