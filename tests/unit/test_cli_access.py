"""The admin key is in one place, the user's client.toml, and whatever happens to it, they get in again."""

from __future__ import annotations

from pathlib import Path

import pytest

from faas.cli.client import read_client_file, write_client_file
from faas.ports import ApiKey
from faas.stores.access import ANOTHER, NOT_YOURS, Access, admin_key
from faas.stores.memory import MemoryKeyStore
from tests.usage_samples import FixedClock

pytestmark = pytest.mark.anyio
CLIENT_FILE = "client.toml"


class Killed(BaseException):
    """The process ends here."""


class User:
    """Somebody who runs a node in a home of their own, time and again."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.said: list[str] = []

    async def start(self, keys: MemoryKeyStore, *, ours: bool = True, anew: bool = False) -> str:
        """What `faas up` does with the key; the key they get in with."""
        self.said.clear()

        def keep(key: str) -> None:
            write_client_file(self.home, "", key)

        kept = read_client_file(self.home).get("key", "")
        found = await admin_key(keys, Access(kept, keep, anew), ours=ours, say=self.said.append)
        assert read_client_file(self.home).get("key", "") == (found or kept)
        return found


@pytest.fixture
def user(tmp_path: Path) -> User:
    return User(tmp_path)


@pytest.fixture
def keys() -> MemoryKeyStore:
    return MemoryKeyStore(FixedClock())


async def gets_in(keys: MemoryKeyStore, secret: str) -> bool:
    found = await keys.find(secret)
    return found is not None and (found.namespace, found.scopes) == ("*", ("admin",))


async def test_the_first_start_makes_a_key_and_the_next_ones_keep_it(user: User, keys: MemoryKeyStore) -> None:
    first = await user.start(keys)
    assert await gets_in(keys, first)
    assert [await user.start(keys) for _ in range(3)] == [first] * 3
    assert (len(await keys.list()), user.said) == (1, [])
    assert [path.name for path in user.home.iterdir()] == [CLIENT_FILE]


async def test_a_lost_file_gets_another_key_and_that_is_said(user: User, keys: MemoryKeyStore) -> None:
    lost = await user.start(keys)
    (user.home / CLIENT_FILE).unlink()
    found = await user.start(keys)
    assert await gets_in(keys, found)
    assert found != lost
    assert user.said == [ANOTHER]


async def test_a_key_that_was_revoked_does_not_come_back(user: User, keys: MemoryKeyStore) -> None:
    revoked = await user.start(keys)
    (key,) = await keys.list()
    await keys.revoke(key.id)
    assert await gets_in(keys, await user.start(keys))
    assert await keys.find(revoked) is None


async def test_a_key_of_lesser_power_is_the_users_choice(user: User, keys: MemoryKeyStore) -> None:
    await user.start(keys)
    _, lesser = await keys.create("default", ["invoke"])
    write_client_file(user.home, "", lesser)
    assert await user.start(keys) == lesser
    assert await gets_in(keys, await user.start(keys, anew=True))


@pytest.mark.parametrize("step", ["before the file", "before the store", "after the store"])
@pytest.mark.parametrize("lost", [False, True])
async def test_a_node_killed_at_any_step_locks_nobody_out(
    step: str, lost: bool, user: User, keys: MemoryKeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the first start of all, or (``lost``) at one that has to replace a key."""
    if lost:
        await user.start(keys)
        (user.home / CLIENT_FILE).unlink()
    store = MemoryKeyStore.create

    async def killed(self: MemoryKeyStore, *arguments: object) -> tuple[ApiKey, str]:
        if step == "after the store":
            await store(self, *arguments)  # type: ignore[arg-type]
        raise Killed

    def killed_early(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(MemoryKeyStore, "create", killed)
        if step == "before the file":
            patched.setattr("tests.unit.test_cli_access.write_client_file", killed_early)
        with pytest.raises(Killed):
            await user.start(keys)
    assert await gets_in(keys, await user.start(keys))
    assert len(await keys.list()) == 1 + lost, "and no key was left that nobody holds"


async def test_somebody_elses_store_gives_no_key_unasked(user: User, keys: MemoryKeyStore) -> None:
    await keys.first()
    assert await user.start(keys, ours=False) == ""
    assert user.said == [NOT_YOURS]
    assert not list(user.home.iterdir())
    assert await gets_in(keys, await user.start(keys, ours=False, anew=True))
    assert user.said == [ANOTHER]


async def test_of_two_that_begin_at_once_the_slower_has_none(
    user: User, keys: MemoryKeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a store they share; what was in the slower one's file is there again."""
    write_client_file(user.home, "", "of another node")
    first = keys.first

    async def too_late(secret: str) -> tuple[ApiKey, str] | None:
        await first()
        return await first(secret)

    monkeypatch.setattr(keys, "first", too_late)
    assert await user.start(keys, ours=False) == ""
    assert read_client_file(user.home)["key"] == "of another node"
    assert (user.said, len(await keys.list())) == ([NOT_YOURS], 1)
