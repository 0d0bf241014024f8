"""Settings as users write them -> ``Manifest``, with every problem at once.

``parse`` walks the settings key by key. Each value goes through one check (``checks.py``); what a check refuses becomes
a ``ManifestProblem`` with the key and the line, and the walk goes on, so that one round of editing mends everything.
Whatever is handed in, the outcome is a ``Manifest`` or ``InvalidManifest``: a property test sees to it.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from faas.model.errors import InvalidManifest, ManifestProblem
from faas.model.invocation import TIMEOUT_SYNC_MS_MAX
from faas.model.manifest import CronTrigger, Http, Manifest, QueueSource, QueueTrigger, Retry
from faas.model.toml_text import Path, dotted
from faas.packaging import checks
from faas.packaging.document import Document, line_of
from faas.packaging.sizes import format_duration_ms, format_memory_mb, kind, shown

DEPTH_MAX = 16
LIST_MAX = 100

_TABLES = ("env", "secrets", "retry", "http", "queue", "cron", "dependencies")
KEYS = (*checks.FIELDS, *_TABLES)

# What people coming from elsewhere call our keys.
_OTHER_NAMES = {
    "mem": "memory", "memory_mb": "memory", "memory_size": "memory", "ram": "memory", "timeout_ms": "timeout",
    "max_concurrency": "max_instances", "scale_max": "max_instances", "scale_min": "min_instances",
    "environment": "env", "env_vars": "env", "vars": "env", "dlq": "on_failure", "dead_letter": "on_failure",
    "queues": "queue", "crons": "cron", "schedule": "cron", "schedules": "cron", "public": "http.public",
    "methods": "http.methods", "cors": "http.cors", "retries": "retry", "python": "requires-python",
    "requirements": "dependencies", "packages": "dependencies", "module": "entry", "main": "entry", "cpu": "cpus",
}  # fmt: skip


def parse(document: Document, python_version: str = "3.11", default_name: str = "") -> Manifest:
    """The manifest of ``document``; raises ``InvalidManifest`` with every problem, in the order of the file.

    ``python_version`` is the runtime's; ``default_name`` the function's name where the settings give none.
    """
    walk = Walk(document)
    manifest = walk.manifest(python_version, default_name)
    if manifest is None:
        raise invalid(walk.problems, document.file)
    return manifest


def parse_trigger(kind: str, settings: Any, timeout_ms: int) -> QueueTrigger | CronTrigger:
    """One trigger, as it would stand below ``[[tool.faas.queue]]`` or ``[[tool.faas.cron]]`` (``kind``) of a function
    with that timeout. Raises ``InvalidManifest`` with every problem.
    """
    walk, path = Walk(Document(values={kind: [settings]})), (kind, 0)
    found: tuple[QueueTrigger, ...] | tuple[CronTrigger, ...] = ()
    if walk._sound(settings, path, 0):
        found = walk._queues([settings], {"timeout_ms": timeout_ms}) if kind == "queue" else walk._crons([settings])
    if walk.problems:
        place = dotted(path)
        raise invalid(
            [
                ManifestProblem(each.key.replace(place, kind, 1), each.message.replace(f"[{place}]", kind, 1))
                for each in walk.problems
            ]
        )
    return found[0]


def invalid(problems: list[ManifestProblem], file: str = "") -> InvalidManifest:
    """The error for these problems: those with a line first, in the order of the file."""
    ordered = sorted(problems, key=lambda problem: (problem.line is None, problem.line or 0))
    return InvalidManifest(ordered, **({"file": file} if file else {}))


def timeout_warning(manifest: Manifest) -> list[str]:
    if manifest.timeout_ms <= TIMEOUT_SYNC_MS_MAX:
        return []
    limit = format_duration_ms(TIMEOUT_SYNC_MS_MAX)
    asked = format_duration_ms(manifest.timeout_ms)
    return [f"timeout {asked}: direct and HTTP calls end after {limit}; the rest is for async and queue"]


class Walk:
    """One pass over a document. ``problems`` grows; nothing is raised."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[ManifestProblem] = list(document.problems)

    def manifest(self, python_version: str, default_name: str) -> Manifest | None:
        """The manifest, or None when there are problems."""
        values = self.document.values
        if not self._sound(values, (), 0):
            return None
        fields = self._fields(values, (), checks.FIELDS, also=_TABLES)
        self._name(fields, default_name)
        fields["env"] = self._env(values.get("env", {}))
        fields["secrets"] = self._secrets(values.get("secrets", []), fields["env"])
        fields["dependencies"] = self._dependencies(values.get("dependencies", []))
        fields["http"] = self._http(values.get("http", {}))
        fields["retry"] = Retry(**self._section(values.get("retry", {}), ("retry",), checks.RETRY_FIELDS))
        fields["queues"] = self._queues(values.get("queue", []), fields)
        fields["crons"] = self._crons(values.get("cron", []))
        self._together(fields, python_version)
        return None if self.problems else Manifest(**fields)

    def add(self, path: Path, message: str) -> None:
        self.problems.append(ManifestProblem(dotted(path), message, line_of(self.document, path)))

    def _sound(self, value: Any, path: Path, depth: int) -> bool:
        """Text that can be stored (JSON may smuggle in lone surrogates), keys that are text, and a bounded depth."""
        if depth > DEPTH_MAX:
            self.add(path[:1], f"is nested more than {DEPTH_MAX} deep")
            return False
        if isinstance(value, str) and not _storable(value):
            self.add(path, "holds a character that is not valid Unicode")
            return False
        if isinstance(value, Mapping):
            odd = [key for key in value if not isinstance(key, str) or not _storable(key)]
            for key in odd:
                self.add(path, f"{shown(key)} cannot be a key")
            items: list[tuple[Any, Any]] = [] if odd else list(value.items())
            return not odd and not [k for k, item in items if not self._sound(item, (*path, k), depth + 1)]
        if isinstance(value, list | tuple):
            return not [i for i, item in enumerate(value) if not self._sound(item, (*path, i), depth + 1)]
        return True

    def _fields(
        self,
        table: Mapping[str, Any],
        path: Path,
        fields: Mapping[str, tuple[str, checks.Check]],
        also: tuple[str, ...] = (),
    ) -> dict[str, Any]:
        """The checked values of one table, by the model's field names; unknown keys and bad values are problems."""
        found: dict[str, Any] = {}
        for key, value in table.items():
            if key in fields:
                attribute, check = fields[key]
                try:
                    found[attribute] = check(value)
                except ValueError as error:
                    self.add((*path, key), str(error))
            elif key not in also:
                self._unknown(key, path, (*fields, *also))
        return found

    def _section(self, value: Any, path: Path, fields: Mapping[str, tuple[str, checks.Check]]) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            self.add(path, f"must be a table with {', '.join(fields)}, not {kind(value)}")
            return {}
        return self._fields(value, path, fields)

    def _unknown(self, key: str, path: Path, known: tuple[str, ...]) -> None:
        close = difflib.get_close_matches(key.lower().replace("-", "_")[:80], known, n=1, cutoff=0.6)
        other = _OTHER_NAMES.get(key.lower().replace("-", "_")) if not path else None
        guess = close[0] if close else other
        where = f" of [{dotted(path)}]" if path else ""
        hint = f'did you mean "{guess}"?' if guess else f"allowed{where}: {', '.join(known)}"
        self.add((*path, key), f"unknown key{where}; {hint}")

    def _name(self, fields: dict[str, Any], default_name: str) -> None:
        if "name" in fields or "name" in self.document.values:
            return
        if not default_name:
            self.add(("name",), 'a function needs a name: set name = "..."')
            return
        try:
            fields["name"] = checks.name(default_name)
        except ValueError as error:
            self.add(("name",), f"the default is no good: {error}; set name")

    def _env(self, value: Any) -> dict[str, str]:
        if not isinstance(value, Mapping):
            self.add(("env",), f'must be a table such as {{ SIZE = "128" }}, not {kind(value)}')
            return {}
        found: dict[str, str] = {}
        for key, item in value.items():
            try:
                found[checks.env_name(key)] = checks.env_value(item)
            except ValueError as error:
                self.add(("env", key), str(error))
        size = sum(len(key.encode()) + len(item.encode()) for key, item in found.items())
        if size > checks.ENV_BYTES_MAX:
            self.add(("env",), f"is {size} bytes in all; at most {checks.ENV_BYTES_MAX} are allowed")
        return found

    def _items(self, value: Any, path: Path, check: checks.Check, count_max: int = LIST_MAX) -> list[Any]:
        """The checked elements of a list of text; a problem names the element's own line."""
        if not isinstance(value, list | tuple):
            self.add(path, f'must be a list such as ["..."], not {kind(value)}')
            return []
        if len(value) > count_max:
            self.add(path, f"has {len(value)} elements; at most {count_max} are allowed")
            return []
        found = []
        for index, item in enumerate(value):
            try:
                found.append(check(item))
            except ValueError as error:
                self.add((*path, index), str(error))
        return found

    def _secrets(self, value: Any, env: Mapping[str, str]) -> tuple[str, ...]:
        names = self._items(value, ("secrets",), lambda item: checks.env_name(checks.text(item)))
        for index, secret in enumerate(names):
            if secret in env:
                self.add(("secrets", index), f"{shown(secret)} is in env as well; it can only be one of the two")
            if secret in names[:index]:
                self.add(("secrets", index), f"{shown(secret)} is listed twice")
        return tuple(names)

    def _dependencies(self, value: Any) -> tuple[str, ...]:
        found = self._items(value, ("dependencies",), checks.dependency, checks.DEPENDENCIES_MAX)
        return tuple(dict.fromkeys(found))

    def _http(self, value: Any) -> Http:
        fields: dict[str, tuple[str, checks.Check]] = {
            "public": ("public", checks.boolean),
            "methods": ("methods", checks.methods),
            "cors": ("cors_origins", lambda item: item),
        }
        found = self._section(value, ("http",), fields)
        if "cors_origins" in found:
            cors = found["cors_origins"]
            path = ("http", "cors")
            origins: dict[str, tuple[str, checks.Check]] = {"origins": ("origins", lambda item: item)}
            listed = self._section(cors, path, origins).get("origins", [])
            found["cors_origins"] = tuple(self._items(listed, (*path, "origins"), checks.origin))
        return Http(**found)

    def _tables(self, value: Any, key: str) -> list[tuple[Path, Mapping[str, Any]]]:
        """The elements of ``[[key]]``."""
        if not isinstance(value, list | tuple):
            hint = f"write [[tool.faas.{key}]], once for each" if isinstance(value, Mapping) else "a list of tables"
            self.add((key,), f"must be {hint}" if not isinstance(value, Mapping) else f"is a list: {hint}")
            return []
        if len(value) > LIST_MAX:
            self.add((key,), f"has {len(value)} elements; at most {LIST_MAX} are allowed")
            return []
        found: list[tuple[Path, Mapping[str, Any]]] = []
        for index, item in enumerate(value):
            if isinstance(item, Mapping):
                found.append(((key, index), item))
            else:
                self.add((key, index), f"must be a table, not {kind(item)}")
        return found

    def _queues(self, value: Any, fields: Mapping[str, Any]) -> tuple[QueueTrigger, ...]:
        found: dict[str, QueueTrigger] = {}
        timeout_ms = fields.get("timeout_ms", Manifest.model_fields["timeout_ms"].default)
        for path, item in self._tables(value, "queue"):
            checked = self._fields(item, path, checks.QUEUE_FIELDS)
            if "source" in checked:
                checked["source"] = self._source(checked["source"], (*path, "source"))
            lease_ms = checked.get("lease_ms")
            if lease_ms is not None and lease_ms < timeout_ms:
                hint = f"must be at least the timeout ({format_duration_ms(timeout_ms)}), or messages come twice"
                self.add((*path, "lease"), hint)
            if "name" not in item:
                self.add((*path, "name"), 'a queue trigger needs the queue\'s name: name = "..."')
            elif checked.get("name") in found:
                self.add((*path, "name"), f"the queue {shown(checked['name'])} has a trigger already")
            elif "name" in checked:
                found[checked["name"]] = QueueTrigger(**checked)
        return tuple(found.values())

    def _source(self, value: Any, path: Path) -> QueueSource | None:
        before = len(self.problems)
        found = self._section(value, path, checks.SOURCE_FIELDS)
        if len(self.problems) > before:
            return None
        if "connection" not in found:
            self.add((*path, "connection"), "a source needs the name of a connection of the node (FAAS_CONNECTIONS)")
        places = [key for key in ("queue", "stream", "list", "channel") if key in found]
        if len(places) != 1:
            self.add(path, "needs one of queue (RabbitMQ), stream (NATS JetStream), list and channel (Redis)")
        for key, place in (("subject", "stream"), ("end", "list")):
            if key in found and place not in found:
                self.add((*path, key), f"goes with {place} only")
        return QueueSource(**found) if len(self.problems) == before else None

    def _crons(self, value: Any) -> tuple[CronTrigger, ...]:
        found = []
        for path, item in self._tables(value, "cron"):
            checked = self._fields(item, path, checks.CRON_FIELDS)
            if "schedule" not in item:
                self.add((*path, "schedule"), 'a cron trigger needs a schedule: schedule = "*/5 * * * *"')
            elif "schedule" in checked:
                found.append(CronTrigger(**checked))
        return tuple(found)

    def _together(self, fields: Mapping[str, Any], python_version: str) -> None:
        """What only shows when two settings are seen together."""
        low = fields.get("min_instances", Manifest.model_fields["min_instances"].default)
        high = fields.get("max_instances", Manifest.model_fields["max_instances"].default)
        if low > high:
            self.add(("min_instances",), f"{low} is more than max_instances, {high}")
        wanted = fields.get("requires_python")
        if wanted is not None and not checks.python_satisfies(wanted, python_version):
            self.add(
                ("requires-python",), f"{shown(wanted)} leaves out Python {python_version}, which this runtime has"
            )
        own = f"function:{fields.get('name', '')}"
        for key in ("on_success", "on_failure"):
            if fields.get(key) == own:
                self.add((key,), "a function cannot be its own destination: it would call itself for ever")


