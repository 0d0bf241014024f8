"""The network of functions that ask for ``network = "egress"``: out to the world, to nothing here.

One bridge per node. No talk between sandboxes: Docker's ``enable_icc=false`` plus, as root, the bridge's own port
isolation, which needs no packet filter. No talk to this host, to link-local addresses (clouds answer there with
credentials) or to what the node names (its Redis): packet filter rules, which need root and ``iptables``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import docker
import docker.errors

log = logging.getLogger(__name__)

_LINK_LOCAL = "169.254.0.0/16"
_IPTABLES_TIMEOUT_S = 15


class EgressNetwork:
    """Made on first use, removed with the engine. All methods block and are called from a worker thread."""

    def __init__(self, client: docker.APIClient, home: str, labels: dict[str, str], blocked: tuple[str, ...]) -> None:
        self._client = client
        self._labels = labels
        self._blocked = blocked
        self.name = f"faas-egress-{home}"
        self.bridge = f"faas-{home}"  # at most 15 characters: the kernel's limit for interfaces
        self.guarded = False  # whether the rules that keep it off this host are in place

    def ensure(self) -> None:
        """Raises ``docker.errors.APIError``."""
        try:
            self._client.inspect_network(self.name)
        except docker.errors.NotFound:
            self._client.create_network(
                self.name,
                driver="bridge",
                labels=self._labels,
                options={
                    "com.docker.network.bridge.name": self.bridge,
                    "com.docker.network.bridge.enable_icc": "false",
                },
            )
        self.guarded = self._guard()
        if not self.guarded:
            log.warning(
                "functions with network = egress can reach services of this host that listen on all addresses:"
                " the packet filter rules against it need root and iptables"
            )

    def isolate_ports(self) -> None:
        """Keep the sandboxes on the bridge from each other at link level; after each start of one of them."""
        for port in Path(f"/sys/class/net/{self.bridge}/brif").glob("*/isolated"):
            with contextlib.suppress(OSError):  # not root, or that sandbox just went
                port.write_text("1")

    def remove(self) -> None:
        """Rules and network; no error when they are not there, a warning when the network is in use."""
        for rule in self._rules():
            while _iptables("-D", rule):
                pass
        try:
            self._client.remove_network(self.name)
        except docker.errors.NotFound:
            pass
        except docker.errors.APIError as error:
            log.warning("the network %s stays: %s", self.name, error.explanation)

    def _guard(self) -> bool:
        if os.geteuid() != 0 or shutil.which("iptables") is None:
            return False
        return all(_iptables("-C", rule) or _iptables("-I", rule) for rule in self._rules())

    def _rules(self) -> Iterator[list[str]]:
        yield ["INPUT", "-i", self.bridge, "-j", "DROP"]
        for address in (_LINK_LOCAL, *self._blocked):
            yield ["DOCKER-USER", "-i", self.bridge, "-d", address, "-j", "DROP"]


def _iptables(action: str, rule: list[str]) -> bool:
    """``-C`` asks for the rule, ``-I`` puts it first, ``-D`` deletes it. False when that failed."""
    iptables = shutil.which("iptables")
    if iptables is None:
        return False
    try:
        command = [iptables, "-w", action, *rule]
        done = subprocess.run(command, capture_output=True, timeout=_IPTABLES_TIMEOUT_S, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0
