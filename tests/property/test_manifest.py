"""Whatever users write, settings become a manifest or ``InvalidManifest``, never another exception."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from faas.model.errors import InvalidManifest, ManifestProblem
from faas.model.manifest import Manifest
from faas.packaging import pep723, sizes
from faas.packaging.document import Document, from_faas_toml, from_pyproject, from_requirements, from_script, merge
from faas.packaging.manifest import KEYS, parse, to_settings

REFERENCE = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")  # PEP 723

words = st.sampled_from(
    ["256MB", "1GB", "30s", "0s", "100ms", "auto", "none", "egress", "queue:a", "function:b", "https://a.example/x",
     "*/5 * * * *", "UTC", "Europe/Berlin", "GET", "six>=1", "six @ file:///x", ">=3.11", "handler", "a.b:c", "FAAS_X",
     "A", "*", "\ud800", "\0", "", "a-b"]
)  # fmt: skip
inner_keys = st.sampled_from(
    ["name", "public", "methods", "cors", "origins", "attempts", "max_age", "batch", "window", "lease", "schedule",
     "timezone", "payload", "A", "FAAS_A", "\ud800"]
)  # fmt: skip
scalars = (
    st.none() | st.booleans() | st.integers() | st.integers(0, 70) | st.floats() | words | st.text(max_size=20)
    | st.binary(max_size=3) | st.dates()
)  # fmt: skip
values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(inner_keys | st.text(max_size=8), inner, max_size=4)
        | st.dictionaries(st.integers(), inner, max_size=1)
    ),
    max_leaves=10,
)
queue_sources = st.sampled_from(
    [{"connection": "rabbit", "queue": "orders", "group_by": "queue"}, {"connection": "n_1", "stream": "S"},
     {"connection": "n", "stream": "S", "subject": "orders.*.>"}, {"connection": "r", "list": "jobs", "end": "left"},
     {"connection": "r", "channel": "news.*"}]
)  # fmt: skip
settings = st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=12), values, max_size=8)


def outcome(document: Document) -> Manifest | list[ManifestProblem]:
    try:
        return parse(document, "3.11", "fn")
    except InvalidManifest as error:
        return error.problems


@st.composite
def valid_settings(draw: st.DrawFn) -> dict[str, Any]:
    """Settings in the user's form that are right."""
    name = st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True)
    duration = st.integers(1, 3600).map(lambda n: f"{n}s")
    optional: dict[str, st.SearchStrategy[Any]] = {
        "handler": st.sampled_from(["handler", "main.run", "pkg.mod:app"]),
        "memory": st.integers(64, 10_240).map(lambda n: f"{n}MB"),
        "cpus": st.floats(0.01, 64) | st.integers(1, 64),
        "timeout": st.integers(10, 3_600_000).map(lambda n: f"{n}ms"),
        "concurrency": st.integers(1, 1000),
        "min_instances": st.integers(0, 100),
        "max_instances": st.integers(100, 1000),
        "network": st.sampled_from(["none", "egress"]),
        "keep_alive": st.just("auto") | duration,
        "on_disconnect": st.sampled_from(["finish", "cancel"]),
        "idempotency": duration,
        "env": st.dictionaries(
            st.from_regex(r"[A-E][A-Z0-9_]{0,9}", fullmatch=True), st.text("aé \n", max_size=9), max_size=3
        ),
        "secrets": st.lists(st.from_regex(r"S_[A-Z0-9_]{0,9}", fullmatch=True), unique=True, max_size=3),
        "retry": st.fixed_dictionaries({}, optional={"attempts": st.integers(1, 100), "max_age": duration}),
        "on_success": name.map(lambda n: f"queue:{n}"),
        "on_failure": st.just("https://example.com/hook?x=1"),
        "http": st.fixed_dictionaries(
            {},
            optional={
                "public": st.booleans(),
                "methods": st.lists(st.sampled_from(["GET", "POST", "PUT"]), max_size=3),
                "cors": st.fixed_dictionaries({"origins": st.lists(st.sampled_from(["*", "https://a.example:8443"]))}),
            },
        ),
        "queue": st.lists(
            st.fixed_dictionaries(
                {"name": name},
                optional={"batch": st.integers(1, 10_000), "window": st.just("1s"), "lease": st.just("2h")}
                | {"filter": st.just({"body": {"n": [{"numeric": [">", 0]}, None]}}), "source": queue_sources},
            ),
            max_size=3,
            unique_by=lambda queue: queue["name"],
        ),
        "cron": st.lists(
            st.fixed_dictionaries(
                {"schedule": st.sampled_from(["*/5 * * * *", "0 6 * * 1-5", "0 0 29 2 *"])},
                optional={"timezone": st.just("Europe/Berlin"), "payload": st.just({"a": [1, None]})},
            ),
            max_size=2,
        ),
        "dependencies": st.lists(st.sampled_from(["six", "pillow>=11", "a[b]<2; python_version < '4'"]), max_size=3),
        "requires-python": st.sampled_from([">=3.11", ">=3.8,<4", "~=3.11.2"]),
    }
    return draw(st.fixed_dictionaries({"name": name}, optional=optional))


