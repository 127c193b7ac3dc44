// The product of a linear for a few rows, on the weight as it lies.
#pragma once

#include <cstdint>

namespace l2c {

// out = x weight^T + bias: x is [rows, inner] and weight [columns, inner], contiguous, bias
// [columns] or null; the rows of out are `out_stride` elements apart. All float32.
struct FewRows {
  const float *x, *weight, *bias;
  float* out;
  std::int64_t rows, inner, columns, out_stride;
};

// Each number is summed in one order, whatever the other rows and the number of threads.
void run(const FewRows& product, int threads);

}  // namespace l2c
