"""Our keep-alive: hold each function in just those minutes in which that is worth its memory.

Theory of operation. While a function is idle it is reviewed once a bin (a minute for the first four hours): the
forecast (``forecast.py``) says how likely a call in this bin is, the budget (``budget.py``) what a cold start avoided
may cost now. So a function called every few minutes is held throughout, one called hourly is let go and loaded again
just before the hour, and one called once a day is let go. It differs from the hybrid histogram (Shahrad et al.,
"Serverless in the Wild", ATC'20; ``histogram.py``) in three ways: chances instead of percentiles, so the one window
may be several; memory counts, and so does the time to load, as in FaasCache's greedy-dual (Fuerst and Sharma,
ASPLOS'21): a small function is held longer than a big one, one that imports for half a second longer than one that is
there in a moment; and all functions of a node share one budget, so it can't cost more than what it replaces.

Loading is not free either: it is taken for as dear as holding for one bin. So what would be loaded again in the next
bin is not let go, and it is loaded only for a chance that pays for a bin more.

Accounting is the paper's, in whole bins: a bin is paid for when it has passed without a call; half a minute is free.

Invariants: at most ``functions_max`` functions are remembered (about 1 kB each), the least recently idle is
forgotten first; nothing is held longer than 25 hours for one call; holding is paid for until the decision is changed.
"""

from __future__ import annotations

from typing import Final

from faas.pool.keepalive.bins import BEYOND, LAST, START, WIDTH, bin_of, start_ns
from faas.pool.keepalive.budget import Budget, BudgetSettings
from faas.pool.keepalive.forecast import Forecast
from faas.pool.keepalive.policy import MINUTE_NS, Decision, Outlook, in_words

LOAD_NS: Final = 20_000_000  # of a function that imports little, on a busy node; less is not worth less
DEAR_MAX: Final = 25.0  # half a second of importing and more


class _Function:
    """``idle_ns`` is when it became idle, ``None`` while it is busy; its costs are settled up to bin ``settled``."""

    __slots__ = ("dear", "forecast", "hold_mb", "idle_ns", "keep", "settled", "warm_mb")

    def __init__(self) -> None:
        self.forecast = Forecast()
        self.hold_mb = 0.0
        self.warm_mb = 0.0
        self.dear = 1.0  # its cold start costs its caller so many times a usual one
        self.idle_ns: int | None = None
        self.settled = 0
        self.keep = False


