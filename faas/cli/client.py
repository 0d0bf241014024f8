"""The CLI's HTTP client: where the node is, who we are, and errors a person can act on."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from faas.cli.exchange import BrokenAnswer, Exchange, TlsFailed, Unsendable, dial
from faas.cli.out import CliError
from faas.home import CLIENT_FILE, faas_home

DEFAULT_URL = "http://127.0.0.1:8080"
DEFAULT_NAMESPACE = "default"
CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 60.0
ERROR_BODY_BYTES_MAX = 1 << 20
LINE_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class Response:
    """A streamed answer; use inside the ``with`` that made it. Header names are lower-case."""

    status: int
    headers: Mapping[str, str]
    exchange: Exchange

    def read(self, bytes_max: int | None = None) -> bytes:
        """All of the body, or about its first ``bytes_max``."""
        data = bytearray()
        for chunk in self.chunks():
            data += chunk
            if bytes_max is not None and len(data) >= bytes_max:
                break
        return bytes(data)

    def chunks(self) -> Iterator[bytes]:
        """The body as it arrives; `ConnectionFailed` when it breaks off."""
        try:
            yield from self.exchange.pieces()
        except (BrokenAnswer, OSError) as error:
            raise ConnectionFailed(
                "the connection broke while reading the answer",
                str(error) or type(error).__name__,
                "see whether the node still runs: faas doctor",
            ) from error

    def lines(self) -> Iterator[str]:
        """Lines as they arrive, without their end."""
        held = b""
        for chunk in self.chunks():
            *whole, held = (held + chunk).split(b"\n")
            if len(held) > LINE_BYTES_MAX:
                raise ConnectionFailed("the node sent a line that does not end", "", "is this a faas node?")
            for line in whole:
                yield line.decode("utf-8", "replace").rstrip("\r")
        if held:
            yield held.decode("utf-8", "replace").rstrip("\r")


class ConnectionFailed(CliError):
    """The node could not be reached, or went away in the middle of an answer."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node's API as one caller. ``key_source`` says where the key came from, for the message on a 401."""

    url: str
    key: str
    namespace: str
    key_source: str = ""

    @property
    def flag(self) -> str:
        """What a command has to end in to mean the same namespace: ``" -N team-a"``, or nothing for the default."""
        return "" if self.namespace == DEFAULT_NAMESPACE else f" -N {self.namespace}"

    @contextlib.contextmanager
    def stream(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | None] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = READ_TIMEOUT_S,
    ) -> Iterator[Response]:
        """Send a request; yields the answer when its status is below 400, else raises `CliError`.

        ``timeout_s`` bounds the wait for each piece of the answer (None: no bound); connecting is always bounded.
        """
        host, port, tls, prefix = self._address()
        with contextlib.ExitStack() as stack:
            with self._reaching():
                connection = stack.enter_context(dial(host, port, tls=tls, timeout_s=CONNECT_TIMEOUT_S))
                connection.settimeout(timeout_s)
                exchange = Exchange(connection)
                target = prefix + self._target(path, query)
                exchange.send(method, target, urlsplit(self.url).netloc, self._headers(headers or {}), body or b"")
                exchange.receive_head()
            response = Response(exchange.status, exchange.headers, exchange)
            if response.status >= 400:
                data = response.read(ERROR_BODY_BYTES_MAX)
                raise problem_error(response.status, response.headers, data, self, path)
            yield response

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | None] | None = None,
        value: Any = None,
        timeout_s: float | None = READ_TIMEOUT_S,
    ) -> Any:
        """A JSON request and its JSON answer (None when the answer is empty)."""
        body = None if value is None else json.dumps(value).encode()
        headers = {} if value is None else {"Content-Type": "application/json"}
        with self.stream(method, path, query=query, body=body, headers=headers, timeout_s=timeout_s) as response:
            data = response.read()
        if not data:
            return None
        try:
            return json.loads(data)
        except ValueError as error:
            raise CliError(
                f"{self.url} does not answer like a faas node", f"{method} {path} gave no JSON", _ELSEWHERE
            ) from error

    def _address(self) -> tuple[str, int, bool, str]:
        """Host, port, whether TLS, and the path that all others are below."""
        wrong = CliError(f"not a node's address: {self.url!r}", "", f"give it as {DEFAULT_URL}", code=2)
        try:
            parts = urlsplit(self.url)
            port = parts.port
        except ValueError:
            raise wrong from None
        if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
            raise wrong
        tls = parts.scheme == "https"
        return parts.hostname, port or (443 if tls else 80), tls, parts.path.rstrip("/")

    def _target(self, path: str, query: Mapping[str, str | None] | None) -> str:
        asked = {name: value for name, value in (query or {}).items() if value is not None}
        if self.namespace != DEFAULT_NAMESPACE:
            asked["namespace"] = self.namespace
        return path + ("?" + urlencode(asked) if asked else "")

    def _headers(self, more: Mapping[str, str]) -> dict[str, str]:
        return {"Accept": "application/json", **({"Authorization": f"Bearer {self.key}"} if self.key else {}), **more}

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except ConnectionRefusedError as error:
            raise ConnectionFailed(
                f"no node answers at {self.url}", "connection refused", f"start one: faas up\nor {_ELSEWHERE}"
            ) from error
        except socket.gaierror as error:
            raise ConnectionFailed(f"no such host: {urlsplit(self.url).hostname}", "", _ELSEWHERE) from error
        except TimeoutError as error:
            raise ConnectionFailed(
                f"{self.url} did not answer in time", "", "see whether the node is busy or stuck: faas doctor"
            ) from error
        except TlsFailed as error:
            raise ConnectionFailed(f"no safe connection to {self.url}", str(error), _ELSEWHERE) from error
        except Unsendable as error:
            raise CliError("the request cannot be sent", str(error), code=2) from error
        except (BrokenAnswer, OSError) as error:
            why = str(error) or type(error).__name__
            do = f"see whether a node runs there, else start one: faas up\nor {_ELSEWHERE}"
            raise ConnectionFailed(f"cannot reach {self.url}", why, do) from error


