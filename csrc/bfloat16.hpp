// Values in memory as float32 or bfloat16, in registers as float32.
#pragma once

#include <cstdint>
#include <cstring>

#include "lanes.hpp"
#include "processors.hpp"

namespace l2c {

struct BFloat16 {
  std::uint16_t bits;
};

INLINE float load(const float* p, std::int64_t i) { return p[i]; }

INLINE float load(const BFloat16* p, std::int64_t i) {
  const std::uint32_t bits = static_cast<std::uint32_t>(p[i].bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

INLINE void save(float* p, std::int64_t i, float value) { p[i] = value; }

// To the nearest, ties to even; a NaN stays one.
INLINE void save(BFloat16* p, std::int64_t i, float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const std::uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  p[i].bits = static_cast<std::uint16_t>(value != value ? 0x7fc0 : rounded);
}

// One N of values, which is a float or sixteen.
template <typename N, typename V>
INLINE N read(const V* p) {
  N values;
  for (std::size_t i = 0; i < sizeof(N) / sizeof(float); ++i)
    reinterpret_cast<float*>(&values)[i] = load(p, static_cast<std::int64_t>(i));
  return values;
}

template <>
INLINE Vector read<Vector, float>(const float* p) {
  return lanes(p);
}

template <typename N, typename V>
INLINE void write(V* p, const N& values) {
  for (std::size_t i = 0; i < sizeof(N) / sizeof(float); ++i)
    save(p, static_cast<std::int64_t>(i), reinterpret_cast<const float*>(&values)[i]);
}

template <>
INLINE void write<Vector, float>(float* p, const Vector& values) {
  std::memcpy(p, &values, sizeof values);
}

}  // namespace l2c
