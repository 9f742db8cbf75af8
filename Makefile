# make run         collect from this machine's kernel into ./traces, until Ctrl-C
# make build       make .venv and install the package there
# make check       lint, strict types, the tests that need neither root, network nor kernel: a minute on two cores
# make test        all of that and the rest, of the tests that boot other kernels one for each: a quarter of an hour
# make test-guest  all tests that boot other kernels: half an hour (see tests/guest/README.md)
# make test-situations  what production does to a daemon, set up for real: an hour at most (tests/situations)
# make sanitize    the native code under the address and undefined behaviour sanitizers: four minutes
# make lint        lint and strict types alone: seconds, the first time 40
# make fix         mend what lint can mend, sort imports, format
# make bench       measure against other tools (see bench/README.md)
# make clean       remove all that the others made, but no archive
#
# PYTHON=python3.12 chooses the interpreter; ARGS="-e 'irq:*'" goes to `run`, PYTEST_ARGS to pytest. KERNELS=kernel
# leaves out the tests that boot other kernels.

PYTHON ?= python3
ARGS ?=
PYTEST_ARGS ?=
KERNELS ?= kernel or quick_guest
BIN := .venv/bin
CPUS := $(shell getconf _NPROCESSORS_ONLN)
# A folder in memory with a GiB free, as containers don't have it; else the usual one.
MEMORY := $(or $(TMPDIR),$(shell df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 && $$4 > 1048576 {print "/dev/shm"}'),/tmp)
BUILT := .venv/.built
BUILT_FOR_TESTS := .venv/.built-for-tests
SOURCES := pyproject.toml $(shell find collector sinks -name '*.pyx' -o -name '*.pxd')

.PHONY: run build check test test-guest test-situations sanitize lint fix bench clean

run: build
	@if [ "$$(id -u)" = 0 ] && [ -d /sys/kernel/tracing ] && [ ! -e /sys/kernel/tracing/instances ]; then \
	  mount -t tracefs nodev /sys/kernel/tracing || true; fi
	@exec $(BIN)/ftrace-collector run --output ./traces $(ARGS)

build: $(BUILT)

# Thousands of small files, synced and removed again: in memory, where there is a place for that.
check: lint
	TMPDIR=$(MEMORY) $(BIN)/python -m pytest -q -n $(CPUS) --dist worksteal -m 'not network and not kernel and not guest and not long' $(PYTEST_ARGS)

# Tests of the live kernel have it to themselves.
test: check
	$(BIN)/python -m pytest -n $(CPUS) --dist loadscope -m 'network and not kernel and not guest and not long' $(PYTEST_ARGS)
	$(BIN)/python -m pytest -m '($(KERNELS)) and not long' $(PYTEST_ARGS)

test-guest: $(BUILT_FOR_TESTS)
	FTC_REQUIRE_GUEST=1 $(BIN)/python -m pytest -m guest $(PYTEST_ARGS)

test-situations: $(BUILT_FOR_TESTS)
	FTC_REQUIRE_KERNEL=1 $(BIN)/python -m pytest tests/situations $(PYTEST_ARGS)

# In a copy of the tree with a .venv of its own: what is built here stays as it is. Python itself leaks on purpose.
sanitize:
	rm -rf .sanitize && mkdir .sanitize
	git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t .sanitize
	CFLAGS="-g -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined" \
	  LDFLAGS="-fsanitize=address,undefined" $(MAKE) -C .sanitize $(BUILT_FOR_TESTS)
	cd .sanitize && ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONMALLOC=malloc \
	  LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	  $(BIN)/python -m pytest -q -n $(CPUS) tests/decode tests/read tests/oracle tests/kernels $(PYTEST_ARGS)

lint: $(BUILT_FOR_TESTS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: $(BUILT_FOR_TESTS)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: build
	bench/run

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is too old or missing: 3.11 or newer is needed; name one with PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv

# What was compiled is removed first: setuptools takes an extension for current when only its .pxd has changed.
$(BUILT): $(SOURCES) | $(BIN)/python
	find collector \( -name '*.so' -o -path 'collector/*/*.c' \) -delete
	$(BIN)/pip install -q -e .
	touch $@

# The tests' installation is the other one and more, so it stands for both.
$(BUILT_FOR_TESTS): $(SOURCES) | $(BIN)/python
	find collector \( -name '*.so' -o -path 'collector/*/*.c' \) -delete
	$(BIN)/pip install -q -e '.[test]'
	touch $(BUILT) $@

clean:
	rm -rf .venv .sanitize build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find collector sinks tests -name __pycache__ -prune -exec rm -rf {} +
	find collector \( -name '*.so' -o -path 'collector/*/*.c' \) -delete
