"""WSGI apps (PEP 3333) on the HTTP trigger."""

from __future__ import annotations

import io
import sys

from . import results
from .events import unquote
from .failures import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .instance import Call, Instance


class _Start:
    """``start_response``: remembers the head, and gives out the old ``write`` callable."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: results.Headers = []
        self.written: list[bytes] = []

    def __call__(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        if self.status and exc_info is None:
            raise AssertionError("start_response was called twice")
        number = status.partition(" ")[0]
        self.status = int(number) if number.isdigit() else 0
        if not 200 <= self.status <= 599:
            raise Failure("not_serialisable", "InvalidResponse", f"{status!r} is not a status line")
        self.headers = results.checked([(n.lower().encode("latin-1"), v.encode("latin-1")) for n, v in headers])
        return self.written.append


def run(instance: Instance, call: Call) -> results.Response:
    """The response; for a body that is not a list, after it was streamed, what is left to say."""
    start = _Start()
    body = instance.function.target(_environ(call, instance.is_shared), start)
    try:
        if isinstance(body, (list, tuple)):
            payload = b"".join([*start.written, *body])
            size_max = instance.function.result_bytes_max
            if len(payload) > size_max:
                what = f"the response has {len(payload)} bytes, {size_max} are allowed"
                raise Failure("too_large", "ResultTooLarge", what)
            _begun(start)
            return start.status, start.headers, payload
        for chunk in body:
            if not call.streaming and (chunk or start.written):
                _begun(start)
                instance.begin_stream(call, start.status, start.headers)
                for early in start.written:
                    instance.send_chunk(call, early)
            instance.send_chunk(call, chunk)
        _begun(start)
        if not call.streaming:
            return start.status, start.headers, b"".join(start.written)
        return 200, [], b""
    finally:
        close = getattr(body, "close", None)
        if close is not None:
            close()


def _begun(start: _Start) -> None:
    if not start.status:
        raise Failure("not_serialisable", "InvalidResponse", "the app did not call start_response")


def mount_point(path: str, raw_path: str) -> str:
    """What comes before ``path`` in the whole path: where the function is mounted."""
    whole = unquote(raw_path)
    if whole.endswith(path):
        return whole[: len(whole) - len(path)]
    return whole.rstrip("/") if path == "/" else ""


def _environ(call: Call, is_shared: bool) -> dict[str, Any]:
    method, path, raw_path, query, headers, source_ip, protocol = call.request()
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": mount_point(path, raw_path).encode().decode("latin-1"),
        "PATH_INFO": path.encode("utf-8", "replace").decode("latin-1"),
        "QUERY_STRING": query,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": protocol,
        "REMOTE_ADDR": source_ip,
        "CONTENT_LENGTH": str(len(call.payload)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(call.payload),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": is_shared,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "faas.context": call.context,
    }
    for name, value in headers:
        if name == "content-length":
            continue
        key = name.upper().replace("-", "_")
        if key != "CONTENT_TYPE":
            key = "HTTP_" + key
        joiner = ";" if key == "HTTP_COOKIE" else ","
        environ[key] = f"{environ[key]}{joiner}{value}" if key in environ else value
        if name == "host":
            host, _, port = value.rpartition(":") if ":" in value.rpartition("]")[2] else (value, "", "")
            environ["SERVER_NAME"] = host
            environ["SERVER_PORT"] = port or "80"
        elif name == "x-forwarded-proto":
            environ["wsgi.url_scheme"] = value
    return environ
