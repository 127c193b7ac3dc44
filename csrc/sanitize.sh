#!/usr/bin/env bash
# The extension under AddressSanitizer and UBSan: native programs with leak detection on, then the
# arena's Python tests, where only leaks are off (Python's own would drown ours).
# Needs gcc, Python, and from its package index: pybind11 cmake ninja numpy pytest hypothesis.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
build=$root/build/sanitize
python=$(command -v "${PYTHON:-python}")
export UBSAN_OPTIONS=print_stacktrace=1

# CMake refuses a build folder that was made for a checkout at another path.
grep -qsx "CMAKE_HOME_DIRECTORY:INTERNAL=$root" "$build/CMakeCache.txt" || rm -rf "$build"
cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Debug -DL2C_SANITIZE=ON \
  -DCMAKE_C_COMPILER=gcc -DCMAKE_CXX_COMPILER=g++ -DPython_EXECUTABLE="$python" \
  -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$build/python/l2c_rt"
cmake --build "$build"

LD_LIBRARY_PATH=$build/driver ASAN_OPTIONS=detect_leaks=1 "$build/arena_test"
ASAN_OPTIONS=detect_leaks=1 "$build/loops_test"

# A package of the sanitized extension alone, found before the sources here and any installed
# l2c_rt: by pytest in the working directory, by the processes that tests start in PYTHONPATH.
touch "$build/python/l2c_rt/__init__.py"
cd "$build/python"
export PYTHONPATH=$build/python
# libstdc++ too, or the sanitizer finds no exceptions to intercept in a Python that starts without.
libraries=$(for name in libasan.so libubsan.so libstdc++.so; do gcc -print-file-name=$name; done)
export LD_PRELOAD=${libraries//$'\n'/ } ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc
(cd / && "$python" -c "import l2c_rt._C as built; assert 'sanitize' in built.__file__, built.__file__")
"$python" -m pytest -q -p no:cacheprovider "$root"/tests/memory/test_{arena,arena_views,arena_cuda,uninitialised}.py
