"""TensorRT's Python package, and TensorRT-RTX's, where there is neither: ONNX Runtime in its place.

The calls are those that gslice makes, with what their documentation says of them: what may return
None or False does so on demand, and tells the logger why. A plan is the model with its profiles.
Batches run over the memory of the fake libcuda, which is memory of the process, as one host
function on the stream; so captures hold them, and the pump replays them as it would a GPU's.
"""

from __future__ import annotations

import base64
import functools
import json
import os
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from tests.fakes.tensorrt_context import Context
from tests.fakes.tensorrt_types import (
    TYPES,
    BuilderFlag,
    ComputeCapability,
    DataType,
    DynamicShapesKernelSpecializationStrategy,
    ExecutionContextAllocationStrategy,
    ILogger,
    IOutputAllocator,
    NetworkDefinitionCreationFlag,
    TensorFormat,
    TensorIOMode,
    TensorLocation,
    refusable,
)

_MAGIC = b"a plan of tests/fakes/tensorrt.py: "
_WORK_BYTES_PER_ROW = 1024


class FakeTensorRt:
    """The package: goes into `sys.modules` under its name.

    Args:
        name: `tensorrt` or `tensorrt_rtx`.
        version: Of it; plans of another do not load.

    Attributes:
        refusals: By the name of a call, why it is refused.
        builds: How often a plan was built.
        captured: Profiles of contexts whose work a capture recorded.
        violations: What a real library would have answered with a crash or with nonsense.
    """

    DataType = DataType
    TensorIOMode = TensorIOMode
    TensorLocation = TensorLocation
    TensorFormat = TensorFormat
    NetworkDefinitionCreationFlag = NetworkDefinitionCreationFlag
    ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy
    BuilderFlag = BuilderFlag
    ILogger = ILogger
    IOutputAllocator = IOutputAllocator

    def __init__(self, name: str = "tensorrt", version: str = "10.14.1.48") -> None:
        self.__name__, self.__version__ = name, version
        self.is_rtx = name == "tensorrt_rtx"
        self.refusals: dict[str, str] = {}
        self.builds = 0
        self.captured: list[int] = []
        self.violations: list[str] = []
        self.contexts: list[Context] = []
        self.aux_streams = 0  # that a context forks into
        self.host_tensors: set[str] = set()
        self.packed_tensors: set[str] = set()
        self.logger: ILogger | None = None
        self.has_plugins = False
        if self.is_rtx:
            self.ComputeCapability = ComputeCapability
            self.DynamicShapesKernelSpecializationStrategy = (
                DynamicShapesKernelSpecializationStrategy
            )

    def init_libnvinfer_plugins(self, logger: ILogger, namespace: str) -> bool:
        self.logger = logger
        self.has_plugins = "init_libnvinfer_plugins" not in self.refusals
        return self.has_plugins or self.refuse(self.refusals["init_libnvinfer_plugins"], False)

    def Builder(self, logger: ILogger) -> Builder:
        self.logger = logger
        if "Builder" in self.refusals:  # as pybind tells of a null
            self.refuse(self.refusals["Builder"], None)
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return Builder(self)

    def OnnxParser(self, network: Network, logger: ILogger) -> OnnxParser:
        return OnnxParser(self, network)

    def Runtime(self, logger: ILogger) -> Runtime:
        self.logger = logger
        return Runtime(self)

    def refuse(self, why: str, answer: object) -> Any:
        assert self.logger is not None
        self.logger.log(ILogger.ERROR, why)
        return answer


class Builder:
    def __init__(self, api: FakeTensorRt) -> None:
        self.api = api

    @refusable(None)
    def create_network(self, flags: int) -> Network:
        assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return Network()

    @refusable(None)
    def create_builder_config(self) -> BuilderConfig:
        return BuilderConfig(self.api)

    @refusable(None)
    def create_optimization_profile(self) -> OptimizationProfile:
        return OptimizationProfile(self.api)

    @refusable(None)
    def build_serialized_network(self, network: Network, config: BuilderConfig) -> Any:
        is_open = any(-1 in tensor.shape for tensor in network.inputs)
        if is_open and not config.profiles:
            return self.api.refuse("Network has dynamic inputs, but no profile is defined", None)
        self.api.builds += 1
        plan = {
            "version": self.api.__version__,
            "library": self.api.__name__,
            "capabilities": [str(each.name) for each in config.capabilities if each],
            "profiles": config.profiles or [{}],
            "model": base64.b64encode(network.model.SerializeToString()).decode(),
        }
        return bytearray(_MAGIC + json.dumps(plan).encode())


