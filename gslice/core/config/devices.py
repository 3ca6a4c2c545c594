"""Which devices a function may run on when nobody says where: `device: auto`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from gslice.core.config.types import DeviceConfig
from gslice.core.plans import LIBRARIES
from gslice.core.types import FunctionSpec

_GPU_ENGINES = ("torch",)  # they compute on either kind; a GPU is better
_ONLY_GPU_ENGINES = LIBRARIES


def suitable_devices(engine: str, devices: Mapping[str, DeviceConfig]) -> tuple[str, ...]:
    """The devices that an engine's functions may run on, the best first.

    Those of the kind of the node's first device; where an engine knows GPUs, these and then all
    others; where it knows nothing else, these alone, as far as there are any.

    Args:
        engine: The function's.
        devices: The node's, by name.
    """
    if engine in _GPU_ENGINES:
        return tuple(sorted(devices, key=lambda name: devices[name].kind != "cuda"))
    gpus = tuple(name for name, device in devices.items() if device.kind == "cuda")
    if engine in _ONLY_GPU_ENGINES and gpus:
        return gpus
    first = next(iter(devices.values())).kind
    return tuple(name for name, device in devices.items() if device.kind == first)


def unsuitable(engine: str, device: DeviceConfig) -> str:
    """Why an engine's functions can not run on a device; empty: they can."""
    if engine in _ONLY_GPU_ENGINES and device.kind != "cuda":
        return f"{engine} runs on GPUs only; write device: auto, or cuda:0"
    return ""


def anywhere(spec: FunctionSpec, devices: Mapping[str, DeviceConfig]) -> FunctionSpec:
    """A function with `device: auto` on these devices."""
    suitable = suitable_devices(spec.engine, devices)
    several = suitable if len(suitable) > 1 else ()
    return dataclasses.replace(spec, device=suitable[0], devices=several)
