"""Which devices a function may run on when nobody says where: `device: auto`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping

from gslice.core.config.model import Function
from gslice.core.config.types import DeviceConfig
from gslice.core.packages import cuda_provider
from gslice.core.plans import LIBRARIES
from gslice.core.types import FunctionSpec

_ONLY_GPU_ENGINES = LIBRARIES
_GPU = re.compile(r"cuda:(?P<number>[0-9]{1,4})(?P<instance>/mig:[0-9]{1,2})?")
_INSTANCE = re.compile(r"MIG-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def gpu_name(name: str) -> str:
    """The GPU or MIG instance that a device's name means, written in one way; empty: none."""
    if match := _GPU.fullmatch(name):
        return f"cuda:{int(match['number'])}{match['instance'] or ''}"
    return name if _INSTANCE.fullmatch(name) else ""


def suitable_devices(engine: str, devices: Mapping[str, DeviceConfig]) -> tuple[str, ...]:
    """The devices that an engine's functions may run on, the best first.

    Those of the kind of the node's first device; where an engine knows GPUs, these and then all
    others; where it knows nothing else, these alone, as far as there are any. ONNX Runtime knows
    them where the package with its CUDA provider is installed.

    Args:
        engine: The function's.
        devices: The node's, by name.
    """
    if _knows_gpus(engine):
        return tuple(sorted(devices, key=lambda name: devices[name].kind != "cuda"))
    gpus = tuple(name for name, device in devices.items() if device.kind == "cuda")
    if engine in _ONLY_GPU_ENGINES and gpus:
        return gpus
    first = next(iter(devices.values())).kind
    return tuple(name for name, device in devices.items() if device.kind == first)


def _knows_gpus(engine: str) -> bool:
    """Whether it computes on either kind: a GPU is better."""
    return engine == "torch" or (engine == "onnxruntime" and cuda_provider() is not None)


def unsuitable(engine: str, device: DeviceConfig) -> str:
    """Why an engine's functions can not run on a device; empty: they can."""
    if engine in _ONLY_GPU_ENGINES and device.kind != "cuda":
        return f"{engine} runs on GPUs only; write device: auto, or cuda:0"
    return ""


def unfit_for_host(function: Function, engine: str) -> tuple[str, str]:
    """Why a function cannot be in one process with others, as under `limiter: green`.

    Args:
        function: As written.
        engine: Its own.

    Returns:
        The setting that is in the way, and why; empty: none is.
    """
    if function.command is not None:
        return "command", "a program is a process of its own, which nothing limits there"
    if function.isolation == "exclusive":
        return "", ""  # it is alone there, in a process of its own
    if function.environment:
        return "environment", "all its functions are in one process, which has one environment"
    if function.threads and engine == "torch":
        return "threads", "all its functions are in one process, where torch has one number of them"
    return "", ""


def anywhere(spec: FunctionSpec, devices: Mapping[str, DeviceConfig]) -> FunctionSpec:
    """A function with `device: auto` on these devices."""
    suitable = suitable_devices(spec.engine, devices)
    several = suitable if len(suitable) > 1 else ()
    return dataclasses.replace(spec, device=suitable[0], devices=several)


def crowded(functions: Iterable[FunctionSpec]) -> Iterator[tuple[str, str]]:
    """Functions that want a device to themselves to which others are pinned: name, and why not.

    Where functions with `device: auto` go is decided when they are loaded.
    """
    pinned: dict[str, list[FunctionSpec]] = {}
    for spec in functions:
        if not spec.devices:
            pinned.setdefault(spec.device, []).append(spec)
    for device, there in pinned.items():
        for spec in there:
            others = [other.name for other in there if other is not spec]
            if spec.exclusive and others:
                names = ", ".join(others)
                yield spec.name, f"{device} cannot be its alone: pinned to it are also {names}"
