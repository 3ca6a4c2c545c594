"""What Linux says of a process: documentation in proc(5)."""

from __future__ import annotations

from pathlib import Path


def stat_fields(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat from its state on: the third of the manual is the first here.

    Raises:
        FileNotFoundError: there is no such process.
        ProcessLookupError: it ends just now.
    """
    # Its name comes before: any bytes, cut off anywhere, and ')' or blanks among them.
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
