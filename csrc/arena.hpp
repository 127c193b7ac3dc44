// The arena: equal slots at fixed addresses, whose physical memory can be given back and taken
// again. Thread-safe: sleep, wake and poison exclude each other and every graph launch.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <shared_mutex>

#include "layout.hpp"
#include "memory.hpp"

namespace l2c {

class Arena {
 public:
  static constexpr int kHost = -1;

  Arena(std::int64_t num_slots, std::int64_t slot_bytes, int device);

  // Idempotent. A failed sleep may leave part of the memory mapped: neither awake nor at 0 bytes,
  // and both sleep and wake can be tried again. A failed wake leaves what was mapped before.
  void sleep();
  void wake();
  // Fills every slot with NaN, and waits for that.
  void poison();
  // What a stream has been given until now uses the slots. Sleep, poison and the end of the arena
  // wait for that alone: a wait for the whole device would end the captures of other threads.
  void used_on(std::uintptr_t stream);

  // While the lock is held the arena stays awake. Throws if it is asleep.
  std::shared_lock<std::shared_mutex> keep_awake();

  const Layout& layout() const { return layout_; }
  int device() const { return device_; }
  std::uintptr_t base() const { return memory_->address(); }
  std::int64_t reserved_bytes() const { return memory_->reserved_bytes(); }
  std::int64_t mapped_bytes() const { return memory_->mapped_bytes(); }
  bool awake() const { return mapped_bytes() == reserved_bytes(); }

  std::int64_t allocations() const { return allocations_; }
  std::int64_t sleeps() const { return sleeps_; }
  std::int64_t wakes() const { return wakes_; }
  std::atomic<std::int64_t>& live_views() { return live_views_; }

 private:
  void require_awake(const char* what) const;

  const Layout layout_;
  const int device_;
  const std::unique_ptr<Memory> memory_;
  std::shared_mutex mutex_;
  std::atomic<std::int64_t> allocations_{0};
  std::atomic<std::int64_t> sleeps_{0};
  std::atomic<std::int64_t> wakes_{0};
  std::atomic<std::int64_t> live_views_{0};
};

}  // namespace l2c
