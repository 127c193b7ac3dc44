// The layer norm of one row, in registers' float32.
#pragma once

#include <cmath>
#include <cstdint>

#include "bfloat16.hpp"
#include "lanes.hpp"
#include "processors.hpp"
#include "row_pass.hpp"

namespace l2c {

constexpr std::int64_t kSums = 4;  // Side by side: one alone would wait for itself at every step.

INLINE float sum_of_row(const float* row, std::int64_t width) {
  Vector sums[kSums] = {};
  std::int64_t j = 0;
  for (; j + kSums * kLanes <= width; j += kSums * kLanes)
#pragma GCC unroll 4
    for (std::int64_t i = 0; i < kSums; ++i) sums[i] += lanes(row + j + i * kLanes);
  float sum = sum_of((sums[0] + sums[1]) + (sums[2] + sums[3]));
  for (; j < width; ++j) sum += row[j];
  return sum;
}

INLINE float squares_of_row(const float* row, float mean, std::int64_t width) {
  Vector sums[kSums] = {};
  std::int64_t j = 0;
  for (; j + kSums * kLanes <= width; j += kSums * kLanes)
#pragma GCC unroll 4
    for (std::int64_t i = 0; i < kSums; ++i) {
      const Vector rest = lanes(row + j + i * kLanes) - mean;
      sums[i] += rest * rest;
    }
  float sum = sum_of((sums[0] + sums[1]) + (sums[2] + sums[3]));
  for (; j < width; ++j) sum += (row[j] - mean) * (row[j] - mean);
  return sum;
}

template <typename V>
INLINE void normalise(const Norm& norm, std::int64_t batch, std::int64_t width, const float* row,
                      V* h, float* scratch) {
  const float mean = sum_of_row(row, width) / static_cast<float>(width);
  const float squares = squares_of_row(row, mean, width);
  const float inverse = 1 / std::sqrt(squares / static_cast<float>(width) + norm.epsilon);
#pragma omp simd
  for (std::int64_t j = 0; j < width; ++j) scratch[j] = (row[j] - mean) * inverse;
  if (norm.weight != nullptr) {
#pragma omp simd
    for (std::int64_t j = 0; j < width; ++j) scratch[j] *= norm.weight[j];
  }
  if (norm.bias != nullptr) {
#pragma omp simd
    for (std::int64_t j = 0; j < width; ++j) scratch[j] += norm.bias[j];
  }
  if (norm.scale == nullptr) {
    for (std::int64_t j = 0; j < width; ++j) save(h, j, scratch[j]);
    return;
  }
  const float* scale = norm.scale + batch * norm.stride;
  const float* shift = norm.shift + batch * norm.stride;
#pragma omp simd
  for (std::int64_t j = 0; j < width; ++j) save(h, j, scratch[j] * (1 + scale[j]) + shift[j]);
}

}  // namespace l2c
