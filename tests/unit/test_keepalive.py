"""What each keep-alive policy promises, on small stories told in minutes."""

from __future__ import annotations

import doctest
import random
import sys
from types import ModuleType

import pytest

from faas.pool import generics
from faas.pool.generics import Demand, generics_wanted
from faas.pool.keepalive import MINUTE_NS, POLICIES, Adaptive, Fixed, Histogram, KeepAlive, adaptive, bins, policy_of
from faas.pool.keepalive import forecast as forecasts
from faas.pool.keepalive import policy as policies
from faas.pool.keepalive.bins import BEYOND, LAST, WIDTH, bin_of, middle_min, start_ns
from faas.pool.keepalive.budget import Budget, BudgetSettings
from faas.pool.keepalive.forecast import Forecast

SECOND_NS = 1_000_000_000


def call(
    policy: KeepAlive, function: str, minute: float, hold_mb: float = 100, warm_mb: float = 100, load_ns: int = 0
) -> bool:
    """A call that takes no time. Returns whether the function was held when it came."""
    now_ns = round(minute * MINUTE_NS)
    found = policy.decide(function, now_ns).keep
    policy.called(function, now_ns)
    policy.idle(function, hold_mb, warm_mb, now_ns, load_ns)
    return found


def held(policy: KeepAlive, function: str, first: int, last: int) -> list[int]:
    """The minutes from ``first`` to ``last`` in which the function is held, asked every minute."""
    return [m for m in range(first, last + 1) if policy.decide(function, m * MINUTE_NS).keep]


def follow(policy: KeepAlive, minutes: list[int], function: str = "f") -> list[int]:
    """Calls at these minutes, decisions every minute between; returns the minutes of calls that found nothing held."""
    missed = []
    calls = set(minutes)
    for minute in range(minutes[0], minutes[-1] + 1):
        if minute in calls:
            if not call(policy, function, minute):
                missed.append(minute)
        else:
            policy.decide(function, minute * MINUTE_NS)
    return missed


# -- all of them ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", POLICIES)
def test_a_function_never_seen_is_not_held(name: str) -> None:
    policy = policy_of(name)
    assert policy.decide("f", 5) == (False, None)
    assert policy.outlook("f", 5).keep_until_ns is None
    policy.called("f", 6)
    policy.released("f", 7)
    policy.forget("f", 8)
    assert policy.decide("f", 9) == (False, None)


@pytest.mark.parametrize("name", POLICIES)
def test_an_idle_function_is_held_at_first_and_not_after_it_is_forgotten(name: str) -> None:
    policy = policy_of(name)
    call(policy, "f", 0)
    assert policy.decide("f", 0).keep
    assert policy.outlook("f", 0).why
    policy.forget("f", MINUTE_NS)
    assert policy.decide("f", MINUTE_NS) == (False, None)


@pytest.mark.parametrize("name", POLICIES)
def test_a_function_is_its_own_only(name: str) -> None:
    policy = policy_of(name)
    call(policy, "a", 0)
    call(policy, "b", 9)
    assert policy.decide("b", 12 * MINUTE_NS).keep
    policy.forget("a", 12 * MINUTE_NS)
    assert policy.decide("b", 12 * MINUTE_NS).keep


def test_a_policy_is_chosen_by_name() -> None:
    assert isinstance(policy_of("fixed", 3 * MINUTE_NS), Fixed)
    assert isinstance(policy_of("histogram"), Histogram)
    assert isinstance(policy_of("adaptive"), Adaptive)
    with pytest.raises(ValueError, match="fixed, histogram, adaptive"):
        policy_of("lru")


# -- fixed ----------------------------------------------------------------------------------------------------------


