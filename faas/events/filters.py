"""Which messages a trigger wants: event patterns as Amazon EventBridge writes them.

A pattern is an object in the shape of what it looks at. Its leaves are lists, and one of a list's elements must match;
all keys must. An element is a value (exactly this) or one rule: ``prefix``, ``suffix``, ``equals-ignore-case``,
``anything-but``, ``numeric``, ``exists``, ``wildcard``. ``$or`` takes a list of patterns, of which one must match
(Amazon EventBridge User Guide, "Comparison operators for use in event patterns"; Lambda, "Event filtering").

It looks at ``body``, read as JSON, and at ``messageAttributes`` by name. A list in the message matches where one of its
elements does. ``compile_filter`` turns a pattern into functions once; a message then costs one reading of its body.

>>> large = compile_filter({"body": {"total": [{"numeric": [">=", 100]}]}})
>>> large.wants("{\\"total\\": 250}", {}), large.wants("{\\"total\\": 3}", {}), large.wants("hello", {})
(True, False, False)
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

NODES_MAX: Final = 300  # of one pattern: what a message may cost
DEPTH_MAX: Final = 16
PROBLEMS_MAX: Final = 20
ABSENT: Final = object()
_SOURCES: Final = ("body", "messageAttributes")
_BOUNDS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "=": lambda value, bound: value == bound,
    "<": lambda value, bound: value < bound,
    "<=": lambda value, bound: value <= bound,
    ">": lambda value, bound: value > bound,
    ">=": lambda value, bound: value >= bound,
}

Test = Callable[[Any], bool]  # of a scalar, a list, an object, or ABSENT


class BadFilter(ValueError):
    """``problems`` says everything that is wrong with a pattern: where, and what to write instead."""

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{where}: {what}" if where else what for where, what in problems))
        self.problems = problems


class Filter:
    """A pattern made ready. It keeps nothing between messages."""

    __slots__ = ("_test",)

    def __init__(self, test: Test) -> None:
        self._test = test

    def wants(self, body: str, attributes: Mapping[str, str]) -> bool:
        """``body`` is what the handler would be given as a record's body."""
        return self._test({"body": _Body(body), "messageAttributes": attributes})


