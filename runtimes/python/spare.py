"""An instance forked ahead of its call: a zygote that has none keeps one, without an id, for the FORK that comes next.

Forking is most of what a start takes that has nothing to import: a copy of the page tables, and then a fault for each
page that either of the two writes. A spare has that behind it, and has rehearsed the rest. It sleeps on a pipe until it
is told who it is, and only then gets its TMPDIR, runs the hooks for after a restore and dials; so for node and function
it is as young as its call. It costs what an idle instance costs, 1.4 MB. There is one only while there is no instance,
so nothing of the function's that runs can touch it.
"""

from __future__ import annotations

import os
from _socket import AF_UNIX, SHUT_WR, SOCK_STREAM, socketpair

from . import codec, plain, process
from .channel import Channel
from .instance import Instance
from .loader import SYNC
from .pump import BEGUN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .pump import Gauge

QUIET_MS = 20  # without an instance and without a word from the node; long before a sandbox is frozen
_ID_BYTES_MAX = 256
_INVOKE = codec.encode(
    codec.INVOKE,
    "0" * 32,
    2**62,
    "direct",
    1,
    "application/json",
    f"00-{'0' * 32}-{'0' * 16}-01",
    None,
    b'{"name": ""}',
)


class Door:
    """The pipe. Made by the zygote, which ``tell``s; its child ``wait``s."""

    __slots__ = ("_read", "_write")

    def __init__(self) -> None:
        self._read, self._write = os.pipe()

    def tell(self, instance_id: str) -> bool:
        """Say who the spare is. False when it has ended before it could hear it."""
        try:
            os.write(self._write, instance_id.encode())
        except OSError:
            return False
        finally:
            os.close(self._write)
        return True

    def half(self) -> None:
        """In the zygote, after the fork."""
        os.close(self._read)

    def close(self) -> None:
        """In the zygote, when there was no fork."""
        os.close(self._read)
        os.close(self._write)

    def wait(self) -> str:
        """In the child: who it is. Ends the process when nobody will want it any more."""
        os.close(self._write)
        instance_id = os.read(self._read, _ID_BYTES_MAX).decode()
        os.close(self._read)
        if not instance_id:
            os._exit(0)
        return instance_id


def rehearse(instance: Instance, gauge: Gauge, tmp: str) -> None:
    """Once through all that a start and a first call do, with another handler and nobody at the other end.

    In a process just forked these take four times as long, for 190 page faults.
    """
    try:
        ours, theirs = socketpair(AF_UNIX, SOCK_STREAM)
    except OSError:  # the module keeps all descriptors open
        return
    channel = Channel(ours)
    path = process.own_tmpdir(tmp, f"rehearsal-{channel.pid}")
    if path:
        process.remove_tree(path)
        os.environ["TMPDIR"] = tmp
    theirs.send(_INVOKE)
    theirs.shutdown(SHUT_WR)
    instance.become("", gauge)
    instance.restore([])
    instance.open(channel)
    if type(instance) is Instance and instance.function.kind == SYNC:
        function = instance.function
        instance.function = function.played_by(lambda _event, _context: {"message": ""})
        plain.serve(instance)
        instance.function = function
        instance.number = gauge.words[gauge.word + BEGUN] = 0  # RECALL counts invocations, and this was none
    instance.abandon()
    instance.channel = instance.output.channel = None
    theirs.close()
