"""What was measured of functions, kept with what it holds for: model, device, limiter, machine."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from gslice import __version__
from gslice.control.latency import LatencyModel
from gslice.core.errors import FailedPrecondition, InvalidArgument, NotFound
from gslice.core.events import EventKind
from gslice.daemon.events import forgiving
from gslice.daemon.observations import identity
from gslice.device.cpu import cpu_model
from gslice.ipc.codec import from_json, to_json
from gslice.ipc.messages import TIMING_VERSION
from gslice.supervise.profiling import Measuring, measurement_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from gslice.core.config import DeviceConfig
    from gslice.core.events import Record
    from gslice.core.types import FunctionSpec
    from gslice.daemon.store import Store
    from gslice.device.cuda import Gpu as FoundGpu
    from gslice.device.nvml import GpuFacts
    from gslice.supervise.deployment import Deployment
    from gslice.supervise.profiling import Grid, Profiler


@dataclass(frozen=True)
class Circumstances:
    """What a profile holds for.

    Attributes:
        model: The same for functions whose instances are alike, wherever they run.
        device: Its name.
        limiter: What enforced the shares.
        machine: The processor and how much of it the device is.
        timing: `TIMING_VERSION` of what measured.
    """

    model: str
    device: str
    limiter: str
    machine: str
    timing: int

    @property
    def key(self) -> str:
        """For the store."""
        return json.dumps(vars(self), sort_keys=True)

    def elsewhere(self, device: str) -> Circumstances:
        """The same on a device of another name."""
        return dataclasses.replace(self, device=device)


@dataclass(frozen=True)
class Profile:
    """A function's latency table.

    Attributes:
        circumstances: What it holds for.
        quick: It was timed at a load, at one share and in passing.
        padded: Batches are filled up to the next size.
        points: What was measured, by bucket and share.
        gslice: The version that measured last.
        at_s: When, since the epoch.
    """

    circumstances: Circumstances
    quick: bool
    padded: bool
    points: tuple[Measuring, ...]
    gslice: str = __version__
    at_s: float = 0.0

    @cached_property
    def model(self) -> LatencyModel:
        """Fitted to it."""
        return LatencyModel.fit([each.measurement for each in self.points], padded=self.padded)

    def to_json(self) -> dict[str, Any]:
        """For the store, which keeps circumstances and time beside it."""
        points = [to_json(each) for each in self.points]
        kept = {"quick": self.quick, "padded": self.padded, "gslice": self.gslice}
        return {**kept, "points": points}


class KnownGpu(Protocol):
    """A GPU, as far as it is known."""

    @property
    def found(self) -> FoundGpu | None:
        """What the probe found; None: it is not known yet."""

    @property
    def facts(self) -> GpuFacts:
        """What NVML knows of it."""


class Place(Protocol):
    """Where functions are measured: a node, or what can be seen of it without a daemon."""

    @property
    def gpus(self) -> Mapping[str, KnownGpu]:
        """Those of the devices that are GPUs, by name."""

    @property
    def event(self) -> Record:
        """Records what an operator may want to know."""

    def device(self, name: str) -> DeviceConfig:
        """A device by name."""

    def limiter(self, device: str, spec: FunctionSpec) -> str:
        """What enforces a function's share on a device."""