_ELSEWHERE = "point at another node: --url, FAAS_URL"


def escape(part: str) -> str:
    """One path segment of a URL; an empty one would ask for something else, and is a mistake of usage."""
    if not part.strip():
        raise CliError("the name is empty", "", "see what there is: faas ls", code=2)
    return quote(part, safe="@:.-_~")


# -- who and where --------------------------------------------------------------------------------------------------


# A line as `faas up` writes it. TOML in full is read where somebody edited the file: it takes longer to load than this.
_WRITTEN = re.compile(r'(url|key|namespace) = "([^"\\\x00-\x1f\x7f]*)"')


def read_client_file(home: Path) -> dict[str, str]:
    """``client.toml`` as `faas up` wrote it; {} when there is none."""
    path = home / CLIENT_FILE
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise CliError(f"cannot read {path}", error.strerror or "", "it belongs to whoever ran `faas up`") from error
    except UnicodeDecodeError as error:
        raise CliError(f"{path} is not text", str(error), "remove it; `faas up` writes a new one") from error
    written = [_WRITTEN.fullmatch(line) for line in text.splitlines() if line and not line.startswith("#")]
    if all(written):
        return {line[1]: line[2] for line in written if line}
    import tomllib

    try:
        return {name: str(value) for name, value in tomllib.loads(text).items()}
    except tomllib.TOMLDecodeError as error:
        raise CliError(f"{path} is not valid TOML", str(error), "remove it; `faas up` writes a new one") from error


def write_client_file(home: Path, url: str, key: str, namespace: str = DEFAULT_NAMESPACE) -> Path:
    """Write ``client.toml`` whole or not at all, readable by its owner alone. It is on disk when this returns."""
    path = home / CLIENT_FILE
    entries = {"url": url, "key": key, "namespace": namespace}
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in entries.items()]
    text = "# Written by `faas up`, read by the faas command of this user.\n" + "\n".join(lines) + "\n"
    new = path.with_name(f".{path.name}.new")  # one name: one node at a time writes here
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o600)
        file.write(text.encode())
        file.flush()
        os.fsync(descriptor)
    new.replace(path)
    directory = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return path


def connect(url: str | None = None, key: str | None = None, namespace: str | None = None) -> Node:
    """The node to talk to: flags, then FAAS_URL, FAAS_KEY, FAAS_NAMESPACE, then ``client.toml``, then defaults."""
    home = faas_home()
    named = {"url": url, "key": key, "namespace": namespace}
    found = {name: value or os.environ.get(f"FAAS_{name.upper()}") or "" for name, value in named.items()}
    file = {} if found["url"] and found["key"] else read_client_file(home)
    key_source = "--key" if key else "FAAS_KEY" if found["key"] else str(home / CLIENT_FILE) if file.get("key") else ""
    return Node(
        url=(found["url"] or file.get("url") or DEFAULT_URL).rstrip("/"),
        key=found["key"] or file.get("key", ""),
        namespace=found["namespace"] or file.get("namespace") or DEFAULT_NAMESPACE,
        key_source=key_source,
    )


