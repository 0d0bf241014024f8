"""Sending a command so that a task which is cancelled meanwhile ends.

The client sends under ``asyncio.wait_for``, which before Python 3.12 swallows a cancellation that comes as the sending
ends (python/cpython#86296): of busy tasks one in ten lived on, and who waited for its end did for ever. It also makes a
task of each send, which here only a server that does not read any more is worth.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, cast

from redis import exceptions
from redis.asyncio.connection import AbstractConnection


class _Sending(AbstractConnection):
    _writer: asyncio.StreamWriter

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        """As the library's, with its errors."""
        if not self.is_connected:
            await self.connect_check_health(check_health=False)
        if check_health:
            await self.check_health()  # type: ignore[no-untyped-call]
        packed = command.encode() if isinstance(command, str) else command
        try:
            async with asyncio.timeout(self.socket_timeout):
                self._writer.writelines([packed] if isinstance(packed, bytes) else packed)
                await self._writer.drain()
        except TimeoutError:
            await self.disconnect(nowait=True)
            raise exceptions.TimeoutError("Timeout writing to socket") from None
        except OSError as error:
            await self.disconnect(nowait=True)
            raise exceptions.ConnectionError(f"{error.strerror or error} while writing to socket") from error
        except BaseException:
            await self.disconnect(nowait=True)  # how much was sent is not known
            raise


def sending(connection_class: type[Any]) -> type[Any]:
    """The library's class for a way to the server, with our way to send."""
    return cast("type[Any]", type(connection_class.__name__, (_Sending, connection_class), {}))