class Profiles:
    """The profiles of a node's functions, which outlive its daemons.

    Args:
        store: Keeps them.
        node: Where they were taken.
    """

    def __init__(self, store: Store, node: Place) -> None:
        self._store = store
        self._node = node
        self._known: dict[tuple[str, str], tuple[FunctionSpec, Profile | None]] = {}

    # ---- looking -----------------------------------------------------------------------------

    def model(self, spec: FunctionSpec, device: str) -> LatencyModel | None:
        """What a function's batches take on a device; None: nobody has measured that.

        Cheap to ask again and again.
        """
        profile = self.kept(spec, device)
        return profile.model if profile is not None else None

    def kept(self, spec: FunctionSpec, device: str) -> Profile | None:
        """The profile that holds for a function on a device, or on another just like it."""
        seen = self._known.get((spec.name, device))
        if seen is not None and (seen[0] is spec or seen[0] == spec):
            return seen[1]
        circumstances = self.circumstances(spec, device)
        if circumstances is None:  # the GPU is not known yet
            return None
        profile = self._read(spec.name, circumstances)
        # The same object for devices that are alike: whoever asks can see that they are.
        known = (kept for (name, _), (_, kept) in self._known.items() if name == spec.name)
        profile = next((kept for kept in known if kept == profile), profile)
        self._known[spec.name, device] = spec, profile
        return profile

    def shown(self, spec: FunctionSpec) -> Profile:
        """The profile of a function on its device.

        Raises:
            NotFound: there is none.
        """
        profile = self.kept(spec, spec.device)
        if profile is None:
            raise NotFound(
                f"function {spec.name} has no profile that holds for it as it is, here",
                hint=f"measure it: gslice profile {spec.name}",
            )
        return profile

    def lacks(self, spec: FunctionSpec) -> bool:
        """Whether the batches of a function that is being loaded should be timed in passing."""
        return spec.slo_p99_us > 0 and self.kept(spec, spec.device) is None

    def circumstances(self, spec: FunctionSpec, device: str) -> Circumstances | None:
        """What would be measured now would hold for these; None: the GPU is not known yet."""
        machine = self._machine(device)
        if machine is None:
            return None
        model = identity(dataclasses.replace(spec, device=""))
        limiter = self._node.limiter(device, spec)
        return Circumstances(model, device, limiter, machine, TIMING_VERSION)

    # ---- measuring ---------------------------------------------------------------------------

    async def measure(
        self, profiler: Profiler, name: str, grid: Grid, tell: Callable[[Measuring], None]
    ) -> Profile:
        """Measures a function and keeps the result.

        Args:
            profiler: Of the node.
            name: The function's.
            grid: Where; if it is one that somebody chose, it adds to what is kept.
            tell: Told of each point.

        Raises:
            FailedPrecondition: its model changed meanwhile.
            GsliceError: as `Profiler.run`.
        """
        deployment = profiler.deployment(name)
        spec, signature = deployment.spec, deployment.signature
        assert signature is not None
        before = self.circumstances(spec, spec.device)
        points = await profiler.run(name, grid, tell)
        circumstances = self.circumstances(spec, spec.device)
        if circumstances is None or circumstances != before:
            raise FailedPrecondition(
                f"function {name}: the model, or what it runs on, changed while it was measured",
                hint="load it anew, then measure it again",
            )
        earlier = self.kept(spec, spec.device)
        if grid.whole and earlier is not None and not earlier.quick:
            points = [*earlier.points, *points]
        profile = self._keep(
            name, Profile(circumstances, False, bool(signature.buckets), _each(points))
        )
        text = f"{len(profile.points)} points, model error {profile.model.error_percent:.1f} %"
        self._node.event(name, EventKind.PROFILE, text)
        return profile

    def note(self, deployment: Deployment) -> None:
        """Keeps what was timed while a function was loaded, if nothing better is known."""
        spec, signature = deployment.spec, deployment.signature
        points = [
            Measuring(worker.share_percent, measurement_of(each))
            for worker in deployment.workers
            for each in worker.timed
        ]
        circumstances = self.circumstances(spec, spec.device)
        if points and signature is not None and circumstances is not None and self.lacks(spec):
            padded = bool(signature.buckets)
            self._keep(spec.name, Profile(circumstances, True, padded, _each(points)))

    # ---- parts -----------------------------------------------------------------------------

    def _keep(self, name: str, profile: Profile) -> Profile:
        with forgiving("the profile is not kept"):
            self._store.put_profile(name, profile.circumstances.key, profile.to_json())
        for key in [key for key in self._known if key[0] == name]:
            del self._known[key]
        return profile

    def _read(self, name: str, wanted: Circumstances) -> Profile | None:
        """On the device itself, else on another that is just like it."""
        like: Profile | None = None
        with forgiving("what was measured cannot be read"):
            for at_s, key, what in self._store.profiles(name):
                try:
                    found = from_json(Circumstances, json.loads(key))
                except InvalidArgument:  # written by another gslice
                    continue
                if found.elsewhere(wanted.device) != wanted:
                    continue
                points = tuple(from_json(Measuring, each) for each in what["points"])
                version = what["gslice"]
                profile = Profile(found, what["quick"], what["padded"], points, version, at_s)
                if found == wanted:
                    return profile
                like = like or profile
        return like

    def _machine(self, device: str) -> str | None:
        gpu = self._node.gpus.get(device)
        if gpu is None:
            cores = len(self._node.device(device).cpus)
            return f"{cpu_model()}, {cores} core{'s' if cores > 1 else ''}"
        if gpu.found is None:
            return None
        driver = f", driver {gpu.facts.driver}" if gpu.facts.driver else ""
        return f"{gpu.found.name}, {gpu.found.sms} SMs{driver}"


def _each(points: Iterable[Measuring]) -> tuple[Measuring, ...]:
    """One for each point, the last, in order."""
    latest = {each.point: each for each in points}
    return tuple(latest[point] for point in sorted(latest))
