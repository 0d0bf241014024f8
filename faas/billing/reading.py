"""Price books in TOML: everything that is wrong with them at once, each with line and key.

::

    [[book]]                          # without this line a file is one book
    name = "team-prices"
    from = "2026-01"                  # the month, or its first day; without it, since ever
    currency = "EUR"
    decimals = 2                      # of a total
    bill_init = true                  # whether starts are in the billed time
    bill_retries = true               # attempts after the first
    bill_throttles = false            # the request of a call that was refused
    per_million_requests = 0.20       # or per_request
    per_gb_second = [{ up_to = 1_000_000, price = 0.00002 }, { price = 0.000015 }]   # or one price
    per_cpu_second = 0
    per_gb_out = 0.09                 # 10^9 bytes
    per_provisioned_gb_second = 0.000004
    free = { requests = 1_000_000, gb_seconds = 400_000 }       # each month, each namespace
    machine = { cost_per_month = 20, memory_gb = 8, used = 0.5 }   # instead of per_gb_second

    [book.namespaces.team-a]          # what is otherwise for one namespace: prices, flags, free
    per_gb_second = 0

Numbers are exact decimals, as TOML's numbers or as text.
"""

from __future__ import annotations

import datetime as dt
import difflib
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from types import MappingProxyType
from typing import Any, Final

from faas.billing import money
from faas.billing.book import FLAGS, MONTH, MONTH_SECONDS, Books, Dated, Override, PriceBook, Tier
from faas.billing.metrics import CPU_SECONDS, GB_OUT, GB_SECONDS, METRICS, PROVISIONED, REQUESTS
from faas.model.errors import InvalidPrices, ManifestProblem
from faas.model.toml_text import Path, dotted, parse

# key -> what it prices, and what part of that price is the price of the metric's unit
PRICES: Final = {
    "per_request": (REQUESTS, Decimal(1)),
    "per_million_requests": (REQUESTS, Decimal("0.000001")),
    "per_gb_second": (GB_SECONDS, Decimal(1)),
    "per_cpu_second": (CPU_SECONDS, Decimal(1)),
    "per_gb_out": (GB_OUT, Decimal(1)),
    "per_provisioned_gb_second": (PROVISIONED, Decimal(1)),
}
NUMBER_MAX: Final = Decimal(10) ** 15
NUMBER_DECIMALS_MAX: Final = 20
DECIMALS_MAX: Final = 10
BOOKS_MAX: Final = 200
TIERS_MAX: Final = 20
PROBLEMS_MAX: Final = 100
MACHINE_DECIMALS: Final = 16  # of a price per GB-second that is worked out from what a machine costs

_HEAD: Final = ("name", "from", "currency", "decimals", "machine", "namespaces")
_OVERRIDE: Final = (*PRICES, *FLAGS, "free")
_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,62}")
_CURRENCY: Final = re.compile(r"[A-Z]{3}")
_NUMBER: Final = re.compile(r"[0-9]{1,16}(\.[0-9]{1,20})?")


def parse_books(text: str) -> Books:
    """Raises ``InvalidPrices`` with every problem."""
    table, lines, problem = parse(text, parse_float=_exact)
    if problem is not None:
        raise InvalidPrices([problem])
    return _Reader(lines).books(table)


def _exact(text: str) -> Decimal | str:
    """TOML's floats as they are written; what is no plain number stays text, and is refused as such."""
    try:
        return Decimal(text)
    except InvalidOperation:
        return text


