"""What clients may ask for when they load a function through the gRPC port."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from gslice.core.errors import InvalidArgument, PermissionDenied

if TYPE_CHECKING:
    from gslice.core.types import FunctionSpec


def refuse_other_code(asked: FunctionSpec, declared: FunctionSpec) -> None:
    """Whoever reaches the gRPC port may change how a function is served, not what is run.

    Raises:
        PermissionDenied: another model, class, environment or version is asked for than declared.
    """
    code = ("engine", "model", "python", "python_path", "args", "environment", "program", "warmup")
    for setting in (*code, "versions"):
        if getattr(asked, setting) != getattr(declared, setting):
            raise PermissionDenied(
                f"function {asked.name}: clients may not change its {setting}",
                hint="its operator can, with `gslice load`",
            )


def json_body(text: str) -> str:
    """A client's config override, which the protocol says is JSON.

    Raises:
        InvalidArgument: it is not.
    """
    if text.strip():
        try:
            json.loads(text)
        except ValueError as error:
            raise InvalidArgument(f"the config override is not JSON: {error}") from error
        except RecursionError:
            raise InvalidArgument("the config override is nested too deeply") from None
    return text
