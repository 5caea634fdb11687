"""A server on this machine for tests of downloads, which can break off, forget ranges or give other bytes."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Shelf:
    """What the server gives.

    Args:
        files: The content of each path.
        break_after: The connection breaks off after so many bytes of an answer, one entry for each answer.
        ranges: Whether it gives the rest of a file.
        slow: Seconds between blocks of 1,000 bytes.
        asked: Path and range of each request that has come.
        address: Where it is.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    break_after: list[int | None] = field(default_factory=list)
    ranges: bool = True
    slow: float = 0.0
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    address: str = ""


@contextmanager
def serving(shelf: Shelf) -> Iterator[Shelf]:
    """Serve while the block runs."""
    stopped = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            shelf.asked.append((self.path, wanted))
            content = shelf.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and shelf.ranges else 0
            if start and start >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            limit = shelf.break_after.pop(0) if shelf.break_after else None
            rest = content[start:] if limit is None else content[start : start + limit]
            for at in range(0, len(rest), 1000):
                self.wfile.write(rest[at : at + 1000])
                self.wfile.flush()
                if shelf.slow and stopped.wait(shelf.slow):
                    return

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    shelf.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield shelf
    finally:
        stopped.set()
        server.shutdown()
        server.server_close()
