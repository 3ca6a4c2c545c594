"""What `gslice top` shows of a status: lines and cells as text, which colours only repeat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from gslice.cli.status import latency_text, state_text, uptime_text
from gslice.core.figures import megabytes, percent

_SEGMENTS = ("black on cyan", "black on green", "black on blue", "black on magenta")
_SLO_CELLS = 10
_BAR_MIN = 10


@dataclass(frozen=True)
class Column:
    """One of the table of functions.

    Attributes:
        title: On top.
        rank: The highest go first where the screen is narrow; 0: never.
        width: In cells, as far as is known before.
    """

    title: str
    rank: int
    width: int


COLUMNS = (
    Column("FUNCTION", 0, 8),
    Column("STATE", 1, 8),
    Column("RATE/S", 2, 7),
    Column("P50", 6, 8),
    Column("P99", 0, 9),
    Column("SLO", 4, 8),
    Column("P99 OF SLO", 8, _SLO_CELLS + 6),
    Column("SHARE", 3, 12),
    Column("BATCH", 7, 8),
    Column("QUEUE", 5, 5),
    Column("WORKERS", 9, 7),
)
_GAP = 2  # beside each column
_LEFT = ("FUNCTION", "STATE", "P99 OF SLO")


def columns_for(width: int, name_width: int) -> tuple[Column, ...]:
    """The columns that fit into a width, in their order.

    Args:
        width: Of all.
        name_width: Of the longest name of a function.
    """
    kept = list(COLUMNS)
    width -= max(0, name_width - COLUMNS[0].width)
    while sum(column.width + _GAP for column in kept) > width:
        last = max(kept, key=lambda column: column.rank)
        if not last.rank:
            break
        kept.remove(last)
    return tuple(kept)


def node_line(status: Any) -> Text:
    """The node in a line."""
    serving = sum(function.state in ("READY", "COLD") for function in status.functions)
    rate = sum(function.rate_per_s for function in status.functions)
    state = status.state.lower()
    return Text.assemble(
        (f"gslice {status.version}", "bold"),
        "  ",
        (state, "green" if state == "serving" else "yellow"),
        f", up {uptime_text(status.uptime_s)}",
        f"   {serving} of {len(status.functions)} functions serve, {rate:.0f} requests/s",
        f"   gRPC {status.grpc_address or '-'}",
    )


def device_lines(status: Any, width: int) -> list[Text]:
    """A bar for each device: who has how much of it, what is free, what gslice leaves alone."""
    if not status.devices:
        return []
    name_width = max(len(device.name) for device in status.devices)
    lines = []
    for device in status.devices:
        head = Text(f"{device.name:<{name_width}}  ", style="bold")
        there = [
            f for f in status.functions if device.name in (f.devices or [f.device]) and _share(f)
        ]
        tail = Text(f"  {_device_text(device, sum(map(_share, there)))}")
        room = max(_BAR_MIN, width - head.cell_len - tail.cell_len - 2)
        lines.append(Text.assemble(head, "[", _bar(device, there, room), "]", tail))
        if device.problem:
            lines.append(Text(f"{'':{name_width}}  {device.problem}", style="red"))
    return lines


def _device_text(device: Any, used_percent: float) -> str:
    parts = [f"{percent(used_percent)} of {percent(device.share_limit_percent)}"]
    if used_percent > device.share_limit_percent + 0.5:
        parts.append("in turns")
    if device.memory_bytes:
        parts.append(f"{megabytes(device.memory_used_bytes)} of {megabytes(device.memory_bytes)}")
    if device.HasField("gpu") and device.gpu.power_limit_w:
        parts.append(f"{device.gpu.utilization_percent:.0f}% busy, {device.gpu.power_w:.0f} W")
    if device.drained:
        parts.append("drained")
    return ", ".join(parts)


def _bar(device: Any, there: Sequence[Any], width: int) -> Text:
    """Segments as wide as shares, each with its function's name as far as that fits."""
    whole = max(100.0, sum(map(_share, there)))
    bar, end, used = Text(), 0, 0.0
    for place, function in enumerate(there):
        used += _share(function)
        begin, end = end, max(end + 1, round(width * used / whole))
        text = f"{function.name} {percent(_share(function))}"
        cells = end - begin
        shown = text if len(text) < cells else function.name
        bar.append(f"{shown[: cells - 1]:<{cells - 1}}|", _SEGMENTS[place % len(_SEGMENTS)])
    limit = round(width * min(device.share_limit_percent, 100.0) / whole)
    bar.append("." * max(0, limit - end), "dim")
    bar.truncate(width)
    bar.append(" " * (width - bar.cell_len))
    return bar


