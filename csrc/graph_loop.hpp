// Launches captured CUDA graphs one after the other, without Python in between.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "arena.hpp"
#include "cuda_device.hpp"

namespace l2c {

// The graphs (CUgraphExec) stay their owner's, who keeps them alive and unchanged; the arenas are
// those the graphs read and write. One launch at a time: CUDA does not lock graphs itself, so a
// graph in two loops, or also replayed elsewhere, is its owner's to serialise.
class GraphLoop {
 public:
  GraphLoop(int device, std::vector<std::uintptr_t> graphs,
            std::vector<std::shared_ptr<Arena>> arenas);

  // Enqueues graphs [first, first + count) on a stream (CUstream), by default all from `first`.
  // Throws, with nothing launched, if an arena sleeps: replay would fault. If the driver refuses a
  // graph, those before it are on the stream.
  void launch(std::uintptr_t stream, std::int64_t first, std::optional<std::int64_t> count) const;

  std::int64_t size() const { return static_cast<std::int64_t>(graphs_.size()); }
  int device() const { return device_.index(); }

 private:
  CudaDevice device_;
  std::vector<std::uintptr_t> graphs_;
  std::vector<std::shared_ptr<Arena>> arenas_;
  mutable std::mutex mutex_;
};

// Brings a graph to its device, in the order of a stream, which otherwise its first launch does.
void upload_graph(int device, std::uintptr_t graph, std::uintptr_t stream);

}  // namespace l2c
