"""What each step of the data path saves: ResNet-50, the same module, requests and batch everywhere.

Every arm starts with the requests' tensors in slots in host memory and ends with their answers in
slots. The arms take turns; a turn's latency is the median of its batches, a row's figures are
medians over the turns.

    pageable    gather by memcpy, blocking copies of pageable memory, synchronise
    pinned      gather by memcpy into pinned staging, asynchronous copies, synchronise
    gather      one asynchronous copy for each slot, which is pinned itself; synchronise
    events      an event that is polled instead of the synchronise call
    graphs      a graph instead of the module's call
    gslice      the same graph behind gslice's own segment, pump and lane, wake-up included

`pageable_graphs` is the first with a graph, so that the share of the data path itself can be told
from the graph's. The bar: `graphs` and `gslice` at least 35 % below `pageable`.
"""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.driver import Gpu
from benchmarks.gpu.models import MODELS, Model, captured
from benchmarks.gpu.pumped import Pumped
from benchmarks.gpu.replay import Replay
from benchmarks.gpu.report import GpuReport
from benchmarks.gpu.step import Clock, main, needed
from benchmarks.gpu.tensors import tensor_at
from benchmarks.gpu.turns import TURN_S, Run, Turns, below_percent, spread_percent, take_turns

BATCHES = (1, 2, 4, 8)
BAR_PERCENT = 35.0
BASE = "pageable"
CHAIN = (BASE, "pinned", "gather", "events", "graphs", "gslice")
TOLERANCE = 0.05  # of the largest output: FP16 arithmetic in another order


class Arms:
    """The arms that run without gslice, over the same requests, module and GPU memory.

    Args:
        module: The model.
        model: Its description.
        tensors: The requests' rows.
        replay: Pinned slots with the same rows, and a graph of the module.
    """

    def __init__(self, module: Any, model: Model, tensors: NDArray[Any], replay: Replay) -> None:
        torch = needed("torch")
        self._torch, self._module, self._replay = torch, module, replay
        rows, place = len(tensors), replay.place
        self._slots = [row.copy() for row in tensors]
        self._answers = [np.empty(model.outputs, np.float32) for _ in range(rows)]
        self._batch = np.empty_like(tensors)
        self._stream = torch.cuda.ExternalStream(place.stream)
        self._input = tensor_at(place.input, tensors.shape, model.dtype)
        self._output = tensor_at(place.output, (rows, model.outputs), "FP32")
        self._staged = torch.empty(*tensors.shape, pin_memory=True)
        self._staged_rows = list(self._staged.numpy())
        self._staged_answers = torch.empty(rows, model.outputs, pin_memory=True)

    def runs(self) -> dict[str, Run]:
        """One batch of each arm."""
        return {
            "pageable": self.pageable,
            "pageable_graphs": self.pageable_graphs,
            "pinned": self.pinned,
            "gather": self.gather,
            "events": self.events,
            "graphs": self._replay.run,
        }

    def answers(self, arm: str) -> NDArray[np.float32]:
        """What an arm's last batch gave."""
        by_hand = arm in ("pageable", "pageable_graphs", "pinned")
        return np.stack(self._answers) if by_hand else self._replay.answers()

    def pageable(self) -> None:
        """See the module."""
        np.stack(self._slots, out=self._batch)
        answers = self._module(self._torch.from_numpy(self._batch).to("cuda")).cpu()
        self._scatter(answers.numpy())

    def pageable_graphs(self) -> None:
        """See the module."""
        np.stack(self._slots, out=self._batch)
        with self._torch.cuda.stream(self._stream):
            self._input.copy_(self._torch.from_numpy(self._batch))
            self._replay.launch()
            answers = self._output.cpu()
        self._scatter(answers.numpy())

    def pinned(self) -> None:
        """See the module."""
        for staged, slot in zip(self._staged_rows, self._slots, strict=True):
            staged[:] = slot
        with self._torch.cuda.stream(self._stream):
            self._input.copy_(self._staged, non_blocking=True)
            self._staged_answers.copy_(self._module(self._input), non_blocking=True)
        self._replay.wait()
        self._scatter(self._staged_answers.numpy())

    def gather(self) -> None:
        """See the module."""
        self._enqueue_call()
        self._replay.wait()

    def events(self) -> None:
        """See the module."""
        self._enqueue_call()
        self._replay.poll()

    def _enqueue_call(self) -> None:
        self._replay.copy_in()
        with self._torch.cuda.stream(self._stream):
            self._output.copy_(self._module(self._input))
        self._replay.copy_out()

    def _scatter(self, answers: Any) -> None:
        for answer, row in zip(self._answers, answers, strict=True):
            answer[:] = row


