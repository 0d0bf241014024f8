"""`faas deploy`: from a file or a directory to a version that serves."""

from __future__ import annotations

import json
import re
import secrets
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from faas.cli import out
from faas.cli.client import Node, connect, escape, manifest_line, problem_as_error
from faas.cli.options import Json, Key, Namespace, Url, example
from faas.cli.out import CliError

Say = Callable[[str], None]
NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")
_SETTINGS = "Settings of the function, over those in its file"
_TRIGGERS = "Triggers and failures"


def _setting(*names: str, metavar: str | None = None, help: str = "", panel: str = _SETTINGS) -> Any:  # noqa: A002
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel=panel)


def deploy(
    path: Annotated[Path, typer.Argument(help="A Python file, or a directory.")],
    name: Annotated[str | None, _setting("--name", help="Default: what the file says, else its name.")] = None,
    handler: Annotated[str | None, _setting("--handler", help="Default: handler, else app, else main.")] = None,
    memory: Annotated[str | None, _setting("--memory", metavar="SIZE", help="Per instance: 64MB to 10GB.")] = None,
    timeout: Annotated[str | None, _setting("--timeout", metavar="TIME", help="10ms to 15m, such as 30s.")] = None,
    concurrency: Annotated[int | None, _setting("--concurrency", help="Calls at once in one instance.")] = None,
    min_instances: Annotated[int | None, _setting("--min-instances", help="Kept warm.")] = None,
    max_instances: Annotated[int | None, _setting("--max-instances", help="More are never started.")] = None,
    network: Annotated[str | None, _setting("--network", metavar="none|egress", help="Way out of the sandbox.")] = None,
    keep_alive: Annotated[
        str | None, _setting("--keep-alive", metavar="auto|TIME", help="How long it stays warm when idle.")
    ] = None,
    idempotency: Annotated[
        str | None, _setting("--idempotency", metavar="TIME", help="How long an Idempotency-Key replays.")
    ] = None,
    env: Annotated[list[str] | None, _setting("--env", "-e", metavar="K=V", help="Repeatable; added to env.")] = None,
    secret: Annotated[list[str] | None, _setting("--secret", metavar="NAME", help="Repeatable.")] = None,
    dependency: Annotated[
        list[str] | None, _setting("--dependency", metavar="PACKAGE", help="Repeatable; replaces the file's.")
    ] = None,
    requires_python: Annotated[str | None, _setting("--requires-python", metavar="RANGE")] = None,
    entry: Annotated[str | None, _setting("--entry", metavar="MODULE", help="In a directory: where to begin.")] = None,
    runtime: Annotated[str | None, _setting("--runtime", help="There is python.")] = None,
    public: Annotated[
        bool | None, _setting("--public/--no-public", help="HTTP without an API key.", panel=_TRIGGERS)
    ] = None,
    method: Annotated[
        list[str] | None, _setting("--method", help="HTTP method it takes; repeatable.", panel=_TRIGGERS)
    ] = None,
    cors_origin: Annotated[
        list[str] | None, _setting("--cors-origin", metavar="ORIGIN", help="Repeatable.", panel=_TRIGGERS)
    ] = None,
    queue: Annotated[
        list[str] | None, _setting("--queue", metavar="NAME|{TOML}", help="Repeatable.", panel=_TRIGGERS)
    ] = None,
    cron: Annotated[
        list[str] | None, _setting("--cron", metavar="SCHEDULE|{TOML}", help="Repeatable.", panel=_TRIGGERS)
    ] = None,
    retry_attempts: Annotated[int | None, _setting("--retry-attempts", panel=_TRIGGERS)] = None,
    retry_max_age: Annotated[str | None, _setting("--retry-max-age", metavar="TIME", panel=_TRIGGERS)] = None,
    on_success: Annotated[
        str | None, _setting("--on-success", metavar="WHERE", help="queue:NAME, function:NAME or URL.", panel=_TRIGGERS)
    ] = None,
    on_failure: Annotated[str | None, _setting("--on-failure", metavar="WHERE", panel=_TRIGGERS)] = None,
    as_json: Json = False,
    url: Url = None,
    key: Key = None,
    namespace: Namespace = None,
) -> None:
    """Deploy a function: a file, or a directory with faas.toml or pyproject.toml.

    Returns when the new version has loaded; until then, and when it fails to, the one before goes on serving.
    """
    settings: dict[str, Any] = {
        "name": name,
        "handler": handler,
        "memory": memory,
        "timeout": timeout,
        "concurrency": concurrency,
        "min_instances": min_instances,
        "max_instances": max_instances,
        "network": network,
        "keep_alive": keep_alive,
        "idempotency": idempotency,
        "env": variables(env) if env else None,
        "secrets": secret,
        "dependencies": dependency,
        "requires-python": requires_python,
        "entry": entry,
        "runtime": runtime,
        "http": given({"public": public, "methods": method, "cors": {"origins": cors_origin} if cors_origin else None}),
        "queue": [inline("--queue", text, "name") for text in queue] if queue else None,
        "cron": [inline("--cron", text, "schedule") for text in cron] if cron else None,
        "retry": given({"attempts": retry_attempts, "max_age": retry_max_age}),
        "on_success": on_success,
        "on_failure": on_failure,
    }
    node = connect(url, key, namespace)
    with out.timed() as took, out.Progress(f"packing {path}") as progress:
        deployed = deploy_path(node, path, given(settings) or {}, progress.update)
    if as_json:
        out.emit_json({**deployed, "took_ms": round(took[0] * 1000)})
        return
    for warning in deployed.get("warnings") or []:
        out.note(out.paint("warning: ", out.YELLOW, sys.stderr) + warning)
    out.say(f"{deployed['name']} version {deployed['version']} is ready ({out.milliseconds(round(took[0] * 1000))})")
    out.say(f"  url     {deployed['url']}" + ("" if deployed["public"] else "  (needs an API key)"))
    out.say(f"  invoke  faas invoke {deployed['name']}")


