#include "lt_bindings.hpp"

#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <tuple>

#include "lt_product.hpp"

namespace py = pybind11;
using namespace py::literals;

namespace l2c {
namespace {

using NoGil = py::call_guard<py::gil_scoped_release>;

std::unique_ptr<LtProduct> make_product(int device,
                                        std::tuple<std::int64_t, std::int64_t, std::int64_t> shape,
                                        std::tuple<int, int> types, bool bias, bool gelu,
                                        std::size_t workspace, int most, int cut_first) {
  const auto [rows, columns, inner] = shape;
  const auto [type, compute] = types;
  const py::gil_scoped_release released;
  return std::make_unique<LtProduct>(
      LtShape{device, rows, columns, inner, type, compute, bias, gelu, workspace}, most, cut_first);
}

void run_product(const std::shared_ptr<LtProduct>& product, std::size_t algorithm, std::uintptr_t x,
                 std::uintptr_t weight, std::uintptr_t bias, std::uintptr_t y,
                 std::uintptr_t workspace, std::uintptr_t stream) {
  const auto at = [](std::uintptr_t address) { return reinterpret_cast<void*>(address); };
  product->run(algorithm, {at(x), at(weight), at(bias), at(y), at(workspace),
                           reinterpret_cast<lt::Stream>(stream)});
}

}  // namespace

void bind_cublas_lt(py::module_& m) {
  py::class_<LtProduct, std::shared_ptr<LtProduct>>(m, "LtProduct")
      .def(py::init(&make_product), "device"_a, "shape"_a, "types"_a, "bias"_a, "gelu"_a,
           "workspace"_a, "most"_a, "cut_first"_a)
      .def_property_readonly("algorithms",
                             [](const std::shared_ptr<LtProduct>& self) { return self->names(); })
      .def("run", &run_product, "algorithm"_a, "x"_a, "weight"_a, "bias"_a, "y"_a, "workspace"_a,
           "stream"_a, NoGil());
  m.def("cublas_lt_version", [] { return cublas_lt().cublasLtGetVersion(); }, NoGil());
}

}  // namespace l2c
