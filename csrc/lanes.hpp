// Sixteen floats at once, in however many registers the processor has for them.
#pragma once

#include <cstdint>
#include <cstring>

#include "processors.hpp"

namespace l2c {

constexpr std::int64_t kLanes = 16;

using Vector = float __attribute__((vector_size(64), aligned(4), may_alias));

INLINE Vector lanes(const float* p) { return *reinterpret_cast<const Vector*>(p); }

INLINE float sum_of(const Vector& vector) {
  using Half = float __attribute__((vector_size(32)));
  using Quarter = float __attribute__((vector_size(16)));
  Half halves[2];
  std::memcpy(halves, &vector, sizeof halves);
  const Half half = halves[0] + halves[1];
  Quarter quarters[2];
  std::memcpy(quarters, &half, sizeof quarters);
  const Quarter quarter = quarters[0] + quarters[1];
  return (quarter[0] + quarter[1]) + (quarter[2] + quarter[3]);
}

}  // namespace l2c
