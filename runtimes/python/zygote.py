"""Entry point of a Python sandbox: ``python -I -S zygote.py``, with FAAS_SOCKET the path of the node's socket.

Nothing of the runtime may clash with what the user brings. All of it, and its msgpack, lives in one package with a
private name, made here by hand; its directories are on that package's path and never on ``sys.path``. So the user's
``msgpack``, ``codec`` or ``output`` are the user's, whatever their version.
"""

# pathlib would cost more to import than all of this file:
# ruff: noqa: PTH100, PTH118, PTH120
from __future__ import annotations

import os
import sys
from importlib import import_module

PACKAGE = "_faas_runtime"


def load(vendor: str | None = None) -> None:
    """Make the runtime importable as ``_faas_runtime``. ``vendor`` is the directory that has msgpack in it."""
    here = os.path.dirname(os.path.abspath(__file__))
    package = type(sys)(PACKAGE)
    package.__path__ = [here, vendor or os.path.join(here, "_vendor")]
    sys.modules[PACKAGE] = package


def main() -> None:
    load(os.environ.get("FAAS_VENDOR"))
    import_module(f"{PACKAGE}.control").main(os.environ["FAAS_SOCKET"])


if __name__ == "__main__":
    main()
