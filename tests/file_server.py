"""A web server on this machine with ranges, entity tags, the hub's API, and faults on demand."""

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "c0ffee" * 6 + "abcd"
REPOSITORY = "lab/data"


class FileServer:
    """Files by path; `faults` are asked before every answer, `requests` is what came in: (path, Range header)."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.faults: list[Callable[[Any], bool]] = []
        self.ranges = True
        self.validators = True
        self.lfs = True
        self.page = 1000
        self.commit = COMMIT
        self.url = ""

    def asked(self, path: str) -> list[str | None]:
        """Return the Range headers of the requests for a path."""
        return [span for asked, span in self.requests if asked == path]

    def source(self) -> dict[str, str]:
        """Return a `source` node that means this server as the hub."""
        return {
            "kind": "huggingface_dataset",
            "repository": REPOSITORY,
            "revision": "main",
            "endpoint": self.url,
        }

    def fail(self, *statuses: int, **headers: str) -> None:
        """Answer the next requests for files with these statuses."""
        left = list(statuses)

        def fault(handler: Any) -> bool:
            if not left:
                return False
            handler.send_response(left.pop(0))
            for name, value in headers.items():
                handler.send_header(name.replace("_", "-"), value)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return True

        self.faults.append(fault)

    def cut(self, *lengths: int) -> None:
        """Break the connection of the next requests for files after so many bytes of the body."""
        left = list(lengths)

        def fault(handler: Any) -> bool:
            if not left:
                return False
            handler.send_file(limit=left.pop(0))
            handler.close_connection = True
            return True

        self.faults.append(fault)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: FileServer

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).lstrip("/")
        self.owner.requests.append((path, self.headers.get("Range")))
        if path.startswith("api/"):
            self.send_api(path)
        elif not any(fault(self) for fault in self.owner.faults):
            self.send_file()

    def send_file(self, limit: int | None = None) -> None:
        path = unquote(urlsplit(self.path).path).lstrip("/")
        name = re.sub(f"^datasets/{REPOSITORY}/resolve/[0-9a-f]+/", "", path)
        if name not in self.owner.files:
            self.send_error(404)
            return
        content = self.owner.files[name]
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        span = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")) if self.owner.ranges else None
        if span is not None and self.headers.get("If-Range", tag) != tag:
            span = None
        start = 0 if span is None else int(span[1])
        if span is not None and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200 if span is None else 206)
        if span is not None:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if self.owner.validators:
            self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:] if limit is None else content[start : start + limit])
        self.wfile.flush()

    def send_api(self, path: str) -> None:
        prefix = f"api/datasets/{REPOSITORY}"
        link = None
        if path == f"{prefix}/revision/main":
            answer: Any = {"id": REPOSITORY, "sha": self.owner.commit}
        else:
            match = re.fullmatch(f"{prefix}/tree/{self.owner.commit}(?:/(.*))?", path)
            assert match is not None, path
            query = parse_qs(urlsplit(self.path).query)
            entries = self.tree(match[1] or "", query["recursive"] == ["true"])
            start = int(query.get("cursor", ["0"])[0])
            answer = entries[start : start + self.owner.page]
            if start + self.owner.page < len(entries):
                query["cursor"] = [str(start + self.owner.page)]
                text = "&".join(f"{key}={values[0]}" for key, values in query.items())
                link = f'<{self.owner.url}{urlsplit(self.path).path}?{text}>; rel="next"'
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        if link:
            self.send_header("Link", link)
        self.end_headers()
        self.wfile.write(body)

    def tree(self, folder: str, recursive: bool) -> list[dict[str, Any]]:
        prefix = f"{folder}/" if folder else ""
        found: dict[str, dict[str, Any]] = {}
        for path, content in sorted(self.owner.files.items()):
            if not path.startswith(prefix):
                continue
            first, *deeper = path[len(prefix) :].split("/")
            if deeper:
                found.setdefault(
                    prefix + first, {"type": "directory", "oid": "0" * 40, "size": 0, "path": prefix + first}
                )
            if recursive or not deeper:
                found[path] = self.entry(path, content)
        return list(found.values())

    def entry(self, path: str, content: bytes) -> dict[str, Any]:
        entry = {"type": "file", "oid": "1" * 40, "size": len(content), "path": path}
        if self.owner.lfs:
            return entry | {
                "lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
            }
        return entry | {"oid": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()}


@contextmanager
def running_server() -> Iterator[FileServer]:
    """Serve until the end of the block."""
    owner = FileServer()
    handler = type("Handler", (_Handler,), {"owner": owner})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        owner.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield owner
        server.shutdown()
        thread.join()
