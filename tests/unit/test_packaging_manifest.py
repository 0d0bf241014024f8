"""Settings as users write them: what they become, and what is said about those that are wrong."""

from __future__ import annotations

from typing import Any

import pytest

from faas.model.errors import InvalidManifest, ManifestProblem
from faas.model.manifest import CronTrigger, Http, Manifest, QueueTrigger, Retry
from faas.packaging import sizes
from faas.packaging.bundle import revise
from faas.packaging.document import Document, from_faas_toml, from_pyproject, from_requirements, from_script, merge
from faas.packaging.manifest import parse, to_settings

FULL = """\
#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11"
# dependencies = ["pillow>=11"]
# [tool.faas]
# name = "thumbnail"
# handler = "handler"
# memory = "256MB"
# cpus = 0.5
# timeout = "30s"
# concurrency = 1
# min_instances = 0
# max_instances = 100
# network = "none"
# keep_alive = "auto"
# idempotency = "24h"
# env = { SIZE = "128" }
# secrets = ["S3_KEY"]
# retry = { attempts = 3, max_age = "6h" }
# on_failure = "queue:failed"
# [tool.faas.http]
# public = true
# methods = ["GET", "POST"]
# cors = { origins = ["*"] }
# [[tool.faas.queue]]
# name = "uploads"
# batch = 10
# window = "100ms"
# max_concurrency = 5
# lease = "60s"
# [[tool.faas.cron]]
# schedule = "*/5 * * * *"
# payload = { job = "sweep" }
# ///
def handler(event, context): ...
"""

BAD = """\
# /// script
# requires-python = ">=3.99"
# dependencies = [
#   "pillow>=11",
#   "not a dependency!",
# ]
# nme = 3
# [tool.faas]
# name = "Thumb_Nail"
# memroy = "256MB"
# memory = "1TB"
# timeout = "soon"
# min_instances = 5
# max_instances = 3
# max-concurrency = 3
# env = { SIZE = "128", FAAS_HOME = "/" }
# secrets = ["S3_KEY", "1ST"]
# on_failure = "sqs:failed"
# [tool.faas.http]
# public = "yes"
# methods = ["GET", "FETCH"]
# cors = { origins = ["*", "example.com"] }
# [[tool.faas.queue]]
# name = "uploads"
# batch = 0
# [[tool.faas.queue]]
# name = "uploads"
# lease = "5s"
# [[tool.faas.cron]]
# schedule = "* * *"
# timezone = "Mars/Olympus"
# ///
"""


def problems_of(source: str) -> list[ManifestProblem]:
    with pytest.raises(InvalidManifest) as caught:
        parse(from_script(source, "fn.py"), "3.11", "fn")
    return caught.value.problems


def problem_of(**settings: Any) -> ManifestProblem:
    with pytest.raises(InvalidManifest) as caught:
        parse(Document(values={"name": "fn", **settings}), "3.11")
    (only,) = caught.value.problems
    return only


def test_the_contract_s_example_is_read_whole() -> None:
    assert parse(from_script(FULL, "thumbnail.py")) == Manifest(
        name="thumbnail",
        handler="handler",
        dependencies=("pillow>=11",),
        memory_mb=256,
        cpus=0.5,
        env={"SIZE": "128"},
        secrets=("S3_KEY",),
        retry=Retry(attempts=3, max_age_ms=6 * sizes.HOUR_MS),
        on_failure="queue:failed",
        http=Http(public=True, methods=("GET", "POST"), cors_origins=("*",)),
        queues=(QueueTrigger(name="uploads", batch=10, window_ms=100, max_concurrency=5, lease_ms=60_000),),
        crons=(CronTrigger(schedule="*/5 * * * *", payload={"job": "sweep"}),),
    )


def test_no_settings_at_all_give_the_defaults() -> None:
    assert parse(from_script("def handler(event, context): ...\n", "fn.py"), default_name="fn") == Manifest(name="fn")


