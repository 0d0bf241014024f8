"""A node that boots one sandbox, prints the host's pids of its processes and waits to be killed.

python -m tests.contract.crash_node KIND NODE_ID HOME [WHAT ITS FUNCTION DOES]
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from faas.ports import SandboxSpec
from tests.contract.conftest import make_engine
from tests.contract.sandboxes import MB, Dialled, bind, new_id, peer, write_probe


async def main(kind: str, node_id: str, home: Path, source: str = "") -> None:
    engine = make_engine(kind, node_id, home)
    await engine.start()
    listening = Dialled(SandboxSpec(new_id(), "python", "none", home / "run", 128 * MB))
    await listening.listen()
    await engine.boot(listening.spec)
    probe = await bind(engine, listening, write_probe(home / "store", "c0ffee"))
    instance = await probe.instance()
    if source:
        await probe.ask(source, instance)
    print(peer(probe.zygote)[0], peer(instance)[0], flush=True)
    await asyncio.sleep(3600)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), *sys.argv[4:]))
