"""The CUDA driver by ctypes, as far as the suite asks it itself: no toolkit, no other package.

It is the suite's own view of the GPU, beside the native core's: what the two agree on is a proof.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from ctypes import byref, c_char_p, c_float, c_int, c_size_t, c_uint, c_void_p
from typing import Any

MULTIPROCESSORS = 16  # CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
COMPUTE_MAJOR, COMPUTE_MINOR = 75, 76
NOT_READY = 600
OUT_OF_MEMORY = 2
IPC_HANDLE_BYTES = 64

_PORTABLE = 1  # CU_MEMHOSTREGISTER_PORTABLE
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
_LAZY_PEER_ACCESS = 1  # CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS
_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
_UNTIMED = 2  # CU_EVENT_DISABLE_TIMING


class CudaError(RuntimeError):
    """A driver call failed.

    Attributes:
        code: The CUresult.
    """

    def __init__(self, function: str, code: int, text: str) -> None:
        super().__init__(f"{function}: {text} ({code})")
        self.code = code


class _IpcHandle(ctypes.Structure):
    _fields_ = (("reserved", ctypes.c_char * IPC_HANDLE_BYTES),)


class Driver:
    """libcuda.so.1, initialised; creates no context.

    Raises:
        OSError: There is no driver.
        CudaError: It does not start.
    """

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")
        self.call("cuInit", c_uint(0))

    def call(self, function: str, *arguments: Any) -> None:
        """Calls a driver function; every status but success is raised."""
        code = getattr(self._library, function)(*arguments)
        if code:
            raise CudaError(function, code, self._text(code))

    def ready(self, function: str, *arguments: Any) -> Callable[[], None]:
        """A call with its arguments made ready, for where every microsecond counts."""
        entry = getattr(self._library, function)

        def call() -> None:
            if code := entry(*arguments):
                raise CudaError(function, code, self._text(code))

        return call

    def has(self, function: str) -> bool:
        """Whether the driver exports a function."""
        return hasattr(self._library, function)

    def version(self) -> int:
        """What it speaks: 13000 is CUDA 13.0."""
        return self._number("cuDriverGetVersion")

    def device_count(self) -> int:
        """GPUs that this process sees."""
        return self._number("cuDeviceGetCount")

    def _number(self, function: str, *arguments: Any) -> int:
        value = c_int()
        self.call(function, byref(value), *arguments)
        return value.value

    def _text(self, code: int) -> str:
        text = c_char_p()
        self._library.cuGetErrorName(c_int(code), byref(text))
        return text.value.decode() if text.value else "unknown error"


class Gpu(Driver):
    """The first GPU with its primary context, which torch shares. A context manager.

    Addresses and handles are plain numbers.
    """

    def __init__(self) -> None:
        super().__init__()
        device = c_int()
        self.call("cuDeviceGet", byref(device), c_int(0))
        self._device = device
        context = c_void_p()
        self.call("cuDevicePrimaryCtxRetain", byref(context), device)
        self.call("cuCtxSetCurrent", context)

    def __enter__(self) -> Gpu:
        return self

    def __exit__(self, *_: object) -> None:
        self.call("cuDevicePrimaryCtxRelease_v2", self._device)

    def name(self) -> str:
        """As NVIDIA calls it."""
        text = ctypes.create_string_buffer(128)
        self.call("cuDeviceGetName", text, c_int(len(text)), self._device)
        return text.value.decode()

    def attribute(self, number: int) -> int:
        """A CUdevice_attribute."""
        return self._number("cuDeviceGetAttribute", c_int(number), self._device)

    def multiprocessors(self) -> int:
        """As this process sees them, so the effective ones of an MPS client."""
        return self.attribute(MULTIPROCESSORS)

    def synchronise(self) -> None:
        """Waits for everything of this context."""
        self.call("cuCtxSynchronize")

    # ---- memory ------------------------------------------------------------------------------

    def allocate(self, size_bytes: int) -> int:
        """Device memory."""
        address = c_void_p()
        self.call("cuMemAlloc_v2", byref(address), c_size_t(size_bytes))
        return address.value or 0

    def free(self, address: int) -> None:
        """Frees device memory."""
        self.call("cuMemFree_v2", c_void_p(address))

    def register(self, address: int, size_bytes: int) -> None:
        """Pins a mapping of this process."""
        self.call(
            "cuMemHostRegister_v2", c_void_p(address), c_size_t(size_bytes), c_uint(_PORTABLE)
        )

    def unregister(self, address: int) -> None:
        """Unpins it."""
        self.call("cuMemHostUnregister", c_void_p(address))

    def upload(self, device: int, host: int, size_bytes: int, stream: int | None = None) -> None:
        """Host to device; without a stream it returns when it is done."""
        arguments = (c_void_p(device), c_void_p(host), c_size_t(size_bytes))
        if stream is None:
            self.call("cuMemcpyHtoD_v2", *arguments)
        else:
            self.call("cuMemcpyHtoDAsync_v2", *arguments, c_void_p(stream))

    def download(self, host: int, device: int, size_bytes: int, stream: int | None = None) -> None:
        """Device to host; without a stream it returns when it is done."""
        arguments = (c_void_p(host), c_void_p(device), c_size_t(size_bytes))
        if stream is None:
            self.call("cuMemcpyDtoH_v2", *arguments)
        else:
            self.call("cuMemcpyDtoHAsync_v2", *arguments, c_void_p(stream))

    def move(self, target: int, source: int, size_bytes: int, stream: int) -> None:
        """Device to device, on a stream."""
        self.call(
            "cuMemcpyDtoDAsync_v2",
            *(c_void_p(target), c_void_p(source), c_size_t(size_bytes), c_void_p(stream)),
        )

    def export(self, address: int) -> bytes:
        """An IPC handle of device memory."""
        handle = _IpcHandle()
        self.call("cuIpcGetMemHandle", byref(handle), c_void_p(address))
        return bytes(handle)

    def open_export(self, handle: bytes) -> int:
        """Another process's device memory."""
        address = c_void_p()
        self.call(
            "cuIpcOpenMemHandle_v2",
            *(byref(address), _IpcHandle.from_buffer_copy(handle), c_uint(_LAZY_PEER_ACCESS)),
        )
        return address.value or 0

    def close_export(self, address: int) -> None:
        """Gives another process's memory back."""
        self.call("cuIpcCloseMemHandle", c_void_p(address))

    # ---- streams, events, graphs -----------------------------------------------------------------

    def stream(self) -> int:
        """A stream that never waits for the legacy one."""
        handle = c_void_p()
        self.call("cuStreamCreate", byref(handle), c_uint(_NON_BLOCKING))
        return handle.value or 0

    def wait(self, stream: int) -> None:
        """Waits for a stream."""
        self.call("cuStreamSynchronize", c_void_p(stream))

    def event(self, *, timed: bool = False) -> int:
        """An event."""
        handle = c_void_p()
        self.call("cuEventCreate", byref(handle), c_uint(0 if timed else _UNTIMED))
        return handle.value or 0

    def record(self, event: int, stream: int) -> None:
        """Records an event."""
        self.call("cuEventRecord", c_void_p(event), c_void_p(stream))

    def reached(self, event: int) -> bool:
        """Whether a stream got to an event."""
        code = self._library.cuEventQuery(c_void_p(event))
        if code in (0, NOT_READY):
            return bool(code == 0)
        raise CudaError("cuEventQuery", code, self._text(code))

    def elapsed_us(self, begin: int, end: int) -> float:
        """Between two timed events that were reached."""
        milliseconds = c_float()
        name = (
            "cuEventElapsedTime_v2" if self.has("cuEventElapsedTime_v2") else "cuEventElapsedTime"
        )
        self.call(name, byref(milliseconds), c_void_p(begin), c_void_p(end))
        return milliseconds.value * 1e3

    def begin_capture(self, stream: int) -> None:
        """From here on the stream's work is recorded, not run."""
        self.call("cuStreamBeginCapture_v2", c_void_p(stream), c_int(_THREAD_LOCAL))

    def end_capture(self, stream: int) -> int:
        """What was recorded, as a graph that can be launched."""
        graph, executable = c_void_p(), c_void_p()
        self.call("cuStreamEndCapture", c_void_p(stream), byref(graph))
        self.instantiate_into(executable, graph)
        self.call("cuGraphDestroy", graph)
        return executable.value or 0

    def instantiate(self, graph: int) -> int:
        """A graph that can be launched, from one that was recorded."""
        executable = c_void_p()
        self.instantiate_into(executable, c_void_p(graph))
        return executable.value or 0

    def instantiate_into(self, executable: c_void_p, graph: c_void_p) -> None:
        """Fills `executable`."""
        self.call("cuGraphInstantiateWithFlags", byref(executable), graph, ctypes.c_ulonglong(0))

    def launch_graph(self, executable: int, stream: int) -> None:
        """Runs a graph on a stream."""
        self.call("cuGraphLaunch", c_void_p(executable), c_void_p(stream))

    # ---- kernels -----------------------------------------------------------------------------

    def load(self, ptx: str, kernel: str) -> int:
        """A kernel of a PTX text."""
        module, function = c_void_p(), c_void_p()
        self.call("cuModuleLoadData", byref(module), c_char_p(ptx.encode()))
        self.call("cuModuleGetFunction", byref(function), module, c_char_p(kernel.encode()))
        return function.value or 0

    def launch(
        self, kernel: int, blocks: int, threads: int, arguments: Sequence[Any], stream: int
    ) -> None:
        """Runs a kernel; its arguments are ctypes values."""
        pointers = (c_void_p * len(arguments))(*(ctypes.addressof(a) for a in arguments))
        grid = (c_uint(blocks), c_uint(1), c_uint(1))
        block = (c_uint(threads), c_uint(1), c_uint(1))
        self.call(
            "cuLaunchKernel",
            *(c_void_p(kernel), *grid, *block, c_uint(0), c_void_p(stream), pointers, None),
        )
