"""An ONNX model as a plan: its network, a profile for each batch size, and what it is built for."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gslice.core.errors import InvalidArgument
from gslice.worker.engines.base import DEFAULT_ROWS_MAX
from gslice.worker.shapes import buckets

if TYPE_CHECKING:
    from gslice.core.types import FunctionSpec
    from gslice.worker.engines.tensorrt_api import TensorRt
    from gslice.worker.shapes import Shape

_log = logging.getLogger(__name__)

Profile = dict[str, dict[str, list[int]]]
"""By input, the shapes that are the least (`min`), the usual (`opt`) and the most (`max`)."""

_ENDS = ("min", "opt", "max")


@dataclass(frozen=True)
class Target:
    """What a plan is built for.

    Attributes:
        name: Of the GPU; empty where none is at hand.
        capability: Its compute capability.
    """

    name: str
    capability: tuple[int, int]

    def text(self, library: TensorRt) -> str:
        """What a plan of a library holds for: one GPU, or all of a compute capability."""
        capability = "compute capability {}.{}".format(*self.capability)
        if not library.is_rtx:
            return f"{self.name}, {capability}"
        return capability if self._kind(library) is not None else "any from 8.0 on"

    def apply(self, library: TensorRt, config: Any) -> None:
        """Tells a builder, which builds for the GPU at hand otherwise, or for all of them.

        Raises:
            Internal: It refuses.
        """
        kind = self._kind(library)
        if kind is not None:
            config.num_compute_capabilities = 1
            library.check("choosing the GPU", config.set_compute_capability, kind, 0)

    def _kind(self, library: TensorRt) -> Any:
        if not library.is_rtx:
            return None
        return getattr(library.api.ComputeCapability, "SM{}{}".format(*self.capability), None)


class Network:
    """An ONNX model as a library has read it.

    Args:
        library: Reads it.
        spec: The function.

    Raises:
        Internal: The library refuses.
        InvalidArgument: It has an input that cannot be served, or one of unknown lengths.
    """

    def __init__(self, library: TensorRt, spec: FunctionSpec) -> None:
        self._library = library
        library.start()
        self._builder = library.check("starting", library.api.Builder, library.logger)
        network = library.check("starting", self._builder.create_network, _flags(library))
        parser = library.check("starting", library.api.OnnxParser, network, library.logger)
        library.check(f"reading {spec.model}", parser.parse_from_file, spec.model)
        self._parts = parser, network  # the parser holds weights that the network refers to
        self._network = network
        self.profiles = profiles(spec, _shapes(network), _rows_go_together(network))

    def plan(self, target: Target) -> Any:
        """Builds it, which takes minutes for a large model.

        Returns:
            A buffer.

        Raises:
            Internal: The library refuses.
        """
        library = self._library
        config = library.check("starting", self._builder.create_builder_config)
        target.apply(library, config)
        if library.is_rtx and hasattr(library.api.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
            config.set_flag(library.api.BuilderFlag.REQUIRE_USER_ALLOCATION)  # graphs need it
        for shapes in self.profiles:
            self._add(config, shapes)
        build = self._builder.build_serialized_network
        return library.check("building", build, self._network, config)

    def _add(self, config: Any, shapes: Profile) -> None:
        library = self._library
        profile = library.check("starting", self._builder.create_optimization_profile)
        for name, ends in shapes.items():
            what = f"a profile of {name!r} from {ends['min']} to {ends['max']}"
            library.do(what, profile.set_shape, name, *(tuple(ends[end]) for end in _ENDS))
        index = library.check("adding a profile", config.add_optimization_profile, profile)
        if index < 0:
            raise library.refused("adding a profile")


def profiles(
    spec: FunctionSpec, inputs: Mapping[str, Shape], rows_go_together: bool
) -> list[Profile]:
    """The profiles of a model: one for each batch size, which then has kernels of its own.

    A first dimension without a fixed length holds rows, unless `shapes` give lengths for it. Other
    lengths that the model leaves open are as `shapes` say.

    Args:
        spec: The function.
        inputs: As the model declares them, with -1 where it fixes no length.
        rows_go_together: The first dimensions have one name, as far as they have any.

    Raises:
        InvalidArgument: A length is nowhere said, or `shapes` do not fit the model.
    """
    given: Mapping[str, Mapping[str, list[int]]] = spec.args.get("shapes", {})
    for name in given:
        if name not in inputs:
            raise InvalidArgument(
                f"shapes: the model has no input {name!r}; it has {', '.join(inputs)}"
            )
    ends = {name: _ends(name, shape, given.get(name)) for name, shape in inputs.items()}
    if not any(-1 in shape for shape in inputs.values()):
        return []
    firsts = {each[end][:1] == [-1] for each in ends.values() for end in _ENDS}
    if firsts == {True} and rows_go_together:
        sizes: Sequence[int] = buckets(spec.batch_max or DEFAULT_ROWS_MAX)
        return [_with_rows(ends, rows) for rows in sizes]
    for name, each in ends.items():
        if any(-1 in each[end] for end in _ENDS):
            raise InvalidArgument(
                f"the first dimensions of the inputs are no rows together, and {name!r} has "
                f"{list(inputs[name])}",
                hint=f"give `shapes: {{{name}: {{min: ..., opt: ..., max: ...}}}}` in full",
            )
    return [ends]


def _ends(
    name: str, declared: Shape, given: Mapping[str, list[int]] | None
) -> dict[str, list[int]]:
    """The three shapes of an input, with -1 in place of rows."""
    if given is None:
        if -1 in declared[1:]:
            raise InvalidArgument(
                f"input {name!r} has {list(declared)}, of which some lengths are open",
                hint=f"give them as `shapes: {{{name}: {{min: ..., opt: ..., max: ...}}}}`, "
                "with -1 for rows",
            )
        return {end: list(declared) for end in _ENDS}
    shapes = {end: list(given[end]) for end in _ENDS}
    for end, shape in shapes.items():
        if not _fits(declared, shape):
            raise InvalidArgument(
                f"shapes: {name}: {end}: {shape} does not fit {list(declared)}, which the model has"
            )
    return shapes


def _fits(declared: Shape, shape: Sequence[int]) -> bool:
    """Whether lengths are those that the model fixes, and numbers elsewhere; -1 first for rows."""
    if len(shape) != len(declared) or -1 in shape[1:]:
        return False
    return all(there in (-1, length) for there, length in zip(declared, shape, strict=True))


def _with_rows(ends: Profile, rows: int) -> Profile:
    return {
        name: {end: [rows, *shape[1:]] for end, shape in each.items()}
        for name, each in ends.items()
    }


def _flags(library: TensorRt) -> int:
    """What computes in the model's own types, where the library could choose others."""
    flag = getattr(library.api.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _inputs(network: Any) -> list[Any]:
    return [network.get_input(index) for index in range(network.num_inputs)]


def _shapes(network: Any) -> dict[str, Shape]:
    for tensor in _inputs(network):
        if tensor.is_shape_tensor:
            raise InvalidArgument(
                f"input {tensor.name!r} holds lengths that are read on the host, which cannot be "
                "served",
                hint="export the model with fixed lengths there",
            )
    return {tensor.name: tuple(tensor.shape) for tensor in _inputs(network)}


def _rows_go_together(network: Any) -> bool:
    """Whether the first dimensions of the inputs have one name, and outputs have a free one."""
    names = {tensor.get_dimension_name(0) for tensor in _inputs(network) if len(tensor.shape)}
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    return len(names - {"", None}) <= 1 and all(
        len(tensor.shape) > 0 and tensor.shape[0] == -1 for tensor in outputs
    )
