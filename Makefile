# Sets up everything it needs below this folder: .venv, .comfyui. Python 3.11 or newer, with pip.
SHELL := bash
PYTHON ?= python3
UV_VERSION := 0.13.8
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo bench test test-all lint format lock comfyui browser repository clean

demo: comfyui ## sample the demo model with and without AdaCache, and compare
	$(BIN)/python -m demo.demo $(DEMO_ARGS)

bench: comfyui ## against EasyCache, LazyCache, fewer steps and a fixed interval; BENCH_ARGS=--short takes ten minutes
	$(BIN)/python -m benchmarks.bench $(BENCH_ARGS)

# Two processes with one thread each are faster than one with two: much of a test is waiting for a server.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test: comfyui browser ## what five minutes can tell; PYTEST_ARGS="-k name" for some
	$(PYTEST) -m "not long" $(PYTEST_ARGS)

test-all: comfyui browser ## every sampler, model family, workflow, install and browser, too
	$(PYTEST) $(PYTEST_ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The user's own ComfyUI if there is one, else a fetched one; see demo/comfyui.py.
comfyui: $(READY)
	@$(BIN)/python -m demo.comfyui

browser:
	@command -v chromium chromium-browser google-chrome >/dev/null || { \
		echo "Installing Chromium ..."; \
		sudo=$$([ "$$(id -u)" = 0 ] || echo sudo); \
		$$sudo apt-get update -qq && $$sudo apt-get install -qq -y --no-install-recommends chromium >/dev/null; \
	} || echo "Chromium could not be installed; the tests that need a browser will say so."

# Without pip's own copy in the environment, since Debian's venv module alone cannot put one there.
$(BIN)/uv:
	$(PYTHON) -m venv --without-pip .venv
	$(PYTHON) -m pip --python $(BIN)/python install --quiet uv==$(UV_VERSION)

$(READY): demo/requirements.txt | $(BIN)/uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --requirement demo/requirements.txt
	@touch $@

# Pins exactly what is installed; to upgrade a package, install it first.
lock: comfyui
	$(BIN)/uv pip freeze --python $(BIN)/python > .venv/frozen.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header \
		--constraint .venv/frozen.txt --output-file demo/requirements.txt \
		demo/requirements.in $$($(BIN)/python -m demo.comfyui)/requirements.txt

repository: ## the address of this repository, where it is published: make repository URL=...
	sed -i 's|\bREPOSITORY\b|$(URL)|' README.md pyproject.toml

clean: ## everything that was made here
	rm -rf .venv .comfyui output
