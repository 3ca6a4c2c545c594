"""Messages of every gRPC service gslice speaks, from descriptor sets in a private pool.

No generated modules: those register in protobuf's default pool, where a client library's own copy
of the same protocol would clash, and are tied to the protobuf release that generated them. See
docs/decisions/0003-private-descriptor-pool.md.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

__all__ = ["message", "pool", "service"]

_SETS = ("kserve", "health", "reflection", "gslice_control")


@cache
def pool() -> Any:
    """The private descriptor pool with every committed set in it, loaded on first use."""
    private = descriptor_pool.DescriptorPool()
    here = Path(__file__).parent
    for name in _SETS:
        files = descriptor_pb2.FileDescriptorSet.FromString((here / f"{name}.binpb").read_bytes())
        for file in files.file:
            private.AddSerializedFile(file.SerializeToString())
    return private


@cache
def message(name: str) -> Any:
    """The class of a message, such as `message("inference.ModelInferRequest")`.

    Raises:
        KeyError: no set declares it.
    """
    return message_factory.GetMessageClass(pool().FindMessageTypeByName(name))


@cache
def service(name: str) -> Any:
    """The descriptor of a service, such as `service("inference.GRPCInferenceService")`.

    Raises:
        KeyError: no set declares it.
    """
    return pool().FindServiceByName(name)