# -- errors ---------------------------------------------------------------------------------------------------------

_DO = {
    "forbidden": "use a key that may do this: --key, FAAS_KEY",
    "throttled": "wait and call again, or raise the limit: max_instances of the function, or see faas namespace ls",
    "no-capacity": "wait and call again; `faas node ls` shows what the node's memory is used for (FAAS_MEMORY_BUDGET)",
    "payload-too-large": "send less, or raise FAAS_MAX_BODY of the node",
    "timeout": "raise its timeout: faas deploy FILE --timeout 60s",
    "engine-unavailable": "see what is wrong with the engine: faas doctor",
    "store-unavailable": "see what is wrong with the store: faas doctor",
    "invalid-manifest": "mend this and deploy again",
}
_CALL = re.compile(r"/v1/functions/([^/@]+)[^/]*/invocations")


def problem_error(status: int, headers: Mapping[str, str], body: bytes, node: Node, path: str) -> CliError:
    """An RFC 9457 problem as what, why and what to do."""
    problem: dict[str, Any] = {}
    if "json" in headers.get("content-type", ""):
        with contextlib.suppress(ValueError):
            parsed = json.loads(body)
            problem = parsed if isinstance(parsed, dict) else {}
    if not problem.get("code"):
        text = body[:2000].decode("utf-8", "replace").strip()
        return CliError(f"{node.url} answered {status}", text, f"is this a faas node? else {_ELSEWHERE}")
    return problem_as_error(problem, status, node, path, headers.get("retry-after"))


def problem_as_error(
    problem: dict[str, Any], status: int, node: Node, path: str, retry_after: str | None = None
) -> CliError:
    """The same from a parsed problem document (a streamed deploy ends in one); ``path`` is what was asked for."""
    code = str(problem["code"])
    what = str(problem.get("detail") or problem.get("title") or code)
    if status == 401:
        return _refused(what, problem, node)
    why, do = "", _missing(path, node) if code == "not-found" else _DO.get(code, "")
    if code == "invalid-manifest" and isinstance(problem.get("errors"), list):
        what = "this cannot be deployed"
        why = "\n".join(manifest_line(entry) for entry in problem["errors"])
    elif code == "function-error":
        what = f"{problem.get('error_type') or 'error'}: {problem.get('message') or what}"
        why = str(problem.get("traceback") or "").rstrip()
    elif code == "instance-crashed" and problem.get("exit"):
        why = "" if str(problem["exit"]) in what else f"exit: {problem['exit']}"
        do = "give it more memory: faas deploy FILE --memory 512MB" if problem["exit"] == "oom" else ""
    if retry_after and code in {"throttled", "no-capacity"}:
        why = f"the node says: again in {retry_after} s"
    called = _CALL.fullmatch(path)
    if called and problem.get("invocation_id") and code in {"function-error", "instance-crashed", "timeout"}:
        do += f"\nsee what it printed: faas logs {called[1]} --invocation {problem['invocation_id']}{node.flag}"
    return CliError(what, why, do.lstrip("\n"), problem)


def _refused(what: str, problem: dict[str, Any], node: Node) -> CliError:
    do = "give one: --key, FAAS_KEY; `faas up` on this machine writes one for you into FAAS_HOME/client.toml"
    if node.key_source in {"--key", "FAAS_KEY"}:
        do = f"give another, or leave {node.key_source} out to use the one that `faas up` wrote for you"
    why = f"the key from {node.key_source} was refused by {node.url}" if node.key else "no key was given"
    return CliError(what, why, do, problem)


def _missing(path: str, node: Node) -> str:
    """Where to look for what is not there."""
    _, _, noun, name, *_ = [*path.split("/"), "", ""]
    if noun == "functions" and "@" in name:
        return f"see its versions: faas show {name.partition('@')[0]}{node.flag}"
    lists = {
        "functions": f"faas ls{node.flag}",
        "keys": "faas key ls",
        "invocations": "faas invocations NAME",
        "queues": f"faas queue ls{node.flag}",
    }
    return f"see what there is: {lists[noun]}" if noun in lists else ""


def manifest_line(entry: Mapping[str, Any], path: str = "") -> str:
    """``path:line: key: message``, as compilers print it."""
    line = entry.get("line")
    place = f"{path}:{line}: " if path and line else f"line {line}: " if line else f"{path}: " if path else ""
    return place + (f"{entry['key']}: " if entry.get("key") else "") + str(entry.get("message", ""))