def test_fixed_holds_for_its_time_and_not_a_nanosecond_more() -> None:
    policy = Fixed(10 * MINUTE_NS)
    call(policy, "f", 0)
    decision = policy.decide("f", 4 * MINUTE_NS)
    assert decision == (True, 10 * MINUTE_NS + 1)
    assert policy.decide("f", 10 * MINUTE_NS).keep
    assert policy.decide("f", 10 * MINUTE_NS + 1) == (False, None)
    assert policy.outlook("f", 0).why == "every idle function is kept for 10 min"


# -- histogram ------------------------------------------------------------------------------------------------------


def test_histogram_loads_an_hourly_function_before_the_hour() -> None:
    policy = Histogram(10 * MINUTE_NS)
    assert follow(policy, [0, 60, 120, 180, 240, 300]) == [0, 60, 120, 180]
    window = held(policy, "f", 301, 359)
    assert window == list(range(354, 360)), "from 10 % before"
    assert policy.outlook("f", 310 * MINUTE_NS).prewarm_at_ns == 354 * MINUTE_NS
    assert held(policy, "f", 366, 380) == [366, 367, 368], "to 10 % after"


@pytest.mark.parametrize(
    ("gaps", "why"),
    [
        ([7, 7], "fewer than three idle times"),
        ([300, 300, 300, 20], "most beyond four hours"),
        (list(range(1, 240)), "a flat histogram"),
    ],
)
def test_histogram_falls_back_to_the_fixed_time(gaps: list[int], why: str) -> None:
    policy = Histogram(10 * MINUTE_NS)
    now = 0
    call(policy, "f", now)
    for gap in gaps:
        now += gap
        call(policy, "f", now)
    assert held(policy, "f", now + 1, now + 30) == list(range(now + 1, now + 11)), why
    assert "too little is known" in policy.outlook("f", now * MINUTE_NS).why


# -- adaptive -------------------------------------------------------------------------------------------------------


def test_a_function_of_which_nothing_is_known_is_held_about_as_long_as_fixed() -> None:
    policy = Adaptive()
    call(policy, "f", 0)
    assert "not known yet" in policy.outlook("f", 0).why
    minutes = held(policy, "f", 1, 60)
    assert minutes == list(range(1, len(minutes) + 1))
    assert 8 <= len(minutes) <= 12


def test_an_hourly_function_is_let_go_and_loaded_just_in_time() -> None:
    policy = Adaptive()
    assert follow(policy, list(range(0, 600, 60))) == [0, 60], "one idle time is enough to learn from"
    assert held(policy, "f", 545, 598) == []
    assert policy.decide("f", 600 * MINUTE_NS - 1).keep
    outlook = policy.outlook("f", 600 * MINUTE_NS)
    assert "of the last 9 idle times were about 1 h" in outlook.why


def test_a_pattern_of_two_idle_times_has_two_windows() -> None:
    policy = Adaptive()
    calls = [minute for start in range(0, 900, 60) for minute in (start, start + 3)]
    assert set(follow(policy, calls)) <= {0, 3, 60, 63, 120, 123}
    last = calls[-1]
    minutes = held(policy, "f", last + 1, last + 58)
    assert last + 3 in minutes
    assert last + 57 in minutes
    assert last + 30 not in minutes


def test_a_small_function_is_held_longer_than_a_big_one() -> None:
    policy = Adaptive()
    for function, memory_mb in (("small", 20), ("big", 400)):
        call(policy, function, 0, memory_mb, memory_mb)
    small, big = [], []
    for minute in range(1, 120):
        small += [minute] * policy.decide("small", minute * MINUTE_NS).keep
        big += [minute] * policy.decide("big", minute * MINUTE_NS).keep
    assert len(small) > 2 * len(big)


def test_what_is_parked_is_held_longer_than_what_is_warm() -> None:
    parked, warm = Adaptive(), Adaptive()
    call(parked, "f", 0, hold_mb=15, warm_mb=150)
    call(warm, "f", 0, hold_mb=150, warm_mb=150)
    assert len(held(parked, "f", 1, 300)) > 3 * len(held(warm, "f", 1, 300))


