#include "graph_loop.hpp"

#include <algorithm>
#include <mutex>
#include <shared_mutex>
#include <utility>

#include "check.hpp"

namespace l2c {

GraphLoop::GraphLoop(int device, std::vector<std::uintptr_t> graphs,
                     std::vector<std::shared_ptr<Arena>> arenas)
    : device_(device), graphs_(std::move(graphs)), arenas_(std::move(arenas)) {
  CHECK_ARGUMENT(!graphs_.empty(), "graphs: none given, wanted at least 1");
  for (std::size_t i = 0; i < graphs_.size(); ++i)
    CHECK_ARGUMENT(graphs_[i] != 0, "graph ", i, " of ", graphs_.size(), " is a null handle");
  for (const auto& arena : arenas_) {
    CHECK_ARGUMENT(arena != nullptr, "arenas: None is not an Arena");
    CHECK_ARGUMENT(arena->device() == device, "an arena on device ", arena->device(),
                   " for graphs of device ", device, " (-1 is the host)");
  }
  // One order for everybody, each arena once: shared locks taken so cannot deadlock.
  std::sort(arenas_.begin(), arenas_.end());
  arenas_.erase(std::unique(arenas_.begin(), arenas_.end()), arenas_.end());
}

void GraphLoop::launch(std::uintptr_t stream, std::int64_t first,
                       std::optional<std::int64_t> count) const {
  CHECK_ARGUMENT(first >= 0 && first < size(), "first is ", first, " of ", size(), " graphs");
  const std::int64_t launched = count.value_or(size() - first);
  CHECK_ARGUMENT(launched >= 0 && launched <= size() - first, "graphs ", first, " to ", first,
                 " + ", launched, ", of ", size());
  const std::lock_guard one_at_a_time(mutex_);
  std::vector<std::shared_lock<std::shared_mutex>> awake;
  awake.reserve(arenas_.size());
  for (const auto& arena : arenas_) awake.push_back(arena->keep_awake());
  const CurrentDevice current(device_);
  // Also of a launch that fails midway, the graphs before it use the arenas.
  const auto note_use = [&] {
    for (const auto& arena : arenas_) arena->used_on(stream);
  };
  try {
    for (std::int64_t i = first; i < first + launched; ++i)
      CHECK_CUDA(device_.driver(), cuGraphLaunch,
                 (reinterpret_cast<cu::GraphExec>(graphs_[static_cast<std::size_t>(i)]),
                  reinterpret_cast<cu::Stream>(stream)),
                 "graph ", i, " of ", size(), " on device ", device_.index());
  } catch (...) {
    note_use();
    throw;
  }
  note_use();
}

void upload_graph(int index, std::uintptr_t graph, std::uintptr_t stream) {
  CHECK_ARGUMENT(graph != 0, "graph is a null handle");
  const CudaDevice device(index);
  const CurrentDevice current(device);
  const BesideCaptures beside(device.driver());
  CHECK_CUDA(device.driver(), cuGraphUpload,
             (reinterpret_cast<cu::GraphExec>(graph), reinterpret_cast<cu::Stream>(stream)),
             "a graph on device ", index);
}

}  // namespace l2c
