"""Event patterns: what they match, and what is said of one that is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from faas.events.filters import BadFilter, compile_filter

ORDER = {
    "kind": "order.created",
    "total": 250,
    "paid": True,
    "note": None,
    "tags": ["new", "gift"],
    "to": {"city": "Berlin", "lines": [{"sku": "A-1"}, {"sku": "B-2"}]},
}


def wants(pattern: Any, body: Any = ORDER, **attributes: str) -> bool:
    text = body if isinstance(body, str) else json.dumps(body)
    return compile_filter(pattern).wants(text, attributes)


@pytest.mark.parametrize(
    ("element", "matching", "other"),
    [
        ("order", "order", "Order"),
        (250, 250, 251),
        (250, 250.0, "250"),
        (1, 1, True),
        (True, True, 1),
        (None, None, "null"),
        ({"prefix": "or"}, "order", "an order"),
        ({"suffix": ".png"}, "a.png", "a.jpg"),
        ({"equals-ignore-case": "ORDER"}, "oRdEr", "orders"),
        ({"anything-but": "a"}, "b", "a"),
        ({"anything-but": ["a", 3]}, 4, 3),
        ({"anything-but": {"prefix": ["x", "y"]}}, "ax", "yes"),
        ({"anything-but": {"suffix": ".tmp"}}, "a.txt", "a.tmp"),
        ({"numeric": ["=", 3]}, 3.0, 3.1),
        ({"numeric": [">", 0, "<=", 5]}, 5, 0),
        ({"numeric": [">=", 10]}, 10**400, "11"),
        ({"wildcard": "a*c"}, "abbbc", "abcd"),
        ({"wildcard": "*/img/*.png"}, "x/img/a.png", "x/img/a.gif"),
        ({"wildcard": "2\\*3"}, "2*3", "2x3"),
        ({"wildcard": "ab*ba"}, "abba", "aba"),
        ({"exists": True}, "", ...),
        ({"exists": False}, ..., "x"),
    ],
)
def test_each_rule_takes_what_it_says_and_nothing_else(element: Any, matching: Any, other: Any) -> None:
    pattern = {"body": {"key": [element]}}
    assert wants(pattern, {} if matching is ... else {"key": matching})
    assert not wants(pattern, {} if other is ... else {"key": other})


def test_all_keys_must_match_and_one_of_a_keys_values() -> None:
    assert wants({"body": {"kind": ["x", "order.created"], "paid": [True]}})
    assert not wants({"body": {"kind": ["order.created"], "paid": [False]}})
    assert wants({"body": {"to": {"city": [{"prefix": "B"}]}}})
    assert not wants({"body": {"to": {"street": [{"exists": True}]}}})
    assert wants({"body": {"from": {"city": [{"exists": False}]}}})


def test_a_list_in_the_message_matches_by_one_of_its_elements() -> None:
    assert wants({"body": {"tags": ["gift"]}})
    assert not wants({"body": {"tags": ["old"]}})
    assert wants({"body": {"to": {"lines": {"sku": [{"suffix": "-2"}]}}}})
    assert not wants({"body": {"tags": ["x"]}}, {"tags": []})


def test_or_takes_any_of_its_patterns_at_every_depth() -> None:
    either = {"$or": [{"total": [{"numeric": [">", 1000]}]}, {"kind": [{"prefix": "order."}]}]}
    assert wants({"body": either})
    assert not wants({"body": either}, {"total": 3, "kind": "x"})
    both = {"$or": [{"body": {"total": [1]}}, {"messageAttributes": {"kind": ["urgent"]}}]}
    assert wants(both, kind="urgent")
    assert not wants(both, kind="idle")


def test_attributes_are_text_by_name() -> None:
    pattern = {"messageAttributes": {"kind": ["a"], "retry": [{"exists": False}]}}
    assert wants(pattern, kind="a")
    assert not wants(pattern, kind="a", retry="1")
    assert not wants(pattern)


def test_a_body_that_is_no_object_only_matches_values() -> None:
    assert wants({"body": ["plain text"]}, "plain text")
    assert wants({"body": [{"numeric": ["<", 5]}]}, "4")
    assert not wants({"body": {"key": [{"exists": False}]}}, "plain text")
    assert not wants({"body": {"key": [1]}}, "[" * 100_000)


def test_a_bad_pattern_says_everything_at_once() -> None:
    pattern = {
        "body": {
            "a": [{"numeric": [">", "5"]}],
            "b": "order",
            "c": [],
            "d": [{"like": "x"}],
            "e": [{"wildcard": "a**"}],
            "f": [{"exists": "yes"}],
            "g": [{"prefix": "a", "suffix": "b"}],
            "h": [["nested"]],
            "i": {},
            "$or": [{"x": [1]}],
            "j": [{"anything-but": {"numeric": ["=", 1]}}],
        },
        "attributes": {"x": [1]},
        "messageAttributes": ["x"],
    }
    with pytest.raises(BadFilter) as raised:
        compile_filter(pattern)
    places = [where for where, _ in raised.value.problems]
    assert places == [
        "body.a[0].numeric", "body.b", "body.c", "body.d[0]", "body.e[0].wildcard", "body.f[0].exists", "body.g[0]",
        "body.h[0]", "body.i", "body.$or", "body.j[0].anything-but", "attributes", "messageAttributes",
    ]  # fmt: skip
    assert 'must be a list of values that match, such as ["order"]' in str(raised.value)
    assert "prefix, suffix" in str(raised.value)


@pytest.mark.parametrize("pattern", [{}, [], None, "x", {"body": {"a": [1] * 400}}])
def test_what_is_no_pattern_or_too_large_a_one_is_refused(pattern: Any) -> None:
    with pytest.raises(BadFilter):
        compile_filter(pattern)


def test_a_deep_pattern_is_refused() -> None:
    deep: Any = [1]
    for _ in range(5000):
        deep = {"a": deep}
    with pytest.raises(BadFilter, match="16 deep"):
        compile_filter({"body": deep})


def test_wildcards_do_not_go_back() -> None:
    """Where a regular expression would never end."""
    hostile = compile_filter({"body": {"key": [{"wildcard": "*" + "a*" * 40 + "b"}]}})
    assert not hostile.wants(json.dumps({"key": "a" * 100_000}), {})
