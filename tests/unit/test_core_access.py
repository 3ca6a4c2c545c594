"""API keys, roles and tenants, as values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gslice.core import access
from gslice.core.access import ANONYMOUS, Access, Key, Role, ShareQuota, Tenant
from gslice.core.errors import InvalidArgument, PermissionDenied, Unauthenticated

SECRET = "gslice_one"
SHOP = Tenant("shop", functions=("detector", "shop-*"))
KNOWN = Access(
    keys=(
        Key("ann", access.digest_of(SECRET), ("infer",), "shop"),
        Key("bob", access.digest_of("gslice_two"), ("view",)),
        Key("eve", access.digest_of("gslice_three"), ("admin",)),
    ),
    tenants=(SHOP,),
    anonymous=(),
)

header_text = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=80)


def test_without_keys_everybody_may_do_everything() -> None:
    caller = Access().require(None, Role.ADMIN)
    assert Access().open
    assert caller.name == ANONYMOUS
    assert caller.may_use("whatever")
    assert Access().require("of another node", Role.ADMIN) == caller


def test_keys_make_a_node_ask() -> None:
    assert not KNOWN.open
    assert not Access(anonymous=("infer",)).open


@pytest.mark.parametrize("role", Role)
def test_who_shows_no_key_is_told_to(role: Role) -> None:
    with pytest.raises(Unauthenticated, match=f"role {role} is needed .*authorization: Bearer"):
        KNOWN.require(None, role)


def test_an_unknown_key_is_refused_whatever_others_may_do() -> None:
    for known in (KNOWN, Access(keys=KNOWN.keys, anonymous=access.ALL)):
        with pytest.raises(Unauthenticated, match="not known") as told:
            known.require("gslice_guess", Role.INFER)
        assert "guess" not in str(told.value)


@pytest.mark.parametrize(
    ("key", "may"),
    [(SECRET, {Role.INFER}), ("gslice_two", {Role.VIEW}), ("gslice_three", set(Role))],
)
def test_a_key_may_do_what_its_roles_say(key: str, may: set[Role]) -> None:
    for role in Role:
        if role in may:
            assert KNOWN.require(key, role).may(role)
        else:
            with pytest.raises(PermissionDenied, match=f"has not the role {role}"):
                KNOWN.require(key, role)


def test_one_of_some_roles_is_enough() -> None:
    assert KNOWN.require("gslice_two", Role.INFER, Role.VIEW).name == "bob"


def test_a_tenant_has_functions_of_its_own() -> None:
    caller = KNOWN.caller(SECRET)
    assert caller.tenant == SHOP
    for name in ("detector", "shop-", "shop-ocr"):
        caller.check_function(name)
    for name in ("detector2", "shop", "Shop-ocr", "other", ""):
        with pytest.raises(PermissionDenied, match="not one of tenant 'shop'"):
            caller.check_function(name)


@given(st.text(max_size=20))
def test_a_tenant_without_a_list_may_use_all(name: str) -> None:
    assert Tenant("all").may_use(name)


def test_new_keys_are_long_differ_and_are_kept_as_hashes() -> None:
    first, second = access.new_key(), access.new_key()
    assert first != second
    assert len(first) >= len(access.KEY_PREFIX) + 43  # 256 bits
    assert first not in access.digest_text(first)
    assert access.parse_digest(access.digest_text(first)) == access.digest_of(first)


@given(st.text(max_size=80))
def test_only_a_hash_is_read_as_one_and_no_key_is_shown(text: str) -> None:
    with pytest.raises(InvalidArgument) as told:
        access.parse_digest(f"gslice_{text}")
    assert f"gslice_{text}" not in str(told.value)


@given(st.dictionaries(st.sampled_from(["authorization", "x-api-key"]), header_text))
def test_a_credential_is_a_bearer_or_refused(headers: dict[str, str]) -> None:
    try:
        key = access.credential_of(headers.get)
    except Unauthenticated:
        assert "authorization" in headers
        return
    if headers.get("authorization"):
        assert headers["authorization"].lower().startswith("bearer ")
        assert key
        assert key in headers["authorization"]
    else:
        assert key == (headers.get("x-api-key") or None)


def test_headers_that_show_a_key() -> None:
    assert access.credential_of({"authorization": "Bearer  k"}.get) == "k"
    assert access.credential_of({"authorization": "bearer k", "x-api-key": "other"}.get) == "k"
    assert access.credential_of({"x-api-key": "k"}.get) == "k"
    assert access.credential_of({}.get) is None
    assert access.credential_of({"authorization": "", "x-api-key": ""}.get) is None
    assert access.credential_of({"authorization": "", "x-api-key": "k"}.get) == "k"
    for text in ("Basic dXNlcjprZXk=", "Bearer", "Bearer ", "k"):
        with pytest.raises(Unauthenticated, match="Bearer KEY"):
            access.credential_of({"authorization": text}.get)
    with pytest.raises(Unauthenticated):
        access.credential_of({"x-api-key": "k" * 513}.get)


def test_a_share_counts_for_the_only_tenant_that_may_use_the_function() -> None:
    shop = Tenant("shop", ("shop-*", "common"), share_percent=50.0)
    lab = Tenant("lab", ("lab", "common"))
    access = Access(tenants=(shop, lab))
    assert access.share_quota("shop-detector") == ShareQuota("shop", 50.0)
    assert access.share_quota("common") is None  # lab's, too
    assert access.share_quota("lab") is None  # which has no quota
    assert access.share_quota("other") is None
