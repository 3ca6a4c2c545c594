"""From the checked shape of node.yaml to the configuration: defaults, paths, devices, limits."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gslice.core.config import model
from gslice.core.config.access import insecure_ports, node_access
from gslice.core.config.devices import (
    crowded,
    gpu_name,
    suitable_devices,
    unfit_for_host,
    unsuitable,
)
from gslice.core.config.document import Problem
from gslice.core.config.engines import engine_of
from gslice.core.config.fetching import Warmup, model_cache
from gslice.core.config.frontends import (
    check_ports,
    client_memory,
    frontend_memory,
    pinned_memory,
    tls_files,
)
from gslice.core.config.layers import over, resident_over
from gslice.core.config.node import Device, Node
from gslice.core.config.places import (
    check_state_dir,
    default_state_dir,
    format_cores,
    parse_cores,
)
from gslice.core.config.policy import model_roots
from gslice.core.config.problems import nearest
from gslice.core.config.quotas import quota_problems
from gslice.core.config.ranges import ShareRange
from gslice.core.config.telling import log_config, tracing
from gslice.core.config.types import Config, DeviceConfig, NodeConfig
from gslice.core.errors import InvalidArgument
from gslice.core.sources import is_remote
from gslice.core.types import (
    INSTANCES_MAX,
    FunctionSpec,
    ProgramSpec,
    ReplicaBounds,
    ShareBounds,
    VersionPolicy,
    device_kind,
)
from gslice.core.units import format_size

_CPU_LIMITERS = ("auto", "cgroup", "threads", "none")
_GPU_LIMITERS = ("auto", "mps", "green", "none")


@dataclass
class Builder:
    """Turns models into configuration and gathers what does not fit together.

    Attributes:
        base: Directory that relative paths start from.
        environ: The environment, for where state belongs.
        problems: Filled on the way.
        gpus: Names of the GPUs that `devices: auto` stands for, beside `cpu`.
    """

    base: Path
    environ: Mapping[str, str]
    problems: list[Problem]
    gpus: Sequence[str] = ()

    def config(self, file: model.NodeFile, path: Path | None) -> Config:
        """The configuration of a whole file."""
        node = self.node(file.node)
        devices = self.devices(file.devices)
        functions = {
            name: self.function(name, function, file.defaults, devices, node.request_max_bytes)
            for name, function in file.functions.items()
        }
        for name, text in crowded(functions.values()):
            self._problem(text, "functions", name, "isolation")
        self.problems += quota_problems(node.access.access, devices, functions)
        return Config(node, devices, functions, path, gpus=tuple(self.gpus))

    def node(self, node: Node) -> NodeConfig:
        """The daemon's settings."""
        check_ports(node, self.problems)
        return NodeConfig(
            grpc=node.grpc,
            http=node.http,
            metrics=node.metrics,
            state_dir=self._state_dir(node.state_dir),
            orphan_grace_us=node.orphan_grace,
            hang_timeout_us=node.hang_timeout,
            drain_timeout_us=node.drain_timeout,
            pinned_memory_bytes=pinned_memory(node),
            frontends=node.frontends,
            frontend=node.frontend,
            frontend_memory_bytes=frontend_memory(node, self.problems),
            connection_age_us=node.connection_age,
            request_max_bytes=node.request_max,
            tls=tls_files(node.tls, self._resolve, self.problems),
            controller=node.controller,
            packing=node.packing,
            spares=node.spares,
            client_memory=client_memory(node.client_memory, self.problems),
            ui=node.ui == "on",
            access=node_access(node, self._resolve, self.problems),
            insecure=insecure_ports(node.insecure),
            model_roots=model_roots(node.model_roots, self._resolve, self.problems),
            python_functions=node.python_functions,
            metrics_triton=node.metrics_triton,
            logs=log_config(node.logs),
            tracing=tracing(node.tracing, self.problems),
            model_cache=model_cache(node.model_cache, self.base, self.environ),
        )

    def devices(self, devices: Mapping[str, Device]) -> dict[str, DeviceConfig]:
        """The devices; `cpu` with every core of this process, and the GPUs, when none is named."""
        if not devices:
            cpu = DeviceConfig(cpus=tuple(sorted(os.sched_getaffinity(0))))
            gpus = {name: self._device(name, Device()) for name in self.gpus}
            return {"cpu": cpu, **gpus}
        built: dict[str, DeviceConfig] = {}
        owners: dict[int, str] = {}
        for name, device in devices.items():
            built[name] = self._device(name, device)
            for core in built[name].cpus if built[name].kind == "cpu" else ():
                if owners.setdefault(core, name) != name:
                    self._problem(f"core {core} belongs to {owners[core]} already", "devices", name)
        return built

    def function(
        self,
        name: str,
        function: model.Function,
        defaults: model.Defaults,
        devices: Mapping[str, DeviceConfig],
        request_max_bytes: int,
    ) -> FunctionSpec:
        """One function, with the file's defaults under it."""
        if function.command is not None:
            return self._command(name, function, function.command, devices)
        slo = over(defaults.slo, function.slo)
        batch = over(defaults.batch, function.batch)
        queue = over(defaults.queue, function.queue)
        resident = resident_over(defaults, function)
        warmup = function.warmup or Warmup()
        if queue.request_max > request_max_bytes:
            self._problem(
                f"{format_size(queue.request_max)} is more than node.request_max,"
                f" {format_size(request_max_bytes)}; raise that too",
                *("functions", name, "queue", "request_max"),
            )
        engine, module, python_path = self._engine(function)
        suitable = self._suitable(name, function, engine, devices)
        self._check_replicas(name, function, suitable, devices)
        return FunctionSpec(
            name=name,
            versions=VersionPolicy(**function.versions.model_dump()),
            engine=engine,
            model=self._resolve(function.model),
            python=module,
            python_path=python_path,
            args=_arguments(function),
            device=suitable[0],
            devices=suitable if len(suitable) > 1 else (),
            replicas=ReplicaBounds(function.replicas.min, function.replicas.max),
            isolation=function.isolation,
            share=share_bounds(function.share),
            instances=function.instances,
            priority=function.priority,
            slo_p99_us=slo.p99,
            batch_max=batch.max,
            delay_us=batch.delay,
            queue_max=queue.max,
            request_max_bytes=queue.request_max,
            warmup=self._resolve(warmup.samples),
            warmup_count=warmup.count,
            side_effects=function.side_effects,
            threads=function.threads,
            lanes=function.lanes,
            precision=function.precision,
            channels_last=function.channels_last,
            environment=dict(function.environment),
            residency=resident.residency,
            idle_after_us=resident.idle_after,
        )

    def _command(
        self,
        name: str,
        function: model.Function,
        command: Sequence[str],
        devices: Mapping[str, DeviceConfig],
    ) -> FunctionSpec:
        """A program; the file's defaults are about requests, which are its own."""
        program = ProgramSpec(
            tuple(command),
            self._resolve(function.directory or "."),
            function.memory,
            stop_signal=function.stop.signal,
            stop_timeout_us=function.stop.timeout,
        )
        if (health := function.health) is not None:
            program = replace(
                program,
                health_url=health.url,
                health_period_us=health.period,
                health_timeout_us=health.timeout,
            )
        return FunctionSpec(
            name=name,
            engine="command",
            device=self._suitable(name, function, "command", devices)[0],
            isolation=function.isolation,
            share=share_bounds(function.share),
            priority=function.priority,
            environment=dict(function.environment),
            residency="pinned",
            program=program,
        )

    def _problem(self, text: str, *path: str) -> None:
        self.problems.append(Problem(path, text))

    def _resolve(self, path: str | None) -> str:
        if not path or is_remote(path):
            return path or ""
        return os.path.normpath(self.base / Path(path).expanduser())

    def _state_dir(self, given: str) -> Path:
        state_dir = Path(self._resolve(given)) if given else default_state_dir(self.environ)
        try:
            check_state_dir(state_dir)
        except InvalidArgument as error:
            self._problem(error.message, "node", "state_dir")
        return state_dir

    def _device(self, name: str, device: Device) -> DeviceConfig:
        part, path = name.partition(":")[2], ("devices", name)
        if gpu := gpu_name(name):
            return self._gpu(gpu, device, path)
        if device_kind(name) != "cpu" or (":" in name and not part):
            self._problem("is not a device; write cpu, cpu:0-1, cuda:0 or cuda:0/mig:0", *path)
            return DeviceConfig()
        if device.limiter not in _CPU_LIMITERS:
            self._problem(
                f"{device.limiter!r} limits GPUs; a CPU device takes auto, cgroup, threads or none",
                *(*path, "limiter"),
            )
        if device.mps_pipe:
            self._problem("goes with GPUs only", *path, "mps_pipe")
        if not device.share_weights:
            self._problem("goes with GPUs only", *path, "share_weights")
        cores = self._cores(part, path) if part else None
        if device.cpus:
            if cores is not None:
                self._problem("the device's name gives its cores already", *path, "cpus")
            cores = self._cores(device.cpus, (*path, "cpus"))
        mine = sorted(os.sched_getaffinity(0))
        return DeviceConfig(
            kind="cpu",
            limiter=device.limiter,
            share_limit_percent=device.limits.share,
            memory_limit_bytes=device.limits.memory,
            cpus=tuple(mine if cores is None else cores),
            user=device.user,
        )

    def _gpu(self, gpu: str, device: Device, path: tuple[str, ...]) -> DeviceConfig:
        if device.limiter not in _GPU_LIMITERS:
            text = "is not there yet" if device.limiter == "mps-static" else "limits cores"
            self._problem(
                f"{device.limiter!r} {text}; a GPU takes auto, mps, green or none",
                *(*path, "limiter"),
            )
        if device.mps_pipe and device.limiter in ("none", "green"):
            self._problem(f"says nothing with `limiter: {device.limiter}`", *path, "mps_pipe")
        return DeviceConfig(
            kind="cuda",
            limiter=device.limiter,
            share_limit_percent=device.limits.share,
            memory_limit_bytes=device.limits.memory,
            cpus=tuple(self._cores(device.cpus, (*path, "cpus"))) if device.cpus else (),
            gpu=gpu,
            mps_pipe=self._resolve(device.mps_pipe),
            share_weights=device.share_weights,
            user=device.user,
        )

    def _cores(self, given: str | list[int], path: tuple[str, ...]) -> list[int]:
        try:
            cores = parse_cores(given) if isinstance(given, str) else sorted(set(given))
        except InvalidArgument as error:
            self._problem(error.message, *path)
            return []
        mine = os.sched_getaffinity(0)
        missing = [core for core in cores if core not in mine]
        if missing or not cores:
            self._problem(
                f"core {missing[0]} is not among this process's cores {format_cores(mine)}"
                if missing
                else "must name at least one core",
                *path,
            )
        return cores

    def _engine(self, function: model.Function) -> tuple[str, str, str]:
        """(engine, module:Class or module:factory, directory of the module)."""
        if function.identity is not None:
            return "identity", "", ""
        if function.model is not None:
            return engine_of(function.model, function.engine), "", ""
        engine = "python" if function.python is not None else "torch"
        code = function.python or function.torch or ""
        module, _, name = code.rpartition(":")
        if not module.endswith(".py"):
            return engine, code, self._resolve(function.python_path or ".")
        source = Path(self._resolve(module))
        return engine, f"{source.stem}:{name}", str(source.parent)

    def _suitable(
        self, name: str, function: model.Function, engine: str, devices: Mapping[str, DeviceConfig]
    ) -> tuple[str, ...]:
        """The devices that a function may run on, the best first."""
        device, path = function.device, ("functions", name)
        if device != "auto" and device not in devices:
            text = f"{device!r} is not a device of this node" + nearest(device, devices)
            self._problem(text, *path, "device")
            return (device,)
        if device != "auto" and (problem := unsuitable(engine, devices[device])):
            self._problem(problem, *path, "device")
        suitable = suitable_devices(engine, devices) if device == "auto" else (device,)
        key, why_not = unfit_for_host(function, engine)
        left = tuple(d for d in suitable if not key or devices[d].limiter != "green")
        if not left:
            self._problem(f"{suitable[0]} is under `limiter: green`: {why_not}", *path, key)
        return left or suitable

    def _check_replicas(
        self,
        name: str,
        function: model.Function,
        suitable: Sequence[str],
        devices: Mapping[str, DeviceConfig],
    ) -> None:
        """More than one needs the choice of that many devices that are alike."""
        path, wanted = ("functions", name, "replicas"), function.replicas.min
        if function.device != "auto":
            if function.replicas.max > 1:
                self._problem(
                    f"replicas are on several devices, and it is pinned to {function.device};"
                    " write device: auto",
                    *path,
                )
        elif wanted * function.instances > INSTANCES_MAX:
            self._problem(
                f"{wanted} replicas of {function.instances} instances are"
                f" {wanted * function.instances} workers; at most {INSTANCES_MAX} serve a function",
                *path,
            )
        else:
            known = [devices[each] for each in suitable]
            alike = max((sum(one.is_like(other) for other in known) for one in known), default=0)
            if wanted > alike:
                self._problem(
                    f"asks for {wanted} devices that are alike; there are {alike} for it", *path
                )


def share_bounds(share: ShareRange) -> ShareBounds:
    """A share as the rest of gslice knows it."""
    return ShareBounds(share.min, share.max, auto=share.min < share.max)


def _arguments(function: model.Function) -> dict[str, object]:
    """What the engine gets: the user's arguments, shapes, or what is said of tensors."""
    if function.identity is not None:
        return function.identity.arguments()
    args: dict[str, object] = dict(function.args)
    if function.shapes:
        args["shapes"] = {name: each.model_dump() for name, each in function.shapes.items()}
    return args | (function.tensors.arguments() if function.tensors is not None else {})
