# The two commands of the README: `make demo` and `make test`. Each sets up all it needs in .venv.
PYTHON ?= python3
VENV := .venv
# Holdfast without torch: looking at files must work there.
LIGHT := .venv-light
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test soak faults bench pictures fuzz fuzz-keep check clean

demo: $(VENV)/.ready-demo
	$(BIN)/holdfast demo

# Hundreds of processes are started by tests: what they import is compiled once. Three at a time on
# two cores, as some wait for others.
test: $(VENV)/.ready-dev $(LIGHT)/.ready
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -n 3 --dist loadfile

check: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# Thousands of saves behind a training: memory, files and threads stay as many as they were. Then a
# training that is killed, stopped and has calls fail under it at random, again and again.
SOAK_SECONDS ?= 1200
soak: $(VENV)/.ready-dev
	SOAK_SAVES=2000 $(BIN)/python -m pytest tests/run/test_soak.py
	$(BIN)/python -m tests.faults.endurance $(SOAK_SECONDS) $$(date +%s)

# Every fault in every case, done to holdfast and to others, into docs/reliability.md: as root, with
# strace and mkfs.ext4; with mkfs.xfs and mkfs.btrfs where they are. A run that was broken off goes on.
faults: $(VENV)/.ready-faults
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m tests.faults.report

# How fast and how large, measured here and now; nothing passes or fails.
bench: $(VENV)/.ready-bench
	mkdir -p build/bench
	$(BIN)/holdfast bench build/bench --json > build/bench/result.json
	$(BIN)/python bench/to_markdown.py build/bench/result.json
	for script in bench/bench_*.py; do $(BIN)/python $$script || exit 1; done

# What the commands print and what the page shows, of a run that is trained for it: docs/pictures.
pictures: $(VENV)/.ready-dev
	$(BIN)/python docs/make_pictures.py

# Half an hour of changed files, from seeds of every format; what it finds lies in build/fuzz.
FUZZ_SECONDS ?= 1800
fuzz: $(VENV)/.ready-fuzz
	$(BIN)/python -m tests.fuzz.make_seeds build/fuzz/seeds
	mkdir -p build/fuzz/grown
	$(BIN)/python -m tests.fuzz.fuzz_readers build/fuzz/grown tests/fuzz/corpus build/fuzz/seeds \
	    -max_total_time=$(FUZZ_SECONDS) -max_len=65536 -timeout=20 -artifact_prefix=build/fuzz/

# Keep of what fuzzing found all that reaches code which nothing kept reaches yet, if it is small.
fuzz-keep: $(VENV)/.ready-fuzz
	mkdir -p build/fuzz/small
	find build/fuzz/grown -type f -size -6k -exec cp {} build/fuzz/small \;
	$(BIN)/python -m tests.fuzz.fuzz_readers -merge=1 tests/fuzz/corpus build/fuzz/small

clean:
	rm -rf $(VENV) $(LIGHT) build dist .mypy_cache .pytest_cache .ruff_cache

# The stamps make every later run start at once; a changed requirement makes them anew.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready-demo: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) install -c constraints.txt -e '.[torch]'
	touch $@

$(VENV)/.ready-dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) install -c constraints.txt -e '.[torch,loaders,view,dev]'
	touch $@ $(VENV)/.ready-demo

$(LIGHT)/bin/python:
	$(PYTHON) -m venv $(LIGHT)

$(LIGHT)/.ready: $(LIGHT)/bin/python pyproject.toml constraints.txt
	$(LIGHT)/bin/python -m pip --disable-pip-version-check install -c constraints.txt -e .
	touch $@

# One of those that are measured beside holdfast may not be there for this Python: then without it.
$(VENV)/.ready-bench: $(VENV)/.ready-dev pyproject.toml constraints.txt
	$(PIP) install -c constraints.txt -e '.[bench]' || echo "benchmarks go without it"
	touch $@

# Lightning is compared where it installs.
$(VENV)/.ready-faults: $(VENV)/.ready-dev pyproject.toml constraints.txt
	$(PIP) install -c constraints.txt -e '.[faults]' || echo "faults go without it"
	touch $@

$(VENV)/.ready-fuzz: $(VENV)/.ready-dev pyproject.toml constraints.txt
	$(PIP) install -c constraints.txt -e '.[fuzz]'
	touch $@
