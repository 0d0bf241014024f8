"""A few of the crashes that ``make soak`` does by the hundred (``soak_ledger.py``): same code, same promises."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence

import pytest

from tests.e2e.ledger_crashes import DOUBLED, KINDS, LOST, broken, crash
from tests.e2e.ledger_nodes import Promises
from tests.e2e.ledger_writer import record_of
from tests.usage_samples import NOON_MS

RUNS = (("power", "torn", "back"), ("full", "node", "valkey"), ("both", "back", "rewrite"))


@pytest.mark.anyio
@pytest.mark.timeout(300)
@pytest.mark.parametrize("events", RUNS, ids="-".join)
async def test_every_record_is_there_once_whatever_crashes(events: Sequence[str]) -> None:
    seed = int(os.environ.get("FAAS_TEST_SEED") or random.randrange(1 << 32))
    print(f"seed {seed} (FAAS_TEST_SEED={seed} does the same again)")
    outcome = await crash(seed, events)
    assert outcome.problems == []
    assert outcome.acknowledged > len(events)


def test_every_kind_of_crash_is_among_them() -> None:
    assert {kind for events in RUNS for kind in events} == set(KINDS)


def test_the_judge_sees_what_it_must() -> None:
    """A record lost, doubled, kept though refused, invented or changed is noticed; one excused or unsaid is not."""
    sound = [record_of((0, 1, number), NOON_MS * 10**6) for number in range(1, 5)]
    promises = Promises(kept={(0, 1, n) for n in (1, 2, 3, 4)}, refused={(0, 1, 5)}, unsaid={(0, 1, 6)})

    def seen(records: Sequence[object]) -> list[str]:
        return [what for what, which in broken(promises, records).items() if which]  # type: ignore[arg-type]

    assert seen(sound) == seen([*sound, record_of((0, 1, 6), NOON_MS * 10**6)]) == []
    assert seen(sound[:3]) == [LOST]
    assert seen([*sound, sound[0]]) == [DOUBLED]
    assert seen([*sound, record_of((0, 1, 5), 0)]) == ["records whose writer was told that they could not be kept"]
    assert seen([*sound, record_of((0, 2, 1), 0)]) == ["records that nobody wrote"]
    changed = record_of((0, 1, 4), NOON_MS * 10**6)
    changed.billed_ms += 1
    assert seen([*sound[:3], changed]) == ["records that changed"]
    promises.excused.add((0, 1, 4))
    assert seen(sound[:3]) == []