def measure(report: GpuReport, clock: Clock) -> None:
    """A row for each batch size and arm."""
    torch = needed("torch")
    model = MODELS["resnet50"]
    module = model.make()
    capture = captured(model, module)
    report.setting(turn_s=TURN_S, bar_percent=BAR_PERCENT, model=model.name)
    told: list[tuple[int, float, float]] = []
    with (
        torch.inference_mode(),
        Gpu() as gpu,
        Pumped(model.row, model.dtype, model.outputs, BATCHES, capture) as pumped,
    ):
        pumped.run(pumped.requests(np.zeros((max(BATCHES), *model.row), np.float32)))
        before = pumped.counters()
        for done, rows in enumerate(BATCHES):
            tensors = np.random.default_rng(0).random((rows, *model.row), np.float32)
            requests = pumped.requests(tensors)
            with Replay(gpu, rows, model.row_bytes, 4 * model.outputs, capture) as replay:
                replay.fill(tensors)
                arms = Arms(module, model, tensors, replay)
                runs = arms.runs()
                runs["gslice"] = lambda of=requests: pumped.run(of).total_us  # type: ignore[misc]
                _agree(arms, runs, pumped)
                turns = take_turns(runs, clock.share_s(len(BATCHES) - done))
            for row in tell(turns):
                report.add(f"batch {rows}", **row)
            told.append(
                (rows, below_percent(turns, "graphs", BASE), below_percent(turns, "gslice", BASE))
            )
            report.headline(headline(told))
            report.setting(counters=pumped.counters(since=before))
    report.setting(bar_met=all(min(percents) >= BAR_PERCENT for _, *percents in told))


def tell(turns: Turns) -> list[dict[str, Any]]:
    """A row for each arm; `part_percent` is what its step saves, of the first arm's latency."""
    rows = []
    for arm, times in turns.items():
        saved = below_percent(turns, arm, BASE)
        row: dict[str, Any] = {
            "arm": arm,
            "latency_us": round(statistics.median(times), 1),
            "latency_us_spread_percent": spread_percent(times),
            "below_pageable_percent": saved,
            "turns": len(times),
        }
        if arm in CHAIN[1:]:
            before = below_percent(turns, CHAIN[CHAIN.index(arm) - 1], BASE)
            row["part_percent"] = round(saved - before, 1)
        if arm in ("graphs", "gslice"):
            row["below_pageable_graphs_percent"] = below_percent(turns, arm, "pageable_graphs")
        rows.append(row)
    return rows


def headline(told: list[tuple[int, float, float]]) -> str:
    """Batch size, and how far below the first arm the graph is by hand and in gslice."""
    parts = (
        f"batch {rows}: {graphs:g} % by hand, {gslice:g} % in gslice"
        for rows, graphs, gslice in told
    )
    return f"below pageable + synchronise: {'; '.join(parts)} (bar {BAR_PERCENT:g} %)"


def _agree(arms: Arms, runs: dict[str, Run], pumped: Pumped) -> None:
    """Refuses to measure arms that give different answers."""
    runs[BASE]()
    expected = arms.answers(BASE)
    for arm, run in runs.items():
        run()
        found = pumped.outputs() if arm == "gslice" else arms.answers(arm)
        if not np.allclose(found, expected, atol=TOLERANCE * np.abs(expected).max()):
            raise RuntimeError(f"{arm} gives another answer than {BASE}")


if __name__ == "__main__":
    main("ablation", measure)
