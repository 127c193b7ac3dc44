// The integer half of the arena: where slots lie and what fits in one. Overflow is an error.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "check.hpp"
#include "dlpack.h"

namespace l2c {

// DLPack asks for 256 bytes on a GPU; it is also a multiple of every vector load and cache line.
constexpr std::int64_t kSlotAlignment = 256;

struct Dtype {
  const char* name;
  DLDataTypeCode code;
  std::uint8_t bits;

  std::int64_t itemsize() const { return bits / 8; }
};

// In each of them a value whose bits are all ones is a NaN: what poison() relies on.
constexpr std::array<Dtype, 4> kDtypes{{{"float16", kDLFloat, 16},
                                        {"bfloat16", kDLBfloat, 16},
                                        {"float32", kDLFloat, 32},
                                        {"float64", kDLFloat, 64}}};

inline Dtype find_dtype(const std::string& name) {
  for (const Dtype& dtype : kDtypes)
    if (name == dtype.name) return dtype;
  throw std::invalid_argument(
      join("dtype '", name, "': wanted float16, bfloat16, float32 or float64"));
}

inline std::int64_t checked_product(std::int64_t a, std::int64_t b, const char* what) {
  std::int64_t product = 0;
  CHECK_ARGUMENT(!__builtin_mul_overflow(a, b, &product), what, ": ", a, " * ", b,
                 " does not fit in 63 bits");
  return product;
}

inline std::int64_t round_up(std::int64_t value, std::int64_t multiple, const char* what) {
  const std::int64_t over = value % multiple;
  if (over == 0) return value;
  std::int64_t rounded = 0;
  CHECK_ARGUMENT(!__builtin_add_overflow(value, multiple - over, &rounded), what, ": ", value,
                 " rounded up to ", multiple, " does not fit in 63 bits");
  return rounded;
}

struct Layout {
  std::int64_t num_slots;
  std::int64_t slot_bytes;
  std::int64_t stride_bytes;  // from one slot to the next
  std::int64_t total_bytes;   // of all slots, before the allocator's rounding
};

inline Layout plan_layout(std::int64_t num_slots, std::int64_t slot_bytes) {
  CHECK_ARGUMENT(num_slots >= 1, "num_slots is ", num_slots, ", wanted at least 1");
  CHECK_ARGUMENT(slot_bytes >= 1, "slot_bytes is ", slot_bytes, ", wanted at least 1");
  const std::int64_t stride = round_up(slot_bytes, kSlotAlignment, "slot_bytes");
  return {num_slots, slot_bytes, stride, checked_product(num_slots, stride, "slots * stride")};
}

inline std::int64_t shape_bytes(const std::vector<std::int64_t>& shape, const Dtype& dtype) {
  std::int64_t bytes = dtype.itemsize();
  for (std::int64_t size : shape) {
    CHECK_ARGUMENT(size >= 1, "shape has a dimension of ", size, ", wanted at least 1");
    bytes = checked_product(bytes, size, "shape * itemsize");
  }
  return bytes;
}

}  // namespace l2c
