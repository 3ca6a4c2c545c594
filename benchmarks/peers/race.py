"""Two servers side by side, in turns: A B A B, the same requests, the same loads."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import h2load
from benchmarks.peers import perf_analyzer
from benchmarks.peers.calls import Answer, Calls, GrpcCalls
from benchmarks.peers.loops import Outcome, closed_loop, open_loop, poisson_schedule_ns
from benchmarks.peers.peer import Installed, Peer, free_ports
from benchmarks.peers.percentiles import PERCENTILES
from benchmarks.peers.server import Command, Failed, Server, Usage
from benchmarks.peers.streams import Stream
from benchmarks.peers.turns import DRIVER, H2LOAD, PERF_ANALYZER, Load, Turn

WARM_UP_REQUESTS = 32


@dataclass(frozen=True)
class Plan:
    """How long, how often, how much.

    Attributes:
        seconds: Length of a turn, by the rate that the warm-up showed.
        repeats: Turns of each load.
        concurrencies: Of the closed loops; the last one finds the peak.
        open_percents: Rates of the open loops, of the slower one's peak under our driver.
        perf_analyzer: The program, for pairs it can talk to; empty: it is not installed.
    """

    seconds: float
    repeats: int
    concurrencies: tuple[int, ...] = (8, 32)
    open_percents: tuple[int, ...] = (50, 80)
    perf_analyzer: str = ""


@dataclass
class Racer:
    """A server of a pair.

    Attributes:
        peer: Who.
        installed: Its environment.
        command: How it was started.
        server: Its processes.
        calls: What is sent to it.
        stream: What that asks.
        answer: Its first answer, which was right.
        version: What it says of itself, else that of its package.
        warm_rps: How fast it answered the warm-up.
        idle_percent: Of a core, that it took without requests while the pair waited.
        processes: The command lines of its processes.
        turns: What was measured, by load.
    """

    peer: Peer
    installed: Installed
    command: Command
    server: Server
    calls: Calls
    stream: Stream
    answer: Answer = field(default_factory=lambda: Answer(b"", 0))
    version: str = ""
    warm_rps: float = 0.0
    idle_percent: float = 0.0
    processes: list[list[str]] = field(default_factory=list)
    turns: dict[Load, list[Turn]] = field(default_factory=dict)

    @property
    def peak_rps(self) -> float:
        """Of our driver's closed loop with the most calls in flight.

        The open loops are our driver's, too: a rate that only a faster client has reached would
        measure the driver.
        """
        closed = [load for load in self.turns if load.client == DRIVER and not load.is_open]
        most = max(closed, key=lambda load: load.concurrency)
        return statistics.median(turn.rps for turn in self.turns[most])


async def race(
    pair: Sequence[tuple[Peer, Installed]],
    stream: Stream,
    plan: Plan,
    core: int,
) -> list[Racer]:
    """Starts the servers, and has them take turns at every load.

    Args:
        pair: Who races; one alone runs by itself.
        stream: What is sent.
        plan: How much of it.
        core: Where all processes of the servers run.

    Raises:
        Failed: One of them does not serve, or no more.
    """
    async with AsyncExitStack() as stack:
        racers = []
        for peer, installed in pair:
            directory = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix=f"race-{peer.name}-"))
            )
            ports = free_ports()
            command = peer.command(installed, stream, directory, ports)
            server = Server(peer.name, command, directory, core)
            calls = peer.calls(ports[0], stream)
            racers.append(Racer(peer, installed, command, server, calls, stream))
        for racer in racers:
            await stack.enter_async_context(racer.server)
            racer.answer = await racer.server.ready(racer.calls, stream)
            with _blamed(racer, "the warm-up"):
                racer.version = await racer.calls.version() or racer.installed.version
                racer.warm_rps = await _warm_up(racer, plan)
            racer.processes = racer.server.command_lines()
        await _rest(racers, plan.seconds)
        await _take_turns(racers, closed_loads(plan, racers), plan)
        slower_rps = min(racer.peak_rps for racer in racers)
        if not slower_rps:
            slower = min(racers, key=lambda racer: racer.peak_rps)
            raise Failed(slower.peer.name, "answered nothing under load")
        await _take_turns(racers, open_loads(plan, slower_rps), plan)
        return racers


def closed_loads(plan: Plan, racers: Sequence[Racer]) -> list[Load]:
    """Each concurrency, by our driver, and by those of the others that are installed."""
    clients = [DRIVER]
    if h2load.find():
        clients.append(H2LOAD)
    if plan.perf_analyzer and all(racer.peer.has_model_config for racer in racers):
        clients.append(PERF_ANALYZER)
    return [
        Load(client, concurrency=concurrency)
        for concurrency in plan.concurrencies
        for client in clients
    ]


def open_loads(plan: Plan, peak_rps: float) -> list[Load]:
    """Each rate, from the peak of the slower server."""
    return [
        Load(DRIVER, percent=percent, rate_per_s=peak_rps * percent / 100)
        for percent in plan.open_percents
    ]


@contextmanager
def _blamed(racer: Racer, load: str) -> Iterator[None]:
    """Whoever cannot be reached any more has failed."""
    try:
        yield
    except (OSError, RuntimeError) as failure:
        raise Failed(racer.peer.name, f"broke at {load}: {failure}") from failure


async def _warm_up(racer: Racer, plan: Plan) -> float:
    """Gives requests a second, from a run that is long enough to tell."""
    concurrency = max(plan.concurrencies)
    async with racer.calls.connected(concurrency) as call:
        first = await closed_loop(call, concurrency, WARM_UP_REQUESTS)
        requests = max(WARM_UP_REQUESTS, round(first.rps * plan.seconds / 2))
        return (await closed_loop(call, concurrency, requests)).rps


async def _rest(racers: Sequence[Racer], seconds: float) -> None:
    """What a server takes while it is the other's turn."""
    before = [racer.server.usage().cpu_us for racer in racers]
    await asyncio.sleep(seconds)
    for racer, cpu_us in zip(racers, before, strict=True):
        racer.idle_percent = (racer.server.usage().cpu_us - cpu_us) / seconds / 1e4


