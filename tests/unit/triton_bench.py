"""One model of a Triton repository, and what is made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gslice.core.config import DeviceConfig
from gslice.core.errors import GsliceError
from gslice.triton.model import Read, read_model
from gslice.triton.repository import Root, models_of
from tests.triton_repository import empty_file, put

CPU = {"cpu": DeviceConfig(cpus=(0, 1))}
GPUS = {f"cuda:{index}": DeviceConfig(kind="cuda", gpu=f"cuda:{index}") for index in (0, 1)}
X = 'input { name: "x" data_type: TYPE_FP32 dims: 8 }\n'
Y = 'output { name: "y" data_type: TYPE_FP32 dims: 3 }\n'


def read(folder: Path, config: str = "", devices: Any = CPU, **layout: Any) -> Read:
    put(folder, "m", config, make=empty_file, **layout)
    (model,) = models_of(Root(folder))
    return read_model(model, devices)


def body(folder: Path, config: str, devices: Any = CPU, **layout: Any) -> dict[str, Any]:
    """What a configuration becomes, besides the version and the file."""
    whole = dict(read(folder, config, devices, **layout).body)
    assert whole.pop("versions") == {"number": 1}
    assert not whole.pop("model", "").startswith(".")
    return whole


def notes(folder: Path, config: str, devices: Any = CPU, **layout: Any) -> list[tuple[str, str]]:
    """(place, setting) of what is not honoured."""
    return [(n.place, n.setting) for n in read(folder, config, devices, **layout).notes]


def refused(folder: Path, config: str = "", devices: Any = CPU, **layout: Any) -> GsliceError:
    with pytest.raises(GsliceError) as caught:
        read(folder, config, devices, **layout)
    return caught.value
