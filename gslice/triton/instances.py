"""`instance_group`, as `device`, `instances` and `replicas` of a function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gslice.core.config.devices import suitable_devices
from gslice.core.errors import FailedPrecondition
from gslice.core.types import INSTANCES_MAX

if TYPE_CHECKING:
    from gslice.core.config import DeviceConfig
    from gslice.triton.model import Body, Reading

_GROUP = "instance_group"
_ANYWHERE = "onnxruntime"  # what it serves on a GPU it serves on the CPU as well


def placement(reading: Reading, devices: Mapping[str, DeviceConfig]) -> Body:
    """Where the model is wanted, and how often.

    Args:
        reading: The model.
        devices: Of the node, by name.

    Raises:
        FailedPrecondition: the node has no such device.
    """
    groups = list(reading.config.instance_group)
    if not groups:
        return {}
    kind = groups[0].kind
    alike = [group for group in groups if group.kind == kind]
    if len(alike) < len(groups):
        reading.note(_GROUP, "the groups of the first one's kind are honoured, and no others")
    gpus = sorted({number for group in alike for number in group.gpus})
    on_gpu = kind == groups[0].KIND_GPU or (kind == groups[0].KIND_AUTO and gpus)
    count = sum(max(1, group.count) for group in alike)
    if on_gpu and reading.engine == _ANYWHERE and all(d.kind == "cpu" for d in devices.values()):
        reading.note(_GROUP, "on the CPU: this node has no GPU")
        return _counted(reading, count)
    if on_gpu:
        each = max(max(1, group.count) for group in alike)
        return _on_gpus(reading, gpus, devices) | _counted(reading, each)
    is_cpu = kind == groups[0].KIND_CPU
    return (_on_cpu(reading, devices) if is_cpu else {}) | _counted(reading, count)


def _on_cpu(reading: Reading, devices: Mapping[str, DeviceConfig]) -> Body:
    """A CPU device by its name, where the node would choose another one."""
    if all(devices[name].kind == "cpu" for name in suitable_devices(reading.engine, devices)):
        return {}
    there = [name for name, device in devices.items() if device.kind == "cpu"]
    if not there:
        raise FailedPrecondition(
            "it runs on the CPU, and this node has no CPU device", hint="add `cpu` to its devices"
        )
    return {"device": there[0]}


def _on_gpus(reading: Reading, numbers: Sequence[int], devices: Mapping[str, DeviceConfig]) -> Body:
    """On the GPUs of these numbers; none: on all that the node has."""
    there = [name for name, device in devices.items() if device.kind == "cuda"]
    wanted = [f"cuda:{number}" for number in numbers] or there
    missing = [name for name in wanted if name not in there]
    if missing or not wanted:
        place = reading.model.place(reading.text.line_of(_GROUP))
        raise FailedPrecondition(
            f"{place}: it is for {', '.join(missing) or 'a GPU'}, and this node has"
            f" {', '.join(there) or 'none'}",
            hint="write KIND_CPU, or leave instance_group out",
        )
    if len(wanted) == 1:
        return {"device": wanted[0]}
    if set(wanted) < set(there):
        reading.note(_GROUP, f"on {len(wanted)} GPUs, and the node chooses which")
    return {"replicas": len(wanted)}


def _counted(reading: Reading, count: int) -> dict[str, Any]:
    """How many instances a device has."""
    if count > INSTANCES_MAX:
        reading.note(f"{_GROUP}.count", f"{INSTANCES_MAX} instances are the most of a function")
    return {"instances": min(count, INSTANCES_MAX)} if count > 1 else {}
