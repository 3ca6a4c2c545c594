"""The CUDA provider of ONNX Runtime: a session for each lane, on the lane's stream.

A session computes on one stream for good, so each lane has one, with weights and an arena of its
own. A run enqueues on that stream and does not wait for it at its end; nothing is copied but what
the model itself makes a node run on the CPU for. Such models are refused, for each of their batches
waits in the middle: unless they only compute shapes there, which are known without a wait.

ONNX Runtime's CUDA graphs stay off: docs/decisions/0024-onnxruntime-cuda.md says why.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnxruntime as ort

from gslice.core.errors import LoadFailed
from gslice.core.packages import OnnxRuntimePackages, cuda_provider
from gslice.core.units import parse_size

if TYPE_CHECKING:
    from gslice._native import Batch, CudaDevice
    from gslice.core.types import FunctionSpec

_log = logging.getLogger(__name__)

_HOST = "Cpu"  # what ONNX Runtime calls the host's memory

# What models compute shapes with. ONNX Runtime keeps such nodes on the CPU by itself where all that
# they read is there already, as a tensor's shape always is.
_OF_SHAPES = {
    *("Add", "And", "Cast", "Ceil", "Concat", "Constant", "ConstantOfShape", "Div", "Equal"),
    *("Expand", "Flatten", "Floor", "Gather", "Greater", "GreaterOrEqual", "Identity"),
    *("Less", "LessOrEqual", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pow", "Range"),
    *("ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape", "Round", "ScatterND"),
    *("Shape", "Size", "Slice", "Split", "Sqrt", "Squeeze", "Sub", "Transpose"),
    *("Unsqueeze", "Where"),
}


class CudaProvider:
    """See the module, and `onnx_provider.Provider`.

    Args:
        cuda: The open device; ONNX Runtime shares its primary context.
    """

    name = "CUDAExecutionProvider"
    place = "cuda"
    threads = 1  # they compute shapes

    def __init__(self, cuda: CudaDevice) -> None:
        self._cuda = cuda
        self._asynchronous = ort.RunOptions()
        # The pump polls the lane's event instead.
        self._asynchronous.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def session(
        self, spec: FunctionSpec, options: ort.SessionOptions, lane: int
    ) -> ort.InferenceSession:
        """See `Provider.session`."""
        if lane == 0:
            self._prepare(spec)
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        session = self.open(spec, options, self.settings(spec, lane))
        if self.name not in session.get_providers():
            raise LoadFailed(
                f"function {spec.name}: onnxruntime {ort.__version__} cannot use "
                f"{self._cuda.name}: {_why_not_loaded(cuda_provider())}",
                hint="pip install 'gslice[cuda]' brings what its CUDA provider needs",
            )
        return session

    def settings(self, spec: FunctionSpec, lane: int) -> dict[str, str]:
        """The provider's options for a lane."""
        settings = {
            "device_id": "0",  # a worker sees one GPU
            "user_compute_stream": str(self._cuda.lane_stream(lane)),
            "do_copy_in_default_stream": "1",  # on the lane's: in its order, without a wait
            "arena_extend_strategy": "kSameAsRequested",  # else up to twice what is needed
            # A search by trial would be beside other functions, and end differently each time.
            "cudnn_conv_algo_search": "HEURISTIC",
            "enable_cuda_graph": "0",
        }
        if arena := spec.args.get("arena"):
            settings["gpu_mem_limit"] = str(parse_size(str(arena)) // spec.lanes)
        return settings

    def open(
        self, spec: FunctionSpec, options: ort.SessionOptions, settings: dict[str, str]
    ) -> ort.InferenceSession:
        """A session with these options of the provider."""
        # Without the fallback of Python's wrapper, which prints and goes on with the CPU.
        return ort.InferenceSession(spec.model, options, [(self.name, settings)], enable_fallback=0)

    def check(self, spec: FunctionSpec, session: ort.InferenceSession) -> None:
        """Refuses a model that waits for the CPU within its batches: see the module.

        Raises:
            LoadFailed: It does, or this ONNX Runtime does not tell.
        """
        if not hasattr(session, "get_provider_graph_assignment_info"):
            raise LoadFailed(
                f"function {spec.name}: onnxruntime {ort.__version__} does not tell what it "
                "computes on the CPU",
                hint="pip install -U 'gslice[cuda]': from 1.24 on it does",
            )
        inputs = zip(session.get_inputs(), session.get_input_memory_infos(), strict=True)
        _refuse_host_inputs(spec, [value.name for value, info in inputs if info.name == _HOST])
        parts = session.get_provider_graph_assignment_info()
        elsewhere = [n for part in parts if part.ep_name != self.name for n in part.get_nodes()]
        _refuse_cpu_nodes(spec, elsewhere)

    def run(self, session: ort.InferenceSession, binding: ort.IOBinding, batch: Batch) -> None:
        """See `Provider.run`."""
        session.run_with_iobinding(binding, self._asynchronous)

    def give(
        self, batch: Batch, binding: ort.IOBinding, unknown: Sequence[tuple[int, str]]
    ) -> None:
        """See `Provider.give`. The binding keeps their memory until the lane's next batch."""
        values = binding.get_outputs()
        for index, dtype in unknown:
            value = values[index]
            batch.set_output_ptr(index, value.data_ptr(), tuple(value.shape()), dtype)

    def _prepare(self, spec: FunctionSpec) -> None:
        """Sees that this ONNX Runtime has the provider, and loads the libraries that it needs."""
        ort.preload_dlls()  # of NVIDIA's packages, where the loader does not look
        packages = OnnxRuntimePackages.find()
        what, hint = packages.problem(on_gpu=True)
        if self.name not in ort.get_available_providers():
            reason = what or f"onnxruntime {ort.__version__}: {_why_not_loaded(cuda_provider())}"
            raise LoadFailed(
                f"function {spec.name}: there is no CUDA provider: {reason}",
                hint=hint or "pip install 'gslice[cuda]'",
            )
        if packages.both:
            _log.warning("%s: %s", what, hint)


def _refuse_host_inputs(spec: FunctionSpec, names: Sequence[str]) -> None:
    """They would be read before they have come: ONNX Runtime copies them on no stream of ours."""
    if names:
        raise LoadFailed(
            f"function {spec.name}: {spec.model} reads input {names[0]!r} on the CPU",
            hint="put it on `device: cpu`, or make that input a constant of the model",
        )


def _refuse_cpu_nodes(spec: FunctionSpec, nodes: Iterable[Any]) -> None:
    """Nodes that compute more than shapes on the CPU; `args: {cpu_nodes: true}` takes them."""
    plain, strays = Counter[str](), Counter[str]()
    for node in nodes:
        of_shapes = node.domain in ("", "ai.onnx") and node.op_type in _OF_SHAPES
        (plain if of_shapes else strays)[node.op_type] += 1
    if plain:
        _log.info("on the CPU, for shapes: %s", _listed(plain))
    if not strays:
        return
    text = f"{spec.model} has nodes that run on the CPU, which each batch waits for"
    if spec.args.get("cpu_nodes") is not True:
        raise LoadFailed(
            f"function {spec.name}: {text}: {_listed(strays)}",
            hint="put it on `device: cpu`, or take that with `args: {cpu_nodes: true}`",
        )
    _log.warning("%s: %s", text, _listed(strays))


def _listed(counts: Counter[str]) -> str:
    """Such as `Unique, 2 TfIdfVectorizer`."""
    return ", ".join(f"{n} {kind}" if n > 1 else kind for kind, n in sorted(counts.items()))


def _why_not_loaded(library: Path | None) -> str:
    """What the loader says of the provider's library, which needs CUDA's and cuDNN's."""
    if library is None:
        return "it is built without a CUDA provider"
    try:
        # What the provider's library takes for granted, in the process already.
        shared = library.with_name("libonnxruntime_providers_shared.so")
        ctypes.CDLL(os.fspath(shared), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(os.fspath(library))
    except OSError as error:
        return str(error).partition("\n")[0]
    return "its CUDA provider does not start; the log says why"
