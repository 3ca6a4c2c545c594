"""What the stand-in for TensorRT is asked by: its enumerations, its interfaces, its refusals."""

from __future__ import annotations

import abc
import enum
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3
    BOOL = 4
    UINT8 = 5
    FP8 = 6
    BF16 = 7
    INT64 = 8


TYPES = {
    onnx.TensorProto.FLOAT: (DataType.FLOAT, np.float32),
    onnx.TensorProto.FLOAT16: (DataType.HALF, np.float16),
    onnx.TensorProto.INT8: (DataType.INT8, np.int8),
    onnx.TensorProto.INT32: (DataType.INT32, np.int32),
    onnx.TensorProto.INT64: (DataType.INT64, np.int64),
    onnx.TensorProto.UINT8: (DataType.UINT8, np.uint8),
    onnx.TensorProto.BOOL: (DataType.BOOL, np.bool_),
    onnx.TensorProto.FLOAT8E4M3FN: (DataType.FP8, np.uint8),
}


class TensorIOMode(enum.Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class TensorLocation(enum.Enum):
    DEVICE = 0
    HOST = 1


class TensorFormat(enum.Enum):
    LINEAR = 0
    CHW4 = 1


class NetworkDefinitionCreationFlag(enum.IntEnum):
    EXPLICIT_BATCH = 0
    STRONGLY_TYPED = 1


class ExecutionContextAllocationStrategy(enum.IntEnum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class DynamicShapesKernelSpecializationStrategy(enum.IntEnum):
    LAZY = 0
    EAGER = 1
    NONE = 2


class ComputeCapability(enum.IntEnum):
    NONE = 0
    CURRENT = 1
    SM80 = 80
    SM89 = 89


class BuilderFlag(enum.IntEnum):
    REQUIRE_USER_ALLOCATION = 20


class ILogger(abc.ABC):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    @abc.abstractmethod
    def log(self, severity: int, msg: str) -> None: ...


class IOutputAllocator:
    pass


def refusable(otherwise: object) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A call that can be refused: it then tells the logger why, and returns this."""

    def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def made(self: Any, *arguments: Any) -> Any:
            why = self.api.refusals.get(call.__name__)
            if why is None:
                return call(self, *arguments)
            return self.api.refuse(why, otherwise)

        return made

    return wrap
