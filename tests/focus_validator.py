"""The FinOps Foundation's own validator on the FOCUS files that bills make: ``make focus``, or with files of yours.

It needs Python 3.12 or newer, in an environment of its own (``~/.cache/faas/focus-validator``), and knows the rules of
FOCUS 1.2 (newer ones it would fetch). It exits with 0 also when rules fail, so what it says is read here. Of the rules
``InvoiceId-C-004-C`` (must be null) and ``-005-C`` (must not be) one fails always: they are the two halves of an "or",
``InvoiceId-C-003-C``, which has to hold.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from faas.billing.present import focus
from tests.bill_samples import HOSTILE, sample_statement

PACKAGES = ("focus-validator==2.2.1",)
OVERRIDES = "numpy>=2\n"  # it pins an older one than its own pyarrow works with
RULES = "1.2"
HALVES = {"InvoiceId-C-004-C", "InvoiceId-C-005-C"}
HOME = Path.home() / ".cache" / "faas" / "focus-validator"
CHECK_S = 600


def python() -> str:
    """One that is new enough: of pyenv's, else what uv finds or fetches."""
    of_pyenv = [path for path in (Path.home() / ".pyenv" / "versions").glob("3.*/bin/python") if _minor(path) >= 12]
    return str(min(of_pyenv, key=_minor)) if of_pyenv else ">=3.12"


def _minor(path: Path) -> int:
    return int(path.parts[-3].split(".")[1])


def install() -> Path:
    """The directory that the validator has to be started in: it looks for its currencies from there."""
    if not (HOME / "ready").exists():
        subprocess.run(["uv", "venv", "--quiet", "--clear", "--python", python(), HOME], check=True)
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as overrides:
            overrides.write(OVERRIDES)
            overrides.flush()
            install = [
                "uv",
                "pip",
                "install",
                "--quiet",
                "--python",
                str(HOME),
                "--override",
                overrides.name,
                *PACKAGES,
            ]
            subprocess.run(install, check=True)
        (HOME / "ready").touch()
    return next(HOME.glob("lib/python*/site-packages"))


def failed(file: Path) -> tuple[set[str], str]:
    """Rules that do not hold, and the validator's last line. Raises ``RuntimeError`` when it did not come to an end."""
    ran = subprocess.run(
        [
            str(HOME / "bin" / "focus-validator"),
            "--data-file",
            str(file.absolute()),
            "--validate-version",
            RULES,
            "--block-download",
        ],
        cwd=install(),
        capture_output=True,
        text=True,
        timeout=CHECK_S,
    )
    total = re.search(r"^Total: .*$", ran.stdout, re.MULTILINE)
    if total is None:
        raise RuntimeError(f"the validator did not finish:\n{ran.stdout[-2000:]}{ran.stderr[-2000:]}")
    return set(re.findall(r"(\S+): FAIL ", ran.stdout)) - HALVES, total[0]


def samples(directory: Path) -> list[Path]:
    found = []
    for status in ("open", "closed"):
        for version in ("1.4", "1.2"):
            found.append(directory / f"{status}-{version}.csv")
            found[-1].write_text(focus.text(sample_statement(status, HOSTILE), version), newline="")
    return found


def main(files: list[Path]) -> int:
    install()
    bad = 0
    with tempfile.TemporaryDirectory() as directory:
        for file in files or samples(Path(directory)):
            rules, total = failed(file)
            bad += bool(rules)
            print(f"{file.name}: {total}" + "".join(f"\n  {rule}" for rule in sorted(rules)))
    print("every file passes" if not bad else f"{bad} files do not pass")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main([Path(argument) for argument in sys.argv[1:]]))
