"""The contract of the budget store and of its warnings, on the in-memory twin and on a real Valkey."""

from __future__ import annotations

from decimal import Decimal

import anyio
import pytest

from faas.billing.book import Price, PriceBook, Tier
from faas.billing.budgets import BudgetBooks, Reading, limits_of
from faas.billing.metrics import PROVISIONED
from faas.billing.notices import Notice
from faas.metering.sums import METRICS, hour_of
from faas.model.budget import Budget, Budgets, Scope, Webhook
from faas.model.errors import StoreUnavailable
from faas.pool.holding import Held
from faas.ports import BudgetStore, Ledger, NoticeStore, Registry
from faas.stores.budgets import HOURS_PER_READ, RedisBudgets
from faas.stores.held import HeldMeter
from faas.stores.ledger import RedisLedger
from faas.stores.memory import MemoryLedger, MemoryRegistry
from faas.stores.memory_budgets import MemoryBudgets
from faas.stores.redis_client import Client, connect
from faas.stores.registry import ANY, RedisRegistry
from tests.usage_samples import HOUR_MS, NOON_MS, FixedClock, make_record, numbered

pytestmark = pytest.mark.anyio
TEAM = Budgets(
    namespace="team-a",
    budgets=(Budget(scope=Scope.FUNCTION, name="hello", gb_seconds=Decimal("0.1"), amount=Decimal("12.50")),),
    webhook=Webhook(url="https://example.com/", secret="whsec_x"),
)
NOTICE = Notice("bn_1", "team-a", '{"ö":1}')
HOUR = hour_of(NOON_MS * 1_000_000)


class Stores:
    def __init__(self, budgets: RedisBudgets | MemoryBudgets, ledger: Ledger, registry: Registry) -> None:
        self.budgets: BudgetStore = budgets
        self.notices: NoticeStore = budgets
        self.ledger, self.registry = ledger, registry


@pytest.fixture(params=["memory", "valkey"])
def stores(request: pytest.FixtureRequest, client: Client) -> Stores:
    if request.param == "memory":
        registry, ledger = MemoryRegistry(), MemoryLedger()
        return Stores(MemoryBudgets(registry, ledger), ledger, registry)
    return Stores(RedisBudgets(client), RedisLedger(client), RedisRegistry(client))


async def test_what_is_stored_is_read_back_and_announced(stores: Stores) -> None:
    changes = stores.registry.changes()
    with anyio.fail_after(10):
        assert await anext(changes) == ANY
        assert await stores.budgets.list() == []
        await stores.budgets.put(TEAM)
        assert await anext(changes) == ("team-a", "")
        assert await stores.budgets.list() == [TEAM]
        await stores.budgets.put(Budgets(namespace="team-a", webhook=TEAM.webhook))
        assert await anext(changes) == ("team-a", "")
        assert await stores.budgets.list() == []
    await changes.aclose()  # type: ignore[attr-defined]


async def test_readings_carry_sums_by_group_and_the_journals_position(stores: Stores) -> None:
    journal = "j@4"
    assert (await stores.budgets.spent(["default"], HOUR, HOUR + 1, journal))["default"].position == 4
    records = [
        make_record(
            number,
            namespace=("default", "acme", "acme-2")[number % 3],
            key_id=f"k{number % 2}",
            started_at_ns=(NOON_MS - number % 5 * 20 * HOUR_MS) * 1_000_000,
            billed_ms=2**40,
        )
        for number in range(30)
    ]
    await stores.ledger.apply(journal, numbered(records, 5))
    first = HOUR - 4 * 20
    assert HOUR + 1 - first > 2 * HOURS_PER_READ
    for start, end in ((first, HOUR + 1), (HOUR, HOUR + 1), (first, HOUR), (HOUR, HOUR)):
        found = await stores.budgets.spent(["default", "acme", "empty"], start, end, journal)
        assert set(found) == {"default", "acme", "empty"}
        for namespace, reading in found.items():
            wanted = [r for r in records if r.namespace == namespace and start <= hour_of(r.started_at_ns) < end]
            assert reading[:3] == (start, end, 34)
            assert sum(sums[METRICS.index("mb_ms")] for sums in reading.sums.values()) == sum(r.mb_ms for r in wanted)
            assert {group.key for group in reading.sums} == {record.key_id for record in wanted}
    books = BudgetBooks(
        limits_of(Budgets(namespace="acme", budgets=(Budget(scope=Scope.KEY, name="k1", gb_seconds=Decimal(1)),))),
        first,
        HOUR + 1,
    )
    old, recent = [await stores.budgets.spent(["acme"], *hours, journal) for hours in ((first, HOUR), (HOUR, HOUR + 1))]
    books.read(recent["acme"], old["acme"])
    mine = [r.mb_ms for r in records if (r.namespace, r.key_id) == ("acme", "k1")]
    assert books.accounts[0].used == sum(mine) > 2**48


