"""A daemon's control API and a KServe server that answer from memory, for tests of the clients."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from gslice.protos import message
from gslice.protos.rpc import generic_handler


def control_message(name: str, /, **fields: Any) -> Any:
    return message(f"gslice.v1.{name}")(**fields)


def kserve_message(name: str, /, **fields: Any) -> Any:
    return message(f"inference.{name}")(**fields)


class FakeControl:
    """gslice.v1.Control; remembers what it was asked."""

    def __init__(self, status: Any) -> None:
        self.status = status
        self.changes: list[Any] = []
        self.overruled: list[str] = []
        self.time_left_s: dict[str, float] = {}
        self.stages = [
            control_message("Stage", name="plan", elapsed_ms=0.5, detail="share 40%"),
            control_message("Stage", name="done", elapsed_ms=1234.0),
        ]
        self.events: list[Any] = []
        self.versions: list[Any] = []
        self.profile: list[Any] = []
        self.recorded: list[Any] = []
        self.planned: list[Any] = []
        self.apply_plan = control_message("ApplyPlan", path="/etc/node.yaml", digest="d1")
        self.asked: list[Any] = []

    def GetStatus(self, request: Any, context: Any) -> Any:
        return self.status

    def Watch(self, request: Any, context: Any) -> Iterator[Any]:
        yield self.status
        yield self.status

    def Load(self, request: Any, context: Any) -> Iterator[Any]:
        self.asked.append(request)
        if request.name == "absent":
            context.abort(grpc.StatusCode.NOT_FOUND, "no function absent is declared")
        yield from self.stages

    Unload = Resize = Rollback = Load

    def Drain(self, request: Any, context: Any) -> Iterator[Any]:
        self.asked.append(request)
        if request.device == "broken":
            yield control_message("Stage", name="failed", detail="the daemon is stopping")
            return
        if not request.undo:
            yield control_message("Stage", name="moved", detail="detector: to cpu:1-1")
            yield control_message("Stage", name="stay", detail="tagger: pinned to it")
        yield control_message("Stage", name="done")

    def Profile(self, request: Any, context: Any) -> Iterator[Any]:
        self.asked.append(request)
        yield from self.profile

    def Record(self, request: Any, context: Any) -> Iterator[Any]:
        self.asked.append(request)
        yield from self.recorded

    def Plan(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        return control_message("PlanReply", functions=self.planned)

    def Versions(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        return control_message("VersionsReply", versions=self.versions)

    def Diff(self, request: Any, context: Any) -> Any:
        self.time_left_s["Diff"] = context.time_remaining()
        return control_message("DiffReply", changes=self.changes)

    def Save(self, request: Any, context: Any) -> Any:
        self.time_left_s["Save"] = context.time_remaining()
        self.asked.append(request)
        return control_message(
            "SaveReply",
            path=self.status.config_path,
            changes=self.changes,
            overruled=self.overruled,
        )

    def PlanApply(self, request: Any, context: Any) -> Any:
        return self.apply_plan

    def Apply(self, request: Any, context: Any) -> Iterator[Any]:
        self.asked.append(request)
        yield from self.stages

    def Logs(self, request: Any, context: Any) -> Iterator[Any]:
        self.asked.append(request)
        for text in ("one", "two"):
            yield control_message("LogLine", text=text)

    def Events(self, request: Any, context: Any) -> Iterator[Any]:
        self.asked.append(request)
        yield from self.events

    def Upgrade(self, request: Any, context: Any) -> Iterator[Any]:
        yield control_message("Stage", name="done")

    def Shutdown(self, request: Any, context: Any) -> Any:
        return control_message("ShutdownReply")


class FakeKServe:
    """inference.GRPCInferenceService with one function, `echo`, whose outputs are its inputs.

    Args:
        inputs: Its tensors: name, TYPE_... and shape, without the batch dimension.
        rows_max: Of its batches.
    """

    def __init__(self, inputs: list[tuple[str, str, list[int]]], rows_max: int = 8) -> None:
        self._inputs = inputs
        self._rows_max = rows_max
        self.requests: list[Any] = []
        self.fail_every = 0

    def __getattr__(self, name: str) -> Any:
        def unimplemented(request: Any, context: Any) -> None:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, name)

        return unimplemented

    def ModelConfig(self, request: Any, context: Any) -> Any:
        if request.name != "echo":
            context.abort(grpc.StatusCode.NOT_FOUND, f"no function is called {request.name}")
        config = kserve_message("ModelConfig", name="echo", max_batch_size=self._rows_max)
        for name, dtype, dims in self._inputs:
            config.input.add(name=name, data_type=dtype, dims=dims)
            config.output.add(name=f"out_{name}", data_type=dtype, dims=dims)
        return kserve_message("ModelConfigResponse", config=config)

    def ModelInfer(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        if self.fail_every and len(self.requests) % self.fail_every == 0:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no slot is free")
        answer = kserve_message("ModelInferResponse", model_name="echo", model_version="1")
        for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
            answer.outputs.add(name=f"out_{tensor.name}", datatype=tensor.datatype).shape.extend(
                tensor.shape
            )
            answer.raw_output_contents.append(raw)
        return answer


@contextlib.contextmanager
def serving(service: str, servicer: object, address: str) -> Iterator[str]:
    """Serves while the context is open; gives the address, with its real port."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers((generic_handler(service, servicer),))
        port = server.add_insecure_port(address)
        server.start()
        try:
            yield address if address.startswith("unix:") else f"127.0.0.1:{port}"
        finally:
            server.stop(None).wait()


@contextlib.contextmanager
def control_server(state_dir: Path, servicer: FakeControl) -> Iterator[FakeControl]:
    state_dir.mkdir(parents=True, exist_ok=True)
    with serving("gslice.v1.Control", servicer, f"unix:{state_dir}/control.sock"):
        yield servicer


@contextlib.contextmanager
def kserve_server(servicer: FakeKServe) -> Iterator[str]:
    with serving("inference.GRPCInferenceService", servicer, "127.0.0.1:0") as address:
        yield address