class Network:
    model: onnx.ModelProto

    def __init__(self) -> None:
        self.inputs: list[NetworkTensor] = []
        self.outputs: list[NetworkTensor] = []

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    @property
    def num_outputs(self) -> int:
        return len(self.outputs)

    def get_input(self, index: int) -> NetworkTensor:
        return self.inputs[index]

    def get_output(self, index: int) -> NetworkTensor:
        return self.outputs[index]


class NetworkTensor:
    def __init__(self, value: onnx.ValueInfoProto) -> None:
        kind = value.type.tensor_type
        self.name = value.name
        self.dims = list(kind.shape.dim)
        self.shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in self.dims)
        self.is_shape_tensor = value.name.startswith("lengths")
        self.dtype = TYPES[kind.elem_type]

    def get_dimension_name(self, axis: int) -> str:
        return str(self.dims[axis].dim_param)


class OnnxParser:
    def __init__(self, api: FakeTensorRt, network: Network) -> None:
        self.api, self.network = api, network

    @refusable(False)
    def parse_from_file(self, path: str) -> bool:
        try:
            model = onnx.load(path)
        except Exception:
            return bool(self.api.refuse(f"Failed to parse ONNX model from file: {path}!", False))
        if not self.api.has_plugins and any(n.op_type == "NonZero" for n in model.graph.node):
            return bool(self.api.refuse("NonZero was not found in plugin registry", False))
        network = self.network
        network.model = model
        network.inputs = [NetworkTensor(value) for value in model.graph.input]
        network.outputs = [NetworkTensor(value) for value in model.graph.output]
        return True


class BuilderConfig:
    def __init__(self, api: FakeTensorRt) -> None:
        self.api = api
        self.profiles: list[dict[str, Any]] = []
        self.capabilities: list[Any] = []

    @property
    def num_compute_capabilities(self) -> int:
        return len(self.capabilities)

    @num_compute_capabilities.setter
    def num_compute_capabilities(self, count: int) -> None:
        self.capabilities = [None] * count

    @refusable(False)
    def set_compute_capability(self, capability: ComputeCapability, index: int) -> bool:
        self.capabilities[index] = capability
        return True

    def set_flag(self, flag: BuilderFlag) -> None:
        assert self.api.is_rtx

    @refusable(-1)
    def add_optimization_profile(self, profile: OptimizationProfile) -> int:
        self.profiles.append(profile.shapes)
        return len(self.profiles) - 1


class OptimizationProfile:
    def __init__(self, api: FakeTensorRt) -> None:
        self.api = api
        self.shapes: dict[str, list[tuple[int, ...]]] = {}

    def set_shape(self, name: str, *ends: tuple[int, ...]) -> None:
        if "set_shape" in self.api.refusals:
            raise RuntimeError(self.api.refusals["set_shape"])
        self.shapes[name] = list(ends)


class Runtime:
    def __init__(self, api: FakeTensorRt) -> None:
        self.api = api

    @refusable(None)
    def deserialize_cuda_engine(self, plan: Any) -> CudaEngine | None:
        content = bytes(plan)
        if not content.startswith(_MAGIC):
            self.api.refuse("Magic tag does not match", None)
            return None
        told = json.loads(content[len(_MAGIC) :])
        if (told["library"], told["version"]) != (self.api.__name__, self.api.__version__):
            self.api.refuse(f"The plan is of {told['library']} {told['version']}", None)
            return None
        return CudaEngine(self.api, told)


class CudaEngine:
    def __init__(self, api: FakeTensorRt, plan: dict[str, Any]) -> None:
        self.api = api
        content = base64.b64decode(plan["model"])
        model = onnx.load_from_string(content)
        self.inputs = [NetworkTensor(value) for value in model.graph.input]
        self.outputs = [NetworkTensor(value) for value in model.graph.output]
        self.profiles = plan["profiles"]
        self.capabilities = plan["capabilities"]
        self._tensors = {tensor.name: tensor for tensor in (*self.inputs, *self.outputs)}
        self._content = content

    @functools.cached_property
    def session(self) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        return onnxruntime.InferenceSession(self._content, options, ["CPUExecutionProvider"])

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    @property
    def num_aux_streams(self) -> int:
        return self.api.aux_streams

    @property
    def num_optimization_profiles(self) -> int:
        return len(self.profiles)

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        is_input = any(tensor.name == name for tensor in self.inputs)
        return TensorIOMode.INPUT if is_input else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return self._tensors[name].dtype[0]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name].shape

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.HOST if name in self.api.host_tensors else TensorLocation.DEVICE

    def get_tensor_format(self, name: str) -> TensorFormat:
        return TensorFormat.CHW4 if name in self.api.packed_tensors else TensorFormat.LINEAR

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        return [tuple(shape) for shape in self.profiles[index][name]]

    def get_device_memory_size_for_profile_v2(self, index: int) -> int:
        ends = self.profiles[index].values()
        return _WORK_BYTES_PER_ROW * max((shape[2][0] for shape in ends if shape[2]), default=1)

    @refusable(None)
    def create_execution_context(self, settings: Any) -> Context:
        strategy = settings.strategy if isinstance(settings, RuntimeConfig) else settings
        assert strategy == ExecutionContextAllocationStrategy.USER_MANAGED
        if isinstance(settings, RuntimeConfig):
            settings.compile(self.api)
        context = Context(self)
        self.api.contexts.append(context)
        return context

    @refusable(None)
    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig(self.api)


class RuntimeConfig:
    dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY

    def __init__(self, api: FakeTensorRt) -> None:
        self.api = api
        self.strategy = ExecutionContextAllocationStrategy.STATIC
        self.cache: RuntimeCache | None = None

    def set_execution_context_allocation_strategy(
        self, strategy: ExecutionContextAllocationStrategy
    ) -> None:
        self.strategy = strategy

    @refusable(None)
    def create_runtime_cache(self) -> RuntimeCache:
        return RuntimeCache(self.api)

    @refusable(False)
    def set_runtime_cache(self, cache: RuntimeCache) -> bool:
        self.cache = cache
        return True

    def compile(self, api: FakeTensorRt) -> None:
        eager = DynamicShapesKernelSpecializationStrategy.EAGER
        if self.dynamic_shapes_kernel_specialization_strategy is not eager:
            api.violations.append("a graph may hold kernels that are replaced later")
        if self.cache is not None:
            self.cache.content += b"k"


class RuntimeCache:
    def __init__(self, api: FakeTensorRt) -> None:
        self.api = api
        self.content = b""

    @refusable(None)
    def serialize(self) -> bytes:
        return self.content

    @refusable(False)
    def deserialize(self, content: bytes) -> bool:
        self.content = content
        return True


def install(folder: Path) -> str:
    """Puts both packages into a folder.

    Returns:
        What PYTHONPATH has to be for a process that is to find them.
    """
    folder.mkdir()
    for name in ("tensorrt", "tensorrt_rtx"):
        text = "import sys\nfrom tests.fakes.tensorrt import FakeTensorRt\n"
        text += f"sys.modules[__name__] = FakeTensorRt({name!r})\n"
        (folder / f"{name}.py").write_text(text)
    return os.pathsep.join((os.fspath(folder), os.fspath(Path(__file__).parents[2])))


def lengths(path: Path) -> list[dict[str, list[list[int]]]]:
    """The profiles of a plan."""
    told = json.loads(path.read_bytes()[len(_MAGIC) :])
    profiles: list[dict[str, list[list[int]]]] = told["profiles"]
    return profiles
