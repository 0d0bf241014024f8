"""`faas deploy`: from a file or a directory to a version that serves."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click

from faas.cli import out
from faas.cli.client import Node, escape, manifest_line, problem_as_error
from faas.cli.out import CliError
from faas.cli.verb import argument, json_option, on_node, option, verb

Say = Callable[[str], None]
NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")
setting = partial(option, section="Settings of the function, over those in its file")
trigger = partial(option, section="Triggers and failures")


@verb(
    "faas deploy hello.py",
    "faas deploy thumbnail.py --memory 512MB --env SIZE=256",
    "faas deploy report/ --name monthly-report --cron '0 6 1 * *'",
)
@argument("path", type=click.Path(path_type=Path), help="A Python file, or a directory.")
@setting("--name", metavar="NAME", help="Default: what the file says, else its name.")
@setting("--handler", metavar="NAME", help="Default: handler, else app, else main.")
@setting("--memory", metavar="SIZE", help="Per instance: 64MB to 10GB. Default 128MB.")
@setting("--cpus", metavar="CORES", type=float, help="At most, per instance: 0.01 to 64. Default no limit.")
@setting("--timeout", metavar="TIME", help="10ms to 15m. Default 30s.")
@setting("--concurrency", metavar="N", type=int, help="Calls at once in one instance. Default 1.")
@setting("--min-instances", metavar="N", type=int, help="Kept warm. Default 0.")
@setting("--max-instances", metavar="N", type=int, help="More are never started. Default 100.")
@setting("--network", metavar="none|egress", help="Way out of the sandbox. Default none.")
@setting("--keep-alive", metavar="auto|TIME", help="How long it stays warm when idle.")
@setting("--on-disconnect", metavar="finish|cancel", help="A running call whose caller leaves. Default finish.")
@setting("--idempotency", metavar="TIME", help="How long an Idempotency-Key replays.")
@setting("--env", "-e", metavar="K=V", multiple=True, help="Repeatable; added to those in the file.")
@setting("--secret", "secrets", metavar="NAME", multiple=True, help="Repeatable.")
@setting(
    "--dependency", "dependencies", metavar="PACKAGE", multiple=True, help="Repeatable; replaces those in the file."
)
@setting("--requires-python", metavar="RANGE", help="Such as '>=3.11'.")
@setting("--entry", metavar="MODULE", help="In a directory: where to begin.")
@setting("--runtime", metavar="NAME", help="There is python.")
@trigger("--public/--no-public", default=None, help="HTTP without an API key.")
@trigger("--method", "methods", metavar="METHOD", multiple=True, help="HTTP method it takes; repeatable.")
@trigger("--cors-origin", "origins", metavar="ORIGIN", multiple=True, help="Repeatable.")
@trigger("--queue", metavar="NAME|{TOML}", multiple=True, help="Repeatable.")
@trigger("--cron", metavar="SCHEDULE|{TOML}", multiple=True, help="Repeatable.")
@trigger("--retry-attempts", metavar="N", type=int, help="Of calls that nobody waits for.")
@trigger("--retry-max-age", metavar="TIME", help="Tried no longer than this.")
@trigger("--on-success", metavar="WHERE", help="Send results to queue:NAME, function:NAME or a URL.")
@trigger("--on-failure", metavar="WHERE", help="Likewise what failed for good.")
@json_option
@on_node
def deploy(node: Node, path: Path, as_json: bool, **flags: Any) -> None:
    """Deploy a function: a Python file, or a directory.

    Its settings stand in the file itself (`faas init` writes one), or in faas.toml or pyproject.toml of the directory.
    Returns when the new version has loaded; until then, and when it fails to, the one before goes on serving.
    """
    settings = overrides(flags)
    with out.timed() as took, out.Progress(f"packing {path}", quiet=as_json) as progress:
        deployed = deploy_path(node, path, settings, progress.update)
    if as_json:
        out.emit_json({**deployed, "took_ms": round(took[0] * 1000)})
        return
    for warning in deployed.get("warnings") or []:
        out.note(out.paint("warning: ", out.YELLOW, sys.stderr) + warning)
    out.say(f"{deployed['name']} version {deployed['version']} is ready ({out.milliseconds(round(took[0] * 1000))})")
    out.say(f"  url     {deployed['url']}" + ("" if deployed["public"] else "  (needs an API key)"))
    out.say(f"  invoke  faas invoke {deployed['name']}{node.flag}")
    for line in woken(deployed["settings"], node.flag):
        out.say(f"  woken   {line}")


def woken(settings: Mapping[str, Any], flag: str) -> list[str]:
    """What wakes it besides calls, a line for each.

    >>> woken({"queue": [{"name": "orders"}], "cron": [{"schedule": "0 6 * * *", "timezone": "UTC"}]}, "")
    ["by queue orders: faas queue send orders -d '{}'", 'at 0 6 * * * UTC: faas trigger ls']
    """
    queues = [
        f"by queue {each['name']}: faas queue send {each['name']} -d '{{}}'{flag}" for each in settings.get("queue", [])
    ]
    crons = [
        f"at {each['schedule']} {each.get('timezone', 'UTC')}: faas trigger ls{flag}"
        for each in settings.get("cron", [])
    ]
    return queues + crons


# Keys of the settings that a flag of the same name sets as it is.
PLAIN: tuple[str, ...] = (
    "name",
    "handler",
    "memory",
    "cpus",
    "timeout",
    "concurrency",
    "min_instances",
    "max_instances",
    "network",
)
PLAIN += ("keep_alive", "on_disconnect", "idempotency", "entry", "runtime", "on_success", "on_failure")


def overrides(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags as settings, shaped as in a function's file; without what was not given.

    >>> overrides({"memory": "1GB", "methods": ("GET",), "env": ("A=1",)})
    {'memory': '1GB', 'env': {'A': '1'}, 'http': {'methods': ['GET']}}
    """
    flags = {name: list(value) if isinstance(value, tuple) else value for name, value in flags.items()}
    flag = flags.get
    settings = {
        **{name: flag(name) for name in PLAIN},
        "env": variables(flag("env") or []),
        "secrets": flag("secrets"),
        "dependencies": flag("dependencies"),
        "requires-python": flag("requires_python"),
        "http": given(
            {"public": flag("public"), "methods": flag("methods"), "cors": given({"origins": flag("origins")})}
        ),
        "queue": [inline("--queue", text, "name") for text in flag("queue") or []],
        "cron": [inline("--cron", text, "schedule") for text in flag("cron") or []],
        "retry": given({"attempts": flag("retry_attempts"), "max_age": flag("retry_max_age")}),
    }
    return given(settings)


