"""Python of strangers, looked at in a child process: is it valid, and its bytecode.

CPython's compiler may crash on source made to crash it (its documentation says so), or eat memory; so it runs in a
child with limits, never in the node. The child imports nothing but the standard library and reads no user site.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

CHECK_WAIT_S = 20
COMPILE_WAIT_S = 120

_LIMITS = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
resource.setrlimit(resource.RLIMIT_CPU, ({cpu_s}, {cpu_s}))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
"""
_CHECK = (
    _LIMITS
    + """
import json, sys, warnings
warnings.simplefilter("ignore")
source = sys.stdin.buffer.read()
try:
    compile(source, sys.argv[1], "exec", dont_inherit=True)
except SyntaxError as error:
    print(json.dumps([error.msg, error.lineno]))
except ValueError as error:
    print(json.dumps([str(error), None]))
except (MemoryError, RecursionError):
    print(json.dumps(["the code is nested too deeply for Python to compile", None]))
"""
)
_COMPILE = (
    _LIMITS
    + """
import sys, warnings
warnings.simplefilter("ignore")
import compileall, py_compile
compileall.compile_dir(
    sys.argv[1], maxlevels=32, quiet=2, force=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
)
"""
)


def check(source: bytes, file: str) -> tuple[str, int | None] | None:
    """What is wrong with this source and on which line, or None. None as well when the child cannot say."""
    script = _CHECK.format(cpu_s=CHECK_WAIT_S)
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter, our own script
            [sys.executable, "-I", "-S", "-c", script, file],
            input=source,
            capture_output=True,
            timeout=CHECK_WAIT_S,
            check=False,
        )
        found = json.loads(done.stdout) if done.stdout else None
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return None
    return (str(found[0]), found[1]) if isinstance(found, list) else None


def precompile(folder: Path) -> None:
    """Write ``__pycache__`` beside every module below ``folder``; what cannot be compiled is left for the import.

    The bytecode is not checked against the source again: both lie in the content store and never change.
    """
    script = _COMPILE.format(cpu_s=COMPILE_WAIT_S)
    try:
        subprocess.run(  # noqa: S603
            [sys.executable, "-I", "-S", "-c", script, str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=COMPILE_WAIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return
