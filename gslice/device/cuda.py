"""CUDA's driver as the probe needs it: what GPUs there are, and what a context on one sees.

Through ctypes, so that it works before anything is built. The data path is C++: native/cuda.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from dataclasses import dataclass

from gslice.core.errors import FailedPrecondition, GsliceError, ResourceExhausted, Unavailable
from gslice.device import burn

LIBRARY = "libcuda.so.1"
OLDEST_VERSION = 12_000
GREEN_VERSION = 12_050  # has all that green contexts take

# Of cuda.h.
_OUT_OF_MEMORY = 2
_NO_DEVICE = 100
_MPS_CODES = range(805, 811)
_MULTIPROCESSOR_COUNT = 16
_CAPABILITY_MAJOR = 75
_CAPABILITY_MINOR = 76
_STREAM_NON_BLOCKING = 1
_SM_RESOURCE = 1


class _SmResource(ctypes.Structure):
    """CUdevResource, of SMs."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("_internal", ctypes.c_ubyte * 92),
        ("sms", ctypes.c_uint),
        ("least_sms", ctypes.c_uint),
        ("_more", ctypes.c_ubyte * 40),
    )


@dataclass(frozen=True)
class Gpu:
    """A GPU as the driver lists it, in the order of the PCI bus; or a MIG instance.

    Attributes:
        uuid: `GPU-`, of a MIG instance `MIG-`, and 32 digits in groups.
        name: The product.
        sms: Streaming multiprocessors, as this process sees them.
        compute_capability: Major and minor.
        memory_bytes: All of its memory.
        sm_groups: How many groups green contexts can be made of; 0: the driver has none.
        group_sms: SMs of each.
    """

    uuid: str
    name: str
    sms: int
    compute_capability: tuple[int, int]
    memory_bytes: int
    sm_groups: int = 0
    group_sms: int = 0

    @property
    def is_instance(self) -> bool:
        """Whether it is a MIG instance."""
        return self.uuid.startswith("MIG-")


class Driver:
    """The driver, initialised for this process.

    Raises:
        FailedPrecondition: there is none, it is too old, or it refuses to start.
        Unavailable: it could not reach its MPS server.
    """

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise FailedPrecondition(
                f"no NVIDIA driver: {error}", hint="install the driver, or use the CPU device"
            ) from None
        version = ctypes.c_int()
        self._call("cuDriverGetVersion", ctypes.byref(version))
        self.version = version.value
        if self.version < OLDEST_VERSION:
            raise FailedPrecondition(
                f"the NVIDIA driver speaks CUDA {version_text(self.version)},"
                f" gslice needs {version_text(OLDEST_VERSION)}",
                hint="update the driver",
            )
        self._call("cuInit", 0)

    def gpus(self) -> list[Gpu]:
        """Every GPU that this process may see."""
        count = ctypes.c_int()
        self._call("cuDeviceGetCount", ctypes.byref(count))
        return [self._gpu(ordinal) for ordinal in range(count.value)]

    def context(self, ordinal: int) -> Context:
        """The primary context of a GPU, current in this thread."""
        return Context(self, ordinal)

    def sms(self, ordinal: int) -> int:
        """Streaming multiprocessors of a GPU: inside a context under MPS, those of its share."""
        return self._attribute(_MULTIPROCESSOR_COUNT, ordinal)

    def _gpu(self, ordinal: int) -> Gpu:
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", name, len(name), ordinal)
        uuid = (ctypes.c_ubyte * 16)()
        self._call("cuDeviceGetUuid_v2", uuid, ordinal)
        memory = ctypes.c_size_t()
        self._call("cuDeviceTotalMem_v2", ctypes.byref(memory), ordinal)
        capability = [self._attribute(a, ordinal) for a in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR)]
        return Gpu(
            uuid_text(bytes(uuid)),
            name.value.decode(errors="replace"),
            self.sms(ordinal),
            (capability[0], capability[1]),
            memory.value,
            *self._sm_groups(ordinal),
        )

    def _sm_groups(self, ordinal: int) -> tuple[int, int]:
        """Into how many groups its SMs can be split, and the SMs of each; see native/cuda/green."""
        split = getattr(self._library, "cuDevSmResourceSplitByCount", None)
        if split is None or self.version < GREEN_VERSION:
            return 0, 0
        whole, count = _SmResource(), ctypes.c_uint()
        with contextlib.suppress(GsliceError):  # some devices have no such thing
            self._call("cuDeviceGetDevResource", ordinal, ctypes.byref(whole), _SM_RESOURCE)
            least = max(1, whole.least_sms)
            arguments = (ctypes.byref(count), ctypes.byref(whole), None, 0, least)
            self._call(split.__name__, None, *arguments)
            groups = (_SmResource * count.value)()
            self._call(split.__name__, groups, *arguments)
            return count.value, groups[0].sms if count.value else 0
        return 0, 0

    def _attribute(self, attribute: int, ordinal: int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), attribute, ordinal)
        return value.value

    def _call(self, function: str, *arguments: object) -> None:
        """One call of the driver.

        Raises:
            GsliceError: it failed; the message has function, code and the driver's own words.
        """
        try:
            entry = getattr(self._library, function)
        except AttributeError:
            raise FailedPrecondition(
                f"{LIBRARY} has no {function}", hint="update the driver"
            ) from None
        code = entry(*arguments)
        if code != 0:
            raise self._error(function, code)

    def _error(self, function: str, code: int) -> GsliceError:
        if code == _NO_DEVICE:
            return FailedPrecondition(
                "the NVIDIA driver finds no GPU", hint="look at CUDA_VISIBLE_DEVICES"
            )
        words = []
        for entry in ("cuGetErrorName", "cuGetErrorString"):
            text = ctypes.c_char_p()
            known = getattr(self._library, entry)(code, ctypes.byref(text)) == 0 and text.value
            words.append(text.value.decode(errors="replace") if known and text.value else "?")
        message = f"{function}: {words[0]} ({code}): {words[1]}"
        if code == _OUT_OF_MEMORY:
            return ResourceExhausted(message)
        if code in _MPS_CODES:
            return Unavailable(message, hint="the MPS server did not take this process as a client")
        return FailedPrecondition(message)


