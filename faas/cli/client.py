"""The CLI's HTTP client: where the node is, who we are, and errors a person can act on.

`http.client` and not a bigger library: this module is on the start-up path of every verb (see the package's
docstring). It needs no more than requests, streamed answers and server-sent events.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

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
    raw: http.client.HTTPResponse

    def read(self) -> bytes:
        with _transport_errors("the answer"):
            return self.raw.read()

    def chunks(self) -> Iterator[bytes]:
        """The body as it arrives."""
        with _transport_errors("the answer"):
            while chunk := self.raw.read1(65_536):
                yield chunk

    def lines(self) -> Iterator[str]:
        """Lines as they arrive, without their end."""
        with _transport_errors("the answer"):
            while line := self.raw.readline(LINE_BYTES_MAX):
                yield line.decode("utf-8", "replace").rstrip("\r\n")


class ConnectionFailed(CliError):
    """The node could not be reached, or went away in the middle of an answer."""


@contextlib.contextmanager
def _transport_errors(what: str) -> Iterator[None]:
    try:
        yield
    except (http.client.HTTPException, OSError) as error:
        raise ConnectionFailed(
            f"the connection broke while reading {what}",
            str(error) or type(error).__name__,
            "see whether the node still runs: faas doctor",
        ) from error


@dataclass(frozen=True, slots=True)
class Node:
    """One node's API as one caller. ``key_source`` says where the key came from, for the message on a 401."""

    url: str
    key: str
    namespace: str
    key_source: str = ""

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
        connection, prefix = self._connect()
        try:
            connection.timeout = CONNECT_TIMEOUT_S
            with self._reaching():
                connection.connect()
                connection.sock.settimeout(timeout_s)
                connection.request(method, prefix + self._target(path, query), body, self._headers(headers or {}))
                raw = connection.getresponse()
            found = {name.lower(): value for name, value in raw.getheaders()}
            if raw.status >= 400:
                with _transport_errors("the error"):
                    data = raw.read(ERROR_BODY_BYTES_MAX)
                raise problem_error(raw.status, found, data, self)
            yield Response(raw.status, found, raw)
        finally:
            connection.close()

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
                f"{self.url} does not answer like a faas node", f"{method} {path} gave no JSON", _CHECK_URL
            ) from error

    def _connect(self) -> tuple[http.client.HTTPConnection, str]:
        parts = urlsplit(self.url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in {"http", "https"} or not parts.hostname or port == -1:
            raise CliError(f"not a node's address: {self.url!r}", "", f"give it as {DEFAULT_URL}", code=2)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        return kind(parts.hostname, port), parts.path.rstrip("/")

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
                f"no node answers at {self.url}", "connection refused", "start one: faas up\n" + _CHECK_URL
            ) from error
        except socket.gaierror as error:
            raise ConnectionFailed(f"no such host: {urlsplit(self.url).hostname}", "", _CHECK_URL) from error
        except TimeoutError as error:
            raise ConnectionFailed(
                f"{self.url} did not answer in time", "", "see whether the node is busy or stuck: faas doctor"
            ) from error
        except ssl.SSLError as error:
            why = f"{error.reason or error}"
            raise ConnectionFailed(f"no safe connection to {self.url}", why, _CHECK_URL) from error
        except (http.client.HTTPException, OSError) as error:
            why = str(error) or type(error).__name__
            do = "is a node running there? faas up\n" + _CHECK_URL
            raise ConnectionFailed(f"cannot reach {self.url}", why, do) from error


_CHECK_URL = "or point at another node: --url, FAAS_URL"


def escape(part: str) -> str:
    """One path segment of a URL."""
    return quote(part, safe="@:.-_~")


# -- who and where --------------------------------------------------------------------------------------------------


