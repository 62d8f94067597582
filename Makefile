# Each target does its own set-up; a second run reuses what is installed.
PYTHON ?= $(shell command -v python3.11 || echo python3)
# Also where pyenv keeps it; its python3.10 on the path may be one that does not run.
PYTHON310 ?= $(shell python3.10 -c 'import sys; print(sys.executable)' 2>/dev/null || \
	ls -d $(HOME)/.pyenv/versions/3.10.*/bin/python3.10 2>/dev/null | tail -1)
BIN := .venv/bin
CONFIG := ../../pyproject.toml
# Threads that wait must sleep: tests run a server beside them, and spinning threads starve it.
export OMP_WAIT_POLICY ?= PASSIVE
# Tests start many processes: what they import is compiled once.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup test long quick quick-310 setup-310 which-310 newest lint fuzz kills demo nuclei bench soak

setup:
	@$(PYTHON) tools/setup_env.py

# Not `python -m pytest`: that puts this folder on sys.path, where our nodes/ hides ComfyUI's.
PYTEST := pytest -c tests/pytest.ini tests
# On two cores, with a thread each: the models of tests are too small for more.
test long quick quick-310 newest: export OMP_NUM_THREADS := 1
BOTH := -n 2 --dist loadfile --no-loadscope-reorder
# What needs no server, no browser, and less than a few seconds of one core.
QUICK := not server and not browser and not slow and not long

# FLAGS=--strict-skips: a test that is skipped but could have been run is a failure.
test: lint
	$(BIN)/$(PYTEST) $(BOTH) -m "not long" $(FLAGS)

# The benchmarks at a tiny scale, and other tests that take minutes each.
long: setup
	$(BIN)/$(PYTEST) $(BOTH) -m long

# Under two minutes on two idle cores.
quick: lint
	$(BIN)/$(PYTEST) $(BOTH) -m "$(QUICK)"

# Those of the code that runs outside ComfyUI, on the oldest Python that pyproject.toml claims.
quick-310: setup-310
	.venv/python310/bin/$(PYTEST)/common tests/training $(BOTH) -m "$(QUICK) and not comfyui"

# These and whole trainings on the newest release of everything: transformers 5, diffusers 0.42 ...
newest: setup
	@$(BIN)/python tools/setup_newest.py
	.venv/newest/bin/$(PYTEST)/common tests/training $(BOTH) -m "not comfyui and not server and not long"

setup-310: setup
	@$(BIN)/python tools/setup_python310.py $(PYTHON310)

which-310:
	@echo $(PYTHON310)

# The checkout is seen as `siamese_diffusion` through a link, whatever its folder is called.
lint: setup
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	cd .venv/check && ../bin/python -m mypy -p siamese_diffusion --config-file $(CONFIG)
	cd .venv/check && ../bin/lint-imports --config $(CONFIG)

# Made-up weight files, lists and TOML files, thousands of each; an hour or so, `make fuzz FUZZ=500`
# for minutes.
FUZZ ?= 20000
fuzz: setup
	FUZZ_EXAMPLES=$(FUZZ) $(BIN)/$(PYTEST)/test_fuzz.py

# Training with every feature on, and synthesis, killed at as many random moments; minutes.
KILLS ?= 20
kills: setup
	KILLS=$(KILLS) $(BIN)/$(PYTEST)/training/run/test_kill.py tests/synthesis/test_synthesize_kill.py

# Memory that a step has freed is kept for the next one: otherwise the system clears it anew each time.
demo nuclei: export MALLOC_MMAP_THRESHOLD_ := 1073741824
demo nuclei: export MALLOC_TRIM_THRESHOLD_ := 8589934592
# Real data, from crops that the repository holds; each goes on where it stopped. Minutes on two cores.
demo: setup
	$(BIN)/python -m siamese_diffusion.tools.demo

# Longer training, more masks; under an hour.
nuclei: setup
	$(BIN)/python -m siamese_diffusion.tools.demo --large

# Long use: hours; writes benchmarks/results/reliability/ and docs/reliability.md.
soak: setup
	$(BIN)/python -m siamese_diffusion.benchmarks.soak

# Minutes, on a machine that does nothing else; writes benchmarks/results/ and docs/benchmarks.md.
bench: setup
	$(BIN)/python -m siamese_diffusion.benchmarks
