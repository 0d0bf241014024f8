"""`faas init`: a first file to edit."""

from __future__ import annotations

import re
from pathlib import Path

from faas.cli import out
from faas.cli.out import CliError
from faas.cli.verb import argument, json_option, verb

NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")

TEMPLATE = '''\
# /// script
# requires-python = ">=3.11"
# dependencies = []               # packages from PyPI: they are locked and installed when you deploy
# [tool.faas]
# memory = "128MB"                # per instance
# timeout = "30s"
# [tool.faas.http]
# public = true                   # anybody may call it over HTTP; false asks for an API key
# ///
"""{name}: says hello. Deploy it with `faas deploy {file}`."""

import json


def handler(event, context):
    # `faas invoke {name} -d '{{"name": "Ada"}}'` hands the JSON over as it is;
    # over HTTP the event describes the request, as Amazon's API Gateway does (payload 2.0).
    if "requestContext" in event:
        given = event.get("queryStringParameters") or (json.loads(event["body"]) if event.get("body") else {{}})
    else:
        given = event
    name = given.get("name", "world")
    print(f"greeting {{name}}")  # shows up in `faas logs {name}`
    return {{"message": f"Hello, {{name}}!"}}
'''


def template(name: str, file: str) -> str:
    return TEMPLATE.format(name=name, file=file)


@verb("faas init greet")
@argument("name", help="Name of the function; the file is NAME.py, with _ for -.")
@json_option
def init(name: str, as_json: bool) -> None:
    """Write a small function to start from, into NAME.py."""
    name = name.removesuffix(".py").replace("_", "-")
    if not NAME.fullmatch(name):
        raise CliError(
            f"{name!r} cannot be the name of a function",
            "a name is lower-case letters, digits and -, begins with a letter, at most 63 characters",
            "faas init my-function",
            code=2,
        )
    path = Path(name.replace("-", "_") + ".py")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(template(name, str(path)))
    except FileExistsError as error:
        raise CliError(f"{path} is there already", "", "choose another name, or move it away") from error
    except OSError as error:
        raise CliError(f"cannot write {path}", error.strerror or "") from error
    if as_json:
        out.emit_json({"name": name, "path": str(path)})
        return
    out.say(f"wrote {path}")
    out.say(f"next:  faas deploy {path}")
