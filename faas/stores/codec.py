"""The packed form of usage records: what the node writes to disk is what the ledger stores.

entry   = u16 length of the context | context | row                      one attempt, in the journal
part    = msgpack integer (``Part.before_ms``) | context | row | row...  attempts of one context, in the ledger
context = msgpack array: hour, group (``Group``, joined with NUL; a first attempt is left out), memory_mb, node
row     = msgpack array: id (16 bytes), started_at_ns, queue_ns, init_ns, run_ns, billed_ms, cpu_ns, bytes_in,
          bytes_out, peak_memory_bytes, attempt, detail

A *context* is what many attempts have in common: the node packs it once and the ledger keeps it once per part. The
hour is in it because a double cannot tell it exactly from ``started_at_ns``. ``detail`` is a map, or, where there is
only a trace parent and the trace has the invocation's id, the text after that id; "" is no detail.

``lua/apply_usage.lua`` reads both arrays by the order of their fields, and takes the first 19 bytes of a row as given:
head of the array (1), head of the id (2), id (16).
"""

from __future__ import annotations

from binascii import unhexlify
from functools import lru_cache
from itertools import repeat
from typing import Any, Final, NamedTuple

import msgpack  # type: ignore[import-untyped]

from faas.metering.meter import INIT_BILLED, init_part_ms
from faas.metering.sums import HOUR_NS, RETRY, Group, hour_of
from faas.model.usage import FIELDS, UsageRecord
from faas.ports import Entry

CONTEXTS_MAX: Final = 2000  # that an encoder keeps packed
ID_BYTES: Final = 16
ROW_ID: Final = 0  # places in a row
ROW_STARTED_NS: Final = 1
ROW_ATTEMPT: Final = 10

_LENGTH_BYTES: Final = 2
_NIL: Final = b"\xc0"
_ROW_FIELDS: Final = 12
_TRACE_CHARS: Final = 36  # of a trace parent as far as its span: version, trace id
_TYPES: Final = tuple(str if UsageRecord.__annotations__[name] == "str" else int for name in FIELDS)


class Encoder:
    """Packs entries; one per owner, because a packer keeps a buffer. Odd text (lone surrogates) becomes ``?``."""

    __slots__ = ("_contexts", "_pack")

    def __init__(self) -> None:
        self._pack = msgpack.Packer(use_bin_type=True, unicode_errors="replace").pack
        self._contexts: dict[tuple[int | str, ...], bytes] = {}

    def pack(self, entry: Entry) -> bytes:
        """Raises ``ValueError`` when the id is not 32 lower-case hex digits, a hyphen and the attempt; ``TypeError`` or
        ``OverflowError`` on a detail or value that msgpack cannot hold.
        """
        record = entry.record
        started_at_ns = record.started_at_ns
        key = (
            started_at_ns // HOUR_NS,
            record.namespace,
            record.function,
            record.version,
            record.key_id,
            record.trigger,
            record.status,
            record.start,
            record.memory_mb,
            record.node,
            record.attempt > 1,
        )
        context = self._contexts.get(key) or self._context(key)
        attempt = record.attempt
        packed_id = unhexlify(record.id[:32])
        invocation_id = packed_id.hex()
        if record.id != f"{invocation_id}-{attempt}":
            raise ValueError(f"the id of attempt {attempt} is {record.id!r}")
        detail: dict[str, Any] | str = entry.detail
        if not detail:
            detail = ""
        elif len(detail) == 1:
            trace_parent = entry.detail.get("trace_parent")
            if type(trace_parent) is str and trace_parent[:_TRACE_CHARS] == f"00-{invocation_id}-":
                detail = trace_parent[_TRACE_CHARS:] or detail
        row: bytes = self._pack(
            (
                packed_id,
                started_at_ns,
                record.queue_ns,
                record.init_ns,
                record.run_ns,
                record.billed_ms,
                record.cpu_ns,
                record.bytes_in,
                record.bytes_out,
                record.peak_memory_bytes,
                attempt,
                detail,
            )
        )
        return context + row

    def _context(self, key: tuple[int | str, ...]) -> bytes:
        """Packed, its length before it."""
        hour, *names, memory_mb, node, again = key
        if again:
            names.append(RETRY)
        group = "\0".join(map(str, names))
        if group.count("\0") != len(names) - 1:
            raise ValueError(f"there is a NUL in {names}")
        packed: bytes = self._pack((hour, group, memory_mb, node))
        if len(self._contexts) >= CONTEXTS_MAX:
            self._contexts.clear()
        found = self._contexts[key] = len(packed).to_bytes(_LENGTH_BYTES, "big") + packed
        return found


class Part(NamedTuple):
    """What one batch brought of one context.

    ``before_ms``: whatever the ledger had of that function in that hour by then began before this (Unix ms).
    """

    before_ms: int
    context: list[Any]
    rows: list[list[Any]]  # id, started_at_ns...; in the order in which they were journalled

    def record(self, row: list[Any]) -> UsageRecord:
        """Raises ``ValueError`` on a row of another form."""
        return _record(self.context, row)


