"""A Valkey whose disk was full after it had rewritten its file starts again, with everything."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from redis.exceptions import ResponseError

from faas.stores.aof import close_holes
from faas.stores.redis_client import Client, connect
from tests.e2e.ledger_nodes import CrashValkey

pytestmark = pytest.mark.anyio


async def write(client: Client, name: str) -> bool:
    try:
        await client.set(name, name * 100)
    except ResponseError:  # MISCONF: its file cannot be written
        return False
    return True


async def test_a_hole_that_a_full_disk_left_is_taken_out(home: Path) -> None:
    server = CrashValkey(home / "valkey")
    async with connect(await server.start()) as client:
        assert await write(client, "before")
        await client.bgrewriteaof()
        while (await client.info("persistence"))["aof_rewrite_in_progress"]:
            await asyncio.sleep(0.01)
        assert await write(client, "between")
        server.limit(100)
        while await write(client, "full"):
            await asyncio.sleep(0.01)
        server.limit(None)
        while not await write(client, "after"):
            await asyncio.sleep(0.01)
        await server.kill()
        assert b"\0" * 50 in server.newest.read_bytes(), "the server has mended its ways: so may we"
        await server.start()
        assert sorted(await client.keys("*")) == [b"after", b"before", b"between", b"full"]
        await server.kill()
        assert b"\0" not in server.newest.read_bytes()
        assert b"\0" * 50 in server.newest.with_suffix(".damaged").read_bytes()
    await server.stop()


SET = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$4\r\n\0\0\0\0\r\n"


@pytest.mark.parametrize(
    ("content", "whole"),
    [
        (SET + SET, None),
        (b"", None),
        (
            SET + bytes(9) + SET + bytes(3_000_000) + b"#TS:1\r\n" + SET + SET[:-5],
            SET + SET + b"#TS:1\r\n" + SET + SET[:-5],
        ),
        (SET + bytes(9) + SET + b"*1\r\n$", SET + SET + b"*1\r\n$"),
        (SET + bytes(9), SET),
        (SET + bytes(9) + b"garbage", None),
        (b"*x\r\n" + bytes(9) + SET, None),
    ],
    ids=["whole", "empty", "two holes and a torn end", "a torn line", "a hole at the end", "garbage", "no number"],
)  # fmt: skip
def test_only_zeros_between_commands_are_taken_out(tmp_path: Path, content: bytes, whole: bytes | None) -> None:
    path = tmp_path / "appendonly.aof.2.incr.aof"
    path.write_bytes(content)
    assert close_holes(tmp_path) == ([path] if whole is not None else [])
    assert path.read_bytes() == (whole if whole is not None else content)
    assert close_holes(tmp_path) == []
