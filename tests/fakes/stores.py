"""Places that models are fetched from, on loopback: one server that speaks enough of each protocol.

Plain HTTPS and S3 need objects by path, an OCI registry manifests and blobs; Hugging Face's API
answers in JSON.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs

TITLE = "org.opencontainers.image.title"


@dataclass
class Store:
    """What a server has.

    Attributes:
        objects: By path.
        redirects: Likewise.
        statuses: Statuses that are answered first, one a request.
        cut_after: The next answers end after so many bytes, one a request.
        asked: Requests so far, as `GET /path`.
        on_request: Called with each of these.
    """

    objects: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    ranges: bool = True
    etags: bool = True
    statuses: list[int] = field(default_factory=list)
    cut_after: list[int] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    on_request: Callable[[str], None] = lambda asked: None
    address: str = ""

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def fetched(self, path: str) -> int:
        """How often the content of an object was asked for."""
        return self.asked.count(f"GET {path}")

    def listed(self, bucket: str, prefix: str) -> bytes:
        """What S3 tells of what is directly below a prefix."""
        top = f"{bucket.rstrip('/')}/{prefix}"
        below = {path.removeprefix(top) for path in self.objects if path.startswith(top)}
        files = sorted(name for name in below if "/" not in name)
        folders = sorted({name.partition("/")[0] for name in below if "/" in name})
        parts = [
            f"<Contents><Key>{prefix}{name}</Key><Size>{len(self.objects[top + name])}</Size>"
            "<LastModified>2026-11-22T10:00:00.000Z</LastModified></Contents>"
            for name in files
        ]
        parts += [
            f"<CommonPrefixes><Prefix>{prefix}{n}/</Prefix></CommonPrefixes>" for n in folders
        ]
        text = f"<IsTruncated>false</IsTruncated>{''.join(parts)}"
        space = "http://s3.amazonaws.com/doc/2006-03-01/"
        return f'<ListBucketResult xmlns="{space}">{text}</ListBucketResult>'.encode()

    def push(self, name: str, tag: str, files: dict[str, bytes]) -> str:
        """Makes an artifact of an OCI registry; returns its manifest's digest."""
        layers = []
        for title, data in files.items():
            digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
            self.objects[f"/v2/{name}/blobs/{digest}"] = data
            layers.append({"digest": digest, "size": len(data), "annotations": {TITLE: title}})
        manifest = json.dumps({"schemaVersion": 2, "layers": layers}).encode()
        digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
        for reference in (tag, digest):
            self.objects[f"/v2/{name}/manifests/{reference}"] = manifest
        return digest

    def publish(self, repo: str, files: dict[str, bytes], commit: str = "c" * 40) -> None:
        """Makes a repository of Hugging Face, with files at its top."""
        info = {"id": repo, "sha": commit, "siblings": [{"rfilename": name} for name in files]}
        paths = [_hf_path(name, data) for name, data in files.items()]
        self.objects[f"/api/models/{repo}"] = json.dumps(info).encode()
        for revision in ("main", commit):
            self.objects[f"/api/models/{repo}/revision/{revision}"] = json.dumps(info).encode()
            self.objects[f"/api/models/{repo}/paths-info/{revision}"] = json.dumps(paths).encode()
            self.objects[f"/api/models/{repo}/tree/{revision}"] = json.dumps(paths).encode()
            for name, data in files.items():
                self.objects[f"/{repo}/resolve/{revision}/{name}"] = data


def _hf_path(name: str, data: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    lfs = {"oid": digest, "size": len(data), "pointerSize": 134}
    return {"type": "file", "path": name, "size": len(data), "oid": digest[:40], "lfs": lfs}


@contextlib.contextmanager
def serving(store: Store) -> Iterator[Store]:
    """A server on loopback; its `address` is in the store."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            path, _, query = self.path.partition("?")
            asked = f"{self.command} {path}"
            store.asked.append(asked)
            store.on_request(asked)
            if store.statuses:
                self._status(store.statuses.pop(0))
            elif path in store.redirects:
                self._status(302, Location=store.redirects[path])
            elif "list-type=2" in query:
                asked_for = {name: each[0] for name, each in parse_qs(query).items()}
                self._send("/list", store.listed(path, asked_for.get("prefix", "")), body)
            elif path not in store.objects:
                self._status(404)
            else:
                self._send(path, store.objects[path], body)

        def _status(self, status: int, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _send(self, path: str, data: bytes, body: bool) -> None:
            start, end = 0, len(data)
            given = self.headers.get("Range") if store.ranges else None
            if given:
                first, _, last = given.removeprefix("bytes=").partition("-")
                start, end = int(first), min(len(data), int(last) + 1 if last else len(data))
            self.send_response(206 if given else 200)
            is_json = path.startswith("/api/")
            self.send_header("Content-Type", "application/json" if is_json else "binary/octet")
            self.send_header("Content-Length", str(end - start))
            self.send_header("Last-Modified", "Sun, 22 Nov 2026 10:00:00 GMT")
            if store.ranges:
                self.send_header("Accept-Ranges", "bytes")
            if given:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
            if store.etags:
                self.send_header("ETag", f'"{hashlib.md5(data).hexdigest()}"')
            if "/resolve/" in path:
                commit, name = path.split("/")[-2], PurePosixPath(path).name
                self.send_header("X-Repo-Commit", commit)
                self.send_header("Content-Disposition", f'inline; filename="{name}"')
            self.end_headers()
            if not body:
                return
            cut = store.cut_after.pop(0) if store.cut_after else None
            self.wfile.write(data[start:end] if cut is None else data[start:end][:cut])
            if cut is not None:
                self.wfile.flush()
                self.connection.close()
                self.close_connection = True

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        store.address = f"127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield store
        finally:
            server.shutdown()
            thread.join()
