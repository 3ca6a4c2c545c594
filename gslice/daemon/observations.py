"""What loads showed, kept from one daemon to the next."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gslice.core.errors import InvalidArgument
from gslice.core.types import FunctionSpec, MemoryTaken, Signature, device_kind
from gslice.daemon.events import forgiving
from gslice.ipc.codec import from_json, to_json
from gslice.supervise.recall import Recalled, largest, model_files, stamp

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gslice.daemon.store import Store
    from gslice.supervise.deployment import Deployment

# Settings that change neither what an instance takes nor what it is.
_OUTSIDE = (
    *(
        "version",
        "versions",
        "devices",
        "replicas",
        "also_on",
        "isolation",
        "share",
        "instances",
        "priority",
        "slo_p99_us",
        "delay_us",
    ),
    *("queue_max", "side_effects", "residency", "idle_after_us"),
)


class Observations:
    """What the loads of a node showed.

    Args:
        store: Keeps them.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def note(self, deployment: Deployment, stages_us: Mapping[str, int], ready_us: int) -> None:
        """Records a load that succeeded; that it cannot be kept stops nothing.

        Args:
            deployment: What serves now.
            stages_us: When each stage began, from the order on.
            ready_us: How long it took from the order on.
        """
        if deployment.segment is None:
            return
        observation = {
            "of": identity(deployment.spec),
            "stage_began_us": dict(stages_us),
            "ready_us": ready_us,
            "memory": [to_json(worker.memory) for worker in deployment.workers],
            "segment_bytes": deployment.segment.size_bytes,
            "signature": to_json(deployment.signature),
        }
        with forgiving():
            self._store.observe(deployment.spec.name, observation)

    def recall(self, spec: FunctionSpec) -> Recalled | None:
        """What the last load of the same model in the same engine on the same device showed.

        Where there was none, that on another device of the kind on which it may run.
        """
        kind = device_kind(spec.device)
        others = [d for d in spec.devices if d != spec.device and device_kind(d) == kind]
        with forgiving("what was observed cannot be read"):
            observed = self._store.observations(spec.name)
            for device in (spec.device, *others):
                wanted = identity(dataclasses.replace(spec, device=device))
                for seen in observed:
                    if seen.get("of") == wanted and seen["memory"]:
                        return _recalled(seen)
        return None


def identity(spec: FunctionSpec) -> str:
    """The same for functions whose instances are alike, as far as can be seen from outside."""
    settings: dict[str, Any] = to_json(spec)
    for key in _OUTSIDE:
        del settings[key]
    warmup = [Path(spec.warmup)] if spec.warmup else []
    stamps = [stamp(path) for path in (*model_files(spec), *warmup)]
    text = json.dumps([settings, *stamps], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _recalled(seen: Mapping[str, Any]) -> Recalled | None:
    try:
        memory = [from_json(MemoryTaken, each) for each in seen["memory"]]
        return Recalled(largest(memory), seen["ready_us"], from_json(Signature, seen["signature"]))
    except InvalidArgument:  # written by another gslice
        return None
