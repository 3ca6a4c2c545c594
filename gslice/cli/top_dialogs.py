"""The questions of `gslice top`: to what share, which device, and whether to apply node.yaml."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from gslice.cli.apply import LATER, plan_lines
from gslice.core.errors import GsliceError

_CANCEL = "Esc leaves it"


class Later(Message, bubble=False):
    """Work that a thread leaves to the screen it is for; dropped if that has gone by then.

    Args:
        work: Done there.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__()
        self.work = work


class Dialog(ModalScreen[str | None]):
    """A box over the screen; what is chosen is its result, None if nothing is.

    Args:
        title: Its first line.
        hint: Its last one.
    """

    DEFAULT_CSS = """
    Dialog { align: center middle; }
    Dialog > Vertical {
        width: 76; max-width: 100%; height: auto; max-height: 100%;
        border: round $primary; padding: 0 1;
    }
    Dialog #told { max-height: 16; overflow-y: auto; }
    Dialog #hint { text-style: dim; }
    Dialog OptionList { height: auto; max-height: 12; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [("escape", "dismiss(None)", "Leave")]

    def __init__(self, title: str, hint: str) -> None:
        super().__init__()
        self._heading = title
        self._hint = hint

    def compose(self) -> ComposeResult:
        """Title, content, what was told of it, hint."""
        with Vertical():
            yield Static(Text(self._heading, style="bold"))
            yield from self.content()
            yield Static(id="told")
            yield Static(Text(f"{self._hint}; {_CANCEL}"), id="hint")

    def content(self) -> ComposeResult:
        """What stands between title and hint."""
        return ()

    def tell(self, text: Text) -> None:
        """Shows something below the content."""
        self.query_one("#told", Static).update(text)

    def ask(self, question: Callable[[], Any], answered: Callable[[Any], None]) -> None:
        """Asks the daemon in a thread, and takes the answer here; an error is shown."""

        def work() -> None:
            try:
                answer = question()
            except GsliceError as error:
                told = Text(str(error), style="red")
                self.post_message(Later(lambda: self.tell(told)))
            else:
                self.post_message(Later(lambda: answered(answer)))

        self.tell(Text("..."))
        self.run_worker(work, thread=True)

    def on_later(self, message: Later) -> None:
        """An answer has come."""
        message.work()


class ResizeDialog(Dialog):
    """To what share: asks the daemon what it would do, then, by the same key again, has it done.

    Args:
        name: The function's.
        share: That it has, as YAML.
        steps: In which shares can change, for people.
        plan: What the daemon would do, of a share as YAML.
    """

    def __init__(self, name: str, share: str, steps: str, plan: Callable[[str], str]) -> None:
        super().__init__(f"Share of {name} ({steps})", "Enter asks what it would do")
        self._share = share
        self._plan = plan
        self._planned = ""

    def content(self) -> ComposeResult:
        """The share."""
        yield Input(self._share, placeholder="40%, auto or {min: 20%, max: 60%}")

    def on_input_changed(self) -> None:
        """What was asked was about another share."""
        self._planned = ""

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Asks, or has it done."""
        share = event.value.strip()
        if share and share == self._planned:
            self.dismiss(share)
            return

        def answered(text: str) -> None:
            self._planned = share
            self.tell(Text(f"{text}\nEnter does it"))

        self.ask(lambda: self._plan(share), answered)


class DeviceDialog(Dialog):
    """Which device is to be drained, or not any more.

    Args:
        devices: Of the status.
    """

    def __init__(self, devices: Any) -> None:
        super().__init__("Drain a device: its functions move to others", "Enter does it")
        self._devices = devices

    def content(self) -> ComposeResult:
        """A line a device."""
        yield OptionList(
            *(
                Option(f"{'undrain' if device.drained else 'drain':<8} {device.name}", device.name)
                for device in self._devices
            )
        )

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Has it done."""
        self.dismiss(event.option.id)


class ApplyDialog(Dialog):
    """Whether the node is to follow its node.yaml as that is by now.

    Args:
        plan: Asks the daemon what it would do: an `ApplyPlan`.
    """

    BINDINGS: ClassVar[list[BindingType]] = [*Dialog.BINDINGS, ("enter", "apply", "Apply")]

    def __init__(self, plan: Callable[[], Any]) -> None:
        super().__init__("Apply node.yaml", "Enter does it")
        self._plan = plan
        self._digest = ""

    def on_mount(self) -> None:
        """Asks at once."""
        self.ask(self._plan, self._planned)

    def action_apply(self) -> None:
        """Has it done, if there is anything to do."""
        if self._digest:
            self.dismiss(self._digest)

    def _planned(self, plan: Any) -> None:
        if any(change.how not in LATER for change in plan.changes):
            self._digest = plan.digest
        lines = plan_lines(plan) or [Text("what runs is what node.yaml says")]
        self.tell(Text("\n").join(lines))