def test_a_timer_that_changes_its_period_is_followed() -> None:
    policy = Adaptive()
    change = 200 * 5
    calls = [*range(0, change, 5), *range(change, change + 20 * 30, 30)]
    missed = [minute for minute in follow(policy, calls) if minute > change]
    assert len(missed) <= 5, "of twenty calls at the new period"
    assert max(missed) < change + 10 * 30, "all of them early"


def test_a_daily_job_is_loaded_before_its_hour() -> None:
    policy = Adaptive()
    day = 1440
    missed = follow(policy, [day * n for n in range(8)])
    assert missed == [0, day]
    assert len(held(policy, "f", 7 * day + 1, 8 * day - 30)) < 60


def test_nothing_is_held_for_longer_than_25_hours() -> None:
    policy = Adaptive(BudgetSettings(worth_min=10**6))
    call(policy, "f", 0, hold_mb=0, warm_mb=100)
    assert policy.decide("f", 1400 * MINUTE_NS).keep, "it costs nothing"
    assert policy.decide("f", 1501 * MINUTE_NS) == (False, None)


def test_what_was_released_is_not_paid_for() -> None:
    policy = Adaptive()
    call(policy, "f", 0)
    policy.decide("f", 0)
    policy.released("f", 2 * MINUTE_NS)
    assert policy.budget.spent_mb_min == pytest.approx(100 * 1)
    policy.called("f", 9 * MINUTE_NS)
    assert policy.budget.spent_mb_min == pytest.approx(100 * 1)
    assert policy.budget.fixed_mb_min == pytest.approx(100 * 8)


def test_becoming_idle_twice_starts_anew_and_learns_nothing() -> None:
    policy = Adaptive()
    call(policy, "f", 0)
    policy.idle("f", 100, 100, 5 * MINUTE_NS)
    assert policy.budget.spent_mb_min == pytest.approx(100 * 4)
    assert "not known yet" in policy.outlook("f", 5 * MINUTE_NS).why


