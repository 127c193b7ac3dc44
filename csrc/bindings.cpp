// The Python surface of l2c_rt._C; only the files of bindings know Python.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "arena.hpp"
#include "attention.hpp"
#include "cuda_device.hpp"
#include "cuda_driver.hpp"
#include "graph_loop.hpp"
#include "layout.hpp"
#include "lt_bindings.hpp"
#include "row_pass.hpp"
#include "view.hpp"

namespace py = pybind11;
using namespace py::literals;

namespace l2c {
namespace {

using NoGil = py::call_guard<py::gil_scoped_release>;
using Version = std::pair<int, int>;
using Device = std::pair<int, int>;

// The last owner may be Python, or a consumer's thread without the GIL. Giving memory back waits
// for the device: with the GIL held that would stop a callback the device itself is waiting for.
template <typename Object>
void destroy(Object* object) {
  if (Py_IsInitialized() && PyGILState_Check()) {
    const py::gil_scoped_release released;
    delete object;
  } else {
    delete object;
  }
}

template <typename Object, typename... Arguments>
std::shared_ptr<Object> make(Arguments... arguments) {
  const py::gil_scoped_release released;
  return {new Object(std::move(arguments)...), destroy<Object>};
}

// A consumer renames the capsule when it takes the tensor over; else the tensor ends with it.
template <typename Managed>
py::object make_capsule(Managed* managed, const char* name) {
  PyObject* capsule = PyCapsule_New(managed, name, [](PyObject* self) {
    const char* current = PyCapsule_GetName(self);
    if (std::string_view(current).substr(0, 5) == "used_") return;
    auto* unused = static_cast<Managed*>(PyCapsule_GetPointer(self, current));
    unused->deleter(unused);
  });
  if (capsule == nullptr) {
    managed->deleter(managed);
    throw py::error_already_set();
  }
  return py::reinterpret_steal<py::object>(capsule);
}

void refuse(const std::string& why) { throw py::buffer_error("__dlpack__: " + why); }

// Nothing is ever in flight on the arena's own account, so every stream of its device may read.
void check_request(const View& view, std::optional<std::int64_t> stream,
                   std::optional<Device> dl_device, std::optional<bool> copy) {
  const DLDevice own = view.device();
  if (!view.arena->awake()) refuse("the arena sleeps; call wake() first");
  if (copy.value_or(false)) refuse("copy=True, but a view is never a copy; clone the tensor");
  if (dl_device && *dl_device != Device(own.device_type, own.device_id))
    refuse(join("dl_device (", dl_device->first, ", ", dl_device->second, "), but it lies on (",
                own.device_type, ", ", own.device_id, ")"));
  if (!stream || *stream == -1) return;
  if (own.device_type == kDLCPU) refuse(join("stream ", *stream, ", but host memory has none"));
  if (*stream < 1) refuse(join("stream ", *stream, ", wanted -1, 1, 2 or a stream's address"));
}

py::object to_dlpack(const View& view, std::optional<std::int64_t> stream,
                     std::optional<Version> max_version, std::optional<Device> dl_device,
                     std::optional<bool> copy) {
  check_request(view, stream, dl_device, copy);
  if (max_version && max_version->first >= DLPACK_MAJOR_VERSION)
    return make_capsule(export_versioned(view), "dltensor_versioned");
  return make_capsule(export_unversioned(view), "dltensor");
}

// A function of an object by its holder. Of one whose __init__ never ran, as `Arena.__new__(Arena)`
// makes it, pybind11 refuses the holder, but would pass a reference to memory that nobody wrote.
template <typename Object, typename Result, typename... Arguments>
auto held(Result (*function)(Object&, Arguments...)) {
  return
      [function](const std::shared_ptr<std::remove_const_t<Object>>& self, Arguments... arguments) {
        return function(*self, std::forward<Arguments>(arguments)...);
      };
}

template <typename Object, typename Result, typename... Arguments>
auto held(Result (Object::*method)(Arguments...)) {
  return [method](const std::shared_ptr<Object>& self, Arguments... arguments) {
    return (*self.*method)(std::forward<Arguments>(arguments)...);
  };
}

template <typename Object, typename Result, typename... Arguments>
auto held(Result (Object::*method)(Arguments...) const) {
  return [method](const std::shared_ptr<Object>& self, Arguments... arguments) {
    return (*self.*method)(std::forward<Arguments>(arguments)...);
  };
}

Device dlpack_device(const View& view) {
  return Device(view.device().device_type, view.device().device_id);
}

void bind_view(py::module_& m) {
  py::class_<View, std::shared_ptr<View>>(m, "View")
      .def("__dlpack__", held(to_dlpack), py::kw_only(), "stream"_a = py::none(),
           "max_version"_a = py::none(), "dl_device"_a = py::none(), "copy"_a = py::none())
      .def("__dlpack_device__", held(dlpack_device));
}

std::int64_t num_slots(const Arena& arena) { return arena.layout().num_slots; }
std::int64_t slot_bytes(const Arena& arena) { return arena.layout().slot_bytes; }
std::int64_t stride_bytes(const Arena& arena) { return arena.layout().stride_bytes; }
std::int64_t live_views(Arena& arena) { return arena.live_views().load(); }

void bind_arena(py::module_& m) {
  py::class_<Arena, std::shared_ptr<Arena>>(m, "Arena")
      .def(py::init(&make<Arena, std::int64_t, std::int64_t, int>), "num_slots"_a, "slot_bytes"_a,
           "device"_a = Arena::kHost)
      .def("view", view_slot, "slot"_a, "shape"_a, "dtype"_a)
      .def("all_slots", view_all_slots, "shape"_a, "dtype"_a)
      .def("sleep", held(&Arena::sleep), NoGil())
      .def("wake", held(&Arena::wake), NoGil())
      .def("poison", held(&Arena::poison), NoGil())
      .def("used_on", held(&Arena::used_on), "stream"_a, NoGil())
      .def_property_readonly("base", held(&Arena::base))
      .def_property_readonly("device", held(&Arena::device))
      .def_property_readonly("num_slots", held(num_slots))
      .def_property_readonly("slot_bytes", held(slot_bytes))
      .def_property_readonly("stride_bytes", held(stride_bytes))
      .def_property_readonly("reserved_bytes", held(&Arena::reserved_bytes))
      .def_property_readonly("mapped_bytes", held(&Arena::mapped_bytes))
      .def_property_readonly("awake", held(&Arena::awake))
      .def_property_readonly("allocations", held(&Arena::allocations))
      .def_property_readonly("sleeps", held(&Arena::sleeps))
      .def_property_readonly("wakes", held(&Arena::wakes))
      .def_property_readonly("live_views", held(live_views));
}

void bind_graph_loop(py::module_& m) {
  using Graphs = std::vector<std::uintptr_t>;
  using Arenas = std::vector<std::shared_ptr<Arena>>;
  py::class_<GraphLoop, std::shared_ptr<GraphLoop>>(m, "GraphLoop")
      .def(py::init(&make<GraphLoop, int, Graphs, Arenas>), "device"_a, "graphs"_a,
           "arenas"_a = Arenas())
      .def("launch", held(&GraphLoop::launch), "stream"_a, "first"_a = 0, "count"_a = py::none(),
           NoGil())
      .def("__len__", held(&GraphLoop::size))
      .def_property_readonly("device", held(&GraphLoop::device));
  m.def("upload_graph", &upload_graph, "device"_a, "graph"_a, "stream"_a, NoGil());
}

// (bytes from slot to slot, bytes reserved), as an arena with that allocation granularity has them.
std::pair<std::int64_t, std::int64_t> arena_bytes(std::int64_t num_slots, std::int64_t slot_bytes,
                                                  std::int64_t granularity) {
  CHECK_ARGUMENT(granularity >= 1, "granularity is ", granularity, ", wanted at least 1");
  const Layout layout = plan_layout(num_slots, slot_bytes);
  return {layout.stride_bytes, round_up(layout.total_bytes, granularity, "reservation")};
}

// (sources, coefficients, gate, elements from gate to gate, store), by address.
using TermArguments = std::tuple<std::vector<std::uintptr_t>, std::vector<float>, std::uintptr_t,
                                 std::int64_t, std::uintptr_t>;
// (h, epsilon, weight, bias, shift, scale, elements from shift to shift), by address.
using NormArguments = std::tuple<std::uintptr_t, float, std::uintptr_t, std::uintptr_t,
                                 std::uintptr_t, std::uintptr_t, std::int64_t>;

template <typename Pointer>
Pointer at(std::uintptr_t address) {
  return reinterpret_cast<Pointer>(address);
}

Term term_of(const TermArguments& arguments, std::size_t lanes) {
  const auto& [sources, coefficients, gate, gate_stride, store] = arguments;
  const std::size_t wanted = coefficients.empty() ? 1 : coefficients.size() / lanes;
  CHECK_ARGUMENT(sources.size() == wanted && coefficients.size() % lanes == 0, sources.size(),
                 " sources and ", coefficients.size(), " coefficients in ", lanes, " lanes");
  Term term{{}, coefficients, at<const float*>(gate), gate_stride, at<void*>(store)};
  for (const std::uintptr_t source : sources) term.sources.push_back(at<const void*>(source));
  return term;
}

void row_pass(std::pair<std::uintptr_t, std::uintptr_t> x, std::pair<bool, bool> narrow,
              std::tuple<std::int64_t, std::int64_t, std::int64_t> shape,
              const std::vector<TermArguments>& terms, const NormArguments& norm, int threads,
              const std::vector<std::int32_t>& lanes) {
  const auto [rows, rows_per_batch, width] = shape;
  CHECK_ARGUMENT(rows >= 0 && rows_per_batch > 0 && width > 0, "rows ", rows, ", per batch ",
                 rows_per_batch, ", width ", width);
  CHECK_ARGUMENT(narrow.second || !narrow.first, "a narrow stream with wide values");
  RowPass pass{at<const void*>(x.first),
               at<void*>(x.second),
               narrow.first,
               narrow.second,
               rows,
               rows_per_batch,
               width,
               lanes,
               {},
               {}};
  const auto batches = static_cast<std::size_t>(rows / rows_per_batch);
  CHECK_ARGUMENT(lanes.empty() || lanes.size() == batches, lanes.size(), " lanes of ", batches);
  std::int32_t most = 0;
  for (const std::int32_t lane : lanes) {
    CHECK_ARGUMENT(lane >= 0, "lane ", lane);
    most = std::max(most, lane);
  }
  const auto count = static_cast<std::size_t>(most) + 1;
  for (const TermArguments& term : terms) pass.terms.push_back(term_of(term, count));
  const auto& [h, epsilon, weight, bias, shift, scale, stride] = norm;
  pass.norm = {at<void*>(h),
               epsilon,
               at<const float*>(weight),
               at<const float*>(bias),
               at<const float*>(shift),
               at<const float*>(scale),
               stride};
  const py::gil_scoped_release released;
  run(pass, threads);
}

void attention(std::tuple<std::uintptr_t, std::uintptr_t, std::uintptr_t, std::uintptr_t> tensors,
               std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t> shape,
               std::tuple<std::int64_t, std::int64_t, std::int64_t> strides, float scale,
               bool narrow, int threads) {
  const auto [q, k, v, out] = tensors;
  const auto [batch, tokens, heads, head] = shape;
  const auto [batch_stride, token_stride, head_stride] = strides;
  CHECK_ARGUMENT(batch >= 0 && tokens > 0 && heads > 0 && head > 0, "shape [", batch, ", ", tokens,
                 ", ", heads, ", ", head, "]");
  const Attention arguments{at<const void*>(q),
                            at<const void*>(k),
                            at<const void*>(v),
                            at<void*>(out),
                            batch,
                            tokens,
                            heads,
                            head,
                            batch_stride,
                            token_stride,
                            head_stride,
                            scale,
                            narrow};
  run(arguments, threads);
}

std::uint64_t checksum_at(std::uintptr_t address, std::int64_t bytes, int threads) {
  CHECK_ARGUMENT(bytes >= 0, "bytes ", bytes);
  return checksum(at<const void*>(address), bytes, threads);
}

}  // namespace
}  // namespace l2c

PYBIND11_MODULE(_C, m) {
  m.doc() = "Cache memory at fixed addresses, and the loop that replays captured graphs.";
  l2c::bind_view(m);
  l2c::bind_arena(m);
  l2c::bind_graph_loop(m);
  l2c::bind_cublas_lt(m);
  m.def("arena_bytes", &l2c::arena_bytes, "num_slots"_a, "slot_bytes"_a, "granularity"_a);
  m.def("row_pass", &l2c::row_pass, "x"_a, "narrow"_a, "shape"_a, "terms"_a, "norm"_a, "threads"_a,
        "lanes"_a = std::vector<std::int32_t>());
  m.def("attention", &l2c::attention, "tensors"_a, "shape"_a, "strides"_a, "scale"_a, "narrow"_a,
        "threads"_a, l2c::NoGil());
  m.def("checksum", &l2c::checksum_at, "address"_a, "nbytes"_a, "threads"_a, l2c::NoGil());
  m.def("wait_for_event", &l2c::wait_for_event, "device"_a, "event"_a, l2c::NoGil());
  m.def("cuda_available", &l2c::cuda_available, l2c::NoGil());
}
