"""A short run of the kills that ``make soak`` does with a million messages (``soak_queues.py``): the same promises."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.e2e.queue_campaign import QueueCampaign, judge
from tests.e2e.queue_recorder import Effect

MESSAGES, KILLS = 8_000, 3


@pytest.mark.anyio
@pytest.mark.timeout(300)
async def test_no_message_is_lost_whichever_node_is_killed(tmp_path: Path) -> None:
    seed = int(os.environ.get("FAAS_TEST_SEED") or random.randrange(1 << 32))
    print(f"seed {seed} (FAAS_TEST_SEED={seed} draws the same kills)")
    fate = await QueueCampaign(tmp_path, seed, MESSAGES, KILLS, pause_s=1.0).play(print)
    assert fate.problems == []
    assert fate.kills > 0
    assert (fate.sent, fate.dead) == (MESSAGES, MESSAGES // 1000)


def test_the_judge_sees_what_it_must() -> None:
    """The judge is judged: a message lost, doubled without a kill, or dead without reason is noticed."""
    sound = {number: [Effect(1, number, float(number))] for number in range(10) if number != 7}
    assert judge(10, sound, [7], {}) == []
    assert len(judge(10, {n: e for n, e in sound.items() if n != 3}, [7], {})) == 1
    assert len(judge(10, sound, [], {})) == 1
    assert len(judge(10, sound, [7, 7], {})) == 1
    assert len(judge(10, sound, [7, 8], {})) == 1
    assert len(judge(10, {**sound, 7: [Effect(1, 7, 7.0)]}, [7], {})) == 1
    doubled = {**sound, 5: [Effect(1, 5, 5.0), Effect(2, 1, 9.0)]}
    assert len(judge(10, doubled, [7], {})) == 1
    assert len(judge(10, doubled, [7], {1: 6})) == 1
    assert judge(10, doubled, [7], {1: 5}) == []
    assert judge(10, doubled, [7], {}, [(4.0, 5.0)]) == []
    assert len(judge(10, doubled, [7], {}, [(5.5, 9.5)])) == 1
