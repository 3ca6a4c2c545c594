"""An inference between HTTP and the data path: from a body to a ModelInferRequest, and back.

Both sides are bytes. Tensors become raw contents whatever way they came, so that one data path
checks all of them: names, data types, shapes, sizes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gslice.core.errors import InvalidArgument, Unimplemented
from gslice.frontend.rest import fields, values
from gslice.frontend.rest.memory import told_bytes
from gslice.protos import message

if TYPE_CHECKING:
    from collections.abc import Callable

JSON_LENGTH = "Inference-Header-Content-Length"
_RAW_INPUT_TAG = bytes([7 << 3 | 2])  # ModelInferRequest.raw_input_contents


@dataclass(frozen=True)
class Wish:
    """How the outputs are to be told.

    Attributes:
        binary: Those that the request says nothing about.
        outputs: By name, for those of which it does.
    """

    binary: bool = False
    outputs: dict[str, bool] = field(default_factory=dict)

    def wants_binary(self, name: str) -> bool:
        """Whether an output comes as bytes behind the JSON."""
        return self.outputs.get(name, self.binary)


@dataclass(frozen=True)
class Answer:
    """A body, in the parts that it is sent from.

    Attributes:
        json: Its first part.
        tensors: The others.
    """

    json: bytes
    tensors: list[bytes]


def split(body: memoryview, json_length: str | None) -> tuple[memoryview, memoryview]:
    """The JSON of a request, and the tensors behind it.

    Args:
        body: All of it.
        json_length: The header of that name; None: there is none, so all of it is JSON.

    Raises:
        InvalidArgument: The header is wrong.
    """
    if json_length is None:
        return body, body[:0]
    if not (json_length.isascii() and json_length.isdigit()) or len(json_length) > 19:
        raise InvalidArgument(f"{JSON_LENGTH} must be a number of bytes, not {json_length!r}")
    length = int(json_length)
    if length == 0:
        raise Unimplemented(
            f"{JSON_LENGTH} is 0: a body without JSON is not offered",
            hint="describe the input in JSON, with binary_data_size",
        )
    if length > len(body):
        raise InvalidArgument(f"{JSON_LENGTH} is {length}, but the body has {len(body)} bytes")
    return body[:length], body[length:]


def read_request(
    asked: dict[str, Any], tensors: memoryview, name: str, version: str
) -> tuple[bytes, Wish]:
    """A request as the data path takes it, and how it is to be answered.

    Args:
        asked: The JSON.
        tensors: What came behind it.
        name: The function's, of the path.
        version: Likewise; may be empty.

    Returns:
        A serialised ModelInferRequest, and the wish.

    Raises:
        InvalidArgument: It is none.
    """
    head = message("inference.ModelInferRequest")(
        model_name=name, model_version=version, id=fields.text_field(asked, "id")
    )
    parameters = dict(fields.object_field(asked, "parameters"))
    binary = fields.flag_field(parameters, "binary_data_output", "parameters.")
    parameters.pop("binary_data_output", None)
    fields.add_parameters(head.parameters, parameters, "parameters.")
    contents = _Contents(tensors)
    if not fields.list_field(asked, "inputs", dict):
        raise InvalidArgument("inputs is empty: a request has at least one")
    for index, each in enumerate(asked["inputs"]):
        _read_input(each, head.inputs.add(), contents, f"inputs[{index}].")
    contents.check_used()
    wish = Wish(bool(binary))
    for index, each in enumerate(fields.list_field(asked, "outputs", dict)):
        _read_output(each, head.outputs.add(), wish, f"outputs[{index}].")
    return b"".join([head.SerializeToString(), *contents.parts]), wish


def write_answer(answer: bytes, wish: Wish, admit: Callable[[int], None]) -> Answer:
    """The body that tells an answer.

    Args:
        answer: A serialised ModelInferResponse.
        wish: Of the request.
        admit: Told how much memory JSON is about to take; it may refuse.

    Raises:
        InvalidArgument: An output cannot be told in JSON.
    """
    found = message("inference.ModelInferResponse").FromString(answer)
    told: dict[str, Any] = {"model_name": found.model_name, "model_version": found.model_version}
    if found.id:
        told["id"] = found.id
    if found.parameters:
        told["parameters"] = fields.plain_parameters(found.parameters)
    tensors: list[bytes] = []
    outputs = zip(found.outputs, found.raw_output_contents, strict=True)
    told["outputs"] = [_tell_output(each, raw, wish, tensors, admit) for each, raw in outputs]
    return Answer(json.dumps(told, allow_nan=False).encode(), tensors)


class _Contents:
    """Raw contents on their way into a request, and the binary tensors that are not used yet."""

    def __init__(self, tensors: memoryview) -> None:
        self._tensors = tensors
        self._at = 0
        self.parts: list[bytes | memoryview] = []

    def add(self, raw: bytes | memoryview) -> None:
        """Takes the next input's bytes."""
        self.parts += [_RAW_INPUT_TAG, _varint(len(raw)), raw]

    def take(self, size: int, where: str) -> None:
        """The next input's bytes are the next of the body."""
        end = self._at + size
        if end > len(self._tensors):
            raise InvalidArgument(
                f"{where}parameters.binary_data_size is {size}, but only"
                f" {len(self._tensors) - self._at} bytes are left behind the JSON"
            )
        self.add(self._tensors[self._at : end])
        self._at = end

    def check_used(self) -> None:
        """All of the body is somebody's."""
        if self._at != len(self._tensors):
            raise InvalidArgument(
                f"{len(self._tensors) - self._at} bytes of the body are no input's",
                hint="binary_data_size of each input says how many are its own",
            )


