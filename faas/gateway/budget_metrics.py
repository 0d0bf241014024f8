"""Budgets as Prometheus sees them: how much of each is used, as this node knows it, and how many calls it refused."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from faas.billing.budgets import Account
from faas.gateway.budgets import BudgetWatch


def budget_metrics(watch: BudgetWatch) -> Iterator[Metric]:
    refused = CounterMetricFamily(
        "faas_budget_refused", "Calls that this node refused because a budget was used up.", labels=("namespace",)
    )
    for namespace, count in watch.refused.items():
        refused.add_metric((namespace,), count)
    yield refused
    used = GaugeMetricFamily(
        "faas_budget_used_ratio",
        "Part of a budget that is used this month: from 1 on calls are refused.",
        labels=("namespace", "scope", "name", "unit"),
    )
    for account in watch.accounts():
        limit = account.limit
        used.add_metric((limit.namespace, limit.scope.value, limit.name, limit.unit.value), _ratio(account))
    yield used


def _ratio(account: Account) -> float:
    """Of a budget of nothing all is used."""
    return float(account.used / account.limit.most) if account.limit.most else 1.0
