"""Where this user's faas data lives. Tiny on purpose: every CLI verb imports it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

CLIENT_FILE = "client.toml"  # url, key and namespace for the local user; written by `faas up`
SETTINGS_FILE = "faas.toml"  # settings of the node; written by hand


def default_home(environ: Mapping[str, str]) -> Path:
    """The XDG data directory's ``faas`` (``~/.local/share/faas``)."""
    base = environ.get("XDG_DATA_HOME", "")
    # The XDG Base Directory Specification: a relative path is invalid and to be ignored.
    return (Path(base) if base.startswith("/") else Path.home() / ".local" / "share") / "faas"


def faas_home(environ: Mapping[str, str] | None = None) -> Path:
    """``FAAS_HOME``, made absolute, else the default."""
    environ = os.environ if environ is None else environ
    named = environ.get("FAAS_HOME", "")
    return Path(named).expanduser().absolute() if named else default_home(environ)
