"""What zygote and instance share: the pipes of descriptors 1 and 2, read by the zygote, and a few bytes of memory.

The zygote reads because it has nothing else to do: a thread in every instance would cost memory, and CPython warns
whoever forks in a process with threads. It is also still there when the instance has crashed.

The zygote must know whose lines they are, and an instance must not answer before its lines are on their way. Both is
settled in a few bytes of shared memory per instance (a *slot*): the invocation's id and whether there is one, which the
instance writes; and a byte of flags, which the zygote writes: it is busy with lines of this instance; on which
descriptors the last line has no end yet. Before it answers, an instance looks at its pipes and its slot (one system
call); only when there is something does it end the open line and wait.

The slot is also where invocations are taken back that were sent ahead to a busy instance (RECALL). The instance, which
may be deep in a handler and can't be asked, writes the number of each INVOKE *before* it looks whether that one has
been taken back; the zygote writes up to which number it takes back *before* it looks which was begun last. So at least
one sees the other (Dekker), given that neither processor reads before its write is seen: of the two the zygote sees to
that, with membarrier(2), so that the instance need not pay for it at each invocation.
"""

# contextlib would cost more to import than all of this file:
# ruff: noqa: SIM105
from __future__ import annotations

import mmap
import os
import select
import time
from struct import Struct

from .output import STREAMS, Lines, log_frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SLOTS_MAX = 1024
SLOT_BYTES = 64
ID_BYTES = 32
TAKEN = 32  # offset of a byte: 1 while the id before it is that of a running invocation
FLAGS = 33  # offset of the zygote's flags
OPEN = 0b011  # a flag per descriptor: the last line read from it had no end
BUSY = 0b100  # the zygote has read and not yet sent
DECIDING = 34  # offset of a byte: 1 while the zygote takes invocations back
BEGUN, UPTO, KEPT = 5, 6, 7  # 64-bit words of the slot: begun last; taken back are those after KEPT up to UPTO
WORD_BYTES = 8
READ_BYTES = 64 * 1024
SETTLE_S = 0.5
SLOT = Struct(f"{ID_BYTES}sB")


class Slots:
    """Memory shared by the zygote and its instances."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, SLOTS_MAX * SLOT_BYTES)
        self.words = memoryview(self.memory).cast("Q")
        self._free = list(range(SLOTS_MAX - 1, -1, -1))

    def take(self) -> int:
        """Offset of a clean slot. Raises ``IndexError`` when there are more instances than slots."""
        at = self._free.pop() * SLOT_BYTES
        self.memory[at : at + SLOT_BYTES] = bytes(SLOT_BYTES)
        return at

    def give_back(self, at: int) -> None:
        self._free.append(at // SLOT_BYTES)

    def recall(self, at: int, upto: int, barrier: Callable[[], object]) -> int:
        """Take back what the slot's instance has not begun of its first ``upto`` invocations; how many it has begun."""
        words, slot = self.words, at // WORD_BYTES
        kept, before = words[slot + KEPT], words[slot + UPTO]
        self.memory[at + DECIDING] = 1
        barrier()
        words[slot + UPTO] = upto
        barrier()
        begun = words[slot + BEGUN]
        if begun > before:  # else it is still passing over what was taken back before
            kept = begun
        words[slot + KEPT] = kept
        barrier()
        self.memory[at + DECIDING] = 0
        return kept


