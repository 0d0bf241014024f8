"""A registry that serves one image, read-only: as much of the distribution protocol as ``docker pull`` uses.

https://distribution.github.io/distribution/spec/api/ - the engine talks plain HTTP to 127.0.0.0/8.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import docker

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


@contextlib.contextmanager
def serving(client: docker.APIClient, tag: str) -> Iterator[str]:
    """Serve the local image ``tag``; the name to pull it by."""
    blobs = _blobs(client, tag)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(blobs))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}/library/python:slim"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _blobs(client: docker.APIClient, tag: str) -> dict[str, tuple[str, bytes]]:
    """Path's last part -> content type and content: the manifest under its tag and digest, config and layers."""
    with tarfile.open(fileobj=io.BytesIO(b"".join(client.get_image(tag)))) as saved:

        def read(name: str) -> bytes:
            file = saved.extractfile(name)
            assert file is not None
            return file.read()

        (listed,) = json.loads(read("manifest.json"))
        config = read(listed["Config"])
        layers = [gzip.compress(read(name), compresslevel=1) for name in listed["Layers"]]
    blobs = {_digest(config): (_CONFIG, config)} | {_digest(layer): (_LAYER, layer) for layer in layers}
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": {"mediaType": _CONFIG, "size": len(config), "digest": _digest(config)},
            "layers": [{"mediaType": _LAYER, "size": len(layer), "digest": _digest(layer)} for layer in layers],
        }
    ).encode()
    return blobs | {"slim": (_MANIFEST, manifest), _digest(manifest): (_MANIFEST, manifest)}


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _handler(blobs: dict[str, tuple[str, bytes]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            name = self.path.rstrip("/").rpartition("/")[2]
            kind, data = blobs.get(name, ("application/json", b"{}"))
            self.send_response(200 if name in blobs or name == "v2" else 404)
            self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Docker-Content-Digest", _digest(data))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_HEAD = do_GET  # noqa: N815 - the base class's convention

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - likewise
            pass

    return Handler
