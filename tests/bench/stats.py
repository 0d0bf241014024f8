"""The statistics of the benchmark: percentiles, medians, ratios of rounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that at least ``share`` of all samples do not exceed (nearest rank).

    No interpolation: what is printed was measured. ``share`` is in (0, 1]; raises ``ValueError`` without samples.

    >>> percentile([4, 1, 3, 2], 0.5), percentile([4, 1, 3, 2], 0.99)
    (2, 4)
    """
    if not samples:
        raise ValueError("a percentile of nothing")
    if not 0 < share <= 1:
        raise ValueError(f"the share {share} is not in (0, 1]")
    ordered = sorted(samples)
    return ordered[math.ceil(share * len(ordered)) - 1]


def median(samples: Sequence[float]) -> float:
    """The middle sample, or the mean of the two in the middle.

    >>> median([3, 1, 2]), median([4, 1, 3, 2])
    (2, 2.5)
    """
    if not samples:
        raise ValueError("a median of nothing")
    ordered = sorted(samples)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


@dataclass(frozen=True, slots=True)
class Paired:
    """Rounds of one thing and of its floor, measured in turn. Lists are of equal length, one entry per round."""

    ours: Sequence[float]
    floor: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.ours) != len(self.floor) or not self.ours:
            raise ValueError(f"{len(self.ours)} rounds and {len(self.floor)} of the floor")

    @property
    def ratio(self) -> float:
        """Median of the rounds' ratios: what drifts over the run cancels within a round.

        >>> Paired([2, 4, 9], [1, 2, 3]).ratio
        2.0
        """
        return median([mine / theirs for mine, theirs in zip(self.ours, self.floor, strict=True)])

    @property
    def spread(self) -> tuple[float, float]:
        """The lowest and the highest ratio of any round."""
        ratios = [mine / theirs for mine, theirs in zip(self.ours, self.floor, strict=True)]
        return min(ratios), max(ratios)
