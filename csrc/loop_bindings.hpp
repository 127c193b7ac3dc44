// The loops over rows and tokens in Python, by address.
#pragma once

#include <pybind11/pybind11.h>

namespace l2c {

void bind_loops(pybind11::module_& m);

}  // namespace l2c
