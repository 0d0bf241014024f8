"""More than a year of a node's life, mostly quiet: what only goes wrong now and then, or adds up slowly.

Each seed is another node, with faults of every kind. Every step checks every invariant; at the end of each, with the
faults gone, everything works.
"""

from __future__ import annotations

import pytest

from tests.sim.scenarios import HOUR, WEEKS_HOURS, weeks

SEEDS = 20  # 10,000 hours in all


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_node_lives_for_weeks_and_is_as_good_as_new(seed: int) -> None:
    world = weeks(seed)
    assert world.now >= WEEKS_HOURS * HOUR
    assert len(world.ended) == world.submitted