def read_client_file(home: Path) -> dict[str, str]:
    """``client.toml`` as `faas up` wrote it; {} when there is none."""
    path = home / CLIENT_FILE
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise CliError(f"cannot read {path}", error.strerror or "", "it belongs to whoever ran `faas up`") from error
    import tomllib

    try:
        return {name: str(value) for name, value in tomllib.loads(text).items()}
    except tomllib.TOMLDecodeError as error:
        raise CliError(f"{path} is not valid TOML", str(error), "remove it; `faas up` writes a new one") from error


def write_client_file(home: Path, url: str, key: str, namespace: str = DEFAULT_NAMESPACE) -> Path:
    """Write ``client.toml`` atomically, readable by its owner alone."""
    path = home / CLIENT_FILE
    lines = [f"{name} = {json.dumps(value)}" for name, value in (("url", url), ("key", key), ("namespace", namespace))]
    text = "# Written by `faas up`, read by the faas command of this user.\n" + "\n".join(lines) + "\n"
    new = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
    new.replace(path)
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
    "not-found": "see what there is: faas ls",
    "forbidden": "use a key that may do this: --key, FAAS_KEY",
    "throttled": "wait and call again, or raise max_instances of the function",
    "no-capacity": "wait and call again; `faas ls` shows what uses the node's memory (FAAS_MEMORY_BUDGET)",
    "payload-too-large": "send less, or raise FAAS_MAX_BODY of the node",
    "timeout": "raise its timeout: faas deploy FILE --timeout 60s",
    "engine-unavailable": "see what is wrong with the engine: faas doctor",
    "store-unavailable": "see what is wrong with the store: faas doctor",
    "invalid-manifest": "mend these and deploy again",
}


def problem_error(status: int, headers: Mapping[str, str], body: bytes, node: Node) -> CliError:
    """An RFC 9457 problem as what, why and what to do."""
    problem: dict[str, Any] = {}
    if "json" in headers.get("content-type", ""):
        with contextlib.suppress(ValueError):
            parsed = json.loads(body)
            problem = parsed if isinstance(parsed, dict) else {}
    if not problem.get("code"):
        text = body[:2000].decode("utf-8", "replace").strip()
        return CliError(f"{node.url} answered {status}", text, f"is this a faas node? {_CHECK_URL}")
    return problem_as_error(problem, status, node, headers.get("retry-after"))


def problem_as_error(problem: dict[str, Any], status: int, node: Node, retry_after: str | None = None) -> CliError:
    """The same from a parsed problem document (a streamed deploy ends in one)."""
    code = str(problem["code"])
    what = str(problem.get("detail") or problem.get("title") or code)
    if status == 401:
        why = f"the key from {node.key_source} was refused by {node.url}" if node.key else "no key was given"
        do = "`faas up` writes one for you into FAAS_HOME/client.toml; or give one: --key, FAAS_KEY"
        return CliError(what, why, do, problem)
    why, do = "", _DO.get(code, "")
    if code == "invalid-manifest" and isinstance(problem.get("errors"), list):
        what = "the function's settings are not valid"
        why = "\n".join(manifest_line(entry) for entry in problem["errors"])
    elif code == "function-error":
        what = f"{problem.get('error_type') or 'error'}: {problem.get('message') or what}"
        why = str(problem.get("traceback") or "").rstrip()
    elif code == "instance-crashed" and problem.get("exit"):
        why = f"exit: {problem['exit']}"
        do = "give it more memory: faas deploy FILE --memory 512MB" if problem["exit"] == "oom" else ""
    if retry_after and code in {"throttled", "no-capacity"}:
        why = f"the node says: again in {retry_after} s"
    return CliError(what, why, do, problem)


def manifest_line(entry: Mapping[str, Any], path: str = "") -> str:
    """``path:line: key: message``, as compilers print it."""
    line = entry.get("line")
    place = f"{path}:{line}: " if path and line else f"line {line}: " if line else f"{path}: " if path else ""
    return place + (f"{entry['key']}: " if entry.get("key") else "") + str(entry.get("message", ""))
