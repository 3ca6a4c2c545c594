"""The clients' slabs: areas come back with the last array in them, and never too early."""

from __future__ import annotations

import gc
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gslice.client import slabs as module
from gslice.client.places import wanted
from gslice.client.slabs import SLAB_BYTES_MIN, SLABS_BYTES_MAX, Slabs, is_local
from gslice.core.errors import PermissionDenied, Unavailable
from gslice.core.types import Signature, TensorSpec

HERE = "127.0.0.1:8001"
KIB = 1 << 10


@pytest.fixture
def slabs() -> Slabs:
    """Slabs whose server takes everything."""
    made = Slabs(HERE)
    grow(made, [1])
    return made


def grow(slabs: Slabs, sizes: list[int]) -> None:
    slab = slabs.grow(sizes)
    assert slab is not None
    slabs.added(slab)


@pytest.mark.parametrize("url", [HERE, "localhost:1", "[::1]:1", "127.9.9.9:1", "unix:/tmp/s"])
def test_what_is_on_this_host(url: str) -> None:
    assert is_local(url)


@pytest.mark.parametrize("url", ["10.0.0.1:8001", "example.org:8001", "[fe80::1]:1", "localhost"])
def test_what_may_not_be(url: str) -> None:
    assert not is_local(url)
    assert not Slabs(url).usable


def test_an_area_comes_back_with_the_last_array_in_it(slabs: Slabs) -> None:
    (area,) = slabs.take([100 * KIB])
    place = area.offset_bytes
    whole = area.array(np.dtype(np.int64), (10, 20))
    whole[...] = np.arange(200).reshape(10, 20)
    row = whole[3]
    del area, whole
    gc.collect()
    (other,) = slabs.take([100 * KIB])
    assert other.offset_bytes != place
    assert row.tolist() == list(range(60, 80))
    del row
    (again,) = slabs.take([100 * KIB])
    assert again.offset_bytes == place


def test_all_or_nothing(slabs: Slabs) -> None:
    assert slabs.take([SLAB_BYTES_MIN - 64 * KIB, 128 * KIB]) is None
    assert slabs.take([SLAB_BYTES_MIN]) is None  # the area was not given back whole, but as it was
    held = slabs.take([SLAB_BYTES_MIN - 64 * KIB, 64 * KIB])
    assert held is not None
    assert slabs.take([1]) is None


def test_an_area_of_a_request_that_was_given_up_is_never_used_again(slabs: Slabs) -> None:
    areas = slabs.take([1])
    place = areas[0].offset_bytes
    assert slabs.forfeit(areas) == []
    del areas
    gc.collect()
    taken = []
    while (more := slabs.take([1])) is not None:
        taken += more
    assert place not in {area.offset_bytes for area in taken}
    (lost,) = slabs.forfeit(taken)  # there is hardly anything left of it
    assert slabs.take([1]) is None
    assert not slabs.in_use
    assert lost.size_bytes == SLAB_BYTES_MIN


def test_it_grows_to_a_bound(slabs: Slabs) -> None:
    total = SLAB_BYTES_MIN
    while (slab := slabs.grow([1])) is not None:
        slabs.added(slab)
        total += slab.size_bytes
    assert total == SLABS_BYTES_MAX
    assert Slabs(HERE).grow([SLABS_BYTES_MAX + 1]) is None


def test_who_refuses_is_not_asked_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    slabs = Slabs(HERE)
    slab = slabs.grow([1])
    assert slab is not None
    assert slabs.refused(slab, Unavailable("the daemon is away")) == [slab]
    assert not slabs.usable
    now[0] += 6
    assert slabs.usable
    assert slabs.refused(slab, PermissionDenied("another user")) == []
    now[0] += 59
    assert not slabs.usable
    now[0] += 2  # an upgrade may have come between
    assert slabs.usable


def test_a_fork_uses_none(slabs: Slabs) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0 if not slabs.usable else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert slabs.usable


def test_descriptors_do_not_leak() -> None:
    def count() -> int:
        links = [link for link in Path("/proc/self/fd").iterdir() if os.path.lexists(link)]
        return sum("gslice-client" in str(link.readlink()) for link in links)

    gc.collect()
    before = count()
    slabs = Slabs(HERE)
    for _ in range(3):
        grow(slabs, [1])
    slabs.drop()
    gc.collect()
    assert count() == before


@given(st.lists(st.tuples(st.integers(1, 600 * KIB), st.booleans()), max_size=60))
def test_areas_never_overlap(steps: list[tuple[int, bool]]) -> None:
    slabs = Slabs(HERE)
    grow(slabs, [1])
    held = []
    for size, keeps in steps:
        areas = slabs.take([size])
        if areas is None:
            held.clear()
            continue
        assert areas[0].size_bytes >= size
        assert areas[0].offset_bytes + areas[0].size_bytes <= SLAB_BYTES_MIN
        if keeps:
            held += areas
        spans = sorted((a.offset_bytes, a.offset_bytes + a.size_bytes) for a in held)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


def test_which_tensors_are_placed() -> None:
    shape = Signature(
        (TensorSpec("image", "FP32", (-1, 3, 224, 224)), TensorSpec("text", "BYTES", (-1, 1))),
        (
            TensorSpec("scores", "FP32", (-1, 1000)),
            TensorSpec("map", "FP16", (-1, 224, 224)),
            TensorSpec("boxes", "FP32", (-1, -1, 40_000)),
            TensorSpec("words", "BYTES", (-1, 1)),
        ),
        rows_max=8,
    )
    image = np.zeros((2, 3, 224, 224), np.float32)
    inputs = {"image": image, "text": np.array([["a"], ["b"]], object)}
    found = wanted(inputs, None, shape)
    assert found.inputs == {"image": image.nbytes}
    assert found.outputs == {"map": 2 * 224 * 224 * 2}
    assert wanted(inputs, ["scores"], shape).outputs == {}
    assert wanted({"image": [1.0], "text": ["a"]}, None, shape).sizes == []