@given(settings)
@example({"concurrency": 10**5000})
@example({"env": {"A": 10**5000}})
@example({"timeout": 10**400})
@example({"timeout": 1e300})
@example({"cron": [{"schedule": "0 0 * * *", "payload": 10**5000}]})
@example({"cron": [{"schedule": "0 0 * * *", "timezone": "\0"}]})
@example({"on_failure": "https://[x"})
@example({"on_failure": "https://a:b"})
@example({"requires-python": "===x"})
@example({"handler": "a" * 10**6})
def test_any_table_becomes_a_manifest_or_invalid_manifest(table: dict[str, Any]) -> None:
    found = outcome(merge(Document(), table))
    if isinstance(found, Manifest):
        assert Manifest.model_validate_json(found.model_dump_json()) == found
        return
    assert found
    json.dumps([[p.key, p.message, p.line] for p in found]).encode()
    assert all(len(p.message) < 600 for p in found)


def test_nesting_without_end_is_a_problem() -> None:
    nested: Any = "x"
    for _ in range(5000):
        nested = [nested]
    with pytest.raises(InvalidManifest):
        parse(Document(values={"name": "a", "env": nested}))


@given(valid_settings())
def test_right_settings_are_taken_and_read_back_the_same(table: dict[str, Any]) -> None:
    manifest = parse(Document(values=table))
    assert parse(Document(values=to_settings(manifest))) == manifest
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest


lines = st.sampled_from(
    [
        "# /// script",
        "# ///",
        "#",
        "# ",
        "# x = 1",
        "#x",
        "",
        "code",
        " # ///",
        "# /// a b",
        "# /// other",
        "# /// ",
        "# é",
    ]
)
sources = st.lists(lines, max_size=14).map("\n".join)


@given(sources)
def test_blocks_are_those_the_reference_expression_finds(source: str) -> None:
    expected = [
        ("".join(ln[2:] if ln.startswith("# ") else ln[1:] for ln in m["content"].splitlines(keepends=True)), m["type"])
        for m in REFERENCE.finditer(source)
    ]
    assert [(block.text, block.type) for block in pep723.scan(source)] == expected
    for block in pep723.scan(source):
        assert source.split("\n")[block.line - 2] == f"# /// {block.type}"


toml_lines = st.sampled_from(
    ["[tool.faas]", "[tool.faas.http]", "[[tool.faas.queue]]", 'name = "a"', "name = ", "x = {", "public = 1", "[tool]",
     'dependencies = ["six",', '"bad!"]', "]", 'a."b.c".d = 1', 'e = """', '"""', "d = 1979-05-27", "[project]",
     "tool = 1", "f = inf", "requires-python = 3"]
)  # fmt: skip
toml_texts = st.lists(toml_lines, max_size=10).map("\n".join) | st.text(max_size=60)


@given(toml_texts)
def test_any_text_as_settings_is_read_or_refused(text: str) -> None:
    block = "# /// script\n" + "".join(f"# {line}\n" for line in text.split("\n")) + "# ///\n"
    count = block.count("\n") + text.count("\r") + 1
    for document in (from_script(block, "a.py"), from_faas_toml(text), from_pyproject(text), from_requirements(text)):
        found = outcome(document or Document())
        assert isinstance(found, Manifest) or all(p.line is None or 1 <= p.line <= count for p in found)


@given(st.integers(0, 10**12))
def test_durations_and_sizes_read_back_what_was_written(number: int) -> None:
    assert sizes.parse_duration_ms(sizes.format_duration_ms(number)) == number
    assert sizes.parse_size_bytes(sizes.format_size_bytes(number * sizes.MIB)) == number * sizes.MIB


@given(st.text(max_size=30) | st.integers() | st.floats() | st.none())
def test_sizes_and_durations_raise_nothing_but_value_error(value: Any) -> None:
    for parser in (sizes.parse_duration_ms, sizes.parse_size_bytes, sizes.parse_memory_mb):
        try:
            assert parser(value) >= (0 if parser is not sizes.parse_memory_mb else -(2**200))
        except ValueError as error:
            assert str(error)  # noqa: PT017
