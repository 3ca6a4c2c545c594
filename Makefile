# make demo   set everything up and run the demo
# make test   set everything up and run every test
# make help   the other targets
#
# PYTHON=python3.12 chooses the interpreter, VENV=dir the environment.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# One target after the other, but for those of `make test` that leave each other alone.
BESIDE := lint native-asan native-tsan fakes
ifneq ($(MAKECMDGOALS),$(BESIDE))
.NOTPARALLEL:
endif

SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
  command -v $$p >/dev/null && $$p -c '$(SUPPORTED)' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
export PATH := $(abspath $(BIN)):$(PATH)
PIP := $(BIN)/python -m pip --disable-pip-version-check
JOBS ?= $(shell nproc)
TESTERS ?= $(shell echo $$(($(JOBS) + 2)))  # tests side by side: each waits every now and then
# Tests start thousands of processes: each would compile gslice again.
export PYTHONDONTWRITEBYTECODE :=

NATIVE := $(shell find native -name '*.cpp' -o -name '*.hpp' -o -name '*.cmake' -o -name CMakeLists.txt)
CXX_FILES := $(shell find native tests/native tests/fakes benchmarks/native -name '*.cpp' -o -name '*.hpp')
OUT ?= build/overhead.json

# ---- setting up ------------------------------------------------------------------------------

