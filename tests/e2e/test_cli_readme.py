"""Every command in the README works: its ``sh`` blocks are run in order, in one shell, against a real node."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from tests.e2e.node import FAAS, Node

ROOT = Path(__file__).parents[2]
WAIT_S = 120.0


def blocks(readme: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", readme.read_text(), re.MULTILINE | re.DOTALL)


def test_the_readmes_commands_run(node: Node, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "functions", tmp_path / "functions")
    commands = "".join(blocks(ROOT / "README.md", "sh"))
    assert commands.count("\n") > 10
    environment = {**node.environment(), "FAAS_URL": node.url, "FAAS_KEY": node.key}
    environment["PATH"] = f"{FAAS.parent}:{environment['PATH']}"
    ran = subprocess.run(
        ["bash", "-exuo", "pipefail", "-c", commands],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert ran.returncode == 0, ran.stderr
    said = ran.stdout
    assert said.count("Hello, Ada!") == 3  # by the CLI, over HTTP, through the API
    assert '"rows":3' in said


def test_the_readmes_function_is_the_one_that_init_writes(tmp_path: Path) -> None:
    subprocess.run([FAAS, "init", "greet"], cwd=tmp_path, check=True, capture_output=True)
    written = (tmp_path / "greet.py").read_text()
    (shown,) = blocks(ROOT / "README.md", "python")
    block = shown.partition("# ///\ndef ")[0]
    assert written.startswith(block)


def test_the_readme_names_every_setting_and_verb() -> None:
    from faas.cli.app import VERBS
    from faas.settings import NAMES

    readme = (ROOT / "README.md").read_text()
    hidden = {"log_lines", "record_retention"}  # `faas doctor` shows them; few should touch them
    assert [name for name in NAMES if name not in hidden and f"FAAS_{name.upper()}" not in readme] == []
    assert [verb for verb in VERBS if not re.search(rf"faas {verb}\b", readme)] == ["runtime"]
