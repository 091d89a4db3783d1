# make run     build (release) and start a server on 127.0.0.1:19530
# make dist    build for deployment, with link-time optimisation: target/dist/redkite
# make test    all tests: Rust, then end to end with the Milvus client (both also on a real S3 server)
# make bench   measure; prints the tables of docs/benchmarks.md (bench-search: searches alone; bench-growing: searches of rows that are not flushed; bench-storage: how rows become durable; bench-ddl: definitions; bench-snapshot: snapshots; bench-engine: against other vector libraries; bench-export: exports)
# make fmt     format
# make lint    clippy, warnings are errors

CARGO ?= cargo
PYTHON ?= python3
VENV := .venv
BENCH_VENV := .venv-bench
PORT ?= 19530
DATA ?= ./data
PYTEST_ARGS ?=

# One after the other, also under `make -j`: the tests of the whole need the machine for themselves.
.NOTPARALLEL:
.PHONY: run test test-rust test-e2e bench bench-search bench-growing bench-storage bench-ddl bench-snapshot bench-engine bench-export fmt lint build release dist

run: release
	./target/release/redkite standalone --data-dir $(DATA) --port $(PORT)

release:
	$(CARGO) build --release -p redkite-standalone

dist:
	$(CARGO) build --profile dist -p redkite-standalone

# Tests and binaries in one command, so that all of them share one build of the dependencies.
build:
	$(CARGO) build --workspace --all-targets

test: test-rust test-e2e

# Some of them need a real S3 server or a Parquet reader, which the virtual environment has.
TEST_ENV := REDKITE_WEED=$(CURDIR)/$(VENV)/bin/weed PYTHON=$(CURDIR)/$(VENV)/bin/python

test-rust: build $(VENV)/ready
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
		set -x; $(TEST_ENV) $(CARGO) nextest run --workspace --no-fail-fast; \
	else \
		set -x; $(TEST_ENV) $(CARGO) test --workspace --no-fail-fast; \
	fi

# The binaries of `build`, in target/debug, against the Milvus client.
test-e2e: build $(VENV)/ready
	$(VENV)/bin/pytest -c tests/pytest.ini tests/e2e -n 2 --dist loadfile $(PYTEST_ARGS)

$(VENV)/ready: tests/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	touch $@

bench: release $(VENV)/ready
	$(VENV)/bin/python tests/bench/bench.py

bench-search: release $(VENV)/ready
	$(VENV)/bin/python tests/bench/bench_search.py --writes 500

bench-growing: release $(VENV)/ready
	$(VENV)/bin/python tests/bench/bench_growing.py

bench-storage: release $(VENV)/ready
	$(VENV)/bin/python tests/bench/bench_storage.py

bench-ddl: $(VENV)/ready
	$(CARGO) build --release --workspace --bins
	$(VENV)/bin/python tests/bench/bench_ddl.py

bench-snapshot: release $(VENV)/ready
	$(VENV)/bin/python tests/bench/bench_snapshot.py

# The other libraries live in an environment of their own.
bench-engine: $(BENCH_VENV)/ready
	$(CARGO) build --release -p redkite-index --examples
	$(BENCH_VENV)/bin/python tests/bench/bench_engine.py

$(BENCH_VENV)/ready: tests/bench/requirements-engine.txt
	$(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/pip install --quiet --disable-pip-version-check -r tests/bench/requirements-engine.txt
	touch $@

bench-export: $(VENV)/ready
	$(CARGO) build --release --workspace --bins --examples
	$(VENV)/bin/python tests/bench/bench_export.py

fmt:
	$(CARGO) fmt --all

lint:
	$(CARGO) clippy --workspace --all-targets -- -D warnings
