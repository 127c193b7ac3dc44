#include "few_rows.hpp"

#include <algorithm>

#include "lanes.hpp"
#include "processors.hpp"
#include "team.hpp"

namespace l2c {
namespace {

constexpr std::int64_t kColumns = 4, kRows = 6;  // 24 registers of sums.

// The sums of `kCount` rows from `row` on and of four columns from `column` on.  The first rows of
// all ask for the weights of the next columns, which come from memory.
template <int kCount, bool kFirst>
INLINE void multiply(const FewRows& p, std::int64_t row, std::int64_t column) {
  const float *x = p.x + row * p.inner, *weight = p.weight + column * p.inner;
  Vector sums[kCount][kColumns];
#pragma GCC unroll 6
  for (int r = 0; r < kCount; ++r)
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) sums[r][c] = Vector{};
  std::int64_t i = 0;
  for (; i + kLanes <= p.inner; i += kLanes) {
    Vector own[kColumns];
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) {
      own[c] = lanes(weight + c * p.inner + i);
      if (kFirst) __builtin_prefetch(weight + (kColumns + c) * p.inner + i);
    }
#pragma GCC unroll 6
    for (int r = 0; r < kCount; ++r) {
      const Vector given = lanes(x + r * p.inner + i);
#pragma GCC unroll 4
      for (int c = 0; c < kColumns; ++c) sums[r][c] += given * own[c];
    }
  }
  for (int r = 0; r < kCount; ++r) {
    float* out = p.out + (row + r) * p.out_stride + column;
    for (int c = 0; c < kColumns; ++c) {
      float sum = sum_of(sums[r][c]);
      for (std::int64_t j = i; j < p.inner; ++j)
        sum += x[r * p.inner + j] * weight[c * p.inner + j];
      out[c] = p.bias == nullptr ? sum : sum + p.bias[column + c];
    }
  }
}

template <bool kFirst>
INLINE void multiply_rows(const FewRows& p, std::int64_t row, std::int64_t column) {
  switch (std::min(kRows, p.rows - row)) {
    case 1:
      return multiply<1, kFirst>(p, row, column);
    case 2:
      return multiply<2, kFirst>(p, row, column);
    case 3:
      return multiply<3, kFirst>(p, row, column);
    case 4:
      return multiply<4, kFirst>(p, row, column);
    case 5:
      return multiply<5, kFirst>(p, row, column);
    default:
      return multiply<6, kFirst>(p, row, column);
  }
}

FOR_EVERY_PROCESSOR void multiply_columns(const FewRows& p, std::int64_t begin, std::int64_t end) {
  for (std::int64_t column = begin * kColumns; column < end * kColumns; column += kColumns) {
    multiply_rows<true>(p, 0, column);
    for (std::int64_t row = kRows; row < p.rows; row += kRows) multiply_rows<false>(p, row, column);
  }
}

}  // namespace

void run(const FewRows& p, int threads) {
  if (p.rows == 0) return;
  in_parts(p.columns / kColumns, 64, threads,
           [&p](std::int64_t begin, std::int64_t end) { multiply_columns(p, begin, end); });
}

}  // namespace l2c
