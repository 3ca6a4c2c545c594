"""The page's parts that need neither a browser nor a server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from gslice.core.access import Access, Key, Role, Tenant, digest_of
from gslice.core.config import load_config
from gslice.core.errors import PermissionDenied, Unauthenticated
from gslice.frontend.ui import assets as assets_module
from gslice.frontend.ui.assets import assets
from gslice.frontend.ui.feed import Feed
from gslice.frontend.ui.guard import HEADER, Guard
from gslice.frontend.ui.page import Page
from gslice.frontend.ui.routes import routes_of
from gslice.ipc.messages import REST
from gslice.supervise.frontend_launch import launch_of, offer_of

STATIC = Path(assets_module.__file__).parent / "static"


# ---- files ---------------------------------------------------------------------------------------


def test_the_page_needs_nothing_but_its_own_files() -> None:
    page = (STATIC / "index.html").read_text()
    named = set(re.findall(r'(?:src|href)="([^"#]+)"', page))
    assert named <= assets().keys()
    assert not re.search(r"<script(?![^>]* src=)|<style| style=| on\w+=", page)
    for path in STATIC.glob("*.js"):
        text = path.read_text()
        imported = set(re.findall(r"from '\./([^']+)'", text))
        assert imported <= assets().keys(), path.name
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), path.name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|eval\(", text), path.name
    for path in STATIC.glob("*.css"):
        assert "url(" not in path.read_text()


def test_every_module_is_used_and_short() -> None:
    texts = {path.name: path.read_text() for path in STATIC.iterdir()}
    whole = "".join(texts.values())
    assert [name for name in texts if name != "index.html" and name not in whole] == []
    assert [name for name, text in texts.items() if len(text.splitlines()) > 400] == []


def test_tags_follow_the_content() -> None:
    tags = [asset.tag for asset in assets().values()]
    assert len(set(tags)) == len(tags)


# ---- who may -------------------------------------------------------------------------------------


def asked(method: str = "GET", key: str = "", **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if key:
        named["Authorization"] = f"Bearer {key}"
    if method == "POST":
        named |= {HEADER: "1", "Content-Type": "application/json"}
    return make_mocked_request(method, "/ui/api/x", headers={"Host": "127.0.0.1", **named})


def known(*roles: Role, tenant: str = "") -> Access:
    key = Key("k", digest_of("secret"), tuple(roles), tenant)
    tenants = (Tenant(tenant),) if tenant else ()
    return Access((key,), tenants, anonymous=())


def test_whoever_looks_needs_a_key_where_keys_are_asked_for() -> None:
    guard = Guard("0.0.0.0:80", lambda: known(Role.VIEW))
    with pytest.raises(Unauthenticated):
        guard.check(asked(), Role.VIEW)
    with pytest.raises(Unauthenticated):
        guard.check(asked(key="other"), Role.VIEW)
    guard.check(asked(key="secret"), Role.VIEW)
    guard.check(asked(), None)  # the page itself, which asks for the key
    with pytest.raises(PermissionDenied):
        guard.check(asked("POST", key="secret"), Role.ADMIN)
    assert "has not the role admin" in guard.why_not(asked(key="secret"))


def test_an_admins_key_changes_the_node_from_anywhere() -> None:
    guard = Guard("0.0.0.0:80", lambda: known(Role.ADMIN))
    guard.check(asked("POST", key="secret", Host="node.example"), Role.ADMIN)
    assert guard.why_not(asked(key="secret")) == ""


def test_the_page_is_not_for_tenants() -> None:
    guard = Guard("127.0.0.1:80", lambda: known(Role.VIEW, tenant="shop"))
    with pytest.raises(PermissionDenied, match="tenant 'shop'"):
        guard.check(asked(key="secret"), Role.VIEW)


def test_a_key_that_nobody_checks_opens_no_other_name() -> None:
    """A page that has rebound its name can send any header."""
    guard = Guard("127.0.0.1:80", Access)
    with pytest.raises(PermissionDenied, match="under the name"):
        guard.check(asked(key="made up", Host="rebound.example"), Role.VIEW)


@pytest.mark.parametrize("address", ["127.0.0.1:80", "[::1]:80", "localhost:80", "127.3.2.1:80"])
def test_loopback_is_trusted(address: str) -> None:
    Guard(address, Access).check(asked("POST"), Role.ADMIN)


@pytest.mark.parametrize("address", ["0.0.0.0:80", "[::]:80", "10.0.0.1:80", "node.example:80"])
def test_other_ports_are_not(address: str) -> None:
    guard = Guard(address, Access)
    guard.check(asked(), Role.VIEW)
    with pytest.raises(PermissionDenied, match="reachable from other machines"):
        guard.check(asked("POST"), Role.ADMIN)


def test_every_route_that_orders_is_for_admins() -> None:
    roles = {(each.method, each.role) for each in routes_of(Page)}
    assert roles == {("GET", None), ("GET", Role.VIEW), ("POST", Role.ADMIN)}


# ---- settings ------------------------------------------------------------------------------------


def test_node_ui(tmp_path: Path) -> None:
    environ = {"GSLICE_NODE__STATE_DIR": str(tmp_path)}
    node = load_config(None, environ=environ).node
    arguments = list(launch_of(node, REST, 1, tmp_path / "log").arguments)
    assert arguments[arguments.index("--control") + 1] == str(tmp_path / "control.sock")
    assert "--control" not in launch_of(node, "native", 1, tmp_path / "log").arguments
    off = load_config(None, environ={**environ, "GSLICE_NODE__UI": "off"}).node
    assert "--control" not in launch_of(off, REST, 1, tmp_path / "log").arguments
    assert offer_of(node, REST) != offer_of(off, REST)
    assert offer_of(node, "native") == offer_of(off, "native")


def test_charts_go_on_when_the_clock_is_put_back() -> None:
    feed = Feed(None)  # type: ignore[arg-type]
    for at_s in (100.0, 200.0, 150.0, 151.0):
        feed._sample(at_s, [])
    assert [sample["at_s"] for sample in feed._samples] == [100.0, 150.0, 151.0]
