"""`faas runtime`: what functions run on."""

from __future__ import annotations

from typing import Annotated

import typer

from faas.cli import out
from faas.cli.client import connect
from faas.cli.options import Json, Key, Namespace, Url, example
from faas.cli.out import CliError

app = typer.Typer(help="Runtimes: what functions run on.", no_args_is_help=True)


@app.command("ls", epilog=example("faas runtime ls"))
def ls(as_json: Json = False, url: Url = None, key: Key = None, namespace: Namespace = None) -> None:
    """List the runtimes of the node."""
    runtimes = connect(url, key, namespace).call("GET", "/v1/runtimes")["runtimes"]
    if as_json:
        out.emit_json(runtimes)
        return
    out.table(["NAME", "VERSION"], [[entry["name"], entry["version"]] for entry in runtimes])


@app.command("build", epilog=example("faas runtime build python", "faas runtime build python --force"))
def build(
    name: Annotated[str, typer.Argument(help="The runtime; there is python.")] = "python",
    force: Annotated[bool, typer.Option("--force", help="Build even if the image is there.")] = False,
    as_json: Json = False,
) -> None:
    """Build the container image of a runtime on this machine's Docker engine (no node is needed)."""
    if name != "python":
        raise CliError(f"there is no runtime {name!r}", "", "faas runtime build python", code=2)
    with out.Progress(f"building the {name} runtime") as progress, out.timed() as took:
        from faas.engines import image
        from faas.model.errors import EngineUnavailable

        try:
            built = image.build(progress.update, force=force)
        except EngineUnavailable as error:
            raise CliError("the image could not be built", error.message, "see what is wrong: faas doctor") from error
    if as_json:
        out.emit_json(
            {"image": built.tag, "size_bytes": built.size_bytes, "fresh": built.fresh, "source": built.source}
        )
        return
    how = f"built in {out.milliseconds(took[0] * 1000)}" if built.fresh else "is up to date"
    out.say(f"{built.tag}  {out.size(built.size_bytes)}  {how}")


def register(parent: typer.Typer) -> None:
    parent.add_typer(app, name="runtime")