class _Body:
    """Text that is read as JSON when a pattern first looks into it."""

    __slots__ = ("_value", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._value: Any = ABSENT

    @property
    def value(self) -> Any:
        if self._value is ABSENT:
            try:
                self._value = json.loads(self.text)
            except (ValueError, RecursionError):
                self._value = self.text
        return self._value


def compile_filter(pattern: Any) -> Filter:
    """Raises ``BadFilter`` with everything that is wrong."""
    compiler = _Compiler()
    test = compiler.sources(pattern, "")
    if compiler.problems:
        raise BadFilter(compiler.problems)
    return Filter(test)


def _never(_value: Any) -> bool:
    return False


class _Compiler:
    """One walk over a pattern. What is wrong is noted and stands for a test that never matches; the walk goes on."""

    def __init__(self) -> None:
        self.problems: list[tuple[str, str]] = []
        self._nodes = 0

    def bad(self, where: str, what: str) -> Test:
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append((where, what))
        return _never

    def sources(self, pattern: Any, where: str) -> Test:
        """The outermost object, or one within its ``$or``."""
        if not isinstance(pattern, Mapping) or not pattern:
            return self.bad(where, 'a filter is a table with "body" or "messageAttributes"')
        tests: list[Test] = []
        for key, inner in pattern.items():
            at = _join(where, key)
            if key == "$or":
                tests.append(self._either(inner, at, self.sources))
            elif key not in _SOURCES:
                self.bad(at, 'a filter looks at "body" and "messageAttributes" only')
            elif key == "body":
                tests.append(_of_body(self._pattern(inner, at, 1), leaf=isinstance(inner, list | tuple)))
            elif not isinstance(inner, Mapping):
                self.bad(at, 'must be a table of attribute names, such as { kind = ["order"] }')
            else:
                tests.append(_of_key("messageAttributes", self._pattern(inner, at, 1)))
        return _all(tests)

    def _pattern(self, pattern: Any, where: str, depth: int) -> Test:
        if depth > DEPTH_MAX or not self._room(pattern):
            limits = ("", f"a filter may be {DEPTH_MAX} deep and have {NODES_MAX} keys and values")
            return self.bad(*limits) if limits not in self.problems else _never
        if isinstance(pattern, list | tuple):
            if not pattern:
                return self.bad(where, "is empty and would match nothing; list the values that match")
            return _any([self._element(item, f"{where}[{index}]") for index, item in enumerate(pattern)])
        if not isinstance(pattern, Mapping):
            return self.bad(where, f"must be a list of values that match, such as [{_shown(pattern)}]")
        if not pattern:
            return self.bad(where, "is empty; say what must be in it")
        tests = []
        for key, inner in pattern.items():
            at = _join(where, key)
            if key == "$or":
                tests.append(self._either(inner, at, lambda each, here: self._pattern(each, here, depth + 1)))
            else:
                tests.append(_of_key(key, self._pattern(inner, at, depth + 1)))
        return _object(_all(tests))

    def _room(self, pattern: Any) -> bool:
        """Count what is in it."""
        self._nodes += len(pattern) if isinstance(pattern, Mapping | list | tuple) else 1
        return self._nodes <= NODES_MAX

    def _either(self, patterns: Any, where: str, compiled: Callable[[Any, str], Test]) -> Test:
        if not isinstance(patterns, list | tuple) or len(patterns) < 2:
            return self.bad(where, "must be a list of two or more patterns")
        found = []
        for index, each in enumerate(patterns):
            at = f"{where}[{index}]"
            found.append(compiled(each, at) if isinstance(each, Mapping) else self.bad(at, "must be a table"))
        return lambda value: any(test(value) for test in found)

    def _element(self, item: Any, where: str) -> Test:
        if isinstance(item, Mapping):
            if len(item) != 1:
                return self.bad(where, "must hold one rule")
            ((rule, argument),) = item.items()
            made = _RULES.get(rule)
            if made is None:
                return self.bad(where, f"{_shown(rule)} is no rule; there are {', '.join(_RULES)}")
            return made(self, argument, f"{where}.{rule}")
        if not _is_scalar(item):
            return self.bad(where, "must be text, a number, true, false, null or a rule")
        return lambda value: _same(value, item)

    def text(self, argument: Any, where: str) -> str:
        if isinstance(argument, str) and argument:
            return argument
        self.bad(where, f"must be text, not {_shown(argument)}")
        return ""

    def prefix(self, argument: Any, where: str) -> Test:
        start = self.text(argument, where)
        return lambda value: isinstance(value, str) and value.startswith(start)

    def suffix(self, argument: Any, where: str) -> Test:
        end = self.text(argument, where)
        return lambda value: isinstance(value, str) and value.endswith(end)

    def ignore_case(self, argument: Any, where: str) -> Test:
        wanted = self.text(argument, where).casefold()
        return lambda value: isinstance(value, str) and value.casefold() == wanted

    def wildcard(self, argument: Any, where: str) -> Test:
        pieces = _pieces(self.text(argument, where))
        if pieces is None:
            return self.bad(where, 'a "*" may not follow a "*"; write "\\*" for a star and "\\\\" for a backslash')
        return lambda value: isinstance(value, str) and _matches(pieces, value)

    def exists(self, argument: Any, where: str) -> Test:
        if not isinstance(argument, bool):
            return self.bad(where, f"must be true or false, not {_shown(argument)}")
        return lambda value: (value is not ABSENT) is argument

    def numeric(self, argument: Any, where: str) -> Test:
        example = 'must be such as [">=", 10] or [">", 0, "<=", 5]'
        if not isinstance(argument, list | tuple) or len(argument) not in (2, 4):
            return self.bad(where, example)
        checks = []
        for sign, bound in zip(argument[::2], argument[1::2], strict=True):
            if not isinstance(sign, str) or sign not in _BOUNDS or not _is_number(bound):
                return self.bad(where, example)
            checks.append((_BOUNDS[sign], bound))
        return lambda value: _is_number(value) and all(holds(value, bound) for holds, bound in checks)

    def anything_but(self, argument: Any, where: str) -> Test:
        if isinstance(argument, Mapping):
            ((rule, inner),) = argument.items() if len(argument) == 1 else (("", None),)
            if rule not in ("prefix", "suffix", "equals-ignore-case", "wildcard"):
                return self.bad(where, "takes values, or one of prefix, suffix, equals-ignore-case, wildcard")
            listed = list(inner) if isinstance(inner, list | tuple) else [inner]
            inside = [_RULES[rule](self, each, f"{where}.{rule}") for each in listed]
        else:
            listed = list(argument) if isinstance(argument, list | tuple) else [argument]
            if not all(isinstance(each, str) or _is_number(each) for each in listed):
                return self.bad(where, "takes text and numbers, or one of prefix, suffix, equals-ignore-case, wildcard")
            inside = [_equal_to(each) for each in listed]
        if not inside or not self._room(listed):
            return self.bad(where, f"must list what must not match; {NODES_MAX} keys and values are the most in all")
        return lambda value: _is_scalar(value) and not any(test(value) for test in inside)


_RULES: Final[Mapping[str, Callable[[_Compiler, Any, str], Test]]] = {
    "prefix": _Compiler.prefix,
    "suffix": _Compiler.suffix,
    "equals-ignore-case": _Compiler.ignore_case,
    "anything-but": _Compiler.anything_but,
    "numeric": _Compiler.numeric,
    "exists": _Compiler.exists,
    "wildcard": _Compiler.wildcard,
}


# -- tests put together ---------------------------------------------------------------------------------------------


def _all(tests: list[Test]) -> Test:
    return lambda value: all(test(value) for test in tests)


def _any(tests: list[Test]) -> Test:
    """Of a leaf: one of its elements matches the value, or one of the values where there is a list."""

    def test(value: Any) -> bool:
        values = value if isinstance(value, list) and value else (value,)
        return any(each(found) for found in values for each in tests)

    return test


def _of_key(key: str, inner: Test) -> Test:
    return lambda value: inner(value.get(key, ABSENT))


def _object(inner: Test) -> Test:
    """Of an object, or of one in a list. What is no object has none of the keys."""

    def test(value: Any) -> bool:
        if isinstance(value, list):
            return any(inner(each) for each in value if isinstance(each, Mapping))
        return inner(value if isinstance(value, Mapping) else {})

    return test


def _of_body(inner: Test, *, leaf: bool) -> Test:
    """A pattern of values sees a body's text, or the one value it is; a pattern of keys only a body that has keys."""

    def test(value: Any) -> bool:
        body: _Body = value["body"]
        if leaf:
            return inner(body.text) or (not isinstance(body.value, str) and inner(body.value))
        return isinstance(body.value, dict | list) and inner(body.value)

    return test


def _equal_to(wanted: Any) -> Test:
    return lambda value: _same(value, wanted)


def _same(value: Any, wanted: Any) -> bool:
    """Equal as JSON: ``true`` is not 1."""
    return bool(value == wanted) and isinstance(value, bool) is isinstance(wanted, bool)


def _is_number(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | bool) or _is_number(value)


# -- wildcards ------------------------------------------------------------------------------------------------------


def _pieces(pattern: str) -> list[str] | None:
    """What stands between the stars; None when a star follows a star, or a backslash has nothing to do.

    >>> _pieces("a*b"), _pieces("*.png"), _pieces("2\\\\*3")
    (['a', 'b'], ['', '.png'], ['2*3'])
    """
    pieces = [""]
    signs = iter(pattern)
    starred = False
    for sign in signs:
        if sign == "*":
            if starred:
                return None
            pieces.append("")
        elif sign == "\\":
            escaped = next(signs, "")
            if escaped not in ("*", "\\") or not escaped:
                return None
            pieces[-1] += escaped
        else:
            pieces[-1] += sign
        starred = sign == "*"
    return pieces


def _matches(pieces: list[str], value: str) -> bool:
    """The first fit of each piece is as good as any later one: no going back."""
    first, last = pieces[0], pieces[-1]
    if len(pieces) == 1:
        return value == first
    if len(value) < len(first) + len(last) or not value.startswith(first) or not value.endswith(last):
        return False
    at, end = len(first), len(value) - len(last)
    for piece in pieces[1:-1]:
        found = value.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True


def _join(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)


def _shown(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."
