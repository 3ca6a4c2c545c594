"""CUDA by ctypes in a process of its own, for tests of the fakes."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

PTX = b".entry gslice_fake_scale( .entry gslice_fake_spin( .entry gslice_fault("


class Cuda:
    """The driver's entries. A Python int is an address, a size or a handle."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")
        self._module = 0
        self._kept: list[object] = []

    def call(self, entry: str, *arguments: Any) -> int:
        """What an entry returns."""
        wide = [ctypes.c_uint64(a) if isinstance(a, int) else a for a in arguments]
        return int(getattr(self._library, entry)(*wide))

    def made(self, entry: str, *arguments: Any) -> int:
        """What an entry writes to its first argument; its error, made negative, if it fails."""
        value = ctypes.c_uint64(0)
        error = self.call(entry, ctypes.byref(value), *arguments)
        return -error if error else value.value

    def ended_capture(self, stream: int) -> int:
        """As `made`, for the one entry that writes to its second."""
        value = ctypes.c_uint64(0)
        error = self.call("cuStreamEndCapture", stream, ctypes.byref(value))
        return -error if error else value.value

    def found_entry(self, symbol: str, version: int) -> int:
        """Its address by cuGetProcAddress, 0 if there is none; the error, made negative."""
        value, status = ctypes.c_uint64(0), ctypes.c_int()
        arguments = ctypes.byref(value), version, 0, ctypes.byref(status)
        error = self.call("cuGetProcAddress_v2", symbol.encode(), *arguments)
        return -error if error else value.value

    def attribute(self, number: int) -> int:
        """Of the first device; the error, made negative."""
        value = ctypes.c_int()
        error = self.call("cuDeviceGetAttribute", ctypes.byref(value), number, 0)
        return -error if error else value.value

    def start(self) -> int:
        """cuInit, the first device's primary context, and the module of all kernels."""
        if error := self.call("cuInit", 0):
            return error
        self.call("cuCtxSetCurrent", self.made("cuDevicePrimaryCtxRetain", 0))
        self._module = self.made("cuModuleLoadData", PTX)
        return min(self._module, 0)

    def launch(self, kernel: str, stream: int, *arguments: Any) -> int:
        function = self.made("cuModuleGetFunction", self._module, kernel.encode())
        pointers = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        shape = (1, 1, 1, 1, 1, 1, 0)
        return self.call("cuLaunchKernel", function, *shape, stream, pointers, None)

    def scale(self, to: int, of: int, factor: float, count: int, stream: int) -> int:
        address = ctypes.c_uint64
        arguments = address(to), address(of), ctypes.c_float(factor), ctypes.c_uint32(count)
        return self.launch("gslice_fake_scale", stream, *arguments)

    def spin(self, us: int, stream: int) -> int:
        return self.launch("gslice_fake_spin", stream, ctypes.c_uint32(us))

    def fault(self, stream: int) -> int:
        return self.launch("gslice_fault", stream)

    def elapsed_ms(self, start: int, end: int) -> float:
        value = ctypes.c_float()
        self.call("cuEventElapsedTime", ctypes.byref(value), start, end)
        return value.value

    def pageable(self, size_bytes: int) -> int:
        """Plain memory, for as long as the process lives."""
        memory = ctypes.create_string_buffer(size_bytes)
        self._kept.append(memory)
        return ctypes.addressof(memory)

    def shared(self, path: str, size_bytes: int) -> int:
        """A mapping of a file that others may map too."""
        with Path(path).open("r+b") as file:
            mapping = mmap.mmap(file.fileno(), size_bytes)
        self._kept.append(mapping)
        return ctypes.addressof(ctypes.c_char.from_buffer(mapping))

    def write(self, address: int, values: list[float]) -> None:
        (ctypes.c_float * len(values)).from_address(address)[:] = values

    def read(self, address: int, count: int) -> list[float]:
        return list((ctypes.c_float * count).from_address(address))

    def ipc_handle(self, address: int) -> list[int]:
        handle = (ctypes.c_ubyte * 64)()
        return list(handle) if self.call("cuIpcGetMemHandle", handle, address) == 0 else []

    def ipc_open(self, handle: list[int]) -> int:
        class Handle(ctypes.Structure):
            _fields_ = (("reserved", ctypes.c_ubyte * 64),)

        value = ctypes.c_uint64(0)
        given = Handle((ctypes.c_ubyte * 64)(*handle))
        error = self._library.cuIpcOpenMemHandle_v2(ctypes.byref(value), given, ctypes.c_uint(1))
        return -error if error else value.value


class Client:
    """A process with a `Cuda`, whose methods it has; a `with` block ends the process.

    Args:
        environment: Of the process, besides this one's.
        name: A word of its command line.
    """

    def __init__(self, environment: dict[str, str], name: str = "client") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.client", name],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # the end of its stdin is its end

    def __getattr__(self, method: str) -> Any:
        def ask(*arguments: Any) -> Any:
            self.begin(method, *arguments)
            return self.end()

        return ask

    def begin(self, method: str, *arguments: Any) -> None:
        """Calls a method that need not return yet."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([method, *arguments]) + "\n")
        self._process.stdin.flush()

    def end(self) -> Any:
        """What the method returned that `begin` called."""
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        assert answer, "the client died"
        return json.loads(answer)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def main() -> None:
    cuda = Cuda()
    for line in sys.stdin:
        method, *arguments = json.loads(line)
        print(json.dumps(getattr(cuda, method)(*arguments)), flush=True)


if __name__ == "__main__":
    main()
