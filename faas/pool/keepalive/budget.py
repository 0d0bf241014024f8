"""How dear holding memory is now: a price that keeps what is held within what fixed keep-alive would have held.

Theory of operation. Every idle minute of every function is offered for sale: it costs what the sandbox holds in that
minute and saves a cold start with the chance that the forecast gives. Greedily by saving per cost is the optimum of
this (fractional) knapsack, so one price decides: what saves more per megabyte-minute than the price is bought. The
price comes from a budget. Its income is a share of what a fixed keep-alive would have held of the same functions,
warm, in the same minutes, which is known as it happens; what is held is paid from it. The fuller it is, the lower the
price: it falls by a factor e for every ten minutes of income saved up, and rises so for every ten owed. That is dual
mirror descent on the Lagrangian of the knapsack (Balseiro, Lu and Mirrokni, "Dual mirror descent for online
allocation problems", ICML'20), with the price kept within what is sensible:

- at an even balance the price is such that a function of average memory of which nothing is known is kept just as
  long as the fixed policy would keep it;
- it never falls below one cold start for ``worth_min`` minutes of an average function: memory left over is left free;
- twenty minutes of income owed, nothing is bought at all.

So ``spent <= share * fixed + 20 minutes of income``, but for the bins under way, at all times and whatever the calls.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from faas.pool.keepalive.policy import MINUTE_NS


@dataclass(frozen=True, slots=True)
class BudgetSettings:
    """``share`` of what ``fixed_ns`` of keep-alive would hold may be held; the rest is room for late corrections."""

    fixed_ns: int = 10 * MINUTE_NS
    share: float = 0.95
    worth_min: float = 60.0
    scale_min: float = 10.0
    debt_min: float = 20.0
    saved_min: float = 60.0
    half_life_min: float = 60.0  # of the estimate of income


class Budget:
    """In MB-minutes. The average function holds ``warm_mb / holders`` when it is kept warm."""

    __slots__ = (
        "_begun_ns",
        "_recent_mb_min",
        "_settled_ns",
        "balance_mb_min",
        "fixed_mb_min",
        "holders",
        "settings",
        "spent_mb_min",
        "warm_mb",
    )

    def __init__(self, settings: BudgetSettings) -> None:
        self.settings = settings
        self.balance_mb_min = 0.0
        self.fixed_mb_min = 0.0
        self.spent_mb_min = 0.0
        self.warm_mb = 0.0
        self.holders = 0
        self._recent_mb_min = 0.0
        self._settled_ns = 0
        self._begun_ns: int | None = None

    def settle(self, fixed_mb_min: float, spent_mb_min: float, now_ns: int) -> None:
        """Since this function was last settled, fixed keep-alive would have held the one and we held the other."""
        settings = self.settings
        if self._begun_ns is None:
            self._begun_ns = self._settled_ns = now_ns
        if now_ns > self._settled_ns:
            age_min = (now_ns - self._settled_ns) / MINUTE_NS
            self._recent_mb_min *= math.exp2(-age_min / settings.half_life_min)
            self._settled_ns = now_ns
        self._recent_mb_min += fixed_mb_min
        self.fixed_mb_min += fixed_mb_min
        self.spent_mb_min += spent_mb_min
        saved = self.balance_mb_min + settings.share * fixed_mb_min - spent_mb_min
        self.balance_mb_min = min(saved, settings.saved_min * self.income_mb(now_ns))

    def income_mb(self, now_ns: int) -> float:
        """What fixed keep-alive has lately been holding on average."""
        if self._begun_ns is None:
            return 0.0
        half_life = self.settings.half_life_min
        age_min = max(1.0, (now_ns - self._begun_ns) / MINUTE_NS)
        return self._recent_mb_min * math.log(2) / (half_life * (1 - math.exp2(-age_min / half_life)))

    def price(self, now_ns: int) -> float:
        """Cold starts saved that a MB-minute must be worth, at least; infinite when too much is owed."""
        if self.holders == 0 or self.warm_mb <= 0:
            return 0.0
        settings, income_mb = self.settings, self.income_mb(now_ns)
        average_mb = self.warm_mb / self.holders
        even = MINUTE_NS / (2 * settings.fixed_ns * average_mb)
        least = 1 / (settings.worth_min * average_mb)
        if income_mb <= 0:
            return math.inf if self.balance_mb_min < 0 else even
        minutes = self.balance_mb_min / income_mb
        if minutes < -settings.debt_min:
            return math.inf
        return max(least, even * math.exp(-minutes / settings.scale_min))
