"""`gslice serve`: the daemon, in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gslice.cli import options
from gslice.cli.output import show_warning
from gslice.cli.status import devices_of, reason_of
from gslice.core.errors import InvalidArgument, NotFound
from gslice.core.sources import is_remote

if TYPE_CHECKING:
    from gslice.core.config import Config, Override
    from gslice.daemon.daemon import Daemon

_SERVING = ("READY", "COLD")  # the latter when a request comes
_PATIENCE_S = 3600.0  # a change of state ends each wait; this only bounds it


def serve(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A model file, or its URL, to be served without a node.yaml.", metavar="MODEL"
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="Default: node.yaml here.", metavar="FILE"),
    ] = None,
    repositories: Annotated[
        list[str] | None,
        typer.Option(
            "--model-repository",
            help="Triton's models, by themselves or beside --config; may be repeated; or a URL.",
            metavar="DIR",
        ),
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Of MODEL. Default: the file's.")] = "",
    share: Annotated[str, typer.Option("--share", help="Of MODEL: auto, or such as 40%.")] = "",
    slo: Annotated[
        str, typer.Option("--slo", help="Of MODEL: the p99 to keep, such as 30ms.")
    ] = "",
    device: Annotated[
        str, typer.Option("--device", help="Of MODEL: such as cpu, cpu:0-1 or cuda:0.")
    ] = "",
    grpc: Annotated[
        str, typer.Option("--grpc", help="KServe v2 over gRPC.", metavar="HOST:PORT")
    ] = "",
    http: Annotated[
        str, typer.Option("--http", help="KServe v2 over HTTP; or off.", metavar="HOST:PORT")
    ] = "",
    metrics: Annotated[
        str, typer.Option("--metrics", help="Prometheus.", metavar="HOST:PORT")
    ] = "",
    state_dir: Annotated[
        str, typer.Option("--state-dir", help="Sockets, logs and the store.", metavar="DIR")
    ] = "",
    reload: Annotated[
        bool, typer.Option("--reload", help="Follow node.yaml when it changes.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Only see whether it could start; an upgrade does.")
    ] = False,
) -> None:
    """Serve node.yaml, a model file or Triton's models, until Ctrl-C.

    Stops accepting first, answers what was accepted, then ends every process it started. With
    --reload a node.yaml that has changed is applied as `gslice apply` does; one that is wrong
    changes nothing.
    """
    node = {"grpc": grpc, "http": http, "metrics": metrics, "state_dir": _absolute(state_dir)}
    function = {"name": name, "share": share, "slo": slo}

    def read() -> Config:
        return _config(model, config, repositories or [], node, function, device)

    wanted = read()
    if reload and wanted.path is None:
        raise InvalidArgument("--reload goes with a node.yaml", hint="`gslice init` writes one")

    from gslice.daemon import main
    from gslice.daemon.applying import ConfigSource
    from gslice.daemon.successor import own_command

    if check:
        main.check(wanted)
        return
    source = None if model is not None else ConfigSource(read, reload)
    main.run(wanted, on_ready=_announce, command=own_command(), source=source)
    print("stopped")


def _announce(daemon: Daemon) -> None:
    """Tells where the node listens; what it serves follows when all of it is loaded."""
    status = _status(daemon)
    encrypted = ", TLS" if any(frontend.tls for frontend in status.frontends) else ""
    print(f"gRPC     {status.grpc_address}  (KServe v2{encrypted})")
    if status.http_address:
        scheme = "https" if encrypted else "http"
        print(f"HTTP     {scheme}://{status.http_address}/v2/docs")
        if daemon.node.config.ui:
            print(f"page     {scheme}://{status.http_address}/ui")
    print(f"metrics  http://{status.metrics_address}/metrics")
    print(f"state    {status.state_dir}", flush=True)
    daemon.background(_announce_functions(daemon))


def _status(daemon: Daemon) -> Any:
    from gslice.protos import message

    return daemon.reader.status(message("gslice.v1.Status")(), daemon.state, "")


async def _announce_functions(daemon: Daemon) -> None:
    changes = daemon.node.changes
    while (status := _status(daemon)).state == "STARTING":
        await changes.wait(changes.version, _PATIENCE_S)
    for function in status.functions:
        serving = function.state in _SERVING
        detail = f"on {devices_of(function)}" if serving else reason_of(function)
        print(f"{function.name}: {function.state} {detail}")
    if changed := daemon.desired.changed:
        print(f"changed at run time, see `gslice diff`: {', '.join(changed)}")
    ready = sum(function.state in _SERVING for function in status.functions)
    print(f"ready: {ready} of {len(status.functions)} functions serve; Ctrl-C stops", flush=True)


def _config(
    model: str | None,
    config: Path | None,
    repositories: list[str],
    node: dict[str, str],
    function: dict[str, str],
    device: str,
) -> Config:
    from gslice.core.config import Override, config_for_model, load_config
    from gslice.device.inventory import find_gpus

    overrides = [
        Override(("node", key), value, f"--{key.replace('_', '-')}")
        for key, value in node.items()
        if value
    ]
    if model is not None:
        if config is not None or repositories:
            other = "--config" if config is not None else "--model-repository"
            raise InvalidArgument(f"MODEL and {other} exclude each other", hint="give one of them")
        if not is_remote(model) and not Path(model).is_file():
            raise NotFound(f"there is no file {model}")
        if model.endswith((".yaml", ".yml")):
            raise InvalidArgument(f"{model} is no model", hint=f"gslice serve -c {model}")
        if device:
            overrides.append(Override(("devices",), {device: {}}, "--device"))
        return config_for_model(
            model,
            name=function["name"] or None,
            settings=_settings(function),
            overrides=overrides,
            find_gpus=find_gpus,
        )
    _refuse_alone(function, device)
    if repositories:
        return _with_repositories(repositories, config, overrides)
    if config is None and not options.NODE_FILE.is_file():
        raise NotFound(
            "there is no node.yaml here",
            hint="`gslice init` writes one; `gslice serve MODEL.onnx` needs none",
        )
    return load_config(config or options.NODE_FILE, overrides=overrides, find_gpus=find_gpus)


def _with_repositories(
    repositories: list[str], config: Path | None, overrides: list[Override]
) -> Config:
    from gslice.device.inventory import find_gpus
    from gslice.triton.node import node_config

    wanted, read = node_config(repositories, config, overrides=overrides, find_gpus=find_gpus)
    for lost in (*read.stale, *read.notes, *read.refused):
        show_warning(str(lost))
    return wanted


def _settings(function: dict[str, str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    if function["share"]:
        settings["share"] = function["share"]
    if function["slo"]:
        settings["slo"] = {"p99": function["slo"]}
    return settings


def _refuse_alone(function: dict[str, str], device: str) -> None:
    """Options that belong to MODEL say nothing about a node.yaml."""
    for key, value in {**function, "device": device}.items():
        if value:
            raise InvalidArgument(
                f"--{key} goes with MODEL only", hint="set it in node.yaml under functions"
            )


def _absolute(path: str) -> str:
    """A path of the command line starts from here, not from where node.yaml is."""
    return str(Path(path).absolute()) if path else ""
