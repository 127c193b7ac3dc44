# Each target does all its set-up: a fresh clone needs Python 3.10 or newer, a C++ compiler, make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint bench sanitize clean

demo: $(VENV)/.demo
	$(BIN)/l2c-rt demo --out demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not gpu and not slow"

# mypy sees the package as it is installed, with kernels/ as l2c_rt.kernels.
lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/typed && mkdir -p build/typed && cp -rp l2c_rt build/typed && cp -rp kernels build/typed/l2c_rt
	cd build/typed && $(abspath $(BIN))/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache
	$(BIN)/clang-format --dry-run --Werror $(wildcard csrc/*.[ch]* csrc/tests/*)

bench: $(VENV)/.dev
	$(BIN)/python -m pytest bench -m "not gpu" -s --benchmark-json=bench/results/cpu.json

sanitize: $(VENV)/.dev
	PATH="$(abspath $(BIN)):$$PATH" bash csrc/sanitize.sh

clean:
	rm -rf $(VENV) build dist demo *.egg-info l2c_rt/*.so

# The CPU build of PyTorch first: left to the resolver, torch would bring gigabytes of CUDA.
$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch==2.13.0
	touch $@

$(VENV)/.demo: $(VENV)/.torch setup.py pyproject.toml CMakeLists.txt $(wildcard csrc/*)
	$(BIN)/python -m pip install --quiet -e ".[demo]"
	touch $@

$(VENV)/.dev: $(VENV)/.torch requirements-dev.txt setup.py pyproject.toml CMakeLists.txt $(wildcard csrc/*)
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet -e .
	touch $@ $(VENV)/.demo
