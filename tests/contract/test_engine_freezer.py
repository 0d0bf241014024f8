"""What a freezer does when the kernel or the engine does not do as it is told."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import docker.errors
import pytest
import requests

from faas.engines import freezer, proc
from faas.engines.containers import Containers
from faas.engines.freezer import ASK_TRIES, AskedFreezer, GroupFreezer, SignalFreezer, StillRuns
from faas.engines.freezer_file import FreezerFile
from faas.model.errors import EngineUnavailable
from tests.contract.sandboxes import spawn

pytestmark = pytest.mark.anyio


class Asked:
    """An engine that pauses and resumes, or fails to, as it is told; it has what it did in ``heard``."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.outrun = 0  # how often processes fork faster than it looks
        self.heard: list[str] = []
        self.paused = False
        self.freezer = AskedFreezer(self.pause, self.resume)

    async def pause(self) -> None:
        await self._do("pause", paused=True)

    async def resume(self) -> None:
        await self._do("resume", paused=False)

    async def _do(self, what: str, *, paused: bool) -> None:
        self.heard.append(what)
        await asyncio.sleep(0.001)
        if what in self.failures:
            self.failures.remove(what)
            raise EngineUnavailable(f"no {what} today")
        if what == "pause" and self.outrun:
            self.outrun -= 1
            raise StillRuns("too many")
        self.paused = paused

    async def thaw(self) -> None:
        later = self.freezer.thaw()
        if later is not None:
            await later


async def test_a_pause_that_fails_is_taken_back() -> None:
    asked = Asked()
    asked.failures = ["pause"]
    with pytest.raises(EngineUnavailable, match="no pause today"):
        await asked.freezer.freeze()
    assert asked.heard == ["pause", "resume"]  # it may have happened all the same
    assert asked.freezer.thaw() is None
    await asked.freezer.freeze()
    assert asked.paused


async def test_processes_that_outrun_the_engine_are_tried_again() -> None:
    asked = Asked()
    asked.outrun = 3
    await asked.freezer.freeze()
    assert asked.paused
    assert asked.heard == ["pause"] * 4
    await asked.thaw()
    asked.heard, asked.outrun = [], ASK_TRIES
    with pytest.raises(StillRuns, match="too many"):
        await asked.freezer.freeze()
    assert asked.heard == ["pause"] * ASK_TRIES + ["resume"]


async def test_a_thaw_ends_trying_to_stop_them() -> None:
    asked = Asked()
    asked.outrun = ASK_TRIES
    freezing = asyncio.create_task(asked.freezer.freeze())
    while len(asked.heard) < 2:
        await asyncio.sleep(0)
    await asked.thaw()
    await freezing
    assert asked.heard == ["pause", "pause", "resume"]
    assert not asked.paused


async def test_a_resume_that_fails_is_said_and_tried_again() -> None:
    asked = Asked()
    await asked.freezer.freeze()
    asked.failures = ["resume"]
    with pytest.raises(EngineUnavailable, match="no resume today"):
        await asked.thaw()
    await asked.thaw()
    assert not asked.paused
    asked.failures = ["pause", "resume"]
    with pytest.raises(EngineUnavailable, match="no pause today"):
        await asked.freezer.freeze()
    asked.paused = True  # for all that anybody knows
    await asked.thaw()
    assert not asked.paused


async def test_one_thing_is_asked_at_a_time_and_nothing_needlessly() -> None:
    asked = Asked()
    await asyncio.gather(asked.thaw(), *(asked.freezer.freeze() for _ in range(4)), asked.thaw())
    assert asked.heard == []
    freezing = [asyncio.create_task(asked.freezer.freeze()) for _ in range(2)]
    await asyncio.sleep(0)
    thawing = asked.freezer.thaw()
    again = asked.freezer.freeze()
    await asyncio.gather(*freezing, again)
    assert thawing is not None
    await thawing
    assert asked.heard == ["pause"]
    assert asked.paused


async def test_nobody_need_wait_for_a_thaw() -> None:
    asked = Asked()
    await asked.freezer.freeze()
    asked.failures = ["resume"]
    asked.freezer.thaw()  # what becomes of it is not looked at, and that is no warning
    await asyncio.sleep(0.01)
    assert asked.heard == ["pause", "resume"]


async def test_who_is_told_to_stop_waiting_for_a_freeze_has_it_undone() -> None:
    asked = Asked()
    freezing = asyncio.create_task(asked.freezer.freeze())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    freezing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await freezing
    await asked.thaw()
    assert not asked.paused


async def test_what_does_not_stop_is_let_go_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freezer, "FREEZE_LIMIT_S", 0.05)
    (tmp_path / "cgroup.freeze").write_text("0")
    (tmp_path / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    file = FreezerFile.of(tmp_path)
    assert file is not None
    with pytest.raises(EngineUnavailable, match="s1 did not stop within"), freezer.translated("s1"):
        await GroupFreezer(file).freeze()
    assert not file.is_asked()
    (tmp_path / "cgroup.freeze").unlink()
    with pytest.raises(EngineUnavailable, match="s1 has ended"), freezer.translated("s1"):
        await GroupFreezer(file).freeze()


async def test_a_number_that_is_another_process_by_now_is_left_alone() -> None:
    """The first process has ended and been reaped, and the kernel gave its number to a stranger."""
    with spawn(["sleep", "600"]) as meant:
        await asyncio.sleep(0.05)  # the kernel tells when it started to a hundredth of a second
        stranger = spawn(["sleep", "600"])
        pidfd = os.pidfd_open(meant.pid)
        try:
            by_signal = SignalFreezer(meant.pid, pidfd)
            by_signal._root = stranger.pid
            with pytest.raises(ProcessLookupError):
                await by_signal.freeze()
            seen = proc.look(stranger.pid)
            assert seen is not None
            assert seen.state not in "Tt"
            meant.kill()
            meant.wait()
            with pytest.raises(ProcessLookupError):
                by_signal.thaw()
        finally:
            os.close(pidfd)
            stranger.kill()
            stranger.wait()
            meant.kill()


class RefusesToKillWhatIsPaused:
    """The part of the SDK's client that removing a container needs, of an engine of the older kind."""

    def __init__(self) -> None:
        self.paused = True
        self.left = True

    def remove_container(self, container: str, **_: Any) -> None:
        if self.paused:
            response = requests.Response()
            response.status_code = 409
            raise docker.errors.APIError(
                "409 Client Error", response=response, explanation=f"Container {container} is paused. Unpause it first"
            )
        self.left = False

    def unpause(self, container: str) -> None:
        self.paused = False


async def test_an_engine_that_kills_nothing_paused_is_asked_to_resume_it_first() -> None:
    engine = RefusesToKillWhatIsPaused()
    Containers(engine, {}, Path("/"), "").remove("faas-s1")  # type: ignore[arg-type]
    assert not engine.left
