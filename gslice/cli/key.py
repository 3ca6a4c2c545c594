"""`gslice key`: API keys, of which a node knows the hashes."""

from __future__ import annotations

from typing import Annotated

import typer

from gslice.cli import options
from gslice.cli.output import print_json, show_warning
from gslice.core.access import Role, digest_text, new_key

app = typer.Typer(help="Make API keys.", no_args_is_help=True, rich_markup_mode=None)


@app.command("new", short_help="Make a key; it is shown once.")
def new(
    name: Annotated[str, typer.Argument(help="Who will have it.", metavar="NAME")],
    role: Annotated[
        list[Role] | None,
        typer.Option("--role", help="What it lets its holder do; can be given again."),
    ] = None,
    tenant: Annotated[
        str, typer.Option("--tenant", help="Of node.access.tenants: whose quotas hold.")
    ] = "",
    as_json: options.Json = False,
) -> None:
    """Make a key: it is shown once, with the line for node.access.keys that makes it known."""
    from gslice.core.config import key_to_yaml

    roles = [str(each) for each in role or [Role.INFER]]
    key = new_key()
    line = key_to_yaml(name, digest_text(key), roles, tenant)
    if as_json:
        print_json({"key": key, "name": name, "yaml": line})
        return
    show_warning("the key is shown this once; gslice keeps its hash only")
    print(f"key:  {key}")
    print(f"yaml: {line}")
