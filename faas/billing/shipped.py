"""The price books that come with the platform, as text to start from."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from faas.billing.book import Books
from faas.billing.reading import parse_books

NAMES: Final = ("lambda", "at-cost", "free")


def text_of(name: str) -> str:
    """Raises ``KeyError`` when no book of that name is shipped."""
    if name not in NAMES:
        raise KeyError(name)
    return files("faas.billing").joinpath("books", f"{name}.toml").read_text("utf-8")


def books_of(name: str) -> Books:
    """Raises ``KeyError`` likewise."""
    return parse_books(text_of(name))