def to_settings(manifest: Manifest) -> dict[str, Any]:
    """The user-facing form of a manifest, with what differs from the defaults: ``parse`` reads it back to the same."""
    default = Manifest(name=manifest.name)
    formats: dict[str, Any] = {
        "memory": lambda m: format_memory_mb(m.memory_mb),
        "timeout": lambda m: format_duration_ms(m.timeout_ms),
        "keep_alive": lambda m: "auto" if m.keep_alive_ms is None else format_duration_ms(m.keep_alive_ms),
        "idempotency": lambda m: format_duration_ms(m.idempotency_ms),
    }
    settings: dict[str, Any] = {"name": manifest.name}
    for key, (attribute, _) in checks.FIELDS.items():
        if getattr(manifest, attribute) != getattr(default, attribute):
            settings[key] = formats[key](manifest) if key in formats else getattr(manifest, attribute)
    for key in ("env", "secrets", "dependencies"):
        if value := getattr(manifest, key):
            settings[key] = dict(value) if key == "env" else list(value)
    if manifest.retry != default.retry:
        settings["retry"] = {
            "attempts": manifest.retry.attempts,
            "max_age": format_duration_ms(manifest.retry.max_age_ms),
        }
    if manifest.http != default.http:
        settings["http"] = _http_settings(manifest.http)
    if manifest.queues:
        settings["queue"] = [queue_settings(queue) for queue in manifest.queues]
    if manifest.crons:
        settings["cron"] = [cron_settings(cron) for cron in manifest.crons]
    return settings


def _http_settings(http: Http) -> dict[str, Any]:
    settings: dict[str, Any] = {"public": http.public}
    if http.methods:
        settings["methods"] = list(http.methods)
    if http.cors_origins:
        settings["cors"] = {"origins": list(http.cors_origins)}
    return settings


def queue_settings(queue: QueueTrigger) -> dict[str, Any]:
    settings = queue.model_dump(exclude={"window_ms", "lease_ms", "filter", "source"})
    settings["window"] = format_duration_ms(queue.window_ms)
    if queue.lease_ms is not None:
        settings["lease"] = format_duration_ms(queue.lease_ms)
    if queue.filter is not None:
        settings["filter"] = queue.filter
    if queue.source is not None:
        settings["source"] = queue.source.model_dump(exclude_defaults=True)
    return settings


def cron_settings(cron: CronTrigger) -> dict[str, Any]:
    settings = cron.model_dump(exclude={"jitter_ms"}, exclude_defaults=True)
    if cron.jitter_ms:
        settings["jitter"] = format_duration_ms(cron.jitter_ms)
    return settings


def _storable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
