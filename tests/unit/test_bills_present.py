"""Bills as pages, sheets and documents: complete, exact, and harmless whatever names people choose."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from decimal import Decimal

import pytest

from faas.billing.metrics import METRICS
from faas.billing.present import csv as sheet
from faas.billing.present import focus, html
from faas.billing.present.json import document
from faas.billing.statement import Statement
from tests.bill_samples import HOSTILE, Page, sample_statement


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


# -- HTML -----------------------------------------------------------------------------------------------------------


def test_the_page_says_what_is_owed() -> None:
    page = Page(html.text(sample_statement()))
    assert page.rows[0] == ["What", "Quantity", "Unit", "Price per unit", "USD"]
    assert ["Use", "1234.000125", "GB-second", "0.0000166667", "0.0205667098833375"] in page.rows
    assert page.rows[-1] == ["Total", "-1.14 USD"]
    assert any(row[0].startswith("Credit on the bill of 2026-10: a note credit for 2026-10") for row in page.rows)
    assert ["Use late, of 2026-10", "7", "request", "0.0000002", "0.0000014"] in page.rows
    said = " ".join(page.words)
    assert "2026-11/default/USD" in said
    assert "closed" in said
    assert "does not change any more" in said


def test_the_page_of_an_open_month_says_that_it_is_open() -> None:
    said = " ".join(Page(html.text(sample_statement("open"))).words)
    assert "open" in said
    assert "this may still change" in said
    assert "2026-11/default/USD" not in said


def test_a_month_without_use_has_a_page() -> None:
    assert "Nothing was used in this month." in Page(html.text(Statement("2026-11", "open", 0, ()))).words


def test_the_page_is_one_file_without_scripts_whatever_the_names() -> None:
    text = html.text(sample_statement(text=HOSTILE))
    page = Page(text)
    tags = {tag for tag, _ in page.tags}
    assert tags <= {
        "html", "head", "meta", "title", "style", "body", "header", "h1", "h2", "p", "span", "main", "section",
        "table", "thead", "tbody", "tr", "th", "td",
    }  # fmt: skip
    names = {name for _, attributes in page.tags for name in attributes}
    assert names <= {"lang", "charset", "name", "content", "http-equiv", "class", "scope", "colspan"}
    assert not re.search(r"url\(|@import|https?:|src=|href=", text)
    assert any(HOSTILE in row[0] for row in page.rows)  # it is shown, as text
    policy = next(each["content"] for _, each in page.tags if "http-equiv" in each)
    assert policy == html.POLICY
    assert "default-src 'none'" in html.POLICY


def test_the_page_is_made_for_paper_too() -> None:
    style = Page(html.text(sample_statement())).style
    assert "@media print" in style
    assert "@page" in style
    assert "break-inside: avoid" in style


# -- CSV ------------------------------------------------------------------------------------------------------------


def test_rows_of_the_sheet_sum_to_the_total() -> None:
    rows = read(sheet.text(sample_statement()))
    assert tuple(rows[0]) == sheet.COLUMNS
    assert sum(Decimal(row["amount"]) for row in rows) == Decimal("-1.14")
    assert {row["kind"] for row in rows} == {"usage", "allowance", "credit", "rounding"}
    assert [row["of_month"] for row in rows if row["of_month"]] == ["2026-10"] * 3


@pytest.mark.parametrize("start", ["=cmd|'/C calc'!A0", "+1", "-1+1", "@SUM(A1)", "\tx", "\rx", "\n=1", "  =1"])
def test_no_cell_is_a_formula(start: str) -> None:
    statement = sample_statement(text=start)
    for text in (sheet.text(statement), *(focus.text(statement, version) for version in focus.COLUMNS)):
        for row in csv.reader(io.StringIO(text)):
            for cell in row:
                number = re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", cell)
                assert number or not cell.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "\n")), cell


# -- JSON -----------------------------------------------------------------------------------------------------------


def test_lines_of_the_document_sum_to_the_total() -> None:
    found = json.loads(json.dumps(document(sample_statement())))
    assert (found["month"], found["status"], found["currency"], found["total"]) == ("2026-11", "closed", "USD", "-1.14")
    assert (found["from"], found["to"]) == ("2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z")
    assert sum(Decimal(line["amount"]) for line in found["lines"]) == Decimal(found["total"])
    assert found["bills"][0]["id"] == "2026-11/default/USD"
    assert [line["month"] for line in found["lines"] if line["kind"] == "credit"] == ["2026-10"]


def test_several_currencies_have_a_total_each_and_none_together() -> None:
    one = sample_statement().bills[0]
    found = document(Statement("2026-11", "open", 0, (one, replace(one, currency="EUR"))))
    assert found["totals"] == {"USD": "-1.14", "EUR": "-1.14"}
    assert found["currency"] is None
    assert found["total"] is None


# -- FOCUS ----------------------------------------------------------------------------------------------------------

# From the specification, version 1.4, "Cost and Usage": feature level Mandatory. True: may be null.
MANDATORY_1_4 = {
    "BilledCost": False, "BillingAccountId": False, "BillingAccountName": True, "BillingCurrency": False,
    "BillingPeriodEnd": False, "BillingPeriodStart": False, "ChargeCategory": False, "ChargeClass": True,
    "ChargeDescription": True, "ChargePeriodEnd": False, "ChargePeriodStart": False, "ContractedCost": False,
    "EffectiveCost": False, "HostProviderName": False, "InvoiceIssuerName": False, "ListCost": False,
    "PricingQuantity": True, "PricingUnit": True, "ServiceCategory": False, "ServiceName": False,
    "ServiceProviderName": False,
}  # fmt: skip
ALL_1_0 = {
    "AvailabilityZone", "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd",
    "BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargeFrequency", "ChargePeriodEnd",
    "ChargePeriodStart", "CommitmentDiscountCategory", "CommitmentDiscountId", "CommitmentDiscountName",
    "CommitmentDiscountStatus", "CommitmentDiscountType", "ConsumedQuantity", "ConsumedUnit", "ContractedCost",
    "ContractedUnitPrice", "EffectiveCost", "InvoiceIssuerName", "ListCost", "ListUnitPrice", "PricingCategory",
    "PricingQuantity", "PricingUnit", "ProviderName", "PublisherName", "RegionId", "RegionName", "ResourceId",
    "ResourceName", "ResourceType", "ServiceCategory", "ServiceName", "SkuId", "SkuPriceId", "SubAccountId",
    "SubAccountName", "Tags",
}  # fmt: skip
DECIMALS = (
    "BilledCost", "ConsumedQuantity", "ContractedCost", "ContractedUnitPrice", "EffectiveCost", "ListCost",
    "ListUnitPrice", "PricingQuantity",
)  # fmt: skip
ALLOWED = {
    "ChargeCategory": {"Usage", "Purchase", "Tax", "Credit", "Adjustment"},
    "ChargeClass": {"", "Correction"},
    "ChargeFrequency": {"One-Time", "Recurring", "Usage-Based"},
    "PricingCategory": {"", "Standard", "Dynamic", "Committed", "Other"},
}
UNIT = re.compile(r"GB|[A-Z][A-Za-z]*s|[A-Z]+-Seconds")  # what we use of the specification's "Unit Format"
VERSIONS = tuple(focus.COLUMNS)


def focus_rows(status: str = "closed", version: str = focus.NEWEST) -> list[dict[str, str]]:
    return read(focus.text(sample_statement(status), version))


def test_columns_are_those_of_the_versions() -> None:
    newest = set(focus.COLUMNS["1.4"])
    assert focus.NEWEST == "1.4"
    assert set(MANDATORY_1_4) <= newest
    assert newest >= ALL_1_0
    assert {name for name in focus.COLUMNS["1.0"] if not name.startswith("x_")} == ALL_1_0
    assert len(ALL_1_0) == 43
    for columns in focus.COLUMNS.values():
        custom = [name.startswith("x_") for name in columns]
        assert custom == sorted(custom)  # FOCUS columns first
        assert len(set(columns)) == len(columns)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("status", ["open", "closed"])
def test_every_row_holds_to_the_rules(status: str, version: str) -> None:
    rows = focus_rows(status, version)
    assert len(rows) == 10
    for row in rows:
        assert all(row[name] or null for name, null in MANDATORY_1_4.items() if name in row), row
        assert all(row[name] in allowed for name, allowed in ALLOWED.items() if name in row)
        for name in DECIMALS:
            assert re.fullmatch(r"(-?[0-9]+\.[0-9]+)?", row[name]), (name, row[name])
        assert all(cell.isascii() for cell in row.values())
        moments = [row[f"{kind}Period{end}"] for kind in ("Billing", "Charge") for end in ("Start", "End")]
        assert all(re.fullmatch(r"[0-9]{4}-[0-9]{2}-01T00:00:00Z", each) for each in moments)
        for quantity, unit in (("PricingQuantity", "PricingUnit"), ("ConsumedQuantity", "ConsumedUnit")):
            assert bool(row[quantity]) == bool(row[unit])
            assert not row[unit] or UNIT.fullmatch(row[unit])
        assert (row["ChargeCategory"] == "Usage") == bool(row["PricingQuantity"])
        if row["PricingQuantity"]:
            priced = Decimal(row["PricingQuantity"])
            assert priced * Decimal(row["ContractedUnitPrice"]) == Decimal(row["ContractedCost"])
            assert priced * Decimal(row["ListUnitPrice"]) == Decimal(row["ListCost"])
            assert row["SkuId"]
            assert row["SkuPriceId"].startswith(row["SkuId"] + "/")
        assert bool(row["ResourceId"]) == bool(row["ResourceName"]) == bool(row["ResourceType"])


def test_costs_sum_to_the_bill() -> None:
    rows = focus_rows()
    for cost in ("BilledCost", "EffectiveCost", "ContractedCost"):
        assert sum(Decimal(row[cost]) for row in rows) == Decimal("-1.14")
    assert {row["InvoiceId"] for row in rows} == {"2026-11/default/USD"}
    assert {row["InvoiceId"] for row in focus_rows("open")} == {""}


def test_late_use_credits_and_rounding_are_told_apart() -> None:
    rows = focus_rows()
    kinds = {(row["ChargeCategory"], row["ChargeClass"], row["ChargePeriodStart"][:7]) for row in rows}
    assert kinds == {
        ("Usage", "", "2026-11"),
        ("Usage", "", "2026-10"),
        ("Usage", "Correction", "2026-10"),
        ("Credit", "Correction", "2026-10"),
        ("Adjustment", "", "2026-11"),
    }
    assert {row["BillingPeriodStart"][:7] for row in rows} == {"2026-11"}


def test_every_metric_has_a_unit() -> None:
    assert focus.UNITS.keys() == METRICS.keys()


def test_text_that_is_not_ascii_is_escaped() -> None:
    rows = read(focus.text(sample_statement(text="Gutschrift für März")))
    assert {row["x_PriceBook"] for row in rows} == {"Gutschrift f\\xfcr M\\xe4rz"}
