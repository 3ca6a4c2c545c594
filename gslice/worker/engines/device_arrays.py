"""Tensors in a GPU's memory, as Python's libraries hand them to each other without a copy.

Both ways of doing so, DLPack and the CUDA Array Interface, come with a rule of order: whoever takes
a tensor says on which stream, and whoever gives it sees to it that the stream waits for the data.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gslice import _native
from gslice.core.types import ELEMENT_BYTES

Order = Callable[[int, int], None]
"""(before, after): work that `after` gets from now on waits for what `before` has got."""

_DLPACK_CUDA = 2
_DLPACK_DEVICES_OF_HOST = (1, 3)  # plain and pinned
_DLPACK_TYPES = {
    (6, 8): "BOOL",
    (1, 8): "UINT8",
    (1, 16): "UINT16",
    (1, 32): "UINT32",
    (1, 64): "UINT64",
    (0, 8): "INT8",
    (0, 16): "INT16",
    (0, 32): "INT32",
    (0, 64): "INT64",
    (2, 16): "FP16",
    (4, 16): "BF16",
    (2, 32): "FP32",
    (2, 64): "FP64",
}
_TYPESTRS = {
    "BOOL": "|b1",
    "UINT8": "|u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "|i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "BF16": "<u2",  # there is no name for it: 16-bit patterns, as on the CPU
    "FP32": "<f4",
    "FP64": "<f8",
}
KSERVE_OF_TYPESTR = {name: dtype for dtype, name in _TYPESTRS.items() if dtype != "BF16"}


class DeviceArray:
    """An input of a batch in the GPU's memory, valid only during the call that got it; or a weight.

    `torch.from_dlpack`, `cupy.asarray`, `numba.cuda.as_cuda_array` and the like take it as it is.

    Attributes:
        pointer: Its address on the device.
        shape: Its shape; rows are contiguous.
        dtype: A KServe data type.
        stream: The CUstream on which its data arrives; 0: it is there.
    """

    def __init__(
        self, pointer: int, shape: tuple[int, ...], dtype: str, stream: int, order: Order
    ) -> None:
        self.pointer = pointer
        self.shape = shape
        self.dtype = dtype
        self.stream = stream
        self._order = order

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": _TYPESTRS[self.dtype],
            "data": (self.pointer, False),
            "strides": None,
            "stream": self.stream or None,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return (_DLPACK_CUDA, 0)  # a worker sees one GPU

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object:
        if copy:
            raise BufferError("a batch's tensor is given as it lies; copy it afterwards")
        if dl_device is not None and tuple(dl_device) != self.__dlpack_device__():
            raise BufferError("a batch's tensor lies on the GPU; move it afterwards")
        if self.stream and stream not in (-1, self.stream):
            self._order(self.stream, stream or 1)  # none says the legacy default stream
        return _native.dlpack_capsule(self.pointer, self.shape, self.dtype, 0)


@dataclass(frozen=True)
class DeviceOutput:
    """An output that the user's code left in the GPU's memory.

    Attributes:
        pointer: Its address on the device.
        shape: Its shape.
        dtype: A KServe data type.
        keep: What keeps the memory.
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: str
    keep: object


def device_output(value: Any, stream: int, order: Order) -> DeviceOutput | None:
    """What an object says of its memory on the GPU.

    Args:
        value: Whatever the user's code returned.
        stream: On which it will be read; it waits for the object's own.
        order: How to make it wait, where the object leaves that to the reader.

    Returns:
        None: it lies in host memory.

    Raises:
        TypeError: It is of no type that KServe knows, or not contiguous.
    """
    if hasattr(value, "__dlpack_device__"):
        kind, _ = value.__dlpack_device__()
        if kind in _DLPACK_DEVICES_OF_HOST:
            return None
        if kind == _DLPACK_CUDA:
            return _of_capsule(value.__dlpack__(stream=stream))
    if hasattr(value, "__cuda_array_interface__"):
        return _of_interface(value, stream, order)
    return None


class _DlTensor(ctypes.Structure):
    """DLTensor of dlpack.h, the head of what a capsule holds."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


# An own prototype: ctypes.pythonapi's attributes are everybody's.
_capsule_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def _of_capsule(capsule: object) -> DeviceOutput:
    # The capsule stays unconsumed: it gives the tensor back when it is forgotten.
    address = _capsule_pointer(capsule, b"dltensor")
    tensor = _DlTensor.from_address(address)
    dtype = _DLPACK_TYPES.get((tensor.code, tensor.bits)) if tensor.lanes == 1 else None
    if dtype is None:
        raise TypeError(f"DLPack type {tensor.code} of {tensor.bits} bits is none of KServe")
    shape = tuple(tensor.shape[: tensor.rank])
    if tensor.strides:
        _check_contiguous(shape, tensor.strides[: tensor.rank])
    return DeviceOutput((tensor.data or 0) + tensor.byte_offset, shape, dtype, capsule)


def _of_interface(value: Any, stream: int, order: Order) -> DeviceOutput:
    interface = value.__cuda_array_interface__
    dtype = KSERVE_OF_TYPESTR.get(interface["typestr"])
    if dtype is None:
        raise TypeError(f"arrays of {interface['typestr']} are none of KServe's")
    shape = tuple(int(dim) for dim in interface["shape"])
    strides = interface.get("strides")
    if strides is not None:
        element_bytes = ELEMENT_BYTES[dtype]
        _check_contiguous(shape, [step // element_bytes for step in strides])
    its_stream = interface.get("stream")
    if its_stream not in (None, stream):
        order(its_stream, stream)
    return DeviceOutput(int(interface["data"][0]), shape, dtype, value)


def _check_contiguous(shape: Sequence[int], strides: Sequence[int]) -> None:
    if 0 in shape:
        return
    expected = 1
    for length, step in zip(reversed(shape), reversed(strides), strict=True):
        if length != 1 and step != expected:
            raise TypeError("it is not contiguous; make a contiguous copy of it")
        expected *= length
