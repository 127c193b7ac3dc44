#include "view.hpp"

#include <utility>

#include "check.hpp"
#include "layout.hpp"

namespace l2c {
namespace {

Shape contiguous_strides(const Shape& shape) {
  Shape strides(shape.size(), 1);
  for (std::size_t i = shape.size(); i-- > 1;) strides[i - 1] = strides[i] * shape[i];
  return strides;
}

View view_at(std::shared_ptr<Arena> arena, std::int64_t slot, Shape shape,
             const std::string& name) {
  const Dtype dtype = find_dtype(name);
  const Layout& layout = arena->layout();
  const std::int64_t bytes = shape_bytes(shape, dtype);
  CHECK_ARGUMENT(bytes <= layout.slot_bytes, "a view of ", bytes, " bytes, in slots of ",
                 layout.slot_bytes);
  CHECK_STATE(arena->awake(), "view: the arena sleeps, call wake() first");
  const auto offset = static_cast<std::uintptr_t>(slot * layout.stride_bytes);
  const std::uintptr_t address = arena->base() + offset;
  Shape strides = contiguous_strides(shape);
  return {std::move(arena), address, dtype, std::move(shape), std::move(strides)};
}

// What a consumer holds: its own tensor, and through the view a share of the arena.
template <typename Managed>
struct Export {
  View view;
  Managed managed{};

  explicit Export(const View& source) : view(source) {
    DLTensor& tensor = managed.dl_tensor;
    tensor.data = reinterpret_cast<void*>(view.address);
    tensor.device = view.device();
    tensor.ndim = static_cast<std::int32_t>(view.shape.size());
    tensor.dtype = {static_cast<std::uint8_t>(view.dtype.code), view.dtype.bits, 1};
    tensor.shape = view.shape.data();
    tensor.strides = view.strides.data();
    managed.manager_ctx = this;
    managed.deleter = [](Managed* self) { delete static_cast<Export*>(self->manager_ctx); };
    ++view.arena->live_views();
  }

  ~Export() { --view.arena->live_views(); }
};

}  // namespace

DLDevice View::device() const {
  if (arena->device() == Arena::kHost) return {kDLCPU, 0};
  return {kDLCUDA, arena->device()};
}

View view_slot(std::shared_ptr<Arena> arena, std::int64_t slot, Shape shape,
               const std::string& dtype) {
  const std::int64_t num_slots = arena->layout().num_slots;
  CHECK_ARGUMENT(slot >= 0 && slot < num_slots, "slot ", slot, " of ", num_slots);
  return view_at(std::move(arena), slot, std::move(shape), dtype);
}

View view_all_slots(std::shared_ptr<Arena> arena, Shape shape, const std::string& dtype) {
  const Layout layout = arena->layout();
  View view = view_at(std::move(arena), 0, std::move(shape), dtype);
  view.shape.insert(view.shape.begin(), layout.num_slots);
  view.strides.insert(view.strides.begin(), layout.stride_bytes / view.dtype.itemsize());
  return view;
}

DLManagedTensor* export_unversioned(const View& view) {
  return &(new Export<DLManagedTensor>(view))->managed;
}

DLManagedTensorVersioned* export_versioned(const View& view) {
  auto* result = new Export<DLManagedTensorVersioned>(view);
  result->managed.version = {DLPACK_MAJOR_VERSION, DLPACK_MINOR_VERSION};
  return &result->managed;
}

}  // namespace l2c