class Pump:
    """The zygote's end of one instance's two pipes."""

    def __init__(self, slots: Slots, at: int) -> None:
        self._memory = slots.memory
        self.at = at
        pairs = (os.pipe(), os.pipe())
        self.read_ends = [pair[0] for pair in pairs]
        self.write_ends = [pair[1] for pair in pairs]
        self._lines = (Lines(), Lines())
        for descriptor in self.read_ends:
            os.set_blocking(descriptor, False)

    def forget_write_ends(self) -> None:
        for descriptor in self.write_ends:
            os.close(descriptor)
        self.write_ends = []

    def close(self) -> None:
        self.forget_write_ends()
        for descriptor in self.read_ends:
            os.close(descriptor)
        self.read_ends = []

    def read(self, descriptor: int, send: Callable[[bytes], None]) -> bool:
        """Read once and send what that made whole. False at the end of the pipe."""
        which = self.read_ends.index(descriptor)
        memory, at = self._memory, self.at
        memory[at + FLAGS] |= BUSY
        try:
            data = os.read(descriptor, READ_BYTES)
        except BlockingIOError:
            memory[at + FLAGS] &= OPEN
            return True
        lines = self._lines[which].feed(data) if data else self._lines[which].end()
        if lines:
            send(log_frames(self._invocation_id(), STREAMS[which], lines))
        memory[at + FLAGS] = sum(1 << each for each in (0, 1) if self._lines[each].rest)
        return bool(data)

    def drain(self, send: Callable[[bytes], None]) -> None:
        """Everything that is left, after the writers are dead."""
        for which, descriptor in enumerate(self.read_ends):
            while True:
                try:
                    data = os.read(descriptor, READ_BYTES)
                except BlockingIOError:
                    break
                if not data:
                    break
                lines = self._lines[which].feed(data)
                if lines:
                    send(log_frames(self._invocation_id(), STREAMS[which], lines))
            lines = self._lines[which].end()
            if lines:
                send(log_frames(self._invocation_id(), STREAMS[which], lines))

    def _invocation_id(self) -> str:
        text, taken = SLOT.unpack_from(self._memory, self.at)
        return text.decode() if taken and not text.strip(b"0123456789abcdef") else ""


class Gauge:
    """The instance's end: says which invocation runs, and waits until its lines are sent.

    ``look(0)`` is true while there is output in the pipes; ``memory[at:]`` is the slot, ``words[word:]`` as well.
    """

    def __init__(self, slots: Slots, at: int, read_ends: list[int]) -> None:
        self.memory = slots.memory
        self.words = slots.words
        self.at = at
        self.word = at // WORD_BYTES
        poll = select.poll()
        for descriptor in read_ends:
            poll.register(descriptor, select.POLLIN)
        self.look = poll.poll

    def take(self, number: int) -> bool:
        """Begin the instance's invocation of that number; False when it was taken back."""
        self.words[self.word + BEGUN] = number
        return self.words[self.word + UPTO] < number or self.kept(number)

    def kept(self, number: int) -> bool:
        """Whether an invocation up to UPTO is the instance's nevertheless, begun before it could be taken back."""
        while self.memory[self.at + DECIDING]:
            time.sleep(0.00005)
        return number <= self.words[self.word + KEPT]

    def begin(self, invocation_id: str) -> None:
        SLOT.pack_into(self.memory, self.at, invocation_id.encode(), 1)

    def end(self, settle_s: float = SETTLE_S) -> None:
        """No invocation owns the output any more. What was written under the last one's id is sent before."""
        if self.look(0) or self.memory[self.at + FLAGS]:
            self.settle(settle_s)
        self.memory[self.at + TAKEN] = 0

    def settle(self, settle_s: float = SETTLE_S) -> None:
        """Wait until the zygote has sent all that was written to descriptors 1 and 2, but at most that long."""
        memory, at = self.memory, self.at + FLAGS
        until = time.monotonic() + settle_s
        ended = False
        while time.monotonic() < until:
            waiting = any(events & select.POLLIN for _, events in self.look(0))
            if not waiting and not memory[at] & BUSY:
                if not memory[at]:
                    return
                if not ended:
                    ended = True
                    self._end_lines(memory[at])
            time.sleep(0.0002)

    def _end_lines(self, which: int) -> None:
        for bit, descriptor in ((1, 1), (2, 2)):
            if which & bit:
                try:
                    os.write(descriptor, b"\n")
                except OSError:  # the user closed it
                    pass