def test_every_problem_comes_at_once_with_its_key_and_line() -> None:
    found = [(problem.line, problem.key) for problem in problems_of(BAD)]
    assert found == [
        (2, "requires-python"),
        (5, "dependencies[1]"),
        (7, "nme"),
        (9, "name"),
        (10, "memroy"),
        (11, "memory"),
        (12, "timeout"),
        (13, "min_instances"),
        (15, "max-concurrency"),
        (16, "env.FAAS_HOME"),
        (17, "secrets[1]"),
        (18, "on_failure"),
        (20, "http.public"),
        (21, "http.methods"),
        (22, "http.cors.origins[1]"),
        (25, "queue[0].batch"),
        (27, "queue[1].name"),
        (28, "queue[1].lease"),
        (30, "cron[0].schedule"),
        (31, "cron[0].timezone"),
    ]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"memroy": "256MB"}, 'did you mean "memory"?'),
        ({"max-instances": 3}, 'did you mean "max_instances"?'),
        ({"environment": {}}, 'did you mean "env"?'),
        ({"public": True}, 'did you mean "http.public"?'),
        ({"queues": []}, 'did you mean "queue"?'),
        ({"zzz": 1}, "allowed: name, entry, handler"),
        ({"name": "My_Func"}, '"my-func" would do'),
        ({"name": "a" * 64}, "up to 62"),
        ({"memory": "63MB"}, "64MB to 10GB"),
        ({"memory": 10_241}, "64MB to 10GB"),
        ({"memory": True}, "256MB"),
        ({"memory": "1.5KB"}, "whole number of MB"),
        ({"cpus": 0}, "must be from 0.01 to 64 cores, not 0"),
        ({"cpus": 64.5}, "from 0.01 to 64 cores"),
        ({"cpus": float("nan")}, "from 0.01 to 64 cores"),
        ({"cpus": "0.5"}, 'must be a number from 0.01 to 64 cores, not "0.5"'),
        ({"cpus": True}, "must be a number"),
        ({"cpu": 1}, 'did you mean "cpus"?'),
        ({"timeout": "9ms"}, "10ms to 1h"),
        ({"timeout": 3601}, "10ms to 1h"),
        ({"timeout": "5 parsecs"}, "not a duration"),
        ({"timeout": "0.5ms"}, "finer than a millisecond"),
        ({"timeout": -1}, "negative"),
        ({"timeout": float("nan")}, "not a duration"),
        ({"concurrency": 0}, "from 1 to 1000"),
        ({"concurrency": "2"}, "a whole number from 1 to 1000"),
        ({"concurrency": 10**5000}, "from 1 to 1000"),
        ({"network": "host"}, '"none" or "egress"'),
        ({"runtime": "cobol"}, '"python"'),
        ({"keep_alive": "never"}, '"auto"'),
        ({"on_disconnect": "stop"}, 'must be "finish" or "cancel", not "stop"'),
        ({"min_instances": 101}, "more than max_instances"),
        ({"env": ["A=1"]}, "table"),
        ({"env": {"A": True}}, "in quotes"),
        ({"env": {"A-B": "1"}}, "letters, digits and _"),
        ({"env": {"A": "x\0"}}, "NUL"),
        ({"env": {"A": "x" * 40_000}}, "at most 32768"),
        ({"env": {"A": "1"}, "secrets": ["A"]}, "is in env as well"),
        ({"secrets": ["A", "A"]}, "listed twice"),
        ({"secrets": "A"}, "must be a list"),
        ({"secrets": [1]}, "must be text"),
        ({"retry": {"attempts": 0}}, "from 1 to 100"),
        ({"retry": {"atempts": 1}}, 'did you mean "attempts"?'),
        ({"retry": 3}, "must be a table with attempts, max_age"),
        ({"on_failure": "http://example.com"}, "an https URL"),
        ({"on_failure": "queue:Bad Name"}, "not the name of a queue"),
        ({"on_success": "function:fn"}, "its own destination"),
        ({"on_success": "https://"}, "an https URL"),
        ({"http": {"cors": {"origins": "https://a.example"}}}, "must be a list"),
        ({"http": {"cors": ["*"]}}, "must be a table with origins"),
        ({"queue": {"name": "a"}}, "[[tool.faas.queue]]"),
        ({"queue": [{}]}, "needs the queue's name"),
        ({"queue": ["a"]}, "must be a table"),
        ({"queue": [{"name": "a", "filter": {"body": {"x": 1, "y": [{"like": 2}]}}}]}, "body.x: must be a list"),
        ({"queue": [{"name": "a", "filter": {"body": {"x": 1, "y": [{"like": 2}]}}}]}, "body.y[0]: "),
        ({"queue": [{"name": "a", "source": 1}]}, "must be a table with connection"),
        ({"queue": [{"name": "a", "source": {"queue": "b"}}]}, "needs the name of a connection"),
        ({"queue": [{"name": "a", "source": {"connection": "c"}}]}, "needs one of queue (RabbitMQ)"),
        ({"queue": [{"name": "a", "source": {"connection": "c", "queue": "b", "list": "l"}}]}, "needs one of queue"),
        ({"queue": [{"name": "a", "source": {"connection": "c", "list": "l", "subject": "s"}}]}, "goes with stream"),
        ({"queue": [{"name": "a", "source": {"connection": "c", "stream": "a.b"}}]}, "not the name of a JetStream"),
        ({"queue": [{"name": "a", "source": {"connection": "c", "stream": "a", "subject": "a..b"}}]}, "not a subject"),
        (
            {"queue": [{"name": "a", "source": {"connection": "amqp://x", "queue": "b"}}]},
            "not the name of a connection",
        ),
        ({"queue": [{"name": "a", "source": {"connection": "c", "queeu": "b"}}]}, 'did you mean "queue"'),
        ({"cron": [{}]}, "needs a schedule"),
        ({"cron": [{"schedule": "61 * * * *"}]}, "bad minute"),
        ({"cron": [{"schedule": "* * * * * *"}]}, "five fields"),
        ({"cron": [{"schedule": "0 0 * * *", "timezone": "../../etc/passwd"}]}, "not a time zone"),
        ({"cron": [{"schedule": "0 0 * * *", "payload": float("inf")}]}, "JSON"),
        ({"cron": [{"schedule": "0 0 * * *", "missed": "twice"}]}, '"skip" or "once"'),
        ({"cron": [{"schedule": "0 0 * * *", "jitter": "2h"}]}, "0s to 1h"),
        ({"dependencies": ["x @ file:///etc/passwd"]}, "by URL or path"),
        ({"dependencies": ["-r requirements.txt"]}, "not a dependency"),
        ({"dependencies": "six"}, "must be a list"),
        ({"dependencies": ["six"] * 201}, "at most 200"),
        ({"requires-python": "3.11 or newer"}, "not a version range"),
        ({"handler": "a b"}, '"module.handler"'),
        ({"entry": "../x.py"}, "not a module"),
        ({"env": {"A": "\ud800"}}, "not valid Unicode"),
        ({"env": {"A": {"a": {}}}}, "in quotes"),
    ],
)
def test_a_problem_says_what_is_wrong_and_what_is_allowed(settings: dict[str, Any], says: str) -> None:
    assert says in problem_of(**settings).message


