"""`faas runtime`: what functions run on."""

from __future__ import annotations

from faas.cli import out
from faas.cli.client import Node
from faas.cli.out import CliError
from faas.cli.verb import argument, json_option, noun, on_node, option

runtime = noun("Runtimes: what functions run on.")


@runtime.verb("faas runtime ls")
@json_option
@on_node
def ls(node: Node, as_json: bool) -> None:
    """List the runtimes of the node."""
    runtimes = node.call("GET", "/v1/runtimes")["runtimes"]
    if as_json:
        out.emit_json(runtimes)
        return
    out.table(["NAME", "VERSION"], [[entry["name"], entry["version"]] for entry in runtimes])


@runtime.verb("faas runtime build python", "faas runtime build python --force")
@argument("name", default="python", help="The runtime; there is python.")
@option("--force", is_flag=True, help="Build even if the image is there.")
@json_option
def build(name: str, force: bool, as_json: bool) -> None:
    """Build the container image of a runtime on this machine's Docker engine (no node is needed)."""
    if name != "python":
        raise CliError(f"there is no runtime {name!r}", "", "faas runtime build python", code=2)
    with out.Progress(f"building the {name} runtime", quiet=as_json) as progress, out.timed() as took:
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
