"""A function served inside the test's process: engine, pump, segment and front-end data path."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gslice import _native
from gslice.client.tensors import decode, encode, wire_dtype
from gslice.core.types import FunctionSpec, Signature
from gslice.device.cpu import CpuDevice
from gslice.ipc.native import native_signature
from gslice.protos import message
from gslice.worker.engines import make_engine
from gslice.worker.engines.base import Engine, KeepsLanes
from gslice.worker.gpu import GpuDevice
from gslice.worker.warmup import warm_up
from gslice.worker.weights import WeightStore

Arrays = dict[str, np.ndarray]
MIB = 1 << 20
WAIT_MS = 20_000


class PlainEngine:
    """A callable of the test's own in an engine's place."""

    native = False
    trusts_zeros = True
    threads = 0

    def __init__(self, signature: Signature, call: Callable[[_native.Batch], None]) -> None:
        self._signature = signature
        self._call = call

    def load(
        self, spec: FunctionSpec, device: CpuDevice, known: Signature | None = None
    ) -> Signature:
        return self._signature

    def prepare(self, lane: int, bucket: int) -> Callable[[_native.Batch], None]:
        return self._call

    def close(self) -> None:
        pass


class Served:
    """Loads a function as a worker does, and talks to it as a front-end does."""

    def __init__(
        self,
        spec: FunctionSpec,
        engine: Engine | None = None,
        cuda: _native.CudaDevice | None = None,
        store: WeightStore | None = None,
    ) -> None:
        self.engine: Engine = engine or make_engine(spec.engine)
        device: CpuDevice | GpuDevice = CpuDevice((0,), 100.0)
        if cuda is not None:
            store = store or WeightStore(cuda)
            device = GpuDevice(cuda, (0,), store)
        self._store = store
        self.spec = spec
        self.cuda = cuda
        self.signature: Signature = self.engine.load(spec, device)
        if cuda is not None:
            warm_up(self.engine, spec, self.signature, cuda)
        self.name = spec.name
        self.eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.segment = _native.Segment.create(spec.name, [(MIB, 16)], MIB, 8)
        self.segment.activate_frontend(0)
        self._index = self.segment.add_instance()
        shape = native_signature(self.signature)
        prepare = None if self.engine.native else self.engine.prepare
        self.pump = _native.Instance(self.segment, self._index, shape, spec.lanes, prepare, cuda)
        self.pump.add_frontend(0, self.eventfd)
        self._frontend = _native.Frontend(0)
        self._frontend.add_function(spec.name, spec.version, self.segment, shape, 0)
        self.pump.start()

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def move(self, groups: _native.SmGroups, chosen: Sequence[int]) -> None:
        """Goes on on other SMs, as a worker does when its share changes in place."""
        cuda = self.cuda
        assert cuda is not None
        assert isinstance(self.engine, KeepsLanes)
        left = range(cuda.first_lane, cuda.first_lane + cuda.lanes)
        cuda.prepare_move(groups, chosen)
        spare = range(cuda.spare_lane, cuda.spare_lane + cuda.lanes)
        warm_up(self.engine, self.spec, self.signature, cuda, spare)
        self.pump.move()
        self.engine.forget(left)
        cuda.drop_spare()

    def infer(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """One request alone; a failure is raised."""
        (answer,) = self.infer_together([inputs])
        return answer

    def infer_together(self, requests: Sequence[Mapping[str, np.ndarray]]) -> list[Arrays]:
        """Requests that all wait in the queue before the first is claimed."""
        tickets = [
            self._frontend.submit(request_bytes(self.name, inputs, self.signature), None)
            for inputs in requests
        ]
        self.segment.flip(None, self._index)
        waiting = set(tickets)
        poll = select.poll()
        poll.register(self.eventfd, select.POLLIN)
        while waiting:
            waiting -= set(self._frontend.take_done())
            if waiting:
                assert poll.poll(WAIT_MS), f"no answer: {self.segment.counts()}"
                os.eventfd_read(self.eventfd)
        self.segment.flip(self._index, None)
        return [answer_arrays(self._frontend.respond(ticket)) for ticket in tickets]

    def close(self) -> None:
        """Stops it; nothing may be left in the segment."""
        self.pump.stop()
        self.engine.close()
        if self._store is not None:
            self._store.close()
        os.close(self.eventfd)
        counts = self.segment.counts()
        assert counts["free"] == 16, counts
        assert counts["blocks_in_use"] == 0, counts


def request_bytes(name: str, inputs: Mapping[str, np.ndarray], signature: Signature) -> bytes:
    declared = {tensor.name: tensor.dtype for tensor in signature.inputs}
    request = message("inference.ModelInferRequest")(model_name=name)
    for key, array in inputs.items():
        dtype = "BF16" if declared.get(key) == "BF16" else wire_dtype(array.dtype)
        request.inputs.add(name=key, datatype=dtype, shape=array.shape)
        request.raw_input_contents.append(encode(array, dtype))
    serialised: bytes = request.SerializeToString()
    return serialised


def answer_arrays(data: bytes) -> Arrays:
    response: Any = message("inference.ModelInferResponse").FromString(data)
    return {
        output.name: decode(raw, output.datatype, tuple(output.shape))
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }
