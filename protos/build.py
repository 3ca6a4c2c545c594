"""Compiles protos/*.proto into the descriptor sets that gslice loads at run time.

    python protos/build.py            write gslice/protos/*.binpb
    python protos/build.py --check    fail if a committed set is stale

Only this needs a protocol compiler (grpcio-tools carries one): the sets are committed, and nothing
is generated when gslice is built or installed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from google.protobuf import descriptor_pb2
from grpc_tools import protoc

SOURCES = Path(__file__).resolve().parent
TARGET = SOURCES.parent / "gslice" / "protos"
# The older name of a protocol, with the same bytes on the wire; many tools still ask for it first.
ALIASES = {"reflection_v1alpha.proto": ("reflection.proto", "reflection.v1", "reflection.v1alpha")}
SETS: dict[str, tuple[str, ...]] = {
    "kserve": ("kserve.proto",),
    "health": ("health.proto",),
    "reflection": ("reflection.proto", "reflection_v1alpha.proto"),
    "gslice_control": ("gslice_control.proto",),
}


def compile_set(name: str) -> bytes:
    """The serialised FileDescriptorSet of one set, imports included, comments left out.

    Raises:
        ValueError: protoc refused a source; it has written the reason to stderr.
    """
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "set.binpb"
        for alias, (source, package, older) in ALIASES.items():
            text = (SOURCES / source).read_text(encoding="utf-8")
            (Path(scratch) / alias).write_text(text.replace(package, older), encoding="utf-8")
        status = protoc.main(
            [
                "protoc",
                f"--proto_path={SOURCES}",
                f"--proto_path={scratch}",
                f"--descriptor_set_out={out}",
                "--include_imports",
                *SETS[name],
            ]
        )
        if status != 0:
            raise ValueError(f"protoc failed on {', '.join(SETS[name])}")
        return out.read_bytes()


def same(left: bytes, right: bytes) -> bool:
    """Whether two descriptor sets say the same, whichever protoc wrote them."""
    return descriptor_pb2.FileDescriptorSet.FromString(
        left
    ) == descriptor_pb2.FileDescriptorSet.FromString(right)


def stale() -> list[str]:
    """Names of the committed sets that differ from their sources."""
    return [
        name
        for name in SETS
        if not (path := TARGET / f"{name}.binpb").exists()
        or not same(path.read_bytes(), compile_set(name))
    ]


def main() -> int:
    """Write the sets, or check them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing; fail on a stale set")
    if parser.parse_args().check:
        if names := stale():
            print(f"stale: {', '.join(names)} (run python protos/build.py)", file=sys.stderr)
            return 1
        return 0
    for name in SETS:
        (TARGET / f"{name}.binpb").write_bytes(compile_set(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
