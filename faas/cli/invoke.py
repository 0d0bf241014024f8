"""`faas invoke`: a direct call."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from faas.cli import out
from faas.cli.client import ConnectionFailed, Node, Response, escape
from faas.cli.out import CliError
from faas.cli.verb import argument, json_option, on_node, option, verb

JSON_TYPE = "application/json"
BYTES_TYPE = "application/octet-stream"


def read_data(data: str | None, content_type: str | None) -> tuple[bytes, str]:
    """The body and its content type from ``-d``: JSON text, ``@FILE``, or ``-`` for stdin; None is the event ``{}``."""
    if data is None:
        return b"", content_type or JSON_TYPE
    if data == "-":
        body = sys.stdin.buffer.read()
        return body, content_type or (JSON_TYPE if _is_json(body) else BYTES_TYPE)
    if data.startswith("@"):
        path = Path(data[1:])
        try:
            body = path.read_bytes()
        except OSError as error:
            raise CliError(f"cannot read {path}", error.strerror or "", code=2) from error
        return body, content_type or (JSON_TYPE if _is_json(body) else _guess_type(path))
    body = data.encode("utf-8", "surrogateescape")
    if content_type is None and not _is_json(body):
        raise CliError(
            "the data is not JSON",
            data if len(data) <= 100 else data[:97] + "...",
            "quote text:  -d '\"text\"'\nsend it as bytes:  --content-type text/plain\nsend a file:  -d @FILE",
            code=2,
        )
    return body, content_type or JSON_TYPE


def _guess_type(path: Path) -> str:
    import mimetypes

    return mimetypes.guess_type(path.name)[0] or BYTES_TYPE


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def server_timing(header: str) -> dict[str, float]:
    """``queue;dur=0.1, run;dur=2`` -> milliseconds by name (Server-Timing, W3C)."""
    timing: dict[str, float] = {}
    for entry in header.split(","):
        name, *parameters = (part.strip() for part in entry.split(";"))
        for parameter in parameters:
            if parameter.startswith("dur="):
                timing[name] = float(parameter[4:])
    return timing


def facts(headers: Mapping[str, str]) -> dict[str, Any]:
    """What the response headers say about an invocation; what is not known is None."""
    billed = headers.get("faas-billed-ms")
    version = headers.get("faas-version")
    return {
        "invocation_id": headers.get("faas-invocation-id"),
        "version": int(version) if version else None,
        "start": headers.get("faas-start"),
        "billed_ms": int(billed) if billed else None,
        "timing_ms": server_timing(headers.get("server-timing", "")),
    }


def facts_line(found: Mapping[str, Any]) -> str:
    """``start warm · queue 0.1 ms · run 2.3 ms · billed 3 ms · version 2 · 0190...``"""
    parts = [f"start {found['start']}"] if found["start"] else []
    parts += [f"{phase} {out.milliseconds(ms)}" for phase, ms in found["timing_ms"].items()]
    parts += [f"billed {out.milliseconds(found['billed_ms'])}"] if found["billed_ms"] is not None else []
    parts += [f"version {found['version']}"] if found["version"] else []
    return " · ".join([*parts, str(found["invocation_id"] or "")]).rstrip(" ·")


def _write(response: Response) -> None:
    """The result as it is, byte for byte; a person's terminal gets the newline it needs."""
    last = b""
    for chunk in response.chunks():
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
        last = chunk
    if sys.stdout.isatty() and last and not last.endswith(b"\n"):
        out.say()


def _result(response: Response) -> dict[str, Any]:
    body = response.read()
    content_type = response.headers.get("content-type", "")
    if content_type.startswith(JSON_TYPE) and _is_json(body):
        return {"result": json.loads(body)}
    if content_type.startswith("text/"):
        return {"result": body.decode("utf-8", "replace")}
    import base64

    return {"result_base64": base64.b64encode(body).decode()}