def _share(function: Any) -> float:
    """What it really has; where nothing enforces that, what it was granted."""
    effective, granted = function.share_effective_percent, function.share_granted_percent
    return float(granted if _free(function) else effective or granted)


def _free(function: Any) -> bool:
    return str(function.limiter) == "none"


def head(column: Column) -> Text:
    """A column's title, on the side where its cells are."""
    return Text(column.title, justify="left" if column.title in _LEFT else "right")


def cells(function: Any, columns: Sequence[Column]) -> list[Text]:
    """A function's cells."""
    return [_CELLS[column.title](function) for column in columns]


def _p99(function: Any) -> Text:
    """The p99; one that breaks the promise is marked, and red."""
    text = latency_text(function.p99_us)
    if not function.p99_us or not function.slo_p99_us:
        return _right(text)
    kept = function.p99_us <= function.slo_p99_us
    return _right(text if kept else f"! {text}", "green" if kept else "bold red")


def _of_slo(function: Any) -> Text:
    """How much of the promise the p99 takes, as a bar."""
    if not function.p99_us or not function.slo_p99_us:
        return Text("-")
    part = function.p99_us / function.slo_p99_us
    full = min(_SLO_CELLS, round(part * _SLO_CELLS))
    style = "green" if part <= 0.85 else "yellow" if part <= 1 else "bold red"
    bar = f"{'#' * full}{'.' * (_SLO_CELLS - full)}"
    return Text(f"{bar} {min(part, 99.99):>5.0%}", style=style)


def _share_cell(function: Any) -> Text:
    effective, granted = function.share_effective_percent, function.share_granted_percent
    if granted and _free(function):
        return _right(f"{percent(granted)}, no limit")
    if effective and abs(effective - granted) > 0.5:
        return _right(f"{percent(effective)} of {percent(granted)}", "yellow")
    return _right(percent(effective or granted) if effective or granted else "-")


def _batch(function: Any) -> Text:
    if not function.batch_mean_rows:
        return _right("-")
    most = function.decision.batch_rows_max if function.HasField("decision") else 0
    return _right(f"{function.batch_mean_rows:.1f}{f' of {most}' if most else ''}")


def _workers(function: Any) -> Text:
    restarts = sum(worker.restarts for worker in function.workers)
    count = len(function.workers)
    return _right(f"{count} (+{restarts})" if restarts else str(count))


def _right(text: str, style: str = "") -> Text:
    return Text(text, style=style, justify="right")


_CELLS = {
    "FUNCTION": lambda f: Text(f.name, style="bold"),
    "STATE": lambda f: state_text(f.state),
    "RATE/S": lambda f: _right(f"{f.rate_per_s:.1f}"),
    "P50": lambda f: _right(latency_text(f.p50_us)),
    "P99": _p99,
    "SLO": lambda f: _right(latency_text(f.slo_p99_us)),
    "P99 OF SLO": _of_slo,
    "SHARE": _share_cell,
    "BATCH": _batch,
    "QUEUE": lambda f: _right(str(f.queued + f.in_flight)),
    "WORKERS": _workers,
}


def function_line(function: Any) -> Text:
    """What there is to say about the function that is chosen, in a line."""
    if function.reason:
        return Text(f"{function.name}: {function.reason}", style="red")
    parts = [function.engine, f"version {function.version}", f"{function.ok} answered"]
    if function.failed:
        parts.append(f"{function.failed} not")
    text = f"{function.name}: {', '.join(parts)}"
    if function.HasField("decision"):
        text += f"; {function.decision.reason}"
    return Text(text)


def legal_step(device: Any) -> str:
    """In which steps shares can change on a device, for people."""
    if device.limiter == "threads" and device.cpus:
        return f"whole cores of {len(device.cpus)}: steps of {100 / len(device.cpus):.3g}%"
    if device.HasField("gpu") and device.gpu.sms:
        return f"pairs of {device.gpu.sms} SMs: steps of {200 / device.gpu.sms:.3g}%"
    return "any percentage" if device.limiter == "cgroup" else "not enforced here"
