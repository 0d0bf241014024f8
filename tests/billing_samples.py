"""Rows and books for tests of billing."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import strategies as st

from faas.billing.book import Price, PriceBook, Tier
from faas.billing.metrics import METRICS
from faas.metering.sums import FIRST, RETRY


class Row(NamedTuple):
    """``faas.billing.rating.Used``."""

    labels: dict[str, str]
    sums: dict[str, int]


def row(
    function: str = "hello", *, namespace: str = "default", status: str = "ok", again: bool = False, **sums: int
) -> Row:
    labels = {"namespace": namespace, "function": function, "status": status, "attempt": RETRY if again else FIRST}
    return Row(labels, sums)


quantities = st.one_of(st.integers(0, 3), st.integers(0, 10**6), st.integers(0, 10**20))
prices_of_units = st.decimals(0, 10**4, allow_nan=False, allow_infinity=False, places=10)


@st.composite
def rows(draw: st.DrawFn) -> Row:
    mb_ms = draw(quantities)
    return row(
        draw(st.sampled_from(["a", "b", "c", "d"])),
        status=draw(st.sampled_from(["ok", "timeout", "rejected", "platform_error"])),
        again=draw(st.booleans()),
        invocations=draw(quantities),
        mb_ms=mb_ms,
        init_mb_ms=draw(st.integers(0, mb_ms)),
        cpu_ns=draw(quantities),
        bytes_out=draw(quantities),
        provisioned_mb_ms=draw(quantities),
    )


@st.composite
def prices(draw: st.DrawFn) -> Price:
    ends = sorted(draw(st.sets(st.integers(1, 10**20), max_size=3)))
    tiers = [Tier(end, draw(prices_of_units)) for end in ends]
    return Price((*tiers, Tier(None, draw(prices_of_units))), draw(quantities))


@st.composite
def books(draw: st.DrawFn) -> PriceBook:
    return PriceBook(
        "any",
        decimals=draw(st.integers(0, 6)),
        prices=draw(st.dictionaries(st.sampled_from(sorted(METRICS)), prices())),
        bill_init=draw(st.booleans()),
        bill_retries=draw(st.booleans()),
        bill_throttles=draw(st.booleans()),
    )
