"""The operator's side of `gslice.v1.Control`: a daemon, by its state directory."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from gslice.core.audit import PID_HEADER
from gslice.core.errors import Cancelled, GsliceError, PermissionDenied, Unavailable, from_code
from gslice.protos import message
from gslice.protos.rpc import Stub

SOCKET = "control.sock"
CALL_TIMEOUT_S = 10.0
_PACKAGE = "gslice.v1"
_UPGRADE_ENDS = ("done", "failed")
_RECONNECT_MS = 50
_OPTIONS = [("grpc.max_receive_message_length", -1)]  # a recorded request may be of any size


class Control:
    """Calls a daemon through the Unix socket in its state directory.

    Messages are those of protos/gslice_control.proto; `as_dict` makes plain values of them.

    Args:
        state_dir: The daemon's state directory.

    Raises:
        Unavailable: no daemon listens there.
        PermissionDenied: it belongs to another user.
    """

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        _check_listening(state_dir)
        self._channel = grpc.insecure_channel(f"unix:{state_dir / SOCKET}", options=_OPTIONS)
        self._stub = Stub(self._channel, f"{_PACKAGE}.Control", ((PID_HEADER, str(os.getpid())),))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()

    def status(self) -> Any:
        """What runs: a `Status`."""
        return self._call("GetStatus", "StatusRequest")

    def watch(self, interval_ms: int) -> Iterator[Any]:
        """A `Status` whenever something changes, and at least every `interval_ms`."""
        return self._stream("Watch", "WatchRequest", interval_ms=interval_ms)

    def load(
        self, name: str, function_yaml: str = "", base_dir: Path | None = None
    ) -> Iterator[Any]:
        """Loads a function; a `Stage` each as they pass.

        Args:
            name: The function's.
            function_yaml: The body under `functions.<name>`; empty: as node.yaml declares it.
            base_dir: Where relative paths in the body start; None: where node.yaml is.
        """
        start = str(base_dir.absolute()) if base_dir is not None else ""
        return self._stream(
            "Load", "LoadRequest", name=name, function_yaml=function_yaml, base_dir=start
        )

    def unload(self, name: str) -> Iterator[Any]:
        """Drains and removes a function; a `Stage` each as they pass."""
        return self._stream("Unload", "UnloadRequest", name=name)

    def resize(self, name: str, share: str, *, dry_run: bool = False) -> Iterator[Any]:
        """Changes a function's share; a `Stage` each as they pass, the last with what was done.

        Args:
            name: The function's.
            share: YAML, as under `functions.<name>.share`: `40%`, `auto`, `{min: 20%, max: 60%}`.
            dry_run: Only one `Stage`, with what would be done.
        """
        return self._stream("Resize", "ResizeRequest", name=name, share=share, dry_run=dry_run)

    def drain(self, device: str) -> Iterator[Any]:
        """Has the functions of a device leave; a `Stage` for each as it goes, or stays."""
        return self._stream("Drain", "DrainRequest", device=device)

    def undrain(self, device: str) -> Iterator[Any]:
        """Lets functions be placed on a device again; one `Stage`."""
        return self._stream("Drain", "DrainRequest", device=device, undo=True)

    def profile(
        self,
        name: str,
        shares_percent: Sequence[float] = (),
        buckets: Sequence[int] = (),
        *,
        show: bool = False,
    ) -> Iterator[Any]:
        """Measures a function; a `ProfileStep` each as points are measured, the last the result.

        It is given up when this is closed.

        Args:
            name: The function's.
            shares_percent: All of these, with `buckets`; both empty: what tells the rest.
            buckets: Likewise.
            show: Only what is kept.
        """
        return self._stream(
            "Profile",
            "ProfileRequest",
            name=name,
            shares_percent=shares_percent,
            buckets=buckets,
            show=show,
        )

    def record(self, name: str, requests: int, size_bytes: int, duration_us: int) -> Iterator[Any]:
        """Copies requests that clients send; a `RecordStep` each as they come, then each of them.

        It is given up when this is closed.

        Args:
            name: The function's.
            requests: How many.
            size_bytes: Of each worker's, at most.
            duration_us: At most.
        """
        return self._stream(
            "Record",
            "RecordRequest",
            name=name,
            requests=requests,
            size_bytes=size_bytes,
            duration_us=duration_us,
        )

    def plan(self, what_if: Sequence[str] = ()) -> Any:
        """What the controller decides: a `PlanReply`.

        Args:
            what_if: Of other demands than there are, such as `detector.rate=200`.
        """
        return self._call("Plan", "PlanRequest", what_if=what_if)

    def rollback(self, name: str, version: str = "", *, dry_run: bool = False) -> Iterator[Any]:
        """Serves another version of a function; a `Stage` each as they pass.

        Args:
            name: The function's.
            version: A number, or `latest`; empty: the one that served before.
            dry_run: Only one `Stage`, with what would be done.
        """
        return self._stream(
            "Rollback", "RollbackRequest", name=name, version=version, dry_run=dry_run
        )

    def versions(self, name: str) -> Any:
        """The versions of a function that have served, newest first: a `VersionsReply`."""
        return self._call("Versions", "VersionsRequest", name=name)

    def diff(self) -> Any:
        """How what runs differs from node.yaml: a `DiffReply`."""
        return self._call("Diff", "DiffRequest")

    def save(self, *, discard_overlay: bool = False) -> Any:
        """Writes what runs into node.yaml, or drops the difference: a `SaveReply`."""
        # It may load functions, which takes what it takes.
        return self._call("Save", "SaveRequest", timeout_s=None, discard_overlay=discard_overlay)

    def plan_apply(self) -> Any:
        """How what runs differs from what node.yaml says by now: an `ApplyPlan`."""
        # Files of models are read when they have changed, which takes what it takes.
        return self._call("PlanApply", "PlanApplyRequest", timeout_s=None)

    def apply(self, digest: str = "") -> Iterator[Any]:
        """Has the node follow node.yaml; a `Stage` each as they pass, with its function.

        Args:
            digest: Of the plan that was seen; empty: whatever it is by now.
        """
        return self._stream("Apply", "ApplyRequest", digest=digest)

    def logs(self, name: str, lines: int, *, follow: bool = False) -> Iterator[str]:
        """Lines of a function's, the front-end's or the daemon's log."""
        stream = self._stream("Logs", "LogsRequest", name=name, lines=lines, follow=follow)
        return (line.text for line in stream)

    def events(
        self, limit: int, *, follow: bool = False, subject: str = "", kinds: Sequence[str] = ()
    ) -> Iterator[Any]:
        """The newest `limit` events, oldest first; with `follow`, then what happens.

        Args:
            limit: How many of the past.
            follow: Go on until the daemon stops.
            subject: A function, a device, `frontend` or `daemon`; empty: all.
            kinds: Such as `crash`; empty: all.
        """
        return self._stream(
            "Events", "EventsRequest", limit=limit, follow=follow, subject=subject, kinds=kinds
        )

    def upgrade(self, *, workers: bool = False) -> Iterator[Any]:
        """Puts the code on disk in place of the daemon and its front-ends; what runs serves on.

        Args:
            workers: Then in place of every worker, too.

        Returns:
            A `Stage` each as they pass: those of the daemon that answers now, then those of the one
            that takes its place in the same process. The last is `done` or `failed`.
        """
        pidfd = os.pidfd_open(self.status().pid)
        try:
            told = 0
            for control in self._successors(pidfd):
                stages = control._stream(
                    "Upgrade", "UpgradeRequest", follow=told > 0, workers=workers
                )
                try:
                    with control:
                        for stage in itertools.islice(stages, told, None):
                            told += 1
                            yield stage
                            if stage.name in _UPGRADE_ENDS:
                                return
                except (Unavailable, Cancelled):  # the latter where it ends over our call
                    if not told:
                        raise
        finally:
            os.close(pidfd)

    def shutdown(self, drain_timeout_ms: int) -> None:
        """Asks the daemon to stop in order; it answers before it ends."""
        self._call("Shutdown", "ShutdownRequest", drain_timeout_ms=drain_timeout_ms)

    def _successors(self, pidfd: int) -> Iterator[Control]:
        """Clients of the daemons that answer one after the other in one process."""
        process = select.poll()
        process.register(pidfd, select.POLLIN)
        while True:
            with contextlib.suppress(Unavailable):  # it does not listen yet
                yield Control(self.state_dir)
            if process.poll(_RECONNECT_MS):
                raise Unavailable(
                    "the daemon ended over its upgrade; functions serve on for node.orphan_grace",
                    hint=f"start it again; why it ended says {self.state_dir / 'log/daemon.log'}",
                )

    def _call(
        self,
        method: str,
        request: str,
        *,
        timeout_s: float | None = CALL_TIMEOUT_S,
        **fields: Any,
    ) -> Any:
        call = getattr(self._stub, method)
        try:
            return call(message(f"{_PACKAGE}.{request}")(**fields), timeout=timeout_s)
        except grpc.RpcError as error:
            raise self._error(error) from error

    def _stream(self, method: str, request: str, **fields: Any) -> Iterator[Any]:
        call = getattr(self._stub, method)(message(f"{_PACKAGE}.{request}")(**fields))
        try:
            yield from call
        except grpc.RpcError as error:
            raise self._error(error) from error
        finally:
            call.cancel()

    def _error(self, error: Any) -> GsliceError:
        number, _ = error.code().value
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            return Unavailable(f"the daemon at {self.state_dir} went away: {error.details()}")
        return from_code(number, error.details() or error.code().name)


def as_dict(value: Any) -> dict[str, Any]:
    """A message as plain values: every field, under its own name, numbers as numbers."""
    return {field.name: _plain(getattr(value, field.name)) for field in value.DESCRIPTOR.fields}


def _plain(value: Any) -> Any:
    if hasattr(value, "DESCRIPTOR"):
        return as_dict(value)
    if isinstance(value, (str, bool, int, float)):
        return value
    return [_plain(item) for item in value]


def _check_listening(state_dir: Path) -> None:
    """Tells at once, and in words, what gRPC would tell late and in its own."""
    path = state_dir / SOCKET
    hint = "start one with `gslice serve`, or name its directory with --state-dir"
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with probe:
            probe.connect(os.fsencode(path))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Unavailable(f"no daemon runs in {state_dir}", hint=hint) from error
    except ConnectionRefusedError as error:
        raise Unavailable(f"the daemon of {state_dir} has ended", hint=hint) from error
    except PermissionError as error:
        raise PermissionDenied(
            f"{path} belongs to another user", hint="only the daemon's own user may control it"
        ) from error
    except OSError as error:
        raise Unavailable(f"{path}: {error}", hint=hint) from error
