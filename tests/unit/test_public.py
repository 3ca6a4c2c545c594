"""What `import gslice` offers, and under which names."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

import gslice
from gslice.core import errors

INTERNAL = {"ChannelClosed", "SegmentError"}  # between gslice's own processes


@pytest.mark.parametrize(
    "statement",
    [
        "from gslice.errors import NotFound",
        "import gslice.errors; gslice.errors.NotFound",
        "import gslice.aio; gslice.aio.Client",
        "from gslice import aio, errors, Client; aio.Client, errors.NotFound",
    ],
)
def test_public_names_can_be_imported_first(statement: str) -> None:
    subprocess.run([sys.executable, "-c", statement], check=True, timeout=60)


def test_an_error_is_one_class_under_both_names() -> None:
    tree = {
        name: cls
        for name, cls in vars(errors).items()
        if inspect.isclass(cls) and issubclass(cls, errors.GsliceError) and name not in INTERNAL
    }
    public = importlib.import_module("gslice.errors")
    assert set(public.__all__) == set(tree)
    assert all(getattr(public, name) is cls for name, cls in tree.items())
    assert gslice.errors is public


def test_both_clients_have_the_same_methods() -> None:
    """What they take may differ only where one blocks and the other awaits."""

    def signatures(cls: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(method).parameters)
            for name, method in inspect.getmembers(cls, inspect.isfunction)
            if not name.startswith("_")
        }

    assert signatures(gslice.Client) == signatures(gslice.aio.Client)