def test_a_name_is_needed_and_a_bad_default_is_said() -> None:
    with pytest.raises(InvalidManifest, match="needs a name"):
        parse(Document())
    with pytest.raises(InvalidManifest, match="set name"):
        parse(Document(), default_name="9lives")


@pytest.mark.parametrize(
    ("block", "line", "says"),
    [
        ("# /// script\n# [tool.faas]\n# name = \n# ///\n", 3, "not valid TOML"),
        ("x = 1\n# /// script\n# [tool.faas]\n# a = 1\n# a = 2\n# ///\n", 5, "not valid TOML"),
        ("# /// script\n# [tool.faas]\nname = 1\n", 1, "not closed"),
        ("# /// script\n# a = 1\n# ///\n\n# /// script\n# b = 1\n# ///\n", 5, "a second"),
        ("# /// script\n# name = 'x'\n# ///\n", 2, "[tool.faas]"),
        ("# /// script\n# dependancies = []\n# ///\n", 2, 'did you mean "dependencies"?'),
        ("# /// script\n# [tool.faas]\n# dependencies = ['six']\n# ///\n", 3, "at the top of the block"),
        ("# /// script\n# [tool]\n# faas = 3\n# ///\n", 3, "must be a table"),
        ("# /// script\n# [tool.faas]\n# x = " + "[" * 5000 + "\n# ///\n", 2, "not valid TOML"),
        ("# /// script\n# [tool.faas]\n# " + ".".join("a" * 5000) + " = 1\n# ///\n", 3, "dots"),
        ("# /// script\n# [tool.faas]\n# x = '" + "x" * 70_000 + "'\n# ///\n", 1, "larger than 64 KB"),
    ],
)
def test_what_is_wrong_with_the_block_itself_is_said_with_its_line(block: str, line: int, says: str) -> None:
    (problem,) = problems_of(block)
    assert says in problem.message
    assert problem.line == line


def test_windows_line_ends_and_a_byte_order_mark_change_nothing() -> None:
    assert parse(from_script("\ufeff" + FULL.replace("\n", "\r\n"), "fn.py")) == parse(from_script(FULL, "fn.py"))


def test_overrides_merge_key_by_key_and_null_is_the_default() -> None:
    overrides: dict[str, Any] = {
        "memory": "1GB",
        "env": {"MODE": "fast"},
        "http": {"public": False},
        "queue": [],
        "on_failure": None,
    }
    manifest = parse(merge(from_script(FULL, "fn.py"), overrides))
    assert manifest.memory_mb == 1024
    assert manifest.env == {"SIZE": "128", "MODE": "fast"}
    assert manifest.http == Http(public=False, methods=("GET", "POST"), cors_origins=("*",))
    assert manifest.queues == ()
    assert manifest.on_failure is None