def _broken_off(error: ConnectionFailed, invocation_id: str | None) -> CliError:
    """A result that began and did not end: the function failed in the middle of it, or the node went away."""
    if invocation_id is None:
        return error
    return CliError("the result broke off before its end", error.why, f"see why: faas invocation {invocation_id}")


def _later(node: Node, name: str, body: bytes, headers: Mapping[str, str], *, wait: bool, as_json: bool) -> None:
    """A call that the node runs by itself; its id, or with ``wait`` its result as a call that was waited for has it."""
    path = f"/v1/functions/{escape(name)}/invocations"
    with (
        out.Progress(f"handing the call of {name} over", quiet=as_json),
        node.stream("POST", path, body=body, headers={**headers, "Prefer": "respond-async"}) as response,
    ):
        accepted = json.loads(response.read())
    if wait:
        _result_of(node, name, accepted["id"], as_json=as_json)
    elif as_json:
        out.emit_json(accepted)
    else:
        out.say(accepted["id"])
        out.note(f"it runs by itself; see how it ended: faas invocation {accepted['id']} --wait")


def _result_of(node: Node, name: str, invocation_id: str, *, as_json: bool) -> None:
    path = f"/v1/invocations/{escape(invocation_id)}/result"
    waiting = out.Progress(f"waiting for {name}, invocation {invocation_id}", quiet=as_json)
    with waiting:
        while True:
            with node.stream("GET", path, query={"wait": "60s"}, timeout_s=None) as response:
                if response.headers.get("location") == f"/v1/invocations/{invocation_id}":
                    response.read()  # it has not ended
                    continue
                waiting.stop()
                if as_json:
                    out.emit_json({**facts(response.headers), "status": response.status, **_result(response)})
                else:
                    _write(response)
                return


@verb(
    'faas invoke hello -d \'{"name": "Ada"}\'',
    "faas invoke thumbnail -d @photo.jpg > small.jpg",
    "curl -s https://example.com/data.json | faas invoke report -d -",
    "faas invoke report --async",
)
@argument("name", metavar="NAME[@VERSION]", help="The function.")
@option("--data", "-d", metavar="JSON|@FILE|-", help="The event; {} without it.")
@option("--content-type", metavar="TYPE", help="Anything but JSON arrives as bytes.")
@option("--idempotency-key", metavar="KEY", help="Sent again with the same key, it runs once.")
@option("--async", "later", is_flag=True, help="Do not wait: have it run, tried again if it fails, and say its id.")
@option("--wait", is_flag=True, help="With --async: wait for the end after all, however long it takes.")
@option("--verbose", "-v", is_flag=True, help="Say how it started, how long it took and what was billed.")
@json_option
@on_node
def invoke(
    node: Node,
    name: str,
    data: str | None,
    content_type: str | None,
    idempotency_key: str | None,
    later: bool,
    wait: bool,
    verbose: bool,
    as_json: bool,
) -> None:
    """Call a function and print its result, byte for byte."""
    body, body_type = read_data(data, content_type)
    path = f"/v1/functions/{escape(name)}/invocations"
    headers = {"Content-Type": body_type, "Accept": "*/*"}
    if idempotency_key is not None:
        headers["Idempotency-Key"] = idempotency_key
    if later:
        _later(node, name, body, headers, wait=wait, as_json=as_json)
        return
    if wait:
        raise CliError("--wait goes with --async", "a call without --async waits anyway", code=2)
    waiting = out.Progress(f"waiting for {name}", quiet=as_json)
    with waiting, node.stream("POST", path, body=body, headers=headers, timeout_s=None) as response:
        waiting.stop()
        found = facts(response.headers)
        try:
            if as_json:
                out.emit_json({**found, "status": response.status, **_result(response)})
            else:
                _write(response)
        except ConnectionFailed as error:
            raise _broken_off(error, found["invocation_id"]) from error
    if verbose and not as_json:
        out.note(out.paint(facts_line(found), out.DIM, sys.stderr))
