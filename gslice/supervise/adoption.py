"""Finding and taking over what an earlier daemon left running.

Everything that is needed comes from the children themselves, with their Hello: specifications,
signatures, segments, eventfds. What cannot be taken over is ended, and its requests go back into
the queue of those that can.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gslice._native import MAX_FRONTENDS, MAX_INSTANCES, Segment
from gslice.control.versions import where_it_is
from gslice.core.errors import GsliceError, NotFound, Unavailable
from gslice.core.events import EventKind
from gslice.ipc.messages import HoldThreads
from gslice.ipc.process import owner_of
from gslice.supervise.child import Child
from gslice.supervise.hosts import LODGER_PREFIX
from gslice.supervise.logs import DAEMON_LOG_NAME
from gslice.supervise.news import tell_requeued
from gslice.supervise.process import Process
from gslice.supervise.program_note import end_all, read_notes
from gslice.supervise.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from gslice.core.events import Record
    from gslice.core.types import FunctionSpec, Signature
    from gslice.ipc.channel import Received
    from gslice.supervise.node import Node

_T = TypeVar("_T")
_END_TIMEOUT_S = 2.0
_SEGMENT_FILE = "/memfd:gslice:"


@dataclass
class Group:
    """Workers that serve one segment.

    Attributes:
        segment: The segment.
        spec: What they loaded.
        signature: Of it.
        workers: Ready ones.
        outdated: They were loaded for other cores, for another limiter or as another user than
            their device has now.
    """

    segment: Segment
    spec: FunctionSpec
    signature: Signature
    workers: list[Worker] = field(default_factory=list)
    outdated: bool = False

    @property
    def pulling(self) -> bool:
        """Whether requests are served from it."""
        return any(self.segment.may_pull(w.instance) for w in self.workers)

    @property
    def share_percent(self) -> float:
        """What it has of each of its devices, where none of its instances died."""
        devices = dict.fromkeys(self.spec.placed, 0.0)
        for worker in self.workers:
            devices[worker.device] += worker.share_percent
        return max(devices.values())

    def take_surplus(self) -> list[Worker]:
        """Takes out who is warm and was not to pull when the daemon died; settles its devices.

        These are shadows, and replicas that were about to come or to go.
        """
        serves, kept = self.pulling, list[Worker]()
        for device in dict.fromkeys(worker.device for worker in self.workers):
            there = [worker for worker in self.workers if worker.device == device]
            there.sort(key=lambda worker: not self.segment.may_pull(worker.instance))
            if not serves or self.segment.may_pull(there[0].instance):
                kept += there[: self.spec.instances]
        surplus = [worker for worker in self.workers if worker not in kept]
        self.workers = kept
        self.spec = self.spec.placed_on(list(dict.fromkeys(worker.device for worker in kept)))
        return surplus


@dataclass
class Found:
    """What was running.

    Attributes:
        frontends: Front-ends.
        groups: Functions that are served, one group for each segment.
        useless: Workers that serve nothing yet, or no more, or on a device that is gone.
        hosts: The processes of those workers that share one.
        orphans: Segments that front-ends hold and no worker serves any more, each once.
    """

    frontends: list[Child] = field(default_factory=list)
    hosts: list[Child] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    useless: list[Child] = field(default_factory=list)
    orphans: list[Segment] = field(default_factory=list)

    @property
    def children(self) -> list[Child]:
        """All."""
        workers = [worker.child for group in self.groups for worker in group.workers]
        return [*self.frontends, *workers, *self.useless, *self.hosts]


async def find_children(node: Node, on_call: Callable[[Child, Received], None]) -> Found:
    """Connects to every child whose socket is there; removes sockets that nobody serves."""
    names, known = node.run_dir.names(), dict[tuple[int, int], Process]()

    def heard(child: Child, received: Received) -> None:
        of_worker = isinstance(received.message, HoldThreads)
        (node.broker.heard if of_worker else on_call)(child, received)

    children = await asyncio.gather(*(_adopt(node, name, heard, known) for name in names))
    found = Found()
    for child in children:
        if child is None:
            continue
        if child.hello.frontend is not None:
            found.frontends.append(child)
        elif child.hello.host is not None:
            found.hosts.append(child)
        elif not _join_group(node, found, child):
            found.useless.append(child)
    for group in found.groups:
        found.useless.extend(worker.child for worker in group.take_surplus())
    found.orphans = _orphans(found)
    node.ledgers.adopt((group.segment for group in found.groups), found.orphans)
    return found


def adopt_hosts(node: Node, found: Found) -> None:
    """Takes over the hosts, each with whoever is in it."""
    for host in found.hosts:
        assert host.hello.host is not None
        there = [
            (child, child.hello.worker.spec.name if child.hello.worker.spec else "")
            for child in found.children
            if child.hello.worker is not None
            and child.is_lodger
            and child.process.pid == host.process.pid
        ]
        node.hosts.adopt(host, host.hello.host.device, there)


async def end_strays(node: Node) -> None:
    """Ends the children that this daemon never got to lead: a stop came first."""
    await asyncio.gather(
        *(_end_stray(node, name) for name in node.run_dir.names()),
        *(end_all(node, note) for note in read_notes(node).values()),
    )


def recover(group: Group, frontends: Collection[int], event: Record) -> list[int]:
    """Cleans a segment of those who died while no daemon looked.

    Args:
        group: The segment and its living workers.
        frontends: Indices of the living front-ends.
        event: Records what became of the requests that the dead had claimed.

    Returns:
        The front-ends to wake.
    """
    wake: list[int] = []
    claimed: Counter[str] = Counter()
    group.segment.rebuild_hints()
    living = {worker.instance for worker in group.workers}
    for instance in set(range(MAX_INSTANCES)) - living:
        rerun = not group.spec.side_effects
        result = group.segment.requeue(instance, rerun, device_gone=True)
        wake += result.pop("wake")
        claimed.update(result)
        group.segment.release_quarantine(instance)
        group.segment.remove_instance(instance)
    tell_requeued(event, group.spec.name, claimed)
    for index in set(range(MAX_FRONTENDS)) - set(frontends):
        group.segment.reap_frontend(index)
        for worker in group.workers:
            worker.remove_frontend(index)
    return wake


def best(groups: list[Group], desired: FunctionSpec | None) -> Group:
    """The group that serves a function, if a daemon died between two of them."""
    return max(groups, key=lambda group: (group.pulling, _is(group.spec, desired)))


def _is(spec: FunctionSpec, desired: FunctionSpec | None) -> bool:
    return desired is not None and spec == where_it_is(desired, spec)


def _orphans(found: Found) -> list[Segment]:
    known = {group.segment.generation for group in found.groups}
    segments = []
    for child in found.frontends:
        for segment in _segments_of(child.process.pid):
            if segment.generation not in known:
                known.add(segment.generation)
                segments.append(segment)
    return segments


def give_up(segment: Segment) -> list[int]:
    """Answers all that waits in a segment without workers with UNAVAILABLE.

    Returns:
        The front-ends to wake.
    """
    wake = []
    for instance in range(MAX_INSTANCES):
        wake += segment.requeue(instance, may_rerun=True, device_gone=True)["wake"]
    reason = f"function {segment.name}: its workers died while no daemon ran"
    return [*wake, *segment.fail_queued(Unavailable.code, reason)]


def _segments_of(pid: int) -> Iterator[Segment]:
    """The segments that a process holds, re-opened through its descriptors; none if it is gone."""
    try:
        entries = list(Path(f"/proc/{pid}/fd").iterdir())
    except (FileNotFoundError, PermissionError):  # the latter while nobody has reaped it
        return
    for entry in entries:
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            if not str(entry.readlink()).startswith(_SEGMENT_FILE):
                continue
            fd = os.open(entry, os.O_RDWR | os.O_CLOEXEC)
            try:
                segment = Segment.open(fd)
            except GsliceError:  # another build's: nobody can do anything with it any more
                continue
            finally:
                os.close(fd)
            yield segment


async def _adopt(
    node: Node,
    name: str,
    on_call: Callable[[Child, Received], None],
    known: dict[tuple[int, int], Process],
) -> Child | None:
    try:
        return await Child.adopt(node.run_dir, name, on_call, known)
    except GsliceError as error:
        has_left = isinstance(error, NotFound) and name.startswith(LODGER_PREFIX)
        if not has_left and await _end(node, name):
            text = f"{name}, a child of an earlier daemon, was ended: {error}"
            node.event(DAEMON_LOG_NAME, EventKind.ADOPT, text)
        node.run_dir.remove(name)
    return None


async def _end_stray(node: Node, name: str) -> None:
    await _end(node, name)
    node.run_dir.remove(name)


async def _end(node: Node, name: str) -> bool:
    """Ends a child that cannot be led; False: it is gone already."""
    noted = node.run_dir.process_of(name)
    if noted is None:
        return False
    try:
        process = Process(*noted)
    except NotFound:
        return False
    process.signal(signal.SIGTERM)
    if not await process.wait(_END_TIMEOUT_S):
        await process.kill()
    return True


def _join_group(node: Node, found: Found, child: Child) -> bool:
    """Puts a worker to the others of its segment; False: it serves nothing."""
    state = child.hello.worker
    segment = _handed_over(node, child, Segment.open)
    if segment is None or state is None or state.spec is None or state.signature is None:
        return False
    if state.state != "ready" or state.instance < 0:
        return False
    device = node.devices.get(state.spec.device)
    if device is None:
        text = f"there is no device {state.spec.device} any more"
        node.event(state.spec.name, EventKind.ADOPT, text)
        return False
    adopt_board = functools.partial(node.turn_boards.adopt, state.spec.device)
    if state.turn >= 0 and _handed_over(node, child, adopt_board) is None:
        return False
    worker = Worker.adopted(child, state, node.log_path(state.spec.name))
    group = next((g for g in found.groups if g.segment.generation == segment.generation), None)
    if group is None:
        group = Group(segment, state.spec, state.signature)
        found.groups.append(group)
    group.workers.append(worker)
    group.outdated |= not device.fits(state.spec, state.cpus, state.limiter_ordered)
    group.outdated |= owner_of(worker.pid) != node.uid_of(worker.device)
    return True


def _handed_over(node: Node, child: Child, take: Callable[[int], _T]) -> _T | None:
    """What a worker handed over next with its Hello, as it is taken; None: it cannot be."""
    fds = child.take_fds(1)  # the others stay the child's, until somebody takes them
    try:
        return take(fds[0]) if fds else None
    except GsliceError as error:
        text = f"{child.name}, of an earlier daemon, cannot be adopted: {error}"
        node.event(DAEMON_LOG_NAME, EventKind.ADOPT, text)
        return None
    finally:
        for fd in fds:
            os.close(fd)