async def test_what_is_kept_warm_counts_in_money_and_in_no_other_budget(client: Client) -> None:
    clock, kept = FixedClock(), [Held("acme/hello@1", 0, 0, 3 * 1_024_000 * 1_000_000)]
    for _ in range(2):
        await HeldMeter(client, clock, lambda: kept).flush()
        clock.now_ns += HOUR_MS * 1_000_000
    readings = [
        await RedisBudgets(client).spent(["acme", "b"], *hours, "j") for hours in ((HOUR - 24, HOUR), (HOUR, HOUR + 1))
    ]
    later = await RedisBudgets(client).spent(["acme", "b"], HOUR, HOUR + 2, "j")
    assert [reading["b"].provisioned for reading in readings] == [{}, {}]
    scopes = [(Scope.NAMESPACE, ""), (Scope.FUNCTION, "hello"), (Scope.FUNCTION, "other"), (Scope.KEY, "k1")]
    budgets = [Budget(scope=scope, name=name, gb_seconds=Decimal(1), amount=Decimal(9)) for scope, name in scopes]
    prices = PriceBook("b", prices={PROVISIONED: Price((Tier(None, Decimal("1.5")),), free=1_024_000)})
    books = BudgetBooks(limits_of(Budgets(namespace="acme", budgets=tuple(budgets))), 0, HOUR + 2, prices)
    nothing = Reading(0, HOUR, 0, {})
    books.read(Reading(HOUR, HOUR + 2, 0, {}), nothing)
    assert [account.used for account in books.accounts] == [0] * 8
    books.read(later["acme"])
    assert [account.used for account in books.accounts] == [0, Decimal("7.5"), 0, Decimal("7.5"), 0, 0, 0, 0]
    assert books.admit("1-1", "hello", "k1") is None
    books.read(later["acme"]._replace(provisioned={"hello": 7 * 1_024_000}))
    refused = books.admit("2-1", "other", "k1")
    assert refused is books.accounts[1], "of the namespace: what is kept warm leaves nothing for calls"


async def test_a_warning_is_posted_once_and_given_to_one_at_a_time(stores: Stores) -> None:
    notices = stores.notices
    assert await notices.claim(10, 20) is None
    assert await notices.post(NOTICE, 10)
    assert not await notices.post(NOTICE, 11)
    assert await notices.claim(9, 100) is None, "not yet"
    claimed = await notices.claim(10, 100)
    assert claimed is not None
    assert (claimed.notice, claimed.tries) == (NOTICE, 1)
    assert await notices.claim(99, 200) is None, "it is another's until then"
    again = await notices.claim(100, 200)
    assert again is not None
    assert (again.notice, again.tries) == (NOTICE, 2), "who claimed it died"
    await notices.settle(NOTICE.id, "due", 500)
    assert await notices.claim(499, 600) is None
    assert await notices.claim(500, 600) is not None
    assert await notices.states([NOTICE.id, "bn_2"]) == {NOTICE.id: "due"}
    await notices.settle(NOTICE.id, "sent")
    assert await notices.states([NOTICE.id]) == {NOTICE.id: "sent"}
    assert await notices.claim(10**12, 10**12) is None
    assert not await notices.post(NOTICE, 10), "and it is not sent again"


async def test_the_order_is_that_of_being_due(stores: Stores) -> None:
    for number, at_ms in ((1, 30), (2, 10), (3, 20)):
        await stores.notices.post(Notice(f"bn_{number}", "a", ""), at_ms)
    claimed = [await stores.notices.claim(100, 1000) for _ in range(4)]
    assert [each and each.notice.id for each in claimed] == ["bn_2", "bn_3", "bn_1", None]
    await stores.notices.settle("bn_unknown", "sent", 5)
    assert await stores.notices.claim(100, 1000) is None


async def test_a_store_that_is_gone_says_so() -> None:
    gone = connect("redis://127.0.0.1:1/0")
    with pytest.raises(StoreUnavailable):
        await RedisBudgets(gone).list()
    with pytest.raises(StoreUnavailable):
        await RedisBudgets(gone).spent(["a"], 0, 1, "j")
    await gone.aclose()
