#!/usr/bin/env bash
# From a checkout to numbers on a machine with a GPU and no network:
#   bash bench/gpu/bootstrap.sh [RESULTS]      (all; RESULTS is bench/results/gpu unless given)
#   bash bench/gpu/bootstrap.sh build          (only the extension, to run the rest by hand)
# Needs what is installed there already: torch, triton, cmake, ninja, pybind11, pytest and a C++
# compiler; neither pip nor setuptools.  A stage that fails is said, and the next one runs: what is
# measured comes home either way, in one archive.
set -uo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
results=${1:-bench/results/gpu}
build=build/gpu
failed=()

stage() {  # NAME SECONDS COMMAND...
  local name=$1 seconds=$2
  shift 2
  echo "== $name: $*"
  timeout "$seconds" "$@" || { echo "== $name: exit code $?"; failed+=("$name"); }
}

# CMake refuses a build folder that was made for a checkout at another path.
grep -qsx "CMAKE_HOME_DIRECTORY:INTERNAL=$PWD" "$build/CMakeCache.txt" || rm -rf "$build"
cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release "-DPython_EXECUTABLE=$(command -v "$python")" \
  "-DCMAKE_LIBRARY_OUTPUT_DIRECTORY=$PWD/l2c_rt" && cmake --build "$build" --target _C || exit 1
ln -sfn ../kernels l2c_rt/kernels
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
if [ "$results" = build ]; then
  echo "built; export PYTHONPATH=$PYTHONPATH"
  exit 0
fi

# The kernels against their meaning, the tests, then what matters most; a first run compiles much.
# Tests share the GPU, but for those that read its free memory or its clock.
mkdir -p "$results"
workers=()
"$python" -c "import xdist" 2>/dev/null && workers=(-n 8 --dist worksteal)
alone="memory or slots or tuning_gpu"
stage doctor 300 "$python" -m l2c_rt.cli doctor --json --out "$results/doctor.json"
stage kernels 200 "$python" tests/support/every_kernel.py
stage tests 330 "$python" -m pytest tests -m gpu -q "${workers[@]}" -k "not sanitizer and not ($alone)"
stage alone 200 "$python" -m pytest tests -m gpu -q -k "$alone"
stage bench 560 "$python" -m pytest bench -m gpu -v --results "$results" \
  -k "ceilings or nodes or row_kernels or (256 and ddim-50 and n1)"
tar -czf "$results.tar.gz" -C "$(dirname "$results")" "$(basename "$results")"
echo "== results: $results.tar.gz"
[ ${#failed[@]} -eq 0 ] || { echo "== failed: ${failed[*]}"; exit 1; }