class Adaptive:
    """See the module's docstring; the methods are those of ``KeepAlive``.

    >>> policy = Adaptive()
    >>> for minute in range(0, 182):
    ...     if minute % 60 == 0:
    ...         policy.called("report", minute * MINUTE_NS)
    ...         policy.idle("report", 128, 128, minute * MINUTE_NS)
    ...     decision = policy.decide("report", minute * MINUTE_NS)
    >>> policy.outlook("report", 181 * MINUTE_NS).why
    '3 of the last 3 idle times were about 1 h; let go until a call is likely again, in 58 min'
    """

    def __init__(self, settings: BudgetSettings | None = None, functions_max: int = 10_000) -> None:
        self.budget = Budget(settings or BudgetSettings())
        self.functions_max = functions_max
        self._functions: dict[str, _Function] = {}  # the least recently idle first

    def called(self, function: str, now_ns: int) -> None:
        known = self._functions.get(function)
        if known is None or known.idle_ns is None:
            return
        index = bin_of(now_ns - known.idle_ns)
        self._settle(known, index, now_ns)
        known.forecast.note(index)
        known.idle_ns = None

    def idle(self, function: str, hold_mb: float, warm_mb: float, now_ns: int, load_ns: int = 0) -> None:
        known = self._functions.pop(function, None)
        if known is None:
            known = _Function()
            self.budget.holders += 1
            while len(self._functions) >= self.functions_max:
                self.forget(next(iter(self._functions)), now_ns)
        elif known.idle_ns is not None:
            self._settle(known, bin_of(now_ns - known.idle_ns), now_ns)
        self._functions[function] = known
        self.budget.warm_mb += warm_mb - known.warm_mb
        known.hold_mb, known.warm_mb = hold_mb, warm_mb
        known.dear = min(max(load_ns / LOAD_NS, 1.0), DEAR_MAX)
        known.idle_ns, known.settled, known.keep = now_ns, 0, True

    def decide(self, function: str, now_ns: int) -> Decision:
        known = self._functions.get(function)
        if known is None or known.idle_ns is None:
            return Decision(False, None)
        index = bin_of(now_ns - known.idle_ns)
        self._settle(known, index, now_ns)
        known.keep = self._worth(known, index, self.budget.price(now_ns), known.keep)
        return Decision(known.keep, known.idle_ns + start_ns(index + 1) if index <= LAST else None)

    def released(self, function: str, now_ns: int) -> None:
        known = self._functions.get(function)
        if known is not None and known.idle_ns is not None:
            self._settle(known, bin_of(now_ns - known.idle_ns), now_ns)
            known.keep = False

    def forget(self, function: str, now_ns: int) -> None:
        self.released(function, now_ns)
        known = self._functions.pop(function, None)
        if known is not None:
            self.budget.warm_mb -= known.warm_mb
            self.budget.holders -= 1

    def outlook(self, function: str, now_ns: int) -> Outlook:
        """At the present price; looks through all bins ahead, some milliseconds of work."""
        known = self._functions.get(function)
        if known is None or known.idle_ns is None:
            return Outlook(None, None, None, "it is running" if known else "it has not been called yet")
        price, index = self.budget.price(now_ns), bin_of(now_ns - known.idle_ns)
        ahead = range(index + 1, BEYOND + 1)
        keep = [known.keep]
        for later in ahead:
            keep.append(self._worth(known, later, price, keep[-1]))
        turns = [known.idle_ns + start_ns(later) for i, later in enumerate(ahead) if keep[i] != keep[i + 1]]
        keep_until = turns.pop(0) if known.keep else None
        at, until = turns[:2] if turns else (None, None)
        return Outlook(keep_until, at, until, self._why(known, keep_until, at, now_ns))

    def _why(self, known: _Function, keep_until: int | None, prewarm_at: int | None, now_ns: int) -> str:
        again = "" if prewarm_at is None else in_words(prewarm_at - now_ns)
        if keep_until is not None:
            deed = f"kept for {in_words(keep_until - now_ns)}" + (f", and again in {again}" if again else "")
        elif again:
            deed = f"let go until a call is likely again, in {again}"
        else:
            deed = f"let go, a call is not likely enough to hold {known.hold_mb:.0f} MB for it"
        return f"{known.forecast.in_words()}; {deed}"

    def _worth(self, known: _Function, index: int, price: float, keep: bool) -> bool:
        """Whether it should be held in this bin, when it is held (``keep``) or not held before it."""
        if index == 0 or index == BEYOND:
            return index == 0
        if keep:
            return self._pays(known, index, price, 0) or (index < LAST and self._pays(known, index + 1, price, 0))
        return self._pays(known, index, price, WIDTH[index])

    def _pays(self, known: _Function, index: int, price: float, load_min: float) -> bool:
        """Whether the chance of a call is worth the bin: all of it if none comes, half of its minutes but one if so."""
        chance = known.forecast.chance(index)
        width = WIDTH[index]
        cost_min = (1 - chance) * width + chance * (width - 1) / 2 + load_min
        return chance * known.dear >= price * known.hold_mb * cost_min

    def _settle(self, known: _Function, index: int, now_ns: int) -> None:
        """Pay for the bins that have passed, and take in what fixed keep-alive would have paid for them."""
        if index <= known.settled:
            return
        since_min, until_min = START[known.settled], START[index]
        spent_min = until_min - since_min if known.keep else 0.0
        fixed_min = self.budget.settings.fixed_ns / MINUTE_NS
        fixed_min = min(until_min, fixed_min) - min(since_min, fixed_min)
        self.budget.settle(fixed_min * known.warm_mb, spent_min * known.hold_mb, now_ns)
        known.settled = index