def unpack(packed: bytes) -> tuple[UsageRecord, dict[str, Any]]:
    """Inverse of ``Encoder.pack``; raises ``ValueError`` on anything else."""
    begin = _LENGTH_BYTES + int.from_bytes(packed[:_LENGTH_BYTES], "big")
    try:
        context = _unpack_context(packed[_LENGTH_BYTES:begin])
        row = msgpack.unpackb(packed[begin:], raw=False, strict_map_key=False)
    except (msgpack.UnpackException, TypeError, ValueError) as error:
        raise ValueError("an entry is a context and a row") from error
    return _record(context, row), detail_of(row)


@lru_cache(maxsize=CONTEXTS_MAX)
def _unpack_context(packed: bytes) -> Any:
    """Shared by all that ask for the same: not to be changed."""
    return msgpack.unpackb(packed, raw=False)


def unpack_part(data: bytes) -> Part:
    """Raises ``ValueError`` on anything but a part."""
    objects = msgpack.Unpacker(None, raw=False, strict_map_key=False, max_buffer_size=len(data) + 1)
    objects.feed(data)
    objects.feed(_NIL)  # what is cut off within an object swallows it
    try:
        before_ms, context, *rows, end = objects
    except (msgpack.UnpackException, TypeError, ValueError) as error:
        raise ValueError("a part has a number, a context and rows") from error
    whole = end is None and type(before_ms) is int and type(context) is list
    if not whole or any(type(row) is not list or len(row) != _ROW_FIELDS for row in rows):
        raise ValueError("a part has a number, a context and rows, and ends with a row")
    return Part(before_ms, context, rows)


def group_of_part(part: Part) -> Group:
    """Raises ``ValueError`` on a context of another form."""
    try:
        return Group(*part.context[1].split("\0"))
    except (AttributeError, IndexError, TypeError):
        raise ValueError("a context has 4 fields, one of them 7 or 8 names") from None


def part_amounts(part: Part, hour: int, start: str) -> tuple[int, ...]:
    """What a part's attempts add to the sums of their hour and group, in the order of ``METRICS``. ``start`` is their
    group's.

    Raises ``ValueError`` when they are not of that hour, or not numbers.
    """
    _, started_ns, queue_ns, init_ns, run_ns, billed_ms, cpu_ns, bytes_in, bytes_out, *_ = zip(*part.rows, strict=True)
    try:
        if part.context[0] != hour or {hour_of(min(started_ns)), hour_of(max(started_ns))} != {hour}:
            raise ValueError(f"attempts of another hour than {hour}")
        billed, memory_mb = sum(billed_ms), part.context[2]
        init_ms = sum(map(init_part_ms, repeat(start), init_ns, run_ns, billed_ms)) if start in INIT_BILLED else 0
        return (
            len(part.rows),
            billed,
            memory_mb * billed,
            *map(sum, (queue_ns, init_ns, run_ns, cpu_ns, bytes_in, bytes_out)),
            memory_mb * init_ms,
        )
    except (IndexError, TypeError):
        raise ValueError("a row has numbers") from None


def detail_of(row: list[Any]) -> dict[str, Any]:
    detail = row[-1]
    if isinstance(detail, str):
        return {"trace_parent": f"00-{row[0].hex()}-{detail}"} if detail else {}
    if not isinstance(detail, dict):
        raise ValueError("a detail is a map")  # noqa: TRY004 - bad data, not a bad call
    return detail


def _record(context: list[Any], row: list[Any]) -> UsageRecord:
    try:
        hour, group, memory_mb, node = context
        namespace, function, version, key_id, trigger, status, start, *again = group.split("\0")
        packed_id, started_at_ns, queue_ns, init_ns, run_ns, billed_ms, cpu_ns, *rest = row
        bytes_in, bytes_out, peak_memory_bytes, attempt, _detail = rest
    except (AttributeError, TypeError, ValueError):
        raise ValueError("a context has 4 fields, one of them 7 names, and a row has 12") from None
    if type(packed_id) is not bytes or len(packed_id) != ID_BYTES:
        raise ValueError("an invocation's id has 16 bytes")
    values = (
        f"{packed_id.hex()}-{attempt}",
        namespace,
        function,
        int(version),
        key_id,
        trigger,
        status,
        start,
        started_at_ns,
        queue_ns,
        init_ns,
        run_ns,
        billed_ms,
        memory_mb,
        peak_memory_bytes,
        cpu_ns,
        bytes_in,
        bytes_out,
        node,
        attempt,
    )
    if tuple(map(type, values)) != _TYPES:
        raise ValueError(f"a usage record has other types of fields: {values}")
    if again and (again != [RETRY] or attempt == 1):
        raise ValueError(f"attempt {attempt} is among {again}")
    if hour != hour_of(started_at_ns):
        raise ValueError(f"an attempt of the hour {hour} began at {started_at_ns}")
    return UsageRecord(*values)