class Context:
    """A primary context, for as long as the `with` block lasts.

    Args:
        driver: The driver.
        ordinal: Of the GPU.
    """

    def __init__(self, driver: Driver, ordinal: int) -> None:
        self._call = driver._call
        self._ordinal = ordinal

    def __enter__(self) -> Context:
        context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._ordinal)
        self._call("cuCtxSetCurrent", context)
        return self

    def __exit__(self, *error: object) -> None:
        self._call("cuDevicePrimaryCtxRelease_v2", self._ordinal)

    def memory_free_bytes(self) -> int:
        """Memory of the GPU that nobody uses, or that this process's limit leaves it."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def pinned_bandwidth(self, size_bytes: int, rounds: int) -> tuple[float, float]:
        """Bytes a second from pinned memory to the GPU, and back.

        Args:
            size_bytes: Of each copy.
            rounds: Copies each way, of which the fastest counts.
        """
        host, size = ctypes.c_void_p(), ctypes.c_size_t(size_bytes)
        self._call("cuMemHostAlloc", ctypes.byref(host), size, 0)
        device = self._allocate(size_bytes)
        try:
            to_gpu_s = self._fastest_s(rounds, "cuMemcpyHtoDAsync_v2", device, host, size)
            from_gpu_s = self._fastest_s(rounds, "cuMemcpyDtoHAsync_v2", host, device, size)
        finally:
            self._call("cuMemFree_v2", device)
            self._call("cuMemFreeHost", host)
        return size_bytes / to_gpu_s, size_bytes / from_gpu_s

    def burn_s(self, whole_sms: int) -> float:
        """How long a fixed piece of arithmetic takes; half the SMs take twice as long.

        Args:
            whole_sms: Of the whole GPU, so that the work is the same at every share.
        """
        module, kernel = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuModuleLoadData", ctypes.byref(module), burn.PTX.encode())
        sink = self._allocate(256)
        try:
            self._call("cuModuleGetFunction", ctypes.byref(kernel), module, burn.ENTRY.encode())
            turns = ctypes.c_uint(burn.TURNS)
            pointers = (ctypes.c_void_p * 2)(ctypes.addressof(sink), ctypes.addressof(turns))
            grid = (whole_sms * burn.BLOCKS_PER_SM, 1, 1, burn.THREADS, 1, 1, 0)

            def launch(stream: ctypes.c_void_p) -> None:
                self._call("cuLaunchKernel", kernel, *grid, stream, pointers, None)

            return self._fastest_s(burn.ROUNDS, launch)
        finally:
            self._call("cuMemFree_v2", sink)
            self._call("cuModuleUnload", module)

    def _allocate(self, size_bytes: int) -> ctypes.c_void_p:
        memory = ctypes.c_void_p()
        self._call("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(size_bytes))
        return memory

    def _fastest_s(
        self, rounds: int, work: str | Callable[[ctypes.c_void_p], None], *arguments: object
    ) -> float:
        """The shortest time of something enqueued, by the GPU's own events around it."""
        stream, begin, end = (ctypes.c_void_p() for _ in range(3))
        self._call("cuStreamCreate", ctypes.byref(stream), _STREAM_NON_BLOCKING)
        self._call("cuEventCreate", ctypes.byref(begin), 0)
        self._call("cuEventCreate", ctypes.byref(end), 0)
        times_ms = []
        try:
            for _ in range(rounds):
                self._call("cuEventRecord", begin, stream)
                if isinstance(work, str):
                    self._call(work, *arguments, stream)
                else:
                    work(stream)
                self._call("cuEventRecord", end, stream)
                self._call("cuEventSynchronize", end)
                elapsed_ms = ctypes.c_float()
                self._call("cuEventElapsedTime", ctypes.byref(elapsed_ms), begin, end)
                times_ms.append(elapsed_ms.value)
        finally:
            self._call("cuEventDestroy_v2", begin)
            self._call("cuEventDestroy_v2", end)
            self._call("cuStreamDestroy_v2", stream)
        return max(min(times_ms), 1e-3) / 1000


def version_text(version: int) -> str:
    """A driver's version as people write it: 12040 is 12.4."""
    return f"{version // 1000}.{version % 1000 // 10}"


def uuid_text(raw: bytes) -> str:
    """A GPU's 16 bytes as NVIDIA's tools write them."""
    digits = raw.hex()
    parts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
    return "GPU-" + "-".join(parts)
