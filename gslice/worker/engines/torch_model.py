"""PyTorch models as a signature and a call: exported programs, and modules that a factory makes."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from gslice.core.errors import LoadFailed
from gslice.core.types import Signature, TensorSpec
from gslice.worker.engines.declared import declared_signature, find_object
from gslice.worker.engines.files import check_model_file
from gslice.worker.engines.torch_export import ProgramReader
from gslice.worker.engines.torch_types import PRECISIONS

if TYPE_CHECKING:
    from gslice.core.types import FunctionSpec

_log = logging.getLogger(__name__)

Tensors = list[torch.Tensor]


@dataclass(frozen=True)
class TorchModel:
    """A loaded model.

    Attributes:
        signature: What it takes and gives.
        run: From tensors in the order of the signature's inputs to those of its outputs.
    """

    signature: Signature
    run: Callable[[Tensors], Tensors]


Place = Callable[[torch.nn.Module], None]
"""Puts the parameters of a module where they are to lie; the rest follows them."""


def load_model(
    spec: FunctionSpec, device: torch.device, place: Place = lambda module: None
) -> TorchModel:
    """Loads the function's exported program, or calls its factory.

    Args:
        spec: The function.
        device: Where it runs.
        place: Called with the module, whose parameters are in host memory unless the user's code
            has put them elsewhere.

    Raises:
        LoadFailed: It cannot be served; the message says why.
    """
    model = _exported(spec, device, place) if spec.model else _made(spec, device, place)
    return TorchModel(model.signature, _cast(spec, model.run))


def _exported(spec: FunctionSpec, device: torch.device, place: Place) -> TorchModel:
    check_model_file(spec)
    try:
        program = torch.export.load(spec.model)
    except Exception as error:
        raise LoadFailed(
            f"function {spec.name}: torch cannot load {spec.model}: {_line(error)}",
            hint="write it with torch.export.save",
        ) from error
    reader = ProgramReader(spec, program)
    module = _formed(spec, device, lambda: _module_on(program, device), place)
    structure = program.call_spec.in_spec

    def run(tensors: Tensors) -> Tensors:
        arguments, named = pytree.tree_unflatten(reader.flat_arguments(tensors), structure)
        return reader.tensors_of(module(*arguments, **named))

    return TorchModel(reader.signature, run)


def _module_on(program: Any, device: torch.device) -> torch.nn.Module:
    """The program's module; the device that the export wrote into the program is replaced too."""
    if device.type != "cpu":
        from torch.export import passes

        if hasattr(passes, "move_to_device_pass"):  # since torch 2.6
            with _without_parameters(program):
                program = passes.move_to_device_pass(program, device)
    module: torch.nn.Module = program.module()
    return module


@contextmanager
def _without_parameters(program: Any) -> Iterator[None]:
    """The parameters stay where they are: another worker may have them on the device already."""
    state = program.state_dict
    kept = {name: v for name, v in state.items() if isinstance(v, torch.nn.Parameter)}
    for name, parameter in kept.items():
        nothing = torch.empty(0, dtype=parameter.dtype)
        state[name] = torch.nn.Parameter(nothing, parameter.requires_grad)
    try:
        yield
    finally:
        state.update(kept)


def _made(spec: FunctionSpec, device: torch.device, place: Place) -> TorchModel:
    factory = find_object(spec, "factory")
    try:
        module = factory(**spec.args)
    except Exception as error:
        _log.exception("%s failed", spec.python)
        raise LoadFailed(f"function {spec.name}: {spec.python}: {_line(error)}") from error
    if not isinstance(module, torch.nn.Module):
        raise LoadFailed(
            f"function {spec.name}: {spec.python} gave a {type(module).__name__}, "
            "not a torch.nn.Module"
        )
    signature = declared_signature(spec, module)
    _refuse_text(spec, signature)
    formed = _formed(spec, device, module.eval, place)
    names = [tensor.name for tensor in signature.inputs]
    by_name = set(names) <= set(inspect.signature(module.forward).parameters)

    def run(tensors: Tensors) -> Tensors:
        named = dict(zip(names, tensors, strict=True))
        return _in_order(formed(**named) if by_name else formed(*tensors), signature.outputs)

    return TorchModel(signature, run)


def _refuse_text(spec: FunctionSpec, signature: Signature) -> None:
    for tensor in (*signature.inputs, *signature.outputs):
        if tensor.dtype == "BYTES":
            raise LoadFailed(
                f"function {spec.name}: {spec.python}: tensor {tensor.name!r} is BYTES, which "
                "torch cannot hold",
                hint="the python engine takes text",
            )


def _in_order(results: Any, outputs: tuple[TensorSpec, ...]) -> Tensors:
    if isinstance(results, Mapping):
        for tensor in outputs:
            if tensor.name not in results:
                raise ValueError(f"the model returned no output {tensor.name!r}")
        return [results[tensor.name] for tensor in outputs]
    given = list(results) if isinstance(results, (tuple, list)) else [results]
    if len(given) != len(outputs):
        raise ValueError(f"the model returned {len(given)} outputs, it declares {len(outputs)}")
    return given


def _formed(
    spec: FunctionSpec,
    device: torch.device,
    make: Callable[[], torch.nn.Module],
    place: Place,
) -> torch.nn.Module:
    """The module on its device, in the precision and the memory format that were asked for."""
    try:
        module = make()
        if spec.precision != "auto":
            module = module.to(PRECISIONS[spec.precision])
        if spec.channels_last:
            module = module.to(memory_format=torch.channels_last)
        place(module)
        return module.to(device)
    except Exception as error:
        raise LoadFailed(
            f"function {spec.name}: the model cannot be put on {device}: {_line(error)}"
        ) from error


def _cast(spec: FunctionSpec, run: Callable[[Tensors], Tensors]) -> Callable[[Tensors], Tensors]:
    """Gives the inputs as the module wants them; outputs are cast where they are written."""
    dtype = PRECISIONS.get(spec.precision)
    if dtype is None and not spec.channels_last:
        return run

    def as_wanted(tensor: torch.Tensor) -> torch.Tensor:
        if dtype is not None and tensor.is_floating_point():
            tensor = tensor.to(dtype)
        if spec.channels_last and tensor.dim() == 4:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        return tensor

    return lambda tensors: run([as_wanted(tensor) for tensor in tensors])


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
