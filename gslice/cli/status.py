"""`gslice ps` and `gslice status`: what runs, and how well it keeps its promises."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gslice.cli import options
from gslice.cli.events import EventLines
from gslice.cli.output import console, print_json, table
from gslice.cli.plan import slo_lines
from gslice.core.figures import megabytes, milliseconds, percent, requested_share

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

Watch = Annotated[bool, typer.Option("--watch", "-w", help="Go on showing it, until Ctrl-C.")]

_STATE_STYLES = {
    "READY": "green",
    "SERVING": "green",
    "COLD": "cyan",
    "FINISHED": "cyan",
    "LOADING": "yellow",
    "STARTING": "yellow",
    "DRAINING": "yellow",
    "UNLOADING": "yellow",
    "FAILED": "bold red",
    "UNAVAILABLE": "bold red",
}
_HOST_MEMORY = {
    "PROCESS": "process_bytes",
    "MODEL": "model_bytes",
    "WORKSPACE": "workspace_bytes",
    "PINNED": "pinned_bytes",
    "SHADOW": "shadow_peak_bytes",
    "KEPT": "kept_bytes",
}
_GPU_MEMORY = {
    "GPU-CONTEXT": "context_bytes",
    "GPU-WEIGHTS": "weights_bytes",
    "GPU-SHARED": "shared_weights_bytes",
    "GPU-WORKSPACE": "device_workspace_bytes",
    "GPU-SHADOW": "device_shadow_peak_bytes",
    "GPU-KEPT": "device_kept_bytes",
}
_WATCH_INTERVAL_MS = 1000
_EVENTS_SHOWN = 5


def processes(
    state_dir: options.StateDir = None, as_json: options.Json = False, watch: Watch = False
) -> None:
    """Show the functions: rates, latencies, shares, queues."""
    _show(state_dir, as_json, watch, _functions_only)


def status(
    state_dir: options.StateDir = None, as_json: options.Json = False, watch: Watch = False
) -> None:
    """Show the node, its devices, its processes and its functions."""
    _show(state_dir, as_json, watch, _whole_node)


def function_table(functions: Any) -> Table:
    """A line a function, narrow enough for most terminals."""
    shown = table(
        *("FUNCTION", "STATE", "RATE/S", "P50", "P99", "SLO"),
        *("SHARE", "GRANTED", "EFFECTIVE", "QUEUE", "WORKERS"),
        right="RATE/S P50 P99 SLO SHARE GRANTED EFFECTIVE QUEUE",
    )
    for function in functions:
        shown.add_row(
            function.name,
            state_text(function.state),
            f"{function.rate_per_s:.1f}",
            latency_text(function.p50_us),
            _promised(function.p99_us, function.slo_p99_us),
            latency_text(function.slo_p99_us),
            requested_share(function.share_min_percent, function.share_max_percent),
            percent(function.share_granted_percent),
            percent(function.share_effective_percent),
            str(function.queued + function.in_flight),
            _workers(function.workers),
        )
    return shown


def count_table(functions: Any) -> Table:
    """What each function is and what it has done."""
    shown = table(
        *("FUNCTION", "VERSION", "ENGINE", "DEVICE", "LIMITER"),
        *("OK", "FAILED", "QUEUED", "RUNNING", "BATCH", "FROM"),
        right="VERSION OK FAILED QUEUED RUNNING BATCH",
    )
    for function in functions:
        shown.add_row(
            function.name,
            _version(function),
            function.engine,
            devices_of(function),
            function.limiter or "-",
            str(function.ok),
            str(function.failed),
            str(function.queued),
            str(function.in_flight),
            f"{function.batch_mean_rows:.1f}" if function.batch_mean_rows else "-",
            function.source,
        )
    return shown


def memory_table(functions: Any) -> Table:
    """What each function takes of the host and of its GPU, and what for."""
    titles = [*_HOST_MEMORY]
    if any(function.device_memory_bytes for function in functions):
        titles += _GPU_MEMORY
    titles = ["RESIDENT", *titles]
    shown = table("FUNCTION", "RESIDENCY", *titles, right=" ".join(titles))
    fields = {**_HOST_MEMORY, **_GPU_MEMORY}
    for function in functions:
        resident = sum(worker.rss_bytes for worker in function.workers)
        sizes = [resident, *(getattr(function.memory, fields[title]) for title in titles[1:])]
        cells = (megabytes(size) if size else "-" for size in sizes)
        shown.add_row(function.name, function.residency, *cells)
    return shown


def _show(state_dir: Any, as_json: bool, watch: bool, view: Callable[[Any], Group]) -> None:
    with options.connect(state_dir) as control:
        if watch:
            _follow(control.watch(_WATCH_INTERVAL_MS), as_json, view)
            return
        found = control.status()
    if as_json:
        from gslice.client.control import as_dict

        print_json(as_dict(found))
    else:
        console().print(view(found))


def _follow(statuses: Any, as_json: bool, view: Callable[[Any], Group]) -> None:
    if as_json:
        import json

        from gslice.client.control import as_dict

        for found in statuses:
            print(json.dumps(as_dict(found)), flush=True)
        return
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    lines = EventLines()
    last: deque[Text] = deque(maxlen=_EVENTS_SHOWN)
    with Live(console=console(crop=True), auto_refresh=False) as live:
        for found in statuses:
            for event in found.events:
                last.append(line := lines.line(event))
                line.no_wrap, line.overflow = True, "ellipsis"
            live.update(Group(view(found), Text(), *last), refresh=True)


def _functions_only(found: Any) -> Group:
    from rich.console import Group
    from rich.text import Text

    if not found.functions:
        return Group(Text("no functions; add one with `gslice load`"))
    return Group(function_table(found.functions), *_reasons(found.functions))


def _whole_node(found: Any) -> Group:
    from rich.console import Group
    from rich.text import Text

    lines = [
        f"gslice {found.version}, {found.state.lower()}, pid {found.pid},"
        f" up {uptime_text(found.uptime_s)}",
        f"gRPC {found.grpc_address or '-'}   HTTP {found.http_address or '-'}"
        f"   metrics {found.metrics_address or '-'}",
        f"state {found.state_dir}   config {found.config_path or 'none'}",
    ]
    return Group(
        *(Text(line) for line in lines),
        Text(),
        _device_table(found.devices),
        *_device_lines(found.devices),
        Text(),
        _frontend_table(found.frontends),
        *_spare_lines(found.spares),
        *_tenant_lines(found.tenants),
        Text(),
        _functions_only(found),
        *(
            part
            for make in (count_table, memory_table)
            if found.functions
            for part in (Text(), make(found.functions))
        ),
        *slo_lines(found.functions),
        *_source_lines(found.functions),
    )


def _device_table(devices: Any) -> Table:
    from gslice.core.config import format_cores

    shown = table("DEVICE", "LIMITER", "CORES", "SHARE", "LIMIT", "MEMORY", right="SHARE LIMIT")
    for device in devices:
        used, most = device.memory_used_bytes, device.memory_bytes
        shown.add_row(
            device.name,
            device.limiter,
            format_cores(list(device.cpus)) or "-",
            percent(device.share_used_percent),
            percent(device.share_limit_percent),
            f"{megabytes(used)} of {megabytes(most)}" if most else megabytes(used),
        )
    return shown


def _device_lines(devices: Any) -> list[Any]:
    """What each GPU is and does, why one cannot be used, whose each is, and what is drained."""
    from rich.text import Text

    lines = []
    for device in devices:
        if device.drained:
            told = f"{device.name}: drained; `gslice undrain {device.name}` takes that back"
            lines.append(Text(told, style="yellow"))
        if device.held_by:
            lines.append(Text(f"{device.name}: {device.held_by} has it to itself"))
        if device.problem:
            lines.append(Text(f"{device.name}: {device.problem}", style="red"))
        elif device.HasField("gpu"):
            lines.append(Text(f"{device.name}: {_gpu_text(device.gpu)}"))
    return lines


def _gpu_text(gpu: Any) -> str:
    parts = [gpu.name, f"{gpu.sms} SMs"]
    if not gpu.uuid.startswith("MIG-"):  # of an instance NVML tells neither
        parts += [
            f"{gpu.utilization_percent:.0f}% busy",
            f"{gpu.power_w:.0f} of {gpu.power_limit_w:.0f} W",
        ]
    parts += [
        f"{gpu.temperature_c:.0f} C",
        f"PCIe {gpu.pcie_generation} x{gpu.pcie_width}",
    ]
    if gpu.numa_node >= 0:
        parts.append(f"NUMA node {gpu.numa_node}")
    if gpu.weights_saved_bytes:
        parts.append(f"{megabytes(gpu.weights_saved_bytes)} saved by shared weights")
    return ", ".join(parts)


def _frontend_table(frontends: Any) -> Table:
    titles = ("FRONT-END", "STATE", "KIND", "ADDRESS", "MEMORY", "RESTARTS")
    shown = table(*titles, right="MEMORY RESTARTS")
    for frontend in frontends:
        shown.add_row(
            f"pid {frontend.pid}",
            state_text(frontend.state),
            f"{frontend.kind}, TLS" if frontend.tls else frontend.kind,
            frontend.address or "-",
            megabytes(frontend.rss_bytes),
            str(frontend.restarts),
        )
    return shown


def _spare_lines(spares: Any) -> list[Any]:
    from rich.text import Text

    told = (f"{spare.engine} (pid {spare.pid}, {megabytes(spare.rss_bytes)})" for spare in spares)
    return [Text(f"spares: {', '.join(told)}")] if spares else []


def _tenant_lines(tenants: Any) -> list[Any]:
    from rich.text import Text

    told = (
        f"{each.name} has {percent(each.share_percent)} of {percent(each.share_quota_percent)}"
        for each in tenants
    )
    return [Text(f"tenants' shares: {', '.join(told)}")] if tenants else []


def _source_lines(functions: Any) -> list[Any]:
    """Where models were fetched, and what they are."""
    from rich.text import Text

    return [
        Text(f"{function.name}: {function.fetched_from} sha256:{function.fetched_sha256}")
        for function in functions
        if function.fetched_from
    ]


def _reasons(functions: Any) -> list[Any]:
    from rich.text import Text

    return [
        Text(f"{function.name}: {reason_of(function)}", style="red")
        for function in functions
        if function.reason
    ]


def reason_of(function: Any) -> str:
    """Why a function does not serve, without its name in front again."""
    return str(function.reason).removeprefix(f"function {function.name}: ")


def state_text(state: str) -> Any:
    """A state in the colour of what it means."""
    from rich.text import Text

    return Text(state, style=_STATE_STYLES.get(state.upper(), ""))


def latency_text(duration_us: float) -> str:
    """A latency; `-` where none was measured."""
    return milliseconds(duration_us) if duration_us > 0 else "-"


def _promised(p99_us: float, slo_p99_us: float) -> Any:
    """The p99, red when it breaks the promise."""
    from rich.text import Text

    if not p99_us or not slo_p99_us:
        return latency_text(p99_us)
    return Text(latency_text(p99_us), style="green" if p99_us <= slo_p99_us else "bold red")


def _workers(workers: Any) -> str:
    restarts = sum(worker.restarts for worker in workers)
    pids = " ".join(str(worker.pid) for worker in workers) or "-"
    devices = dict.fromkeys(worker.device for worker in workers)
    where = f" on {', '.join(devices)}" if len(devices) > 1 else ""
    return f"{pids}{where} ({restarts} restarts)" if restarts else f"{pids}{where}"


def devices_of(function: Any) -> str:
    """Those that it is on, and of how many it should be on."""
    devices = ", ".join(function.devices) or str(function.device)
    few = len(function.devices) < function.replicas_min
    return f"{devices} (of {function.replicas_min})" if few else devices


def _version(function: Any) -> str:
    """The one that serves, and those that are warm beside it."""
    kept = ", ".join(kept.version for kept in function.kept)
    return f"{function.version} (kept: {kept})" if kept else str(function.version)


def uptime_text(uptime_s: float) -> str:
    """A time in its two largest units, such as `3h 5m`."""
    minutes, seconds = divmod(int(uptime_s), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = ((days, "d"), (hours, "h"), (minutes, "m"), (seconds, "s"))
    return " ".join([f"{count}{unit}" for count, unit in parts if count][:2]) or "0s"
