"""`gslice`: all commands, and the one place where an error becomes a line for people."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gslice.cli import (
    apply,
    audit,
    bench,
    build,
    cache,
    completion,
    config,
    demo,
    doctor,
    drain,
    events,
    functions,
    importing,
    infer,
    init,
    key,
    logs,
    plan,
    profile,
    record,
    serve,
    status,
    top,
    upgrade,
    versions,
)
from gslice.cli.output import show_error
from gslice.core.errors import GsliceError

INTERRUPTED = 130  # as a shell reports a command that Ctrl-C ended


class Commands(TyperGroup):
    """Lists commands in the order below, and ends a failed one with a readable line."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The commands in the order they were added."""
        return list(self.commands)

    def invoke(self, ctx: Any) -> Any:
        """Runs a command; errors of gslice end it with status 1, Ctrl-C with 130."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # while a reader that has gone is still caught below
            return result
        except GsliceError as error:
            show_error(error)
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            raise typer.Exit(INTERRUPTED) from error
        except BrokenPipeError as error:
            # The reader, such as `head`, has seen enough. Nothing may be flushed to it at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from error
        except OSError as error:
            if error.filename is None:  # not about a file that was named: a fault of ours
                raise
            show_error(GsliceError(f"{error.filename}: {error.strerror}"))
            raise typer.Exit(1) from error


app = typer.Typer(
    name="gslice",
    cls=Commands,
    help="Serve many models on one device, each with its own share and latency promise.",
    no_args_is_help=True,
    rich_markup_mode=None,  # rich would take half of the time that --help may take
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("serve", short_help="Serve node.yaml, models or a Triton repository.")(serve.serve)
app.command("demo", short_help="Serve a real pipeline; show what it reads and how fast.")(demo.demo)
app.command("infer")(infer.infer)
app.command("bench")(bench.bench)
app.command("ps")(status.processes)
app.command("status")(status.status)
app.command("top", short_help="Watch the node on the whole screen.")(top.top)
app.command("load", short_help="Load a function while the others serve on.")(functions.load)
app.command("unload")(functions.unload)
app.command("resize")(functions.resize)
app.command("drain", short_help="Move a device's functions away, and place none there.")(
    drain.drain
)
app.command("undrain")(drain.undrain)
app.command("record", short_help="Keep requests that clients send as samples for warm-up.")(
    record.record
)
app.command("profile", short_help="Measure a function's latency over shares and batch sizes.")(
    profile.profile
)
app.command("plan", short_help="Show what the controller decides, and why.")(plan.plan)
app.command("versions", short_help="Show the versions of a function.")(versions.versions)
app.command("rollback", short_help="Serve an earlier version of a function.")(versions.rollback)
app.command("diff")(functions.diff)
app.command("save")(functions.save)
app.command("apply", short_help="Have the node follow node.yaml, while it serves.")(apply.apply)
app.command("upgrade")(upgrade.upgrade)
app.command("events")(events.events)
app.command("audit", short_help="Show who changed what on the node.")(audit.audit)
app.command("logs")(logs.logs)
app.command("doctor")(doctor.doctor)
app.command("init", short_help="Write a commented node.yaml.")(init.init)
app.command("build", short_help="Build what TensorRT runs, before it is loaded.")(build.build)
app.add_typer(cache.app, name="cache")
app.add_typer(config.app, name="config")
app.add_typer(importing.app, name="import")
app.add_typer(key.app, name="key")
app.command("completion", short_help="Print what completes commands in a shell.")(
    completion.completion
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from gslice import __version__

        typer.echo(f"gslice {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Serve many models on one device, each with its own share and latency promise."""


def main() -> None:
    """The entry point of the `gslice` command."""
    try:
        app()
    except KeyboardInterrupt:  # before a command ran
        sys.exit(INTERRUPTED)
