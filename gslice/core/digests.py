"""One short text for the content of a file."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_PART_BYTES = 64 << 20  # hashed by one thread; the digest of a file depends on it
_READ_BYTES = 1 << 20
_THREADS = 4


def digest_of(path: Path) -> str:
    """A hash of a file's content, part by part, so that several threads share a large one."""
    with path.open("rb", buffering=0) as file:
        fd = file.fileno()
        parts = range(0, os.fstat(fd).st_size, _PART_BYTES)
        if len(parts) <= 1:
            return _digest_of_part(fd, 0).hex()
        with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1, len(parts))) as threads:
            digests = threads.map(lambda start: _digest_of_part(fd, start), parts)
            return hashlib.sha256(b"".join(digests)).hexdigest()


def _digest_of_part(fd: int, start: int) -> bytes:
    digest, end = hashlib.sha256(), start + _PART_BYTES
    buffer = bytearray(_READ_BYTES)
    view = memoryview(buffer)
    while start < end and (count := os.preadv(fd, [view[: end - start]], start)):
        digest.update(view[:count])
        start += count
    return digest.digest()