def given(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Without what was not given: None, and lists and tables with nothing in them."""
    return {name: value for name, value in settings.items() if value is not None and value != [] and value != {}}


def variables(pairs: list[str]) -> dict[str, str]:
    """``["A=1", "B=x=y"]`` -> ``{"A": "1", "B": "x=y"}``."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise CliError(f"--env {pair}: wanted NAME=VALUE", "", "faas deploy FILE --env SIZE=128", code=2)
        found[name] = value
    return found


def inline(flag: str, text: str, main_key: str) -> dict[str, Any]:
    """A trigger as its one necessary value, or as the inline table one would write in the file."""
    if not text.lstrip().startswith("{"):
        return {main_key: text}
    import tomllib

    try:
        return dict(tomllib.loads(f"value = {text}")["value"])
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise CliError(
            f"{flag}: not an inline TOML table", f"{text}\n{error}", f"{flag} '{{ {main_key} = \"...\" }}'", code=2
        ) from error


# -- the deploy itself ----------------------------------------------------------------------------------------------


def deploy_path(node: Node, path: Path, settings: Mapping[str, Any], progress: Say) -> dict[str, Any]:
    """Pack ``path``, send it, follow its progress; the deployed function as the node describes it.

    ``settings`` are the overrides, as users write them. Raises `CliError`.
    """
    name = settings.get("name") or declared_name(path)
    archive = _packed(path)
    progress(f"sending {out.size(len(archive))}")
    boundary = os.urandom(16).hex()
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}", "Accept": "application/x-ndjson"}
    body = _multipart(boundary, json.dumps(settings).encode(), archive)
    target = f"/v1/functions/{escape(str(name))}"
    try:
        with node.stream("PUT", target, body=body, headers=headers, timeout_s=None) as response:
            for line in response.lines():
                event = json.loads(line) if line else {}
                if "result" in event:
                    return dict(event["result"])
                if "error" in event:
                    raise problem_as_error(event["error"], int(event.get("status", 500)), node, target)
                progress(str(event.get("progress", "")))
    except CliError as error:
        raise placed(error, path) from error
    raise CliError("the node ended its answer early", "the deploy may or may not have happened", "faas ls")


