"""How calls end: metered, journalled, and only then answered.

Calls that end together (their answers came in one read from their instance) are journalled with one write; each is
answered after it. What the pool makes of an end is done before either: the instance goes on meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from faas.invoker.config import Journal
from faas.invoker.deadlines import Deadlines
from faas.invoker.run import Run, status_of
from faas.model.errors import FaasError, FunctionFailed, InstanceCrashed, InvalidRequest, StoreUnavailable
from faas.model.invocation import Reply, Status
from faas.model.usage import UsageRecord
from faas.ports import Entry
from faas.wire import Result

log = logging.getLogger(__name__)

Observe = Callable[[UsageRecord, int], None]
_UNJOURNALLED = (OSError, ValueError, TypeError, OverflowError)


class _End(NamedTuple):
    run: Run
    record: UsageRecord
    error: FaasError | None
    response: Result | None


class Ends:
    """The calls under way, by id, and the only place where one ends.

    ``observe`` sees each record once it is safe, with its sequence in the journal; 0 when it could not be journalled.
    """

    def __init__(
        self,
        node: str,
        journal: Journal,
        deadlines: Deadlines[Run],
        now_ns: Callable[[], int],
        observe: Observe,
    ) -> None:
        self.runs: dict[str, Run] = {}
        self.none_left = asyncio.Event()
        self._node = node
        self._journal = journal
        self._deadlines = deadlines
        self._now_ns = now_ns
        self._observe = observe
        self._gathered: list[_End] | None = None

    @contextmanager
    def together(self) -> Iterator[None]:
        """The calls that end in here are journalled and answered when it is left."""
        gathered = self._gathered = list[_End]()
        try:
            yield
        finally:
            self._gathered = None
            if gathered:
                self._settle(gathered)

    def end(
        self,
        run: Run,
        error: FaasError | None,
        status: Status | None = None,
        now: int | None = None,
        response: Result | None = None,
    ) -> None:
        """``now`` is when it ended, in ns of the monotonic clock; ``response`` what it is answered with."""
        del self.runs[run.call.id]
        if run.dispatched_ns:
            self._deadlines.remove(run, run.timeout_ms)
        if status is None:
            status = Status.OK if error is None else _status(run, error)
        now = now or self._now_ns()
        run.end_sharing(now)
        end = _End(run, run.record(status, self._node, now), error, response)
        if self._gathered is None:
            self._settle([end])
        else:
            self._gathered.append(end)

    def _settle(self, ends: list[_End]) -> None:
        entries = [end.run.entry(end.record, end.error) for end in ends]
        try:
            self._journal.record(*entries)
        except _UNJOURNALLED:
            for end, entry in zip(ends, entries, strict=True):
                self._settle_alone(end, entry)
        else:
            for end, entry in zip(ends, entries, strict=True):
                _answer(end, end.error)
                self._observe(end.record, entry.sequence)
        if not self.runs:
            self.none_left.set()

    def _settle_alone(self, end: _End, entry: Entry) -> None:
        """One that cannot be journalled shall not cost the others their answers."""
        error = end.error
        try:
            self._journal.record(entry)
        except _UNJOURNALLED as failure:
            log.error("the journal could not be written: %s", failure)
            error = StoreUnavailable("the call's usage could not be recorded, so its answer is withheld")
        _answer(end, error)
        self._observe(end.record, entry.sequence)


def _status(run: Run, error: FaasError) -> Status:
    if isinstance(error, InvalidRequest) or not run.dispatched_ns:
        started = isinstance(error, FunctionFailed | InstanceCrashed)
        return status_of(error) if started else Status.REJECTED
    return status_of(error)


def _answer(end: _End, error: FaasError | None) -> None:
    run, record, _, response = end
    if run.stream is not None and run.streamed is not None:
        run.streamed.record = record
        run.stream.end(error)
    elif not run.reply.done():
        if response is None or error is not None:
            run.reply.set_result(Reply(record, error))
        else:
            run.reply.set_result(Reply(record, None, response.status, response.headers, response.payload))
