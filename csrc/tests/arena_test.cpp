// The extension's core without Python, for the sanitizers and above all for the leak checker.
// Host memory, then the same over the stand-in driver (fake_cuda*.c) on the library path.
#include "arena.hpp"

#include <dlfcn.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "cuda_driver.hpp"
#include "graph_loop.hpp"
#include "view.hpp"

#define EXPECT(condition)                                                           \
  do {                                                                              \
    if (!(condition)) {                                                             \
      std::fprintf(stderr, "%s:%d: expected %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                                 \
    }                                                                               \
  } while (false)

namespace l2c {
namespace {

using ArenaPtr = std::shared_ptr<Arena>;

template <typename Error>
bool throws(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error&) {
    return true;
  }
  return false;
}

float* floats(const DLTensor& tensor) { return static_cast<float*>(tensor.data); }

void exports_outlive_their_arena(int device) {
  auto arena = std::make_shared<Arena>(3, 1000, device);
  DLManagedTensor* old_kind = export_unversioned(view_slot(arena, 1, {10, 25}, "float32"));
  DLManagedTensorVersioned* new_kind = export_versioned(view_all_slots(arena, {250}, "float32"));
  EXPECT(arena->live_views() == 2);
  EXPECT(old_kind->dl_tensor.ndim == 2 && old_kind->dl_tensor.strides[0] == 25);
  EXPECT(new_kind->dl_tensor.shape[0] == 3 && new_kind->dl_tensor.strides[0] == 256);
  arena->poison();
  EXPECT(std::isnan(floats(old_kind->dl_tensor)[249]));
  arena.reset();
  for (int i = 0; i < 250; ++i) floats(old_kind->dl_tensor)[i] = 1;
  EXPECT(floats(new_kind->dl_tensor)[256 + 249] == 1);
  std::thread([=] { old_kind->deleter(old_kind); }).join();
  floats(new_kind->dl_tensor)[2 * 256 + 249] = 2;
  new_kind->deleter(new_kind);
}

void sleeping_counts_exactly(int device) {
  Arena arena(4, 70'000, device);
  const std::uintptr_t base = arena.base();
  for (int cycle = 1; cycle <= 3; ++cycle) {
    arena.sleep();
    arena.sleep();
    EXPECT(!arena.awake() && arena.mapped_bytes() == 0 && arena.sleeps() == cycle);
    EXPECT(throws<std::runtime_error>([&] { arena.poison(); }));
    arena.wake();
    arena.wake();
    EXPECT(arena.awake() && arena.base() == base && arena.allocations() == cycle + 1);
    EXPECT(arena.mapped_bytes() == arena.reserved_bytes());
    arena.poison();
  }
}

void bad_arguments_throw(int device) {
  const auto arena = std::make_shared<Arena>(2, 64, device);
  EXPECT(throws<std::invalid_argument>([&] { Arena(0, 1, device); }));
  EXPECT(throws<std::invalid_argument>([&] { Arena(1, INT64_MAX, device); }));
  EXPECT(throws<std::invalid_argument>([&] { view_slot(arena, 2, {1}, "float32"); }));
  EXPECT(throws<std::invalid_argument>([&] { view_slot(arena, 0, {17}, "float32"); }));
  EXPECT(throws<std::invalid_argument>([&] { view_slot(arena, 0, {1}, "float8"); }));
  EXPECT(throws<std::invalid_argument>(
      [&] { view_slot(arena, 0, {INT64_MAX, INT64_MAX}, "float64"); }));
}

void threads_exclude_each_other(int device) {
  const auto arena = std::make_shared<Arena>(2, 4096, device);
  const auto nap = [&] {
    for (int i = 0; i < 200; ++i) arena->sleep(), arena->wake();
  };
  const auto use = [&] {
    for (int i = 0; i < 200; ++i) {
      try {
        arena->poison();
        DLManagedTensor* tensor = export_unversioned(view_slot(arena, 0, {8}, "float16"));
        tensor->deleter(tensor);
      } catch (const std::runtime_error&) {
        EXPECT(device >= Arena::kHost);  // asleep just then
      }
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) threads.emplace_back(nap), threads.emplace_back(use);
  for (std::thread& thread : threads) thread.join();
  EXPECT(arena->awake() && arena->live_views() == 0);
  EXPECT(arena->allocations() == 1 + arena->wakes() && arena->sleeps() == arena->wakes());
}

void graphs_launch_while_awake(int device) {
  const auto arena = std::make_shared<Arena>(1, 64, device);
  const GraphLoop loop(device, {1, 2, 3}, {arena, arena});
  loop.launch(7, 0, std::nullopt);
  arena->sleep();
  EXPECT(throws<std::runtime_error>([&] { loop.launch(7, 1, 1); }));
  arena->wake();
  loop.launch(7, 1, 1);
  EXPECT(throws<std::invalid_argument>([&] { loop.launch(7, 1, 3); }));
}

void failures_leave_nothing(void* driver) {
  const auto fail = reinterpret_cast<void (*)(const char*, int, int)>(dlsym(driver, "fake_fail"));
  for (const char* call : {"cuDevicePrimaryCtxRetain", "cuMemAddressReserve", "cuMemCreate",
                           "cuMemMap", "cuMemSetAccess"}) {
    fail(call, 1, 700);  // illegal address
    EXPECT(throws<std::runtime_error>([] { Arena(3, 1 << 30, 0); }));
    fail(call, 1, cu::kOutOfMemory);
    EXPECT(throws<OutOfMemory>([] { Arena(3, 1 << 30, 0); }));
  }
}

void every_case(int device) {
  exports_outlive_their_arena(device);
  sleeping_counts_exactly(device);
  bad_arguments_throw(device);
  threads_exclude_each_other(device);
}

int run() {
  every_case(Arena::kHost);
  void* driver = dlopen("libcuda.so.1", RTLD_NOW);
  EXPECT(driver != nullptr && dlsym(driver, "fake_fail") != nullptr);
  EXPECT(cuda_available());
  every_case(1);
  graphs_launch_while_awake(1);
  failures_leave_nothing(driver);
  EXPECT(reinterpret_cast<int (*)()>(dlsym(driver, "fake_left_over"))() == 0);
  EXPECT(reinterpret_cast<int (*)()>(dlsym(driver, "fake_misuses"))() == 0);
  std::puts("arena_test: all passed");
  return 0;
}

}  // namespace
}  // namespace l2c

int main() { return l2c::run(); }