async def _take_turns(racers: Sequence[Racer], loads: Sequence[Load], plan: Plan) -> None:
    for repeat in range(plan.repeats):
        for load in loads:
            for racer in racers:
                with _blamed(racer, f"{load.name} by {load.client}"):
                    turn = await _turn(racer, load, plan, seed=repeat)
                racer.turns.setdefault(load, []).append(turn)


async def _turn(racer: Racer, load: Load, plan: Plan, seed: int) -> Turn:
    if load.client == H2LOAD:
        return _by_h2load(racer, load, plan.seconds)
    if load.client == PERF_ANALYZER:
        return _by_perf_analyzer(racer, load, plan)
    async with racer.calls.connected(load.concurrency) as call:
        before = racer.server.usage()
        if load.is_open:
            requests = max(1, round(load.rate_per_s * plan.seconds))
            schedule_ns = poisson_schedule_ns(load.rate_per_s, requests, seed)
            outcome = await open_loop(call, schedule_ns)
        else:
            requests = _requests(racer, load, plan.seconds)
            outcome = await closed_loop(call, load.concurrency, requests)
        return _of_outcome(outcome, before, racer.server.usage())


def _by_h2load(racer: Racer, load: Load, seconds: float) -> Turn:
    requests = _requests(racer, load, seconds)
    before = racer.server.usage()
    ran = racer.calls.h2load(load.concurrency, requests)
    after = racer.server.usage()
    errors = ran.errors(racer.answer.body_bytes)
    example = f"{errors} answers fewer than requests" if errors else ""
    return Turn.of(ran.rps, ran.latencies_ns, [], errors, example, before, after)


def _by_perf_analyzer(racer: Racer, load: Load, plan: Plan) -> Turn:
    """Where it cannot talk to a server, all its requests are errors."""
    assert isinstance(racer.calls, GrpcCalls)
    requests = _requests(racer, load, plan.seconds)
    latencies: dict[str, float | None] = dict.fromkeys(PERCENTILES)
    rps, errors, example = 0.0, 0, ""
    try:
        ran = perf_analyzer.run(
            plan.perf_analyzer, racer.calls.address, racer.stream, load.concurrency, requests
        )
        rps = ran.rps
        latencies |= {"p50_us": ran.p50_us, "p99_us": ran.p99_us}
    except RuntimeError as failure:
        errors, example = requests, str(failure)
    used = racer.server.usage()
    return Turn(rps, latencies, None, errors, example, None, used.rss_bytes, used.pss_bytes)


def _of_outcome(outcome: Outcome, before: Usage, after: Usage) -> Turn:
    return Turn.of(
        outcome.rps,
        outcome.latencies_ns,
        outcome.late_ns,
        outcome.errors,
        outcome.example,
        before,
        after,
    )


def _requests(racer: Racer, load: Load, seconds: float) -> int:
    """As many as the warm-up's rate needs for about so long, and several rounds at least."""
    return max(2 * load.concurrency, round(racer.warm_rps * seconds))
