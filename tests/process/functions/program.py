"""A program that is not gslice's: a tiny HTTP server, as an LLM server would be.

    program.py DIRECTORY PORT [word...]     crash: dies at once | finish: ends well | deaf: ignores
                                            SIGTERM | family: starts a child in its own session

It is well while DIRECTORY/well is there, and lists there, by process id, what it started.
"""

import http.server
import os
import signal
import subprocess
import sys
from pathlib import Path

directory, port, words = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]


class Handler(http.server.BaseHTTPRequestHandler):
    """Tells whether it is well."""

    def do_GET(self) -> None:
        """200 or 503."""
        self.send_response(200 if (directory / "well").exists() else 503)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Silent: what it prints is for the test."""


if "crash" in words:
    print("no such GPU", flush=True)
    sys.exit(3)
if "finish" in words:
    sys.exit(0)
if "deaf" in words:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "family" in words:
    code = "import os, time; os.fork(); time.sleep(1000)"
    child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    (directory / "children").mkdir(exist_ok=True)
    (directory / "children" / str(child.pid)).touch()
if "greedy" in words:
    held = bytearray(os.urandom(1 << 20)) * 512
server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
print("serves", flush=True)
server.serve_forever()
