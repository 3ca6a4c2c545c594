"""`gslice bench`: load on one function, with honest latencies."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gslice.cli import options
from gslice.cli.output import console, print_json, show_warning, table
from gslice.core.errors import InvalidArgument
from gslice.core.figures import milliseconds

if TYPE_CHECKING:
    import numpy as np

    from gslice.client import Tls
    from gslice.client.load import Call, Outcome
    from gslice.core.types import Signature

_PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9}
_REFRESH_S = 0.25


def bench(
    name: options.FunctionName,
    rate: Annotated[
        float | None,
        typer.Option("--rate", help="Open loop: requests a second, as a Poisson process.", min=0.1),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option("--concurrency", help="Closed loop: requests in flight.", min=1, max=4096),
    ] = None,
    duration: Annotated[str, typer.Option("--duration", help="How long, such as 10s.")] = "10s",
    batch: Annotated[int, typer.Option("--batch", help="Rows in a request.", min=1)] = 1,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", help="As `gslice infer` takes them. Default: random."),
    ] = None,
    dims: Annotated[
        list[str] | None,
        typer.Option("--shape", help="NAME=1,3,224,224, where the signature leaves it open."),
    ] = None,
    timeout: Annotated[str, typer.Option("--timeout", help="Deadline of each request.")] = "30s",
    seed: Annotated[int, typer.Option("--seed", help="Of inputs and arrivals.")] = 0,
    grpc: options.Address = "",
    tls: options.UseTls = False,
    tls_ca: options.TlsAuthority = None,
    tls_cert: options.TlsCertificate = None,
    tls_key: options.TlsKey = None,
    api_key: options.ApiKey = None,
    state_dir: options.StateDir = None,
    as_json: options.Json = False,
) -> None:
    """Send load to a function and sum up what came back.

    With --rate, latency counts from when a request was due, so that neither the server's queue nor
    the client's own can hide. With --concurrency, each caller waits for its answer.
    """
    import asyncio

    from gslice.core.units import parse_duration

    if (rate is None) == (concurrency is None):
        raise InvalidArgument(
            "give --rate for an open loop or --concurrency for a closed one, and not both"
        )
    plan = _Plan(
        name=name,
        rate_per_s=rate,
        concurrency=concurrency,
        seconds=parse_duration(duration) / 1e6,
        timeout_s=parse_duration(timeout) / 1e6,
        seed=seed,
        quiet=as_json,
        api_key=api_key,
    )
    secure = options.client_tls(tls, tls_ca, tls_cert, tls_key)
    address = options.serving_address(grpc, state_dir, secure)
    outcome = asyncio.run(plan.run(address, secure, inputs or [], batch, dims or []))
    report = _report(plan, outcome, batch)
    if as_json:
        print_json(report)
    else:
        _show(report)
    for error, message in outcome.example.items():
        show_warning(f"{outcome.errors[error]} x {error}: {message}")


@dataclass(frozen=True)
class _Plan:
    """One run: what to send, how fast, how long."""

    name: str
    rate_per_s: float | None
    concurrency: int | None
    seconds: float
    timeout_s: float
    seed: int
    quiet: bool
    api_key: str | None = field(default=None, repr=False)

    async def run(
        self, address: str, tls: Tls | bool, inputs: list[str], batch: int, dims: list[str]
    ) -> Outcome:
        """Sends the load; the first request, which is not counted, must succeed."""
        from gslice.client.aio import Client
        from gslice.client.load import Outcome

        outcome = Outcome()
        client = Client(address, timeout_s=self.timeout_s, tls=tls, api_key=self.api_key)
        async with client:
            signature = await client.metadata(self.name)
            arrays = _arrays(inputs, signature, batch, dims, self.seed)

            def call() -> Any:
                return client.infer(self.name, arrays)

            await call()
            await self._watched(call, outcome)
        return outcome

    async def _watched(self, call: Call, outcome: Outcome) -> None:
        import asyncio

        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
        )
        screen = console(sys.stderr, crop=True)
        with Progress(
            *columns, console=screen, transient=True, disable=self.quiet or not screen.is_terminal
        ) as progress:
            bar = progress.add_task(self.name, total=self.seconds, figures="")
            load = asyncio.ensure_future(self._load(call, outcome))
            try:
                while not (await asyncio.wait({load}, timeout=_REFRESH_S))[0]:
                    progress.update(bar, completed=outcome.elapsed_s, figures=_figures(outcome))
                await load
            finally:
                load.cancel()

    async def _load(self, call: Call, outcome: Outcome) -> None:
        from gslice.client.load import closed_loop, open_loop

        if self.rate_per_s is not None:
            await open_loop(call, self.rate_per_s, self.seconds, outcome, self.seed)
        elif self.concurrency is not None:
            await closed_loop(call, self.concurrency, self.seconds, outcome)


def _arrays(
    inputs: list[str], signature: Signature, batch: int, dims: list[str], seed: int
) -> dict[str, np.ndarray]:
    from gslice.cli.inputs import parse_inputs
    from gslice.cli.samples import parse_shapes, random_inputs, repeated

    if inputs:
        return repeated(parse_inputs(inputs, signature), signature, batch)
    return random_inputs(signature, batch, parse_shapes(dims, signature), seed)


def _figures(outcome: Outcome) -> str:
    from gslice.client.load import percentile

    recent = sorted(outcome.latencies_us[-1000:])
    failed = f"  {outcome.errors.total()} errors" if outcome.errors else ""
    p99 = milliseconds(percentile(recent, 99)) if recent else "-"
    return f"{outcome.rate_per_s:.0f}/s  p99 {p99}{failed}"


def _report(plan: _Plan, outcome: Outcome, batch: int) -> dict[str, Any]:
    from gslice.client.load import percentile

    ascending = sorted(outcome.latencies_us)
    lateness = sorted(outcome.lateness_us)

    def figure(value: float) -> float | None:
        return round(value, 1) if math.isfinite(value) else None  # NaN is not JSON

    latency_us = {key: figure(percentile(ascending, at)) for key, at in _PERCENTILES.items()}
    mean = sum(ascending) / len(ascending) if ascending else float("nan")
    return {
        "function": plan.name,
        "loop": "open" if plan.rate_per_s is not None else "closed",
        "rate_target_per_s": plan.rate_per_s,
        "concurrency": plan.concurrency,
        "batch": batch,
        "duration_s": round(outcome.elapsed_s, 3),
        "ok": outcome.ok,
        "errors": dict(outcome.errors),
        "unsent": outcome.unsent,
        "rate_per_s": round(outcome.rate_per_s, 2),
        "rows_per_s": round(outcome.rate_per_s * batch, 2),
        "latency_us": {
            "mean": figure(mean),
            **latency_us,
            "max": figure(ascending[-1] if ascending else float("nan")),
        },
        "client_late_p99_us": figure(percentile(lateness, 99)),
    }


def _show(report: dict[str, Any]) -> None:
    screen = console()
    target = (
        f"{report['rate_target_per_s']:g}/s asked, open loop"
        if report["loop"] == "open"
        else f"{report['concurrency']} in flight, closed loop"
    )
    screen.print(f"{report['function']}: {target}, {report['duration_s']:.1f} s", markup=False)
    latencies = {key: us for key, us in report["latency_us"].items() if us is not None}
    shown = table(
        "RATE/S",
        "OK",
        "ERRORS",
        *(key.upper() for key in latencies),
        right="RATE/S OK ERRORS MEAN P50 P90 P99 P99.9 MAX",
    )
    failed = sum(report["errors"].values()) + report["unsent"]
    shown.add_row(
        f"{report['rate_per_s']:.1f}",
        str(report["ok"]),
        str(failed),
        *(milliseconds(us) for us in latencies.values()),
    )
    screen.print(shown)
    if report["unsent"]:
        show_warning(f"{report['unsent']} requests were not sent: too many waited for answers")
    late_us, p99_us = report["client_late_p99_us"], report["latency_us"]["p99"]
    if report["loop"] == "open" and late_us and p99_us and late_us > 0.2 * p99_us:
        show_warning(
            f"the client itself sent late, by {milliseconds(late_us)} at p99: it is short of CPU"
        )