def given(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Without what was not given; None when nothing is left."""
    return {name: value for name, value in settings.items() if value is not None} or None


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
    boundary = secrets.token_hex(16)
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
                    raise problem_as_error(event["error"], int(event.get("status", 500)), node)
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
        raise CliError("this cannot be packed", "\n".join(lines)) from error
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
    return CliError(error.what, "\n".join([*lines, *trace.splitlines()]), error.do, problem)


# -- the name -------------------------------------------------------------------------------------------------------


def declared_name(path: Path) -> str:
    """The function's name: what its settings say, else its file's or directory's name.

    Raises `CliError` for a name that cannot be one, with the line it stands on.
    """
    from faas.packaging.pack import default_name

    for document in _documents(path):
        name = document.values.get("name")
        if name is not None:
            if isinstance(name, str) and NAME.fullmatch(name):
                return name
            where = str(path / document.file if path.is_dir() else path)
            entry = {"line": document.lines.get(("name",)), "key": "name", "message": f"{name!r} {_RULE}"}
            raise CliError("the function's settings are not valid", manifest_line(entry, where))
    name = default_name(path)
    if not NAME.fullmatch(name) and path.exists():
        raise CliError(f"{name!r}, from {path}, {_RULE}", "", f"name it: faas deploy {path} --name my-function")
    return name


_RULE = "cannot be a name: it begins with a lower-case letter, then come up to 62 letters, digits and -"


def _documents(path: Path) -> list[Any]:
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


def register(app: typer.Typer) -> None:
    app.command(
        epilog=example(
            "faas deploy hello.py",
            "faas deploy thumbnail.py --memory 512MB --env SIZE=256",
            "faas deploy report/ --name monthly-report --cron '0 6 1 * *'",
        )
    )(deploy)
