#include "arena.hpp"

#include <mutex>

#include "check.hpp"

namespace l2c {
namespace {

std::unique_ptr<Memory> reserve_memory(int device, std::int64_t bytes) {
  CHECK_ARGUMENT(device >= Arena::kHost, "device is ", device,
                 ", wanted -1 (host) or a GPU's index");
  if (device == Arena::kHost) return reserve_host_memory(bytes);
  return reserve_cuda_memory(device, bytes);
}

}  // namespace

Arena::Arena(std::int64_t num_slots, std::int64_t slot_bytes, int device)
    : layout_(plan_layout(num_slots, slot_bytes)),
      device_(device),
      memory_(reserve_memory(device, layout_.total_bytes)) {
  memory_->take();
  ++allocations_;
}

void Arena::sleep() {
  const std::unique_lock lock(mutex_);
  if (mapped_bytes() == 0) return;
  memory_->give_back();
  ++sleeps_;
}

void Arena::wake() {
  const std::unique_lock lock(mutex_);
  if (awake()) return;
  memory_->take();
  ++allocations_;
  ++wakes_;
}

void Arena::poison() {
  const std::unique_lock lock(mutex_);
  require_awake("poison");
  memory_->fill(0xFF);
}

void Arena::used_on(std::uintptr_t stream) { memory_->used_on(stream); }

std::shared_lock<std::shared_mutex> Arena::keep_awake() {
  std::shared_lock lock(mutex_);
  require_awake("launch");
  return lock;
}

void Arena::require_awake(const char* what) const {
  CHECK_STATE(awake(), what, ": the arena sleeps, ", mapped_bytes(), " of ", reserved_bytes(),
              " bytes mapped; call wake() first");
}

}  // namespace l2c