def _packed(path: Path) -> bytes:
    from faas.model.errors import FaasError, InvalidManifest
    from faas.packaging.pack import pack

    try:
        return pack(path)
    except InvalidManifest as error:
        lines = [manifest_line({"key": p.key, "message": p.message, "line": p.line}, str(path)) for p in error.problems]
        raise CliError(f"{path} cannot be deployed", "\n".join(lines)) from error
    except FaasError as error:
        raise CliError(error.message) from error


def _multipart(boundary: str, manifest: bytes, archive: bytes) -> bytes:
    """RFC 7578; the boundary is random, so neither part can hold it."""
    head = '--{0}\r\nContent-Disposition: form-data; name="{1}"{2}\r\nContent-Type: {3}\r\n\r\n'
    return b"".join(
        (
            head.format(boundary, "manifest", "", "application/json").encode(),
            manifest,
            b"\r\n",
            head.format(boundary, "bundle", '; filename="bundle.zip"', "application/zip").encode(),
            archive,
            f"\r\n--{boundary}--\r\n".encode(),
        )
    )


def placed(error: CliError, path: Path) -> CliError:
    """A manifest's problems with the file they are in, as compilers print them."""
    problem = error.problem
    if problem.get("code") != "invalid-manifest" or not isinstance(problem.get("errors"), list):
        return error
    inside = str(problem.get("file") or "")
    where = str(path / inside if inside and path.is_dir() else path)
    lines = [manifest_line(entry, where if entry.get("line") else "") for entry in problem["errors"]]
    trace = str(problem.get("traceback") or "").rstrip()
    return CliError(f"{path} cannot be deployed", "\n".join([*lines, *trace.splitlines()]), error.do, problem)


# -- the name -------------------------------------------------------------------------------------------------------


def declared_name(path: Path) -> str:
    """The function's name: what its settings say, else its file's or directory's name.

    Raises `CliError` for a name that cannot be one, with the line it stands on.
    """
    from faas.packaging.pack import default_name

    for document in documents(path):
        name = document.values.get("name")
        if name is not None:
            if isinstance(name, str) and NAME.fullmatch(name):
                return name
            where = str(path / document.file if path.is_dir() else path)
            entry = {"line": document.lines.get(("name",)), "key": "name", "message": f"{name!r} {_RULE}"}
            raise CliError(f"{path} cannot be deployed", manifest_line(entry, where), "mend this and deploy again")
    name = default_name(path)
    if not NAME.fullmatch(name) and path.exists():
        raise CliError(f"{name!r}, from {path}, {_RULE}", "", f"name it: faas deploy {path} --name my-function")
    return name


_RULE = "cannot be a name: it begins with a lower-case letter, then come up to 62 letters, digits and -"


def documents(path: Path) -> list[Any]:
    """Where settings may stand, in the order the node looks."""
    from faas.packaging import document

    def text(file: Path) -> str:
        try:
            return file.read_text("utf-8", "replace")
        except OSError:
            return ""

    if path.is_file():
        return [document.from_script(text(path), path.name)]
    if not path.is_dir():
        return []
    if (path / "faas.toml").is_file():
        return [document.from_faas_toml(text(path / "faas.toml"))]
    project = document.from_pyproject(text(path / "pyproject.toml"))
    if project is not None:
        return [project]
    return [document.from_script(text(file), file.name) for file in sorted(path.glob("*.py"))]
