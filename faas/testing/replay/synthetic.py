"""Seeded traces with the statistics of Azure's: what a policy is judged on that must not be tuned to one sample.

Shahrad et al. ("Serverless in the Wild", ATC'20) found: rates over eight orders of magnitude, 45 % of applications
called at most once an hour; a third of functions driven by timers, most of them of minutes to an hour; many others
bursty, with a coefficient of variation above 1; a daily wave; memory lognormal-like, most of it below 400 MB.
``Mix`` says how many functions are of which kind; the named mixes stress one trait each.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from faas.testing.replay.trace import Trace, TraceFunction

Arrivals = Callable[[Random, int], Iterator[float]]
_PERIODS = (1, 2, 3, 4, 5, 10, 15, 20, 30, 60, 120, 240, 360, 720, 1440)
_PERIOD_WEIGHTS = (8, 3, 2, 1, 24, 9, 12, 2, 9, 14, 2, 2, 2, 2, 8)
_DAY = 1440


@dataclass(frozen=True, slots=True)
class Mix:
    """Shares of the kinds of functions (they need not add up to 1), and the spread of memory (sigma of its log)."""

    timer: float = 0.0
    drifting: float = 0.0
    poisson: float = 0.0
    bursty: float = 0.0
    renewal: float = 0.0
    patterned: float = 0.0
    rare: float = 0.0
    memory_sigma: float = 1.0


MIXES: dict[str, Mix] = {
    "azure": Mix(timer=0.38, drifting=0.02, poisson=0.2, bursty=0.12, renewal=0.08, patterned=0.05, rare=0.15),
    "timers": Mix(timer=0.7, drifting=0.1, poisson=0.1, rare=0.1),
    "bursty": Mix(timer=0.15, bursty=0.6, renewal=0.15, rare=0.1),
    "random": Mix(timer=0.1, poisson=0.5, renewal=0.3, rare=0.1),
    "rare": Mix(timer=0.2, poisson=0.1, bursty=0.1, renewal=0.1, rare=0.5),
    "drifting": Mix(timer=0.1, drifting=0.5, poisson=0.2, bursty=0.2),
    "skewed": Mix(timer=0.38, poisson=0.22, bursty=0.15, renewal=0.1, rare=0.15, memory_sigma=2.0),
}


def synthetic(mix: str, seed: int, functions: int, minutes: int) -> Trace:
    """A trace of one of ``MIXES``; the same arguments give the same trace."""
    random = Random(f"{mix} {seed} {functions} {minutes}")
    shares = MIXES[mix]
    weights = [getattr(shares, kind) for kind in _KINDS]
    made: list[TraceFunction] = []
    while len(made) < functions:
        kind = random.choices(list(_KINDS), weights)[0]
        function = _function(random, f"{kind}-{len(made)}", kind, minutes, shares.memory_sigma)
        if function.active:
            made.append(function)
    return Trace(f"{mix}-{seed}", minutes, tuple(made))


def _function(random: Random, name: str, kind: str, minutes: int, sigma: float) -> TraceFunction:
    """A trace shows only functions that were called in it, so one without calls is drawn again."""
    memory_mb = min(4096.0, max(3.0, 70 * math.exp(random.gauss(0, sigma))))
    counted = Counter(int(at) for at in _KINDS[kind](random, minutes) if 0 <= at < minutes)
    active = tuple(sorted(counted))
    trigger = "timer" if kind in ("timer", "drifting") else "http"
    return TraceFunction(name, trigger, memory_mb, active, tuple(counted[m] for m in active))


def _ticks(random: Random, period: int, start: float, end: float) -> Iterator[float]:
    """A timer: exact, or late by a part of a minute now and then; one firing in a hundred is missed."""
    late = random.choice((0.0, 0.0, 0.1, 0.3))
    at = start
    while at < end:
        if random.random() > 0.01:
            yield at + (random.uniform(0, 1.5) if random.random() < late else 0.0)
        at += period


def _timer(random: Random, minutes: int) -> Iterator[float]:
    period = random.choices(_PERIODS, _PERIOD_WEIGHTS)[0]
    return _ticks(random, period, random.randrange(period) + random.choice((0.0, 0.3, 0.6)), minutes)


def _drifting(random: Random, minutes: int) -> Iterator[float]:
    """A timer that is given another period once or twice."""
    start = 0.0
    for _ in range(random.choice((2, 3))):
        end = min(minutes, start + random.uniform(0.2, 0.6) * minutes)
        yield from _ticks(random, random.choices(_PERIODS[4:12], _PERIOD_WEIGHTS[4:12])[0], start, end)
        start = end


def _poisson(random: Random, minutes: int) -> Iterator[float]:
    """Rate log-uniform from one a week to a thousand a minute, with a daily wave.

    Above ten a minute, every minute has calls and how many matters to nobody here: ten stand for all.
    """
    rate = min(10.0, 10 ** random.uniform(-4, 3))
    depth, phase, at = random.uniform(0, 0.9), random.random(), 0.0
    while True:
        at += random.expovariate(rate * (1 + depth))
        if at >= minutes:
            return
        wave = 1 + depth * math.sin(2 * math.pi * (at / _DAY + phase))
        if random.random() < wave / (1 + depth):
            yield at


def _bursty(random: Random, minutes: int) -> Iterator[float]:
    """Sessions: hours apart, each of a few calls minutes apart."""
    apart = 30 * 24 ** random.random()
    size, within = random.uniform(2, 20), random.uniform(0.3, 5)
    at = random.uniform(-apart, apart)
    while at < minutes:
        yield at
        at += random.expovariate(1 / within) if random.random() > 1 / size else random.expovariate(1 / apart)


def _renewal(random: Random, minutes: int) -> Iterator[float]:
    """Heavy-tailed gaps: lognormal, median from 1 minute to 5 hours."""
    median, sigma = 300 ** random.random(), random.uniform(0.5, 2.0)
    at = random.uniform(-median, median)
    while at < minutes:
        yield at
        at += median * math.exp(random.gauss(0, sigma))


def _patterned(random: Random, minutes: int) -> Iterator[float]:
    """A timer that starts a chain: calls a few minutes apart, the whole again an hour or so later."""
    period = random.choice((15, 30, 60, 60, 120))
    steps = [random.choice((1, 1, 2, 5, 7)) for _ in range(random.randint(1, 3))]
    for start in _ticks(random, period, random.randrange(period), minutes):
        at = start
        yield at
        for step in steps:
            at += step + random.uniform(0, 0.5)
            yield at


def _rare(random: Random, minutes: int) -> Iterator[float]:
    for _ in range(random.randint(1, 5)):
        yield random.uniform(0, minutes)


_KINDS: dict[str, Arrivals] = {
    "timer": _timer,
    "drifting": _drifting,
    "poisson": _poisson,
    "bursty": _bursty,
    "renewal": _renewal,
    "patterned": _patterned,
    "rare": _rare,
}
