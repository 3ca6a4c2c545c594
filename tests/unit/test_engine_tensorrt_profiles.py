"""Which shapes TensorRT is asked to build for, and which are refused."""

from __future__ import annotations

from typing import Any

import pytest

from gslice.core.errors import InvalidArgument
from gslice.core.types import FunctionSpec
from gslice.worker.engines.tensorrt_build import profiles
from tests.unit.tensorrt_bench import shapes


@pytest.mark.parametrize(
    ("inputs", "given", "message"),
    [
        ({"x": (-1, -1)}, {}, r"input 'x' has \[-1, -1\], of which some lengths are open"),
        ({"x": (-1, 4)}, {"y": shapes([1], [1], [1])}, "no input 'y'; it has x"),
        ({"x": (-1, 4)}, {"x": shapes([-1, 3], [-1, 4], [-1, 4])}, r"x: min: \[-1, 3\] does not"),
        ({"x": (-1, 4)}, {"x": shapes([-1], [-1], [-1])}, r"x: min: \[-1\] does not fit"),
        ({"x": (2, -1)}, {"x": shapes([-1, 1], [-1, 2], [-1, 3])}, "does not fit"),
        ({"x": (-1,), "y": (4,)}, {}, r"no rows together, and 'x' has \[-1\]"),
    ],
)
def test_shapes_that_do_not_fit_the_model_are_refused(
    inputs: dict[str, tuple[int, ...]], given: dict[str, Any], message: str
) -> None:
    spec = FunctionSpec("f", args={"shapes": given})
    with pytest.raises(InvalidArgument, match=message):
        profiles(spec, inputs, rows_go_together=True)


def test_first_dimensions_of_other_names_are_no_rows() -> None:
    inputs = {"x": (-1, 4), "y": (-1, 4)}
    assert len(profiles(FunctionSpec("f", batch_max=1), inputs, rows_go_together=True)) == 1
    with pytest.raises(InvalidArgument, match="no rows together"):
        profiles(FunctionSpec("f"), inputs, rows_go_together=False)