.PHONY: check
check:  ## name what this machine lacks, with the apt line
	@missing=(); \
	if [ -z "$(PYTHON)" ]; then missing+=(python3 python3-venv python3-dev); \
	elif ! "$(PYTHON)" -c '$(SUPPORTED)' 2>/dev/null; then \
	  echo "PYTHON=$(PYTHON) is no Python of 3.11 to 3.14." >&2; exit 1; \
	else \
	  "$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv); \
	  "$(PYTHON)" -c 'import pathlib, sysconfig; \
	    pathlib.Path(sysconfig.get_path("include"), "Python.h").stat()' 2>/dev/null \
	    || missing+=(python3-dev); \
	fi; \
	compiler=$$($${CXX:-g++} -dumpversion 2>/dev/null || echo 0); \
	case $$($${CXX:-g++} --version 2>/dev/null) in *clang*) oldest=15;; *) oldest=12;; esac; \
	[ "$${compiler%%.*}" -ge $$oldest ] || missing+=(g++); \
	command -v flock >/dev/null || missing+=(util-linux); \
	[ -n "$(filter demo,$(MAKECMDGOALS))" ] || command -v openssl >/dev/null || missing+=(openssl); \
	optional=(); \
	for header in nghttp2/nghttp2.h openssl/ssl.h; do \
	  echo "#include <$$header>" | $${CXX:-g++} -E -x c++ - >/dev/null 2>&1 && continue; \
	  case $$header in nghttp2/*) optional+=(libnghttp2-dev);; *) optional+=(libssl-dev);; esac; \
	done; \
	if [ $${#optional[@]} -gt 0 ]; then \
	  echo "The native front-end, or its TLS, is not built without $${optional[*]}." >&2; \
	fi; \
	if [ $${#missing[@]} -gt 0 ]; then \
	  echo "gslice needs Python 3.11 to 3.14 with venv and headers, make, and g++ 12 or newer." >&2; \
	  echo "Missing here: $${missing[*]}. On Debian and Ubuntu:" >&2; \
	  echo "  sudo apt-get install -y $${missing[*]}" >&2; \
	  exit 1; \
	fi

# A stamp is as new as the last time its step was done; pip itself skips what is there already.
$(VENV)/.tools: pyproject.toml | check
	@[ -x $(BIN)/python ] || { echo "making $(VENV)"; "$(PYTHON)" -m venv $(VENV); }
	@echo "installing the build tools into $(VENV)"
	@$(PIP) install -q $$($(BIN)/python -c 'import tomllib; \
	  print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"])') \
	  'cmake>=3.25' 'ninja>=1.11'
	@touch $@

# Warnings are errors for developers only (the build folder remembers it for .built): one of a
# compiler that nobody here has tried must not keep the demo from building.
$(VENV)/.dev: STRICT := -C cmake.define.GSLICE_WERROR=ON

$(VENV)/.demo $(VENV)/.dev: $(VENV)/.%: $(VENV)/.tools
	@mkdir -p build
	@echo "building gslice and installing its [$*] packages into $(VENV) (minutes, the first time)"
	@flock build/.lock $(PIP) install -q --prefer-binary --no-build-isolation $(STRICT) -e '.[$*]'
	@touch $@ $(VENV)/.built

$(VENV)/.built: $(VENV)/.tools $(NATIVE)
	@mkdir -p build
	@echo "building the native core"
	@flock build/.lock $(PIP) install -q --no-build-isolation --no-deps -e .
	@touch $@

.PHONY: build
build: $(VENV)/.built  ## build the native core into the environment

# ---- the two commands ------------------------------------------------------------------------

.PHONY: demo
demo: $(VENV)/.demo $(VENV)/.built  ## serve OCR and file types over gRPC, and show what came out
	$(BIN)/gslice demo --out demo-out

.PHONY: test
test: $(VENV)/.dev $(VENV)/.built  ## lint, C++ under both sanitizers, pytest
	@echo "linters, C++ tests and stand-ins, side by side: each is shown when it has ended"
	@$(MAKE) --no-print-directory -j 2 --output-sync=target $(BESIDE)
	$(BIN)/python -m pytest -m 'not soak and not gpu and not alone' -n $(TESTERS) --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest -m alone $$(grep -rl 'mark.alone' tests)

# ---- parts of `make test` --------------------------------------------------------------------

.PHONY: lint
lint: $(VENV)/.dev  ## ruff, mypy, clang-format, stale protocols
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)
	$(BIN)/python protos/build.py --check

# gcc 12's thread sanitizer needs addresses where it expects them; a container may forbid that.
UNRANDOMISED := $(shell setarch -R true 2>/dev/null && echo setarch -R)
CTEST := ctest --output-on-failure --no-tests=error -j $(JOBS)

.PHONY: native-test
native-test: native-asan native-tsan  ## the C++ tests under ASan + UBSan, then under TSan

.PHONY: native-asan
native-asan: $(VENV)/.dev
	$(call sanitized,asan,address$(comma)undefined)
	$(CTEST) --test-dir build/asan

.PHONY: native-tsan
native-tsan: $(VENV)/.dev
	$(call sanitized,tsan,thread)
	$(UNRANDOMISED) $(CTEST) --test-dir build/tsan

.PHONY: fakes
fakes: $(VENV)/.dev  # of a GPU, which tests would build when the first of them needs them
	$(BIN)/python -c 'from tests.fakes.gpu import build; build()'

comma := ,
define sanitized
cmake -S native -B build/$(1) -G Ninja -DGSLICE_PYTHON=OFF -DGSLICE_TESTS=ON \
  -DGSLICE_WERROR=ON -DGSLICE_SANITIZE=$(2) -DCMAKE_CXX_FLAGS='-O0 -g1' -DCMAKE_BUILD_TYPE= >/dev/null
ninja -C build/$(1) -j $(JOBS) --quiet
endef

# ---- the rest --------------------------------------------------------------------------------

.PHONY: fmt
fmt: $(VENV)/.dev  ## put Python and C++ into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

.PHONY: protos
protos: $(VENV)/.dev  ## compile protos/*.proto into gslice/protos
	$(BIN)/python protos/build.py

# The descriptors promise every protobuf from 5.29 on; each Python that is here tries both ends.
COMPAT_PYTHONS = $(shell for p in 3.11 3.12 3.13 3.14; do \
  python$$p -c '' 2>/dev/null && echo python$$p; done; true)
.PHONY: compat
compat:  ## the protocols' tests under protobuf 5.29 and the newest, with each Python that is here
	@scratch=$$(mktemp -d); trap 'rm -rf "$$scratch"' EXIT; \
	for python in $(or $(COMPAT_PYTHONS),$(error no python3.11 to 3.14 here)); do for protobuf in '==5.29.*' ''; do \
	  "$$python" -m venv --clear "$$scratch/venv"; \
	  "$$scratch/venv/bin/python" -m pip install -q --disable-pip-version-check \
	    "protobuf$$protobuf" pytest pytest-timeout; \
	  echo "$$python, protobuf $$("$$scratch/venv/bin/python" -c \
	    'from google.protobuf import __version__; print(__version__)')"; \
	  "$$scratch/venv/bin/python" -m pytest -q --noconftest -p no:cacheprovider tests/unit/test_protos.py \
	    -k 'not client' --deselect tests/unit/test_protos.py::test_both_in_one_process; \
	done; done

# torch is hundreds of megabytes, so [dev] does without; its tests are skipped where it is missing.
.PHONY: test-torch
test-torch: $(VENV)/.dev $(VENV)/.built  ## install torch, and run the tests that need it
	$(PIP) install -q 'torch>=2.5'
	$(BIN)/python -m pytest tests/unit/test_engine_torch.py tests/unit/test_engines_gpu.py \
	  tests/process/test_torch.py

# It builds without a GPU; 230 MB.
.PHONY: test-tensorrt
test-tensorrt: $(VENV)/.dev $(VENV)/.built  ## install TensorRT for RTX, and run the tests of its builds
	$(PIP) install -q 'tensorrt-rtx>=1.2'
	$(BIN)/python -m pytest tests/unit/test_engine_tensorrt_rtx.py

.PHONY: soak
soak: $(VENV)/.dev $(VENV)/.built native-asan  ## long drills, and properties over many more examples
	$(BIN)/python -m pytest -m soak --timeout 3600
	build/asan/tests/fuzz_request 5000000
	[ ! -x build/asan/tests/fuzz_grpc ] || build/asan/tests/fuzz_grpc 20000
	$(BIN)/python -m pytest -m hypothesis --hypothesis-profile long --timeout 3600 tests/unit tests/contract

.PHONY: bench
bench: $(VENV)/.dev $(VENV)/.built  ## what gslice adds to a request; OUT=file.json
	@mkdir -p $(dir $(OUT))
	$(BIN)/python -m benchmarks.overhead --json $(OUT)

.PHONY: man
man: $(VENV)/.dev $(VENV)/.built  ## a man page for each command, into build/man
	$(BIN)/python scripts/man_pages.py build/man

.PHONY: wheels
wheels: check  ## packages for each Python that is here, into dist, each proven to serve
	scripts/wheels.sh

.PHONY: docs
docs: $(VENV)/.dev $(VENV)/.built  ## the documentation as pages, into build/docs
	$(BIN)/sphinx-build -q -W --keep-going -j auto docs build/docs
	@echo "build/docs/index.html"

.PHONY: clean
clean:  ## remove what was built, but not the environment
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis $(VENV)/.built
	find gslice tests benchmarks protos -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help
help:
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20
