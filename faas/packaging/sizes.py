"""Durations and sizes as people write them: ``"100ms"``, ``"1h30m"``, ``"256MB"``, ``"1.5GB"``.

Units of size are binary, as in Lambda and Docker: 1 MB = 1,048,576 bytes. What ``format_*`` writes, ``parse_*`` reads
back to the same number. Every parser raises ``ValueError`` whose text says what would have been accepted.
"""

# ruff: noqa: TRY004 - a wrong type is one more wrong value here, and callers catch one exception

from __future__ import annotations

import re
from fractions import Fraction

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

SECOND_MS = 1000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS

_DURATION_UNITS = {"ms": 1, "s": SECOND_MS, "m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS}
_SIZE_UNITS = {"b": 1, "k": KIB, "m": MIB, "g": GIB}
_DURATION = re.compile(r"(?:[0-9]{1,12}(?:\.[0-9]{1,6})?(?:ms|s|m|h|d))+")
_DURATION_PART = re.compile(r"([0-9.]+)(ms|s|m|h|d)")
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?) ?(?:(b)|([kmg])(?:i?b)?)", re.IGNORECASE)
_VALUE_MAX = 10**15  # far above any limit of ours, far below what overflows a 64-bit integer

DURATION_FORMS = 'a whole number of seconds or text such as "100ms", "30s", "15m", "6h", "1d"'
SIZE_FORMS = 'text such as "256MB" or "1GB"'


def parse_duration_ms(value: object) -> int:
    """Milliseconds of ``"100ms"``, ``"30s"``, ``"1h30m"``, or of a number of seconds (``30``, ``0.5``)."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"a duration is {DURATION_FORMS}, not {kind(value)}")
    if isinstance(value, str):
        text = value.strip()
        if not _DURATION.fullmatch(text):
            raise ValueError(f"{shown(value)} is not a duration; write {DURATION_FORMS}")
        total = sum((Fraction(n) * _DURATION_UNITS[unit] for n, unit in _DURATION_PART.findall(text)), Fraction(0))
    else:
        if not -_VALUE_MAX < value < _VALUE_MAX:  # also false for NaN
            raise ValueError(f"{shown(value)} is not a duration; write {DURATION_FORMS}")
        total = Fraction(str(value)) * SECOND_MS
    if total < 0:
        raise ValueError(f"a duration cannot be negative, {shown(value)} is")
    if total.denominator != 1:
        raise ValueError(f"{shown(value)} is finer than a millisecond; the smallest step is 1ms")
    return int(total)


def parse_size_bytes(value: object) -> int:
    """Bytes of ``"256MB"``, ``"1.5GB"``, ``"64KiB"``, ``"100b"``; a bare integer is bytes."""
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 0:
            raise ValueError("a size cannot be negative")
        return value
    if not isinstance(value, str):
        raise ValueError(f"a size is {SIZE_FORMS}, not {kind(value)}")
    found = _SIZE.fullmatch(value.strip())
    if found is None:
        raise ValueError(f"{shown(value)} is not a size; write {SIZE_FORMS}")
    number, plain, prefix = found.groups()
    total = Fraction(number) * _SIZE_UNITS[(plain or prefix).lower()]
    if total.denominator != 1:
        raise ValueError(f"{shown(value)} is not a whole number of bytes")
    return int(total)


def parse_memory_mb(value: object) -> int:
    """Megabytes of ``"256MB"``, ``"1GB"``, or of an integer number of megabytes."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, str):
        raise ValueError(f"a memory size is {SIZE_FORMS} or a whole number of MB, not {kind(value)}")
    size_bytes = parse_size_bytes(value)
    if size_bytes % MIB:
        raise ValueError(f"{shown(value)} is not a whole number of MB")
    return size_bytes // MIB


def format_duration_ms(duration_ms: int) -> str:
    """The shortest exact form: ``30000`` -> ``"30s"``, ``5400000`` -> ``"90m"``, ``1500`` -> ``"1500ms"``."""
    if duration_ms == 0:
        return "0s"
    for unit in ("d", "h", "m", "s"):
        if duration_ms % _DURATION_UNITS[unit] == 0:
            return f"{duration_ms // _DURATION_UNITS[unit]}{unit}"
    return f"{duration_ms}ms"


def format_size_bytes(size_bytes: int) -> str:
    """Exact for whole KB, MB and GB (``"256MB"``), else rounded to a tenth for people (``"1.3MB"``)."""
    units = (("GB", GIB), ("MB", MIB), ("KB", KIB))
    for unit, factor in units:
        if size_bytes and size_bytes % factor == 0:
            return f"{size_bytes // factor}{unit}"
    for unit, factor in units:
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f}{unit}"
    return f"{size_bytes}B"


def format_memory_mb(memory_mb: int) -> str:
    """``1024`` -> ``"1GB"``, ``1536`` -> ``"1536MB"``."""
    return format_size_bytes(memory_mb * MIB)


def shown(value: object, length_max: int = 60) -> str:
    """A value as an error message quotes it: TOML-like, shortened, never failing (``repr`` of a huge int may)."""
    if isinstance(value, bool):
        return "true" if value else "false"
    try:
        text = f'"{value}"' if isinstance(value, str) else repr(value)
    except (ValueError, RecursionError):
        return kind(value)
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= length_max else text[: length_max - 4] + "..." + text[-1]


def kind(value: object) -> str:
    """The TOML name of a value's type, with its article."""
    if value is None:
        return "null"
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list"}
    return names.get(type(value), "a table" if isinstance(value, dict) else f"a {type(value).__name__}")
