#include "attention.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "bfloat16.hpp"
#include "lanes.hpp"
#include "processors.hpp"
#include "team.hpp"

namespace l2c {
namespace {

constexpr std::int64_t kRows = 8, kColumns = 32;  // 16 registers of sums.

std::int64_t padded(std::int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

// c [8, width] = a [8, inner] panel [inner, width], where the width is that of `kVectors`.
template <int kVectors>
INLINE void multiply_panel(const float* a, std::int64_t a_stride, const float* panel,
                           std::int64_t inner, float* c, std::int64_t c_stride) {
  Vector sums[kRows][kVectors];
#pragma GCC unroll 8
  for (std::int64_t r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) sums[r][v] = Vector{};
  for (std::int64_t i = 0; i < inner; ++i, panel += kVectors * kLanes) {
    Vector row[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) row[v] = lanes(panel + v * kLanes);
#pragma GCC unroll 8
    for (std::int64_t r = 0; r < kRows; ++r) {
      const float factor = a[r * a_stride + i];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sums[r][v] += factor * row[v];
    }
  }
#pragma GCC unroll 8
  for (std::int64_t r = 0; r < kRows; ++r) std::memcpy(c + r * c_stride, sums[r], sizeof sums[r]);
}

// The columns of the panel that column j is in: all but the last have 32, and that one 16 or 32.
INLINE std::int64_t panel_width(std::int64_t j, std::int64_t columns) {
  return std::min(kColumns, columns - j / kColumns * kColumns);
}

// c [8, columns] = a [8, inner] b, with b in panels, [inner, panel's columns] each.
INLINE void multiply(const float* a, std::int64_t a_stride, const float* b, std::int64_t inner,
                     std::int64_t columns, float* c) {
  std::int64_t j = 0;
  for (; j + kColumns <= columns; j += kColumns)
    multiply_panel<2>(a, a_stride, b + j * inner, inner, c + j, columns);
  if (j < columns) multiply_panel<1>(a, a_stride, b + j * inner, inner, c + j, columns);
}

// e^x for x <= 0, to 2 units in the last place; 0 below the smallest normal number.
INLINE float exponential(float x) {
  const float bounded = x < -87.0f ? -87.0f : x;
  const float whole = std::nearbyint(bounded * 1.44269504f);
  const float rest = (bounded - whole * 0.693359375f) + whole * 2.12194440e-4f;
  float sum = 1.9875691500e-4f;
  sum = sum * rest + 1.3981999507e-3f;
  sum = sum * rest + 8.3334519073e-3f;
  sum = sum * rest + 4.1665795894e-2f;
  sum = sum * rest + 1.6666665459e-1f;
  sum = sum * rest + 5.0000001201e-1f;
  sum = sum * rest * rest + rest + 1.0f;
  const std::int32_t bits = (static_cast<std::int32_t>(whole) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return x < -87.0f ? 0.0f : sum * power;
}

// The largest of at least one, by vectors: of single floats the compiler compares one at a time,
// for the sake of NaNs.
INLINE float largest_of(const float* numbers, std::int64_t count) {
  float largest = numbers[0];
  std::int64_t j = 0;
  if (count >= kLanes) {
    Vector most = lanes(numbers);
    for (j = kLanes; j + kLanes <= count; j += kLanes) {
      const Vector next = lanes(numbers + j);
      most = next > most ? next : most;
    }
    for (std::int64_t i = 0; i < kLanes; ++i) largest = std::max(largest, most[i]);
  }
  for (; j < count; ++j) largest = std::max(largest, numbers[j]);
  return largest;
}

// scores become e^(score - largest); gives their sum.
INLINE float soften(float* scores, std::int64_t tokens) {
  const float largest = largest_of(scores, tokens);
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t j = 0; j < tokens; ++j) {
    scores[j] = exponential(scores[j] - largest);
    sum += scores[j];
  }
  return sum;
}

// Keys and values of one head in panels, and what one block of queries needs.
struct Buffers {
  explicit Buffers(const Attention& a)
      : columns(padded(a.tokens)),
        width(padded(a.head)),
        keys(static_cast<std::size_t>(columns * a.head)),
        values(static_cast<std::size_t>(a.tokens * width)),
        queries(static_cast<std::size_t>(kRows * a.head)),
        scores(static_cast<std::size_t>(kRows * columns)),
        mixed(static_cast<std::size_t>(kRows * width)) {}
  std::int64_t columns, width;
  std::vector<float> keys, values, queries, scores, mixed;
};

template <typename V>
INLINE void pack(const Attention& a, const V* k, const V* v, Buffers& buffers) {
  for (std::int64_t t = 0; t < a.tokens; ++t) {
    const V *key = k + t * a.token_stride, *value = v + t * a.token_stride;
    const std::int64_t first = t / kColumns * kColumns, wide = panel_width(t, buffers.columns);
    float* column = buffers.keys.data() + first * a.head + t - first;
    for (std::int64_t i = 0; i < a.head; ++i) column[i * wide] = load(key, i);
    for (std::int64_t j = 0; j < a.head; j += kColumns) {
      float* row = buffers.values.data() + j * a.tokens + t * panel_width(j, buffers.width);
      const std::int64_t count = std::min(kColumns, a.head - j);
      for (std::int64_t i = 0; i < count; ++i) row[i] = load(value, j + i);
    }
  }
}

// received += the rows of a block of scores, each times its factor.
INLINE void add_received(const float* scores, std::int64_t columns, const float* factors,
                         std::int64_t tokens, float* received) {
#pragma omp simd
  for (std::int64_t j = 0; j < tokens; ++j) {
    float sum = received[j];
#pragma GCC unroll 8
    for (std::int64_t r = 0; r < kRows; ++r) sum += scores[r * columns + j] * factors[r];
    received[j] = sum;
  }
}

template <typename V>
INLINE void attend(const Attention& a, const V* q, std::int64_t first, std::int64_t count, V* out,
                   float* received, Buffers& b) {
  for (std::int64_t r = 0; r < kRows; ++r) {
    // Rows beyond the last one repeat it; they are not written.
    const V* query = q + (first + std::min(r, count - 1)) * a.token_stride;
    for (std::int64_t i = 0; i < a.head; ++i) b.queries[r * a.head + i] = load(query, i) * a.scale;
  }
  multiply(b.queries.data(), a.head, b.keys.data(), a.head, b.columns, b.scores.data());
  float sums[kRows];
  for (std::int64_t r = 0; r < kRows; ++r)
    sums[r] = soften(b.scores.data() + r * b.columns, a.tokens);
  multiply(b.scores.data(), b.columns, b.values.data(), a.tokens, b.width, b.mixed.data());
  float inverse[kRows] = {};
  for (std::int64_t r = 0; r < count; ++r) {
    V* row = out + (first + r) * a.heads * a.head;
    const float *mixed = b.mixed.data() + r * b.width, factor = inverse[r] = 1 / sums[r];
#pragma omp simd
    for (std::int64_t i = 0; i < a.head; ++i) save(row, i, mixed[i] * factor);
  }
  if (received != nullptr) add_received(b.scores.data(), b.columns, inverse, a.tokens, received);
}

template <typename V>
INLINE void attend_blocks(const Attention& a, std::int64_t begin, std::int64_t end) {
  const V *q = static_cast<const V*>(a.q), *k = static_cast<const V*>(a.k);
  const V* v = static_cast<const V*>(a.v);
  const std::int64_t blocks = parts_of(a.tokens);
  Buffers buffers(a);
  std::int64_t packed = -1;
  for (std::int64_t task = begin; task < end; ++task) {
    const std::int64_t head = task / blocks;
    const std::int64_t at = head / a.heads * a.batch_stride + head % a.heads * a.head_stride;
    if (head != packed) pack(a, k + at, v + at, buffers);
    packed = head;
    V* out =
        static_cast<V*>(a.out) + (head / a.heads * a.tokens * a.heads + head % a.heads) * a.head;
    const std::int64_t first = task % blocks * kPart;
    const std::int64_t last = std::min(first + kPart, a.tokens);
    float* received = a.received == nullptr ? nullptr : a.received + task * a.tokens;
    if (received != nullptr) std::fill_n(received, a.tokens, 0.0f);
    for (std::int64_t row = first; row < last; row += kRows)
      attend(a, q + at, row, std::min(kRows, last - row), out, received, buffers);
  }
}

FOR_EVERY_PROCESSOR void attend_floats(const Attention& a, std::int64_t begin, std::int64_t end) {
  attend_blocks<float>(a, begin, end);
}

FOR_EVERY_PROCESSOR void attend_halves(const Attention& a, std::int64_t begin, std::int64_t end) {
  attend_blocks<BFloat16>(a, begin, end);
}

}  // namespace

void run(const Attention& a, int threads) {
  const std::int64_t blocks = parts_of(a.tokens);
  const auto part = a.narrow ? attend_halves : attend_floats;
  in_parts(a.batch * a.heads * blocks, 1, threads,
           [&a, part](std::int64_t begin, std::int64_t end) { part(a, begin, end); });
}

}  // namespace l2c
