"""The tensors of the user's class on a GPU: device arrays in, device or NumPy arrays out."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from gslice.worker.engines.device_arrays import (
    KSERVE_OF_TYPESTR,
    DeviceArray,
    DeviceOutput,
    device_output,
)
from gslice.worker.gpu import LEGACY_STREAM
from gslice.worker.weights import Piece

if TYPE_CHECKING:
    from gslice._native import Batch, CudaDevice
    from gslice.core.types import TensorSpec
    from gslice.worker.gpu import GpuDevice
    from gslice.worker.weights import Placed


_ON_THE_DEFAULT_STREAM = ("numba.cuda", "pycuda")


class GpuTensors:
    """What the python engine does with a batch on a GPU.

    Args:
        cuda: The device.
        user: The user's object; gets the attribute `stream` before each call of its `infer`.
    """

    def __init__(self, cuda: CudaDevice, user: Any) -> None:
        self._cuda = cuda
        self._user = user
        self._turn = threading.Lock()
        self._kept: dict[int, list[DeviceOutput]] = {}  # by lane, until its next batch

    @contextmanager
    def turn(self, batch: Batch) -> Iterator[None]:
        """One call at a time, on the stream of the batch's lane."""
        with self._turn, ExitStack() as streams:
            self._kept[batch.lane] = []
            self._user.stream = batch.stream
            for scope in _stream_scopes(batch.stream):
                streams.enter_context(scope)
            yield

    def infer(self, batch: Batch, inputs: dict[str, DeviceArray]) -> Any:
        """The user's call. What it leaves to the default stream runs in the order of the lane's."""
        if not _may_use_the_default_stream():
            return self._user.infer(inputs)
        self._cuda.order(batch.stream, LEGACY_STREAM)
        try:
            return self._user.infer(inputs)
        finally:  # after a failure too: the next batch comes into the same memory
            self._cuda.order(LEGACY_STREAM, batch.stream)

    def forget(self, lanes: Collection[int]) -> None:
        """Gives back what the last batches of lanes that are gone have put out."""
        with self._turn:
            for lane in lanes:
                self._kept.pop(lane, None)

    def close(self) -> None:
        """Gives everything back, and what libraries keep of it: a host's others may need it."""
        self._kept.clear()
        self._user = None
        if (torch := _torch_on_gpu()) is not None:
            torch.cuda.empty_cache()
        if (cupy := sys.modules.get("cupy")) is not None:
            cupy.get_default_memory_pool().free_all_blocks()

    def input(self, batch: Batch, index: int, tensor: TensorSpec) -> DeviceArray:
        """An input where it lies."""
        pointer, shape = batch.input_ptr(index), batch.input_shape(index)
        return DeviceArray(pointer, shape, tensor.dtype, batch.stream, self._cuda.order)

    def set_output(self, batch: Batch, index: int, tensor: TensorSpec, value: Any) -> None:
        """An output from where it lies."""
        try:
            output = device_output(value, batch.stream, self._cuda.order)
        except TypeError as error:
            raise TypeError(f"output {tensor.name!r}: {error}") from error
        if output is None:
            batch.set_output(index, np.asarray(value))
            return
        self._kept[batch.lane].append(output)
        is_pattern = (tensor.dtype, output.dtype) == ("BF16", "UINT16")
        dtype = "BF16" if is_pattern else output.dtype
        batch.set_output_ptr(index, output.pointer, output.shape, dtype)


def weights_there(device: GpuDevice, arrays: Mapping[str, np.ndarray]) -> dict[str, DeviceArray]:
    """Weights on the GPU: one copy for all workers of the class, where they can share it.

    Raises:
        TypeError: One is of no type that KServe knows.
    """
    pieces = [_piece(name, array) for name, array in arrays.items()]

    def fill(placed: Placed) -> None:
        for index, array in enumerate(arrays.values()):
            placed.write(index, array)

    placed = device.weights.place(pieces, fill)
    if placed is None:
        return {}
    return {
        piece.name: DeviceArray(
            placed.pointer + offset, piece.shape, piece.dtype, 0, device.cuda.order
        )
        for piece, offset in zip(pieces, placed.offsets, strict=True)
    }


def _piece(name: str, array: np.ndarray) -> Piece:
    dtype = KSERVE_OF_TYPESTR.get(array.dtype.str)
    if dtype is None:
        raise TypeError(f"weights {name!r}: arrays of {array.dtype} are none of KServe's")
    strides = [math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim)]
    return Piece(name, dtype, array.shape, tuple(strides), array.nbytes)


def _may_use_the_default_stream() -> bool:
    """Whether nothing that is in use follows a current stream, or something does not."""
    if any(name in sys.modules for name in _ON_THE_DEFAULT_STREAM):
        return True
    return _torch_on_gpu() is None and "cupy" not in sys.modules


def _torch_on_gpu() -> Any:
    torch = sys.modules.get("torch")
    return torch if torch is not None and _can_use_a_gpu(torch) else None


@cache
def _can_use_a_gpu(torch: Any) -> bool:
    """Not one built without CUDA, nor one for a newer driver; users may want either's CPU part."""
    return torch.version.cuda is not None and torch.cuda.is_available()


def _stream_scopes(stream: int) -> Iterator[Any]:
    """Makes the stream the current one of the libraries that have such a thing and are in use."""
    torch = _torch_on_gpu()
    if torch is not None:
        yield torch.cuda.stream(torch.cuda.ExternalStream(stream))
    cupy = sys.modules.get("cupy")
    if cupy is not None:
        yield cupy.cuda.ExternalStream(stream)
