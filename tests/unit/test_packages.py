"""What scripts/wheels.sh makes of packages, as far as it can be known without making any."""

from __future__ import annotations

import pytest

from gslice.frontend.ui.assets import assets
from scripts import prove_install
from scripts.check_packages import sdist_problems, wheel_problems

WHEEL = "gslice-1.0-cp312-abi3-manylinux_2_35_x86_64.whl"
PACKAGE = {"gslice/__init__.py", "gslice/protos/kserve.binpb", "gslice/frontend/ui/static/app.js"}
PAGES = {"gslice.1", "gslice-serve.1"}
GOOD = {
    *PACKAGE,
    "gslice/_native.abi3.so",
    *(f"gslice-1.0.data/data/share/man/man1/{page}" for page in PAGES),
    *(f"gslice-1.0.dist-info/{name}" for name in ("METADATA", "RECORD", "WHEEL")),
    *(f"gslice-1.0.dist-info/{name}" for name in ("entry_points.txt", "licenses/LICENSE")),
}


def problems(names: set[str], wheel: str = WHEEL) -> list[str]:
    return wheel_problems(wheel, names, PACKAGE, PAGES)


def test_a_wheel_is_the_package_and_nothing_else() -> None:
    assert problems(GOOD) == []
    along = {"gslice.libs/libssl-1a2b.so.3", "gslice-1.0.dist-info/sboms/auditwheel.cdx.json"}
    assert problems(GOOD | along) == []
    assert problems(GOOD - {"gslice/frontend/ui/static/app.js"}) == [
        "lacks gslice/frontend/ui/static/app.js"
    ]
    assert problems(GOOD | {"tests/node.py", "gslice/pump.cpp"}) == [
        "should not have gslice/pump.cpp",
        "should not have tests/node.py",
    ]
    assert problems(GOOD - {"gslice-1.0.data/data/share/man/man1/gslice.1"}) == [
        "lacks gslice-1.0.data/data/share/man/man1/gslice.1"
    ]


def test_a_wheel_has_one_extension() -> None:
    assert problems(GOOD - {"gslice/_native.abi3.so"}) == ["has 0 extensions, not one"]
    older = "gslice/_native.cpython-311-x86_64-linux-gnu.so"
    assert problems(GOOD | {older}) == ["has 2 extensions, not one"]


def test_the_tag_of_a_wheel_says_what_it_needs() -> None:
    (problem,) = problems(GOOD, "gslice-1.0-cp312-abi3-linux_x86_64.whl")
    assert problem.startswith("its tag is no manylinux")
    both = "gslice-1.0-cp311-cp311-manylinux_2_34_x86_64.manylinux_2_35_x86_64.whl"
    assert problems(GOOD, both) == []


def test_a_source_distribution_is_what_git_knows() -> None:
    known = {"pyproject.toml", "native/CMakeLists.txt"}
    good = {f"gslice-1.0/{name}" for name in (*known, "PKG-INFO", "build/man/gslice.1")}

    def found(names: set[str]) -> list[str]:
        return sdist_problems("gslice-1.0.tar.gz", names, known, {"gslice.1"})

    assert found(good) == []
    assert found(good - {"gslice-1.0/native/CMakeLists.txt"}) == [
        "lacks gslice-1.0/native/CMakeLists.txt"
    ]
    assert found(good | {"gslice-1.0/core.1234"}) == ["should not have gslice-1.0/core.1234"]


# ---- the proof of an installation ----------------------------------------------------------------


def test_the_proof_reads_what_serve_says() -> None:
    assert prove_install.announced("gRPC     127.0.0.1:8001  (KServe v2)\n") == (
        "gRPC",
        "127.0.0.1:8001",
    )
    assert prove_install.announced("HTTP     http://127.0.0.1:8000/v2/docs\n") == (
        "HTTP",
        "127.0.0.1:8000",
    )
    assert prove_install.announced("page     http://127.0.0.1:8000/ui\n") is None
    named = prove_install.page_files(assets()["index.html"].body.decode())
    assert {"app.js", "base.css", "icon.svg"} <= named <= assets().keys()


def test_the_proof_ends_at_a_broken_promise(capsys: pytest.CaptureFixture[str]) -> None:
    prove_install.expect(True, "it serves")
    assert capsys.readouterr().out == "  it serves\n"
    with pytest.raises(prove_install.Broken, match="it drains: 2 left"):
        prove_install.expect(False, "it drains", "2 left")