def test_a_problem_with_an_override_has_no_line() -> None:
    with pytest.raises(InvalidManifest) as caught:
        parse(merge(from_script(FULL, "fn.py"), {"memory": "1KB"}))
    assert [(p.key, p.line) for p in caught.value.problems] == [("memory", None)]


def test_faas_toml_takes_the_keys_at_its_top_or_pasted_from_a_block() -> None:
    plain = 'name = "a"\nmemory = "1GB"\n[http]\npublic = true\n[[queue]]\nname = "q"\n'
    pasted = (
        '[tool.faas]\nname = "a"\nmemory = "1GB"\n[tool.faas.http]\npublic = true\n[[tool.faas.queue]]\nname = "q"\n'
    )
    assert parse(from_faas_toml(plain)) == parse(from_faas_toml(pasted))
    with pytest.raises(InvalidManifest) as caught:
        parse(from_faas_toml('name = "a"\n\n[http]\npublic = 1\n'))
    assert [(p.key, p.line) for p in caught.value.problems] == [("http.public", 4)]


def test_pyproject_gives_name_dependencies_and_python_from_project() -> None:
    source = (
        '[project]\nname = "My.App"\ndependencies = [\n  "six",\n  "bad!!",\n]\nrequires-python = ">=3.11"\n'
        '[tool.ruff]\nselect = ["a.b"]\n[tool.faas]\nmemory = "1GB"\n'
    )
    document = from_pyproject(source)
    assert document is not None
    with pytest.raises(InvalidManifest) as caught:
        parse(document)
    assert [(p.key, p.line) for p in caught.value.problems] == [("dependencies[1]", 5)]
    fixed = from_pyproject(source.replace('  "bad!!",\n', ""))
    assert fixed is not None
    assert parse(fixed) == Manifest(name="my-app", dependencies=("six",), memory_mb=1024)
    assert from_pyproject("[tool.ruff]\n") is None


def test_requirements_txt_is_read_line_by_line() -> None:
    document = from_requirements("# ours\nsix>=1 # why\n\n-r other.txt\npillow\n")
    assert document.values == {"dependencies": ["six>=1", "pillow"]}
    assert [p.line for p in document.problems] == [4]


def test_settings_written_out_read_back_to_the_same_manifest() -> None:
    manifest = parse(from_script(FULL, "fn.py"))
    assert parse(Document(values=to_settings(manifest))) == manifest
    assert to_settings(Manifest(name="a")) == {"name": "a"}
    crons = (CronTrigger(schedule="0 6 * * *", timezone="Europe/Berlin", missed="once", jitter_ms=90_000),)
    late = Manifest(name="a", crons=crons)
    assert to_settings(late)["cron"][0]["jitter"] == "90s"
    assert parse(Document(values=to_settings(late))) == late


def test_revise_changes_settings_but_not_what_needs_a_deploy() -> None:
    manifest = parse(from_script(FULL, "fn.py")).model_copy(update={"entry": "thumbnail"})
    revised = revise(manifest, {"memory": "1GB", "env": {"SIZE": None, "A": "1"}})
    assert revised == manifest.model_copy(update={"memory_mb": 1024, "env": {"A": "1"}})
    with pytest.raises(InvalidManifest, match="without a new deploy"):
        revise(manifest, {"dependencies": []})


@pytest.mark.parametrize(
    ("text", "duration_ms"),
    [("100ms", 100), ("30s", 30_000), ("15m", 900_000), ("1h30m", 5_400_000), ("1.5s", 1500), ("1d", 86_400_000),
     (30, 30_000), (0.25, 250), (0, 0)],
)  # fmt: skip
def test_durations(text: object, duration_ms: int) -> None:
    assert sizes.parse_duration_ms(text) == duration_ms
    assert sizes.parse_duration_ms(sizes.format_duration_ms(duration_ms)) == duration_ms


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("256MB", 256 << 20), ("1.5GB", 1536 << 20), ("64KiB", 65_536), ("1g", 1 << 30), ("100 b", 100), (5, 5)],
)
def test_sizes(text: object, size_bytes: int) -> None:
    assert sizes.parse_size_bytes(text) == size_bytes


def test_formats_are_the_shortest_that_are_exact() -> None:
    assert [sizes.format_duration_ms(n) for n in (0, 1, 1500, 30_000, 90_000, 5_400_000, 86_400_000)] == [
        "0s", "1ms", "1500ms", "30s", "90s", "90m", "1d",
    ]  # fmt: skip
    assert [sizes.format_size_bytes(n) for n in (0, 100, 1024, 1 << 20, 3 << 29, 1_300_000, 1 << 30)] == [
        "0B", "100B", "1KB", "1MB", "1536MB", "1.2MB", "1GB",
    ]  # fmt: skip
