"""`input`, `output` and whether they have a batch dimension, as `tensors` of a function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gslice.core.errors import ConfigError
from gslice.protos import pool

if TYPE_CHECKING:
    from gslice.triton.model import Body, Reading


def data_type(number: int) -> str:
    """KServe's name of a data type of a config.pbtxt; empty: TYPE_INVALID."""
    value = pool().FindEnumTypeByName("inference.DataType").values_by_number.get(number)
    word = str(value.name).removeprefix("TYPE_") if value is not None else "INVALID"
    return {"STRING": "BYTES", "INVALID": ""}.get(word, word)


def tensors(reading: Reading) -> Body:
    """What the model must take and give; nothing, where its configuration leaves it to the model.

    Raises:
        ConfigError: a tensor without a name or a type.
    """
    config = reading.config
    if reading.engine == "python":  # its class declares them
        if config.input or config.output:
            reading.note("input" if config.input else "output", "the class declares its tensors")
        return {}
    says_size = any(setting.path == "max_batch_size" for setting in reading.text.settings)
    stated: dict[str, Any] = {}
    if says_size or config.input or config.output:
        stated["batched"] = config.max_batch_size > 0
    for key, field in (("inputs", config.input), ("outputs", config.output)):
        if field:
            stated[key] = [_tensor(reading, key[:-1], each) for each in field]
    return {"tensors": stated} if stated else {}


def _tensor(reading: Reading, kind: str, tensor: Any) -> dict[str, Any]:
    dtype = data_type(tensor.data_type)
    if not tensor.name or not dtype:
        what = "name" if not tensor.name else "data_type"
        place = reading.model.place(reading.text.line_of(kind))
        raise ConfigError(f"{place}: {kind} {tensor.name!r} has no {what}")
    rows = [-1] if reading.config.max_batch_size > 0 else []
    stated = {"name": tensor.name, "dtype": dtype, "dims": [*rows, *tensor.dims]}
    if tensor.HasField("reshape"):
        stated["model_dims"] = [*rows, *tensor.reshape.shape]
    return stated
