#include "few_rows.hpp"

#include <algorithm>
#include <cstring>

#include "lanes.hpp"
#include "processors.hpp"
#include "team.hpp"

namespace l2c {
namespace {

constexpr std::int64_t kColumns = 4, kRows = 6;  // 24 registers of sums.

using Quarter = float __attribute__((vector_size(16)));

// The sums of four vectors, each in the order of `sum_of`.
INLINE Quarter sums_of(const Vector* vectors) {
  using Half = float __attribute__((vector_size(32)));
  Quarter parts[kColumns];
#pragma GCC unroll 4
  for (int c = 0; c < kColumns; ++c) {
    Half halves[2];
    std::memcpy(halves, &vectors[c], sizeof halves);
    const Half half = halves[0] + halves[1];
    Quarter quarters[2];
    std::memcpy(quarters, &half, sizeof quarters);
    parts[c] = quarters[0] + quarters[1];
  }
  const auto pairs = [](const Quarter& a, const Quarter& b) {
    return Quarter{a[0], a[2], b[0], b[2]} + Quarter{a[1], a[3], b[1], b[3]};
  };
  return pairs(pairs(parts[0], parts[1]), pairs(parts[2], parts[3]));
}

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
    Quarter sum = sums_of(sums[r]);
    for (std::int64_t j = i; j < p.inner; ++j)
      for (int c = 0; c < kColumns; ++c) sum[c] += x[r * p.inner + j] * weight[c * p.inner + j];
    if (p.bias != nullptr)
      for (int c = 0; c < kColumns; ++c) sum[c] += p.bias[column + c];
    std::memcpy(p.out + (row + r) * p.out_stride + column, &sum, sizeof sum);
  }
}

template <bool kFirst>
INLINE void multiply_rows(const FewRows& p, std::int64_t row, std::int64_t count,
                          std::int64_t column) {
  switch (count) {
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
  // In shares of about one size: twenty rows are four times five, and not three times six and two.
  const std::int64_t shares = (p.rows + kRows - 1) / kRows, most = (p.rows + shares - 1) / shares;
  for (std::int64_t column = begin * kColumns; column < end * kColumns; column += kColumns) {
    multiply_rows<true>(p, 0, most, column);
    for (std::int64_t row = most; row < p.rows; row += most)
      multiply_rows<false>(p, row, std::min(most, p.rows - row), column);
  }
}

}  // namespace

void run(const FewRows& p, int threads) {
  if (p.rows == 0) return;
  in_parts(p.columns / kColumns, 64, threads,
           [&p](std::int64_t begin, std::int64_t end) { multiply_columns(p, begin, end); });
}

}  // namespace l2c
