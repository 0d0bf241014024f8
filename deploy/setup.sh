#!/bin/sh
# Make .venv from uv.lock, by whatever means this machine has. Arguments go to `uv sync` (--no-dev, say).
#
# uv comes from PATH, from an earlier run, from `python -m venv` or `python -m pip`, or straight from the wheel that
# uv.lock names (checked against its hash), so Debian's python3 alone is enough: no ensurepip, no pip, no root.
set -eu
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }

python=""
for candidate in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    say "Python 3.11 or newer is needed and was not found: install it (Debian: apt-get install python3) or set PYTHON."
    exit 1
fi

version=$(sed -n '/^name = "uv"$/{n;s/^version = "\(.*\)"$/\1/p;}' uv.lock)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

works() { "$1" --version >/dev/null 2>&1; }

bootstrap() {
    say "fetching uv $version"
    if rm -rf "$scratch/venv" && "$python" -m venv "$scratch/venv" >/dev/null 2>&1 &&
        "$scratch/venv/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$version" 2>"$scratch/why"; then
        uv=$scratch/venv/bin/uv
    elif "$python" -m pip install --quiet --disable-pip-version-check --target "$scratch/pip" "uv==$version" \
        2>>"$scratch/why"; then
        uv=$scratch/pip/bin/uv
    elif "$python" deploy/fetch_uv.py "$scratch" 2>>"$scratch/why"; then
        uv=$scratch/uv
    elif [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "fetching python3-venv from Debian"
        { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
            python3-venv ca-certificates; } >>"$scratch/why" 2>&1 &&
            "$python" -m venv "$scratch/venv" && "$scratch/venv/bin/python" -m pip install --quiet "uv==$version" &&
            uv=$scratch/venv/bin/uv
    fi
    if [ -z "$uv" ]; then
        tail -n 5 "$scratch/why" >&2
        say "uv could not be had: install it (https://docs.astral.sh/uv/) or python3-venv, then run this again."
        exit 1
    fi
}

uv=""
if works uv; then
    uv=uv
elif works .venv/bin/uv; then
    uv=$scratch/uv
    cp .venv/bin/uv "$uv" # it may have to replace .venv, itself included
else
    bootstrap
fi

# The interpreter is this machine's, never one that uv downloads. Certificates: the system's, as curl and pip do, since a
# site may have its own; where there are none, those inside uv.
export UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT=.venv
unset VIRTUAL_ENV
# Compiled at once: else the first `faas` of all does it, or, where its user may not write here, every one.
sync() { "$uv" sync --frozen --quiet --compile-bytecode --python "$python" "$@"; }
compile_own() { .venv/bin/python -m compileall -q faas runtimes; }
with_system_certificates() { UV_NATIVE_TLS=true UV_SYSTEM_CERTS=true sync "$@"; }

if [ -s /etc/ssl/certs/ca-certificates.crt ] || [ -n "${SSL_CERT_FILE:-}" ]; then
    if ! with_system_certificates "$@" 2>"$scratch/first" && ! sync "$@"; then
        cat "$scratch/first" >&2
        exit 1
    fi
else
    sync "$@"
fi
compile_own
