// Products by cuBLASLt in Python.
#pragma once

#include <pybind11/pybind11.h>

namespace l2c {

void bind_cublas_lt(pybind11::module_& m);

}  // namespace l2c
