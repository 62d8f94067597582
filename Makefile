# Each target does its own set-up; a second run reuses what is installed.
PYTHON ?= $(shell command -v python3.11 || echo python3)
BIN := .venv/bin
CONFIG := ../../pyproject.toml
# Threads that wait must sleep: tests run a server beside them, and spinning threads starve it.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: setup test lint demo nuclei bench

setup:
	@$(PYTHON) tools/setup_env.py

test: lint
# Not `python -m pytest`: that puts this folder on sys.path, where our nodes/ hides ComfyUI's.
	$(BIN)/pytest -c tests/pytest.ini tests

# The checkout is seen as `siamese_diffusion` through a link, whatever its folder is called.
lint: setup
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	cd .venv/check && ../bin/python -m mypy -p siamese_diffusion --config-file $(CONFIG)
	cd .venv/check && ../bin/lint-imports --config $(CONFIG)

demo: setup
	$(BIN)/python -m siamese_diffusion.tools.demo

# Real data, from crops that the repository holds; under an hour on two cores, goes on where it stopped.
nuclei: setup
	$(BIN)/python -m siamese_diffusion.tools.nuclei

# Minutes, on a machine that does nothing else; writes benchmarks/results/ and docs/benchmarks.md.
bench: setup
	$(BIN)/python -m siamese_diffusion.benchmarks
