"""Says what is wrong with the packages that scripts/wheels.sh made: what lies in them, and the tag.

python scripts/check_packages.py dist/gslice-*

A wheel holds the package, the extension, the man pages and its own description; a source
distribution what git knows, the man pages, too. What is missing and what has no business there
is named, and ends this with status 1.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_PAGES = "build/man"
_METADATA = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}
_EXTENSION = re.compile(r"gslice/_native\.[\w.-]+\.so")
# SBOMs of auditwheel, and libraries that could not be linked in.
_BROUGHT_ALONG = re.compile(r"gslice\.libs/[^/]+|gslice-[^/]+\.dist-info/sboms/[^/]+")


def wheel_problems(
    file_name: str, names: set[str], package: set[str], pages: set[str]
) -> list[str]:
    """What is wrong with a wheel.

    Args:
        file_name: Of the wheel.
        names: What lies in it.
        package: The files of the package, from the checkout's root on.
        pages: Names of the man pages.
    """
    stem = "-".join(file_name.split("-")[:2])
    wanted = {
        *package,
        *(f"{stem}.data/data/share/man/man1/{page}" for page in pages),
        *(f"{stem}.dist-info/{name}" for name in _METADATA),
    }
    extensions = {name for name in names if _EXTENSION.fullmatch(name)}
    brought = {name for name in names if _BROUGHT_ALONG.fullmatch(name)}
    problems = _differences(names - extensions - brought, wanted)
    if len(extensions) != 1:
        problems.append(f"has {len(extensions)} extensions, not one")
    platforms = file_name.removesuffix(".whl").rpartition("-")[2].split(".")
    if not all(platform.startswith("manylinux") for platform in platforms):
        problems.append("its tag is no manylinux: it says nothing of the glibc that it needs")
    return problems


def sdist_problems(file_name: str, names: set[str], known: set[str], pages: set[str]) -> list[str]:
    """What is wrong with a source distribution.

    Args:
        file_name: Of the archive.
        names: What lies in it, directories left out.
        known: The files that git knows.
        pages: Names of the man pages.
    """
    stem = file_name.removesuffix(".tar.gz")
    wanted = {*known, "PKG-INFO", *(f"{_PAGES}/{page}" for page in pages)}
    return _differences(names, {f"{stem}/{name}" for name in wanted})


def _differences(names: set[str], wanted: set[str]) -> list[str]:
    return [
        *(f"lacks {name}" for name in sorted(wanted - names)),
        *(f"should not have {name}" for name in sorted(names - wanted)),
    ]


def _problems(path: Path) -> list[str]:
    pages = {page.name for page in (ROOT / _PAGES).iterdir()}
    known = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, check=True, text=True
    )
    tracked = {name for name in known.stdout.split("\0") if name and (ROOT / name).exists()}
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            names = {name for name in wheel.namelist() if not name.endswith("/")}
        package = {name for name in tracked if name.startswith("gslice/")}
        return wheel_problems(path.name, names, package, pages)
    with tarfile.open(path) as archive:
        names = {member.name for member in archive.getmembers() if not member.isdir()}
    return sdist_problems(path.name, names, tracked, pages)


def main(paths: list[Path]) -> int:
    """Prints the problems of all packages; the exit status."""
    found = [f"{path.name} {problem}" for path in paths for problem in _problems(path)]
    print("\n".join(found) or f"nothing missing, nothing too much: {len(paths)} packages")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main([Path(argument) for argument in sys.argv[1:]]))
