"""The screen of `gslice top`: it shows what `Watch` tells, and gives orders as the commands do."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from textual import events
from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.coordinate import Coordinate
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Static

from gslice.cli import top_view
from gslice.cli.events import EventLines
from gslice.cli.top_dialogs import ApplyDialog, DeviceDialog, Later, ResizeDialog
from gslice.client.control import Control
from gslice.core.errors import GsliceError
from gslice.core.figures import percent, requested_share

_INTERVAL_MS = 1000
_RETRY_S = 1.0
_EVENTS_SHOWN = 5
_HEIGHT_FOR_EVENTS = 20  # lines of a screen that has room for them


class Top(App[None]):
    """The whole screen.

    Args:
        state_dir: Of the daemon.
    """

    CSS = """
    #node, #devices, #function, #order, #events { height: auto; padding: 0 1; }
    #node, #devices, #order, #events { text-wrap: nowrap; text-overflow: ellipsis; }
    #devices { margin: 1 0; }
    #function { max-height: 3; }
    #order { height: 1; }
    DataTable { height: 1fr; }
    DataTable > .datatable--header { color: ansi_default; background: ansi_default; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        ("r", "resize", "Resize"),
        ("d", "drain", "Drain"),
        ("l", "reload", "Reload node.yaml"),
        ("q", "quit", "Quit"),
    ]
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, state_dir: Path) -> None:
        super().__init__(ansi_color=True)
        self._state_dir = state_dir
        self._status: Any = None
        self._left = threading.Event()
        self._watching: Control | None = None
        self._lines = EventLines()
        self._events: deque[Text] = deque(maxlen=_EVENTS_SHOWN)

    def compose(self) -> ComposeResult:
        """The node, its devices, its functions, the chosen one, the last order, events, keys."""
        yield Static(id="node")
        yield Static(id="devices")
        table: DataTable[Text] = DataTable(cursor_type="row", id="functions")
        yield table
        yield Static(id="function")
        yield Static(id="order")
        yield Static(id="events")
        yield Footer(show_command_palette=False)

    @property
    def _base(self) -> Screen[Any]:
        """The screen below all dialogs."""
        return self.screen_stack[0]

    # ---- what is shown -----------------------------------------------------------------------

    def on_mount(self) -> None:
        """Begins to watch."""
        self.theme = "ansi-dark"  # the colours of the terminal, whatever they are
        self._base.query_one(DataTable).focus()
        self.run_worker(self._watch, thread=True)

    def on_unmount(self) -> None:
        """Ends that."""
        self._left.set()
        if self._watching is not None:
            self._watching.close()

    def on_resize(self, event: events.Resize) -> None:
        """Other columns may fit."""
        self._show()

    def on_data_table_row_highlighted(self) -> None:
        """Another function is chosen."""
        self._show_function()

    def _watch(self) -> None:
        """Until the screen is left: shows each status, of whichever daemon answers."""
        while not self._left.is_set():
            try:
                with Control(self._state_dir) as self._watching:
                    for status in self._watching.watch(_INTERVAL_MS):
                        self.post_message(Later(partial(self._take, status)))
                reason = "the daemon has ended"
            except GsliceError as error:
                reason = error.message
            except ValueError:  # gRPC's word for a channel that was closed, by `on_unmount`
                return
            if not self._left.is_set():
                self.post_message(Later(partial(self._lost, reason)))
                self._left.wait(_RETRY_S)

    def on_later(self, message: Later) -> None:
        """A thread has something to show."""
        message.work()

    def _take(self, status: Any) -> None:
        self._status = status
        for event in status.events:
            self._events.append(self._lines.line(event))
        self._show()

    def _lost(self, reason: str) -> None:
        line = Text(f"{reason}; looking again", style="bold red")
        self._base.query_one("#node", Static).update(line)

    def _show(self) -> None:
        status = self._status
        if status is None:
            return
        width, height = self.size
        self._base.query_one("#node", Static).update(top_view.node_line(status))
        bars = top_view.device_lines(status, width - 2)
        self._base.query_one("#devices", Static).update(Text("\n").join(bars))
        self._show_table(width - 2)
        self._show_function()
        shown = Text("\n").join(self._events) if height >= _HEIGHT_FOR_EVENTS else Text()
        self._base.query_one("#events", Static).update(shown)

    def _show_table(self, width: int) -> None:
        table, status = self._base.query_one(DataTable), self._status
        longest = max((len(function.name) for function in status.functions), default=0)
        columns = top_view.columns_for(width, longest)
        chosen = self._chosen()
        if [str(column.label) for column in table.ordered_columns] != [c.title for c in columns]:
            table.clear(columns=True)
            table.add_columns(*map(top_view.head, columns))
        rows = {function.name: top_view.cells(function, columns) for function in status.functions}
        if [row.key.value for row in table.ordered_rows] != list(rows):
            table.clear()
            for name, cells in rows.items():
                table.add_row(*cells, key=name)
            if chosen is not None and chosen.name in rows:
                table.move_cursor(row=list(rows).index(chosen.name))
            return
        for row, cells in enumerate(rows.values()):
            for column, cell in enumerate(cells):
                table.update_cell_at(Coordinate(row, column), cell, update_width=True)

    def _show_function(self) -> None:
        function = self._chosen()
        line = top_view.function_line(function) if function is not None else Text("no functions")
        self._base.query_one("#function", Static).update(line)

    def _chosen(self) -> Any:
        """The function under the cursor, as it is by now; None: there is none."""
        table = self._base.query_one(DataTable)
        if not table.row_count:
            return None
        name = table.ordered_rows[table.cursor_row].key.value
        return next((f for f in self._status.functions if f.name == name), None)

    # ---- orders ------------------------------------------------------------------------------

    def action_resize(self) -> None:
        """Asks for a share, then orders it."""
        function = self._chosen()
        if function is None:
            return
        name = function.name
        device = next((d for d in self._status.devices if d.name == function.device), None)
        share = _share_yaml(function.share_min_percent, function.share_max_percent)
        steps = top_view.legal_step(device) if device is not None else "percent"

        def plan(asked: str) -> str:
            with Control(self._state_dir) as control:
                return "".join(stage.detail for stage in control.resize(name, asked, dry_run=True))

        def answered(asked: str | None) -> None:
            if asked is not None:
                self._order(name, lambda control: control.resize(name, asked))

        self.push_screen(ResizeDialog(name, share, steps, plan), answered)

    def action_drain(self) -> None:
        """Asks which device, then orders it."""
        if self._status is None:
            return
        drained = {device.name for device in self._status.devices if device.drained}

        def answered(device: str | None) -> None:
            if device is not None:
                order = Control.undrain if device in drained else Control.drain
                self._order(device, lambda control: order(control, device))

        self.push_screen(DeviceDialog(self._status.devices), answered)

    def action_reload(self) -> None:
        """Shows how what runs differs from node.yaml, then has that applied."""

        def plan() -> Any:
            with Control(self._state_dir) as control:
                return control.plan_apply()

        def answered(digest: str | None) -> None:
            if digest is not None:
                self._order("node.yaml", lambda control: control.apply(digest))

        self.push_screen(ApplyDialog(plan), answered)

    def _order(self, subject: str, order: Callable[[Control], Iterable[Any]]) -> None:
        """Gives an order in a thread, and shows its stages as they pass."""

        def tell(line: str, *, failed: bool) -> None:
            self.post_message(Later(partial(self._tell, line, failed=failed)))

        def work() -> None:
            try:
                with Control(self._state_dir) as control:
                    for stage in order(control):
                        about = stage.subject or subject
                        line = f"{about}: {stage.name} {stage.detail}".rstrip()
                        tell(line, failed=stage.name == "failed")
            except GsliceError as error:
                tell(f"{subject}: {error}", failed=True)

        self._tell(f"{subject}: ordered")
        self.run_worker(work, thread=True)

    def _tell(self, text: str, *, failed: bool = False) -> None:
        line = Text(text, style="bold red" if failed else "")
        self._base.query_one("#order", Static).update(line)


def _share_yaml(min_percent: float, max_percent: float) -> str:
    """A share as node.yaml has it."""
    shown = requested_share(min_percent, max_percent)
    if shown == "auto" or min_percent == max_percent:
        return shown
    return f"{{min: {percent(min_percent)}, max: {percent(max_percent)}}}"
