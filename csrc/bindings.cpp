// The Python surface of l2c_rt._C; only the files of bindings know Python.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

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
#include "cuda_device.hpp"
#include "cuda_driver.hpp"
#include "graph_loop.hpp"
#include "layout.hpp"
#include "loop_bindings.hpp"
#include "lt_bindings.hpp"
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

}  // namespace
}  // namespace l2c

PYBIND11_MODULE(_C, m) {
  m.doc() = "Cache memory at fixed addresses, and the loop that replays captured graphs.";
  l2c::bind_view(m);
  l2c::bind_arena(m);
  l2c::bind_graph_loop(m);
  l2c::bind_cublas_lt(m);
  l2c::bind_loops(m);
  m.def("arena_bytes", &l2c::arena_bytes, "num_slots"_a, "slot_bytes"_a, "granularity"_a);
  m.def("wait_for_event", &l2c::wait_for_event, "device"_a, "event"_a, l2c::NoGil());
  m.def("cuda_available", &l2c::cuda_available, l2c::NoGil());
}
