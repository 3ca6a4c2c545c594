"""A deployment gets replicas, and loses some, while it serves: no load, and nothing moves.

All workers pull from the one segment, so whoever comes takes what is due first, and what is left by
those who go is taken by the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gslice.supervise.tasks import run_all

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gslice.supervise.budget import Budget
    from gslice.supervise.deployment import Deployment
    from gslice.supervise.function import Function


async def spread(function: Function, budget: Budget, stage: Callable[[str, str], None]) -> None:
    """Has a function run on the devices on which it is wanted; the caller holds its lock.

    Args:
        function: It runs on one of them already, or rests.
        budget: What it may take of the node.
        stage: Told of each stage.

    Raises:
        GsliceError: a worker could not be started; what serves is as before.
    """
    deployment, placed = function.deployment, function.spec.placed
    if deployment is None or deployment.spec.placed == placed:
        return
    if function.state == "COLD":
        deployment.spec = deployment.spec.placed_on(placed)
        return
    function.restarts.reset()
    await _spread(deployment, placed, budget, stage)
    function.restarts.replace_missing(deployment, "died before the others were warm")
    if deployment.ready:
        function.set_state("READY")  # without what it was said to lack
    await function.show("READY")


async def _spread(
    deployment: Deployment,
    devices: Sequence[str],
    budget: Budget,
    stage: Callable[[str, str], None],
) -> None:
    """Has replicas on these devices and on no other; those that can stay serve on.

    Args:
        deployment: What serves.
        devices: At least one that has a replica already.
        budget: As of `spread`.
        stage: Told of each stage.

    Raises:
        GsliceError: a worker could not be started; all is as before.
    """
    gone = [device for device in deployment.spec.placed if device not in devices]
    come = [device for device in devices if device not in deployment.spec.placed]
    try:
        places = come * deployment.spec.instances
        await run_all(deployment.prepare(device, stage, gently=True) for device in places)
        if come:
            await budget.settle_memory(deployment.spec.placed_on(come))
        for device in come:
            stage("swap", f"pulls on {device}, too")
            deployment.serve_on(device)
    except BaseException:
        there = [w for w in deployment.workers if w.device in come and not w.draining]
        await run_all(deployment.instances.discard(worker) for worker in there)
        raise
    # From here on nobody is started again where it goes from.
    deployment.spec = deployment.spec.placed_on(devices)
    await run_all(_leave(deployment, device, stage) for device in gone)


async def _leave(deployment: Deployment, device: str, stage: Callable[[str, str], None]) -> None:
    """Ends the workers of a device; what they cannot finish is done on another."""
    segment, instances = deployment.segment, deployment.instances.on(device)
    there = [worker for worker in instances if not worker.death.done()]  # the dead are buried
    if deployment.node.lost(device):
        await run_all(instances.kill(worker) for worker in there)
        return
    assert segment is not None
    for worker in there:
        segment.flip(worker.instance, None)
        worker.ready, worker.draining = False, True
    await run_all(deployment.instances.let_go(worker, stage) for worker in there)
