"""Whether the ledger's sums are those of its raw records: per hour and group, number by number.

The sums are added up as records arrive, the records are kept as they came. Adding the records up again must give the
sums; what does not is a ``Difference``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from faas.metering.sums import METRICS, Cells, Group

# What became of an hour. Only one that was compared says anything about its sums.
COMPARED: Final = "compared"
EXPIRED: Final = "expired"  # no raw records are there (any more)
INCOMPLETE: Final = "incomplete"  # some were not kept, because the retention was changed within its time


class Difference(NamedTuple):
    """A sum that is not what the raw records add up to."""

    hour: int
    group: Group
    metric: str
    ledger: int
    records: int


class HourCheck(NamedTuple):
    """One hour held against its raw records: how many there were, and every sum that is not theirs."""

    hour: int
    state: str
    records: int = 0
    differences: tuple[Difference, ...] = ()


def differences(
    hour: int, ledger: Mapping[Group, Sequence[int]], records: Mapping[Group, Sequence[int]]
) -> tuple[Difference, ...]:
    """What differs, ordered by group and metric. Sums in the order of ``METRICS``; missing ones are 0.

    Worked example: 3 invocations in the ledger and 2 records of one group give one difference, ``invocations`` 3 and 2,
    and one for each other metric to which the third would have added something.
    """
    found = []
    for group in sorted({*ledger, *records}):
        ours, theirs = ledger.get(group, ()), records.get(group, ())
        for place, metric in enumerate(METRICS):
            sums = [amounts[place] if place < len(amounts) else 0 for amounts in (ours, theirs)]
            if sums[0] != sums[1]:
                found.append(Difference(hour, group, metric, *sums))
    return tuple(found)


def hours_of(cells: Cells, hour: int, namespace: str) -> dict[Group, list[int]]:
    """The cells of one hour, of one namespace or ("") of all."""
    return {group: sums for (at, group), sums in cells.items() if at == hour and namespace in ("", group.namespace)}
