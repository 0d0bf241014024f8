"""Whose fault a broken protocol is decides what happens next, so the two are told apart (as h11 does)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from faas.wire.frames import Frame


class ProtocolError(Exception):
    """Base of both."""


class LocalProtocolError(ProtocolError):
    """The node tried to send what it may not send now: a bug here. The connection is as it was before."""


class RemoteProtocolError(ProtocolError):
    """The sandbox sent something broken or illegal; the connection is CLOSED and its process must be killed.

    ``frames`` are those that arrived whole and legal before the bad one, in the same ``receive_data``: they count.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.frames: list[Frame] = []