def _read_input(found: dict[str, Any], tensor: Any, contents: _Contents, where: str) -> None:
    tensor.name = fields.text_field(found, "name", where, needed=True)
    tensor.datatype = fields.text_field(found, "datatype", where, needed=True)
    shape = fields.list_field(found, "shape", int, where)
    fields.add_shape(tensor.shape, shape, where)
    parameters = dict(fields.object_field(found, "parameters", where))
    size = fields.size_field(parameters, "binary_data_size", f"{where}parameters.")
    parameters.pop("binary_data_size", None)
    fields.add_parameters(tensor.parameters, parameters, f"{where}parameters.")
    in_region = "shared_memory_region" in parameters
    if ("data" in found) + (size is not None) + in_region != 1:
        raise InvalidArgument(
            f"{where[:-1]} must have one of data, parameters.binary_data_size"
            " and parameters.shared_memory_region"
        )
    if size is not None:
        contents.take(size, where)
    elif not in_region:
        contents.add(values.to_raw(found["data"], tensor.datatype, shape, f"{where}data"))


def _read_output(found: dict[str, Any], output: Any, wish: Wish, where: str) -> None:
    output.name = fields.text_field(found, "name", where, needed=True)
    parameters = dict(fields.object_field(found, "parameters", where))
    binary = fields.flag_field(parameters, "binary_data", f"{where}parameters.")
    parameters.pop("binary_data", None)
    if binary is not None:
        wish.outputs[output.name] = binary
    fields.add_parameters(output.parameters, parameters, f"{where}parameters.")


def _tell_output(
    output: Any, raw: bytes, wish: Wish, tensors: list[bytes], admit: Callable[[int], None]
) -> dict[str, Any]:
    told = {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)}
    parameters = fields.plain_parameters(output.parameters)
    if "shared_memory_region" in parameters:
        pass  # it is there already
    elif wish.wants_binary(output.name):
        parameters["binary_data_size"] = len(raw)
        tensors.append(raw)
    else:
        admit(told_bytes(raw, output.datatype))
        told["data"] = values.from_raw(raw, output.datatype, f"output {output.name!r}")
    if parameters:
        told["parameters"] = parameters
    return told


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