@pytest.mark.parametrize("name", POLICIES)
def test_short_idle_times_need_not_be_reported_and_idleness_may_be_reported_late(name: str) -> None:
    full, lazy = policy_of(name), policy_of(name)
    answers = []
    for policy, late_ns in ((full, 0), (lazy, 29 * SECOND_NS)):
        decisions = []
        for start in range(0, 40 * 7, 7):
            since_ns = start * MINUTE_NS
            policy.called("f", since_ns)
            for ended_ns in (since_ns, since_ns + 20 * SECOND_NS):  # a second call, twenty seconds after the first
                if policy is full:
                    policy.called("f", ended_ns)
                    policy.idle("f", 100, 100, ended_ns)
                    policy.decide("f", ended_ns)
            if policy is lazy:
                policy.idle("f", 100, 100, since_ns + 20 * SECOND_NS)
                policy.decide("f", since_ns + 20 * SECOND_NS + late_ns)
            decisions += [policy.decide("f", since_ns + half * MINUTE_NS // 2) for half in range(2, 14)]
        answers.append(decisions)
    assert answers[0] == answers[1]


def test_only_so_many_functions_are_remembered() -> None:
    policy = Adaptive(functions_max=3)
    for place, function in enumerate("abcad"):
        call(policy, function, place)
    assert policy.decide("b", 5 * MINUTE_NS) == (False, None), "it was idle longest"
    assert policy.decide("a", 5 * MINUTE_NS).keep
    assert (policy.budget.holders, policy.budget.warm_mb) == (3, 300)


def test_a_function_takes_about_a_kilobyte() -> None:
    forecast = Forecast()
    for index in range(1, LAST):
        forecast.note(index)
    size = sys.getsizeof(forecast) + sys.getsizeof(forecast.counts) + sys.getsizeof(forecast.weights)
    assert size + 5 * sys.getsizeof(1.5) < 1000


def test_the_outlook_says_what_will_happen() -> None:
    policy = Adaptive()
    follow(policy, list(range(0, 600, 60)))
    policy.decide("f", 545 * MINUTE_NS)
    outlook = policy.outlook("f", 545 * MINUTE_NS)
    assert outlook.keep_until_ns is None
    assert outlook.prewarm_at_ns is not None
    assert outlook.prewarm_until_ns is not None
    assert 595 * MINUTE_NS <= outlook.prewarm_at_ns < 600 * MINUTE_NS < outlook.prewarm_until_ns
    assert outlook.why.endswith("let go until a call is likely again, in 54 min")
    policy.called("f", 546 * MINUTE_NS)
    assert policy.outlook("f", 546 * MINUTE_NS).why == "it is running"


def test_the_outlook_of_a_function_not_worth_its_memory_says_so() -> None:
    policy = Adaptive()
    for minute in range(60):
        call(policy, "often", minute, 20, 20)
    call(policy, "big", 60, 4000, 4000)
    for minute in range(61, 400):
        policy.decide("big", minute * MINUTE_NS)
        policy.decide("often", minute * MINUTE_NS)
    why = policy.outlook("big", 400 * MINUTE_NS).why
    assert why.endswith("let go, a call is not likely enough to hold 4000 MB for it")


# -- its parts ------------------------------------------------------------------------------------------------------


def test_bins_join_without_gaps() -> None:
    for index in range(LAST + 1):
        begin, end = start_ns(index), start_ns(index + 1)
        assert end - begin == WIDTH[index] * MINUTE_NS
        assert bin_of(begin) == bin_of(end - 1) == index
        assert bin_of(round(middle_min(index) * MINUTE_NS)) == max(index, 1)
    assert bin_of(start_ns(BEYOND)) == bin_of(10**18) == BEYOND


def test_the_price_follows_what_was_saved_and_owed() -> None:
    budget = Budget(BudgetSettings())
    assert budget.price(0) == 0, "there is nobody to buy for"
    budget.holders, budget.warm_mb = 2, 200
    even = 1 / (20 * 100)
    assert budget.price(0) == pytest.approx(even)
    budget.settle(1000, 950, MINUTE_NS)
    assert budget.price(MINUTE_NS) == pytest.approx(even)
    budget.settle(0, 5000, MINUTE_NS)
    assert even < budget.price(MINUTE_NS) < 10 * even
    budget.settle(0, 30_000, MINUTE_NS)
    assert budget.price(MINUTE_NS) == float("inf")
    budget.settle(10_000, 0, 3 * MINUTE_NS)
    for minute in range(4, 200):
        budget.settle(1000, 0, minute * MINUTE_NS)
    assert budget.price(200 * MINUTE_NS) == pytest.approx(1 / (60 * 100)), "the least it may be"


def test_no_more_than_an_hour_of_income_is_saved_up() -> None:
    budget = Budget(BudgetSettings())
    for minute in range(1000):
        budget.settle(500, 0, minute * MINUTE_NS)
    assert budget.balance_mb_min == pytest.approx(60 * 500, rel=0.02)


def test_a_debt_without_income_buys_nothing() -> None:
    budget = Budget(BudgetSettings())
    budget.holders, budget.warm_mb = 1, 100
    budget.settle(0, 1, MINUTE_NS)
    assert budget.price(MINUTE_NS) == float("inf")


def test_a_forecast_says_what_it_knows() -> None:
    forecast = Forecast()
    assert forecast.in_words() == "its rhythm is not known yet"
    forecast.note(0)
    assert forecast.seen == 0
    forecast.note(20)
    assert forecast.in_words() == "it was idle for 20 min before"
    forecast.note(21)
    assert forecast.in_words() == "it came back only twice so far"
    for index in (1, 2, 4, 40, 80, 200, BEYOND):
        forecast.note(index)
    assert forecast.in_words() == "of the last 9 idle times half were up to 21 min, nine in ten up to over 25 h"
    assert Forecast().chance(BEYOND) <= 0.999


def test_old_idle_times_fade() -> None:
    forecast = Forecast()
    for index in [BEYOND] * 100 + [7] * 900:
        forecast.note(index)
    assert forecast.seen <= 255
    assert forecast.in_words().startswith(f"{forecast.counts[7]} of the last {forecast.seen}")
    assert forecast.seen - forecast.counts[7] < 20


# -- generic sandboxes ----------------------------------------------------------------------------------------------


def demand(per_second: float, seconds: int) -> Demand:
    seen = Demand()
    for place in range(round(per_second * seconds)):
        seen = seen.taken(round(place / per_second * SECOND_NS))
    return seen


def test_generic_sandboxes_follow_demand() -> None:
    now = 60 * SECOND_NS
    wanted = [generics_wanted(demand(rate, 60), now, SECOND_NS // 2, 0, 100) for rate in (0.1, 1, 4, 16, 64)]
    assert wanted == sorted(wanted)
    assert wanted[0] <= 1
    assert 32 <= wanted[-1] <= 48


def test_generic_sandboxes_stay_within_their_limits_and_go_when_demand_goes() -> None:
    busy = demand(64, 60)
    assert generics_wanted(busy, 60 * SECOND_NS, SECOND_NS, 1, 8) == 8
    assert generics_wanted(busy, 7200 * SECOND_NS, SECOND_NS, 0, 8) == 0
    assert generics_wanted(busy, 7200 * SECOND_NS, SECOND_NS, 2, 8) == 2


def test_each_miss_asks_for_one_more_for_a_while() -> None:
    quiet = Demand().taken(0)
    short = quiet.lacked(SECOND_NS).lacked(SECOND_NS)
    least = generics_wanted(quiet, SECOND_NS, SECOND_NS // 2, 0, 8)
    assert generics_wanted(short, SECOND_NS, SECOND_NS // 2, 0, 8) >= least + 2
    assert generics_wanted(short, 300 * SECOND_NS, SECOND_NS // 2, 0, 8) <= least


def test_demand_seen_from_the_past_is_as_it_was() -> None:
    later = Demand().taken(10 * SECOND_NS)
    assert later.at(0) == later


# -- what loading costs ----------------------------------------------------------------------------------------------


def mixed(load_ns: int, minutes: int = 1000) -> tuple[list[float], float]:
    """Ten functions that load in no time and ten that take ``load_ns``, called in the same irregular way.

    The share of each kind's calls that found nothing held, and what was held as a share of fixed keep-alive's.
    """
    policy, rng = Adaptive(), random.Random(5)
    due = {f"f{number}": rng.randrange(120) for number in range(20)}
    calls, missed = [0, 0], [0, 0]
    for minute in range(minutes):
        for number, function in enumerate(due):
            heavy = number % 2
            if due[function] == minute:
                calls[heavy] += 1
                missed[heavy] += not call(policy, function, minute, 24, 128, load_ns * heavy)
                due[function] += rng.randrange(40, 120)
            else:
                policy.decide(function, minute * MINUTE_NS)
    shares = [miss / count for miss, count in zip(missed, calls, strict=True)]
    return shares, policy.budget.spent_mb_min / policy.budget.fixed_mb_min


def test_what_is_slow_to_load_is_held_in_place_of_what_is_quick_and_at_the_same_cost() -> None:
    (quick, slow), spent = mixed(load_ns=500_000_000)
    assert slow < 0.1 < 0.3 < quick
    assert spent < 1
    (quick, slow), _ = mixed(load_ns=20_000_000)
    assert abs(quick - slow) < 0.05, "so short a load is nothing special"


# -- the examples in the docstrings ---------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [adaptive, bins, forecasts, generics, policies], ids=lambda m: str(m.__name__))
def test_the_examples_are_true(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
