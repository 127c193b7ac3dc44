# Each target does all its set-up: a fresh clone needs Python 3.10 or newer, a C++ compiler, make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The pinned versions unless said otherwise: make test TORCH=2.11.0 TRITON=3.6.0
TORCH ?= $(shell sed -n 's/^torch==//p' requirements-dev.txt)
TRITON ?= $(shell sed -n 's/^triton==\([^;]*\).*/\1/p' requirements-dev.txt)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: demo test lint bench sanitize clean

demo: $(VENV)/.demo
	$(BIN)/l2c-rt demo --out demo

# Files in their order: by their number of tests, the one long test of a file would come last, alone.
test: $(VENV)/.dev
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -m "not gpu and not slow" -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

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
	PATH="$(abspath $(BIN)):$$PATH" PYTHON=python bash csrc/sanitize.sh

clean:
	rm -rf $(VENV) build dist demo *.egg-info l2c_rt/*.so

# The CPU build of PyTorch first: left to the resolver, torch would bring gigabytes of CUDA.
# .ci/install_torch.py says where it takes it from when TORCH_INDEX does not answer.
$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python .ci/install_torch.py $(TORCH) $(TORCH_INDEX)
	touch $@

$(VENV)/.demo: $(VENV)/.torch setup.py pyproject.toml CMakeLists.txt $(wildcard csrc/*)
	$(BIN)/python -m pip install --quiet -e ".[demo]"
	touch $@

$(VENV)/.dev: $(VENV)/.torch requirements-dev.txt setup.py pyproject.toml CMakeLists.txt $(wildcard csrc/*)
	sed -e 's/^torch==.*/torch==$(TORCH)/' -e 's/^triton==[^;]*/triton==$(TRITON)/' requirements-dev.txt > $(VENV)/requirements.txt
	$(BIN)/python -m pip install --quiet -r $(VENV)/requirements.txt
	$(BIN)/python -m pip install --quiet -e .
	touch $@ $(VENV)/.demo
