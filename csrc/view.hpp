// Tensors over an arena's memory, handed out through DLPack. Each of them keeps the arena alive.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "arena.hpp"
#include "dlpack.h"

namespace l2c {

struct View {
  std::shared_ptr<Arena> arena;
  std::uintptr_t address;
  Dtype dtype;
  std::vector<std::int64_t> shape;
  std::vector<std::int64_t> strides;  // in elements

  DLDevice device() const;
};

using Shape = std::vector<std::int64_t>;

View view_slot(std::shared_ptr<Arena> arena, std::int64_t slot, Shape shape,
               const std::string& dtype);
// [num_slots, *shape], where the first stride is the arena's.
View view_all_slots(std::shared_ptr<Arena> arena, Shape shape, const std::string& dtype);

// The caller owns the result until it hands it on: whoever holds it calls its deleter, once.
DLManagedTensor* export_unversioned(const View& view);
DLManagedTensorVersioned* export_versioned(const View& view);

}  // namespace l2c