class _Reader:
    """Collects problems; what is wrong is left out and reading goes on."""

    def __init__(self, lines: Mapping[Path, int]) -> None:
        self._lines = lines
        self._problems: list[ManifestProblem] = []

    def books(self, table: Mapping[str, Any]) -> Books:
        found: list[Dated] = []
        if "book" in table:
            self._unknown(table, (), ("book",))
            for at, each in self._tables(table["book"], ("book",), BOOKS_MAX):
                found.append(self._book(each, at))
        else:
            found.append(self._book(table, ()))
        self._months(found, "book" in table)
        if self._problems:
            ordered = sorted(self._problems, key=lambda problem: (problem.line is None, problem.line or 0))
            raise InvalidPrices(ordered[:PROBLEMS_MAX])
        return Books(tuple(sorted(found, key=lambda each: each.book.month)))

    def _months(self, found: Sequence[Dated], several: bool) -> None:
        seen: dict[str, int] = {}
        for number, each in enumerate(found):
            first = seen.setdefault(each.book.month, number)
            if first != number and several:
                when = f"begin in {each.book.month}" if each.book.month else "have no `from`"
                self._say(("book", number, "from"), f"two books {when}; each must begin in a month of its own")

    # -- one book ---------------------------------------------------------------------------------------------------

    def _book(self, table: Mapping[str, Any], at: Path) -> Dated:
        self._unknown(table, at, (*_HEAD, *_OVERRIDE))
        own = self._override(table, at)
        tiers = dict(own.tiers)
        if "machine" in table:
            self._machine(table, at, tiers)
        plain = PriceBook(
            name=self._matching(
                table, "name", at, _NAME, "prices", "a lower-case letter, then up to 62 of a-z, 0-9, -"
            ),
            month=self._month(table, at),
            currency=self._currency(table, at),
            decimals=self._decimals(table, at),
            machine="machine" in table,
        )
        book = Override(tiers, own.free, own.flags).over(plain)
        overrides = {}
        for name, each, path in self._named(table.get("namespaces", {}), (*at, "namespaces")):
            if not _NAME.fullmatch(name):
                self._say(path, "is not a namespace: a lower-case letter, then up to 62 of a-z, 0-9, -")
            self._unknown(each, path, _OVERRIDE)
            overrides[name] = self._override(each, path)
        return Dated(book, MappingProxyType(overrides))

    def _override(self, table: Mapping[str, Any], at: Path) -> Override:
        tiers: dict[str, tuple[Tier, ...]] = {}
        for key, (metric, unit) in PRICES.items():
            if key not in table:
                continue
            if metric in tiers:
                self._say((*at, key), "per_request and per_million_requests say the same thing: keep one")
            tiers[metric] = self._tiers(table[key], (*at, key), metric, unit)
        flags = {}
        for flag in FLAGS:
            if flag in table:
                if not isinstance(table[flag], bool):
                    self._say((*at, flag), f"must be true or false, not {_shown(table[flag])}")
                flags[flag] = bool(table[flag])
        return Override(tiers, self._free(table.get("free", {}), (*at, "free")), flags)

    def _tiers(self, value: Any, at: Path, metric: str, unit: Decimal) -> tuple[Tier, ...]:
        if not isinstance(value, list):
            return (Tier(None, money.times(self._number(value, at), unit)),)
        found: list[Tier] = []
        below = 0
        if not value:
            self._say(
                at, "is an empty list: write a price, or tiers like [{ up_to = 1000, price = 0.2 }, { price = 0.1 }]"
            )
        for path, each in self._tables(value, at, TIERS_MAX):
            self._unknown(each, path, ("up_to", "price"))
            if "price" not in each:
                self._say(path, "has no `price`")
            price = money.times(self._number(each.get("price", 0), (*path, "price")), unit)
            last = path[-1] == len(value) - 1
            if last and "up_to" in each:
                self._say((*path, "up_to"), "the last tier is for all that is above the others: it has no `up_to`")
            if not last and "up_to" not in each:
                self._say(path, "has no `up_to`, which every tier but the last needs")
            up_to = None if last else self._base(each.get("up_to", 0), (*path, "up_to"), metric)
            if up_to is not None and "up_to" in each:
                if up_to <= below:
                    self._say((*path, "up_to"), "must be more than in the tier before, and more than 0")
                below = up_to
            found.append(Tier(up_to, price))
        return tuple(found) or (Tier(None, money.ZERO),)

    def _free(self, value: Any, at: Path) -> dict[str, int]:
        if not isinstance(value, dict):
            self._say(at, f"must be a table like {{ requests = 1_000_000 }}, not {_shown(value)}")
            return {}
        self._unknown(value, at, tuple(METRICS))
        return {name: self._base(value[name], (*at, name), name) for name in METRICS if name in value}

    def _machine(self, table: Mapping[str, Any], at: Path, tiers: dict[str, tuple[Tier, ...]]) -> None:
        """``cost_per_month / (memory_gb * seconds of a month * used)``: what a GB-second must bring in."""
        at, value = (*at, "machine"), table["machine"]
        if not isinstance(value, dict):
            self._say(at, f"must be a table like {{ cost_per_month = 20, memory_gb = 8 }}, not {_shown(value)}")
            return
        self._unknown(value, at, ("cost_per_month", "memory_gb", "used"))
        for key in ("cost_per_month", "memory_gb"):
            if key not in value:
                self._say(at, f"has no `{key}`")
        if "per_gb_second" in table:
            self._say((*at[:-1], "per_gb_second"), "is worked out from `machine`: keep one of the two")
        cost = self._number(value.get("cost_per_month", 0), (*at, "cost_per_month"))
        memory_gb = self._number(value.get("memory_gb", 1), (*at, "memory_gb"))
        used = self._number(value.get("used", 1), (*at, "used"))
        if not memory_gb:
            self._say((*at, "memory_gb"), "must be more than 0")
        if not 0 < used <= 1:
            self._say((*at, "used"), "is the part of the memory that is sold: more than 0, at most 1")
        if memory_gb and used:
            gb_seconds = money.times(money.times(memory_gb, MONTH_SECONDS), used)
            price = (Tier(None, money.quotient(cost, gb_seconds, MACHINE_DECIMALS)),)
            tiers[GB_SECONDS] = price
            tiers.setdefault(PROVISIONED, price)

    # -- values -----------------------------------------------------------------------------------------------------

    def _month(self, table: Mapping[str, Any], at: Path) -> str:
        value = table.get("from", "")
        if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
            if value.day != 1:
                this = f"{value:%Y-%m}"
                self._say((*at, "from"), f'prices change with a month, not within one: write "{this}" or {this}-01')
            return f"{value:%Y-%m}"
        if value and not (isinstance(value, str) and MONTH.fullmatch(value)):
            self._say((*at, "from"), f"must be a month like 2026-01, not {_shown(value)}")
            return ""
        return str(value)

    def _currency(self, table: Mapping[str, Any], at: Path) -> str:
        if "currency" not in table:
            self._say((*at, "currency"), 'is missing: write which, as in currency = "EUR"')
            return "USD"
        return self._matching(table, "currency", at, _CURRENCY, "USD", "three capital letters (ISO 4217), such as EUR")

    def _decimals(self, table: Mapping[str, Any], at: Path) -> int:
        value = table.get("decimals", 2)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= DECIMALS_MAX:
            self._say((*at, "decimals"), f"must be a whole number from 0 to {DECIMALS_MAX}, not {_shown(value)}")
            return 2
        return value

    def _matching(
        self, table: Mapping[str, Any], key: str, at: Path, form: re.Pattern[str], default: str, allowed: str
    ) -> str:
        value = table.get(key, default)
        if not isinstance(value, str) or not form.fullmatch(value):
            self._say((*at, key), f"{_shown(value)} is not one: {allowed}")
            return default
        return value

    def _number(self, value: Any, at: Path) -> Decimal:
        """Not negative, within bounds; 0 where it is wrong."""
        number = value
        if isinstance(value, str) and _NUMBER.fullmatch(value):
            number = Decimal(value)
        if isinstance(number, bool) or not isinstance(number, int | Decimal):
            self._say(at, f"must be a number, not {_shown(value)}")
            return money.ZERO
        number = Decimal(number)
        if not number.is_finite() or not 0 <= number <= NUMBER_MAX:
            self._say(at, f"must be from 0 to {NUMBER_MAX:f}, not {_shown(value)}")
            return money.ZERO
        if money.decimals(number) > NUMBER_DECIMALS_MAX:
            self._say(at, f"has more than {NUMBER_DECIMALS_MAX} decimals")
            return money.ZERO
        return number

    def _base(self, value: Any, at: Path, metric: str) -> int:
        """A quantity in base units, which must be whole."""
        found = money.times(self._number(value, at), METRICS[metric].per_unit)
        if found != found.to_integral_value():
            unit = METRICS[metric].unit
            self._say(at, f"{_shown(value)} {unit}s is finer than what is measured; take a rounder number")
        return int(found)

    # -- structure --------------------------------------------------------------------------------------------------

    def _tables(self, value: Any, at: Path, count_max: int) -> list[tuple[Path, Mapping[str, Any]]]:
        """The tables of an array, with where each stands."""
        if not isinstance(value, list) or not value:
            if value != []:
                self._say(at, f"must be a list of tables, not {_shown(value)}")
            return []
        if len(value) > count_max:
            self._say(at, f"has {len(value)} entries; {count_max} are allowed")
        found: list[tuple[Path, Mapping[str, Any]]] = []
        for number, each in enumerate(value[:count_max]):
            if isinstance(each, dict):
                found.append(((*at, number), each))
            else:
                self._say((*at, number), f"must be a table, not {_shown(each)}")
        return found

    def _named(self, value: Any, at: Path) -> list[tuple[str, Mapping[str, Any], Path]]:
        if not isinstance(value, dict):
            self._say(at, f"must be a table of namespaces, not {_shown(value)}")
            return []
        found: list[tuple[str, Mapping[str, Any], Path]] = []
        for name, each in value.items():
            if isinstance(each, dict):
                found.append((name, each, (*at, name)))
            else:
                self._say((*at, name), f"must be a table like [book.namespaces.NAME], not {_shown(each)}")
        return found

    def _unknown(self, table: Mapping[str, Any], at: Path, known: Sequence[str]) -> None:
        for key in table:
            if key not in known:
                close = difflib.get_close_matches(key[:80], known, n=1, cutoff=0.6)
                hint = f"did you mean `{close[0]}`?" if close else f"there is {', '.join(known)}"
                self._say((*at, key), f"unknown key; {hint}")

    def _say(self, at: Path, message: str) -> None:
        """The line is the key's own, else that of the nearest table or key around it."""
        line = next((self._lines[at[:depth]] for depth in range(len(at), 0, -1) if at[:depth] in self._lines), None)
        self._problems.append(ManifestProblem(dotted(at), message, line))


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:56] + "..."
