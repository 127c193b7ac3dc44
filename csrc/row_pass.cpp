#include "row_pass.hpp"

#include <cmath>
#include <cstring>

#include "bfloat16.hpp"
#include "processors.hpp"
#include "team.hpp"

namespace l2c {
namespace {

constexpr std::int64_t kGrain = 1 << 14;  // Elements for which a second thread is worth waking.

// sum = the weighted sum of `kCount` sources from `first` on, added to what it has of those before.
template <typename V, int kCount>
INLINE void weighted_part(const Term& term, const float* all, std::size_t first, std::int64_t at,
                          std::int64_t width, float* sum) {
  const V* sources[kCount];
  float coefficients[kCount];
  for (int i = 0; i < kCount; ++i) {
    sources[i] = static_cast<const V*>(term.sources[first + i]) + at;
    coefficients[i] = all[first + i];
  }
#pragma omp simd
  for (std::int64_t j = 0; j < width; ++j) {
    float total = first == 0 ? 0.0f : sum[j];
#pragma GCC unroll 4
    for (int i = 0; i < kCount; ++i) total += coefficients[i] * load(sources[i], j);
    sum[j] = total;
  }
}

template <typename V>
INLINE void weighted_sum(const Term& term, std::int64_t at, std::int64_t lane, std::int64_t width,
                         float* sum) {
  std::size_t i = 0;
  const std::size_t count = term.sources.size();
  const float* coefficients = term.coefficients.data() + static_cast<std::size_t>(lane) * count;
  for (; i + 3 <= count; i += 3) weighted_part<V, 3>(term, coefficients, i, at, width, sum);
  if (count - i == 2) weighted_part<V, 2>(term, coefficients, i, at, width, sum);
  if (count - i == 1) weighted_part<V, 1>(term, coefficients, i, at, width, sum);
}

// `value` may be float32 whatever the stream's values are, and `store` what it was read from.
template <typename Value, typename V>
INLINE void add(const Value* value, const float* gate, V* store, std::int64_t width, float* row) {
  if (gate != nullptr) {
#pragma omp simd
    for (std::int64_t j = 0; j < width; ++j) row[j] += gate[j] * load(value, j);
  } else {
#pragma omp simd
    for (std::int64_t j = 0; j < width; ++j) row[j] += load(value, j);
  }
  if (store != nullptr) {
    for (std::int64_t j = 0; j < width; ++j) save(store, j, load(value, j));
  }
}

// What the next row takes, asked for while this one is summed: of a hundred sources in turn the
// processor foresees none.
template <typename V, int kWrite>
INLINE void ask_for(const void* tensor, std::int64_t r, std::int64_t width) {
  constexpr std::int64_t kLine = 64 / sizeof(V);
  const V* row = static_cast<const V*>(tensor) + r * width;
  for (std::int64_t j = 0; j < width; j += kLine) __builtin_prefetch(row + j, kWrite, 2);
}

template <typename V>
INLINE void ask_for_row(const Term& term, std::int64_t r, std::int64_t width) {
  for (const void* source : term.sources) ask_for<V, 0>(source, r, width);
  if (term.store != nullptr) ask_for<V, 1>(term.store, r, width);
}

template <typename V>
INLINE void add_term(const Term& term, std::int64_t r, std::int64_t batch, std::int64_t lane,
                     std::int64_t width, float* row, float* sum) {
  const std::int64_t at = r * width;
  const float* gate = term.gate == nullptr ? nullptr : term.gate + batch * term.gate_stride;
  V* store = term.store == nullptr ? nullptr : static_cast<V*>(term.store) + at;
  if (term.coefficients.empty()) {
    add(static_cast<const V*>(term.sources[0]) + at, gate, store, width, row);
  } else {
    weighted_sum<V>(term, at, lane, width, sum);
    add(sum, gate, store, width, row);
  }
}

template <typename V>
INLINE void normalise(const Norm& norm, std::int64_t batch, std::int64_t width, const float* row,
                      V* h, float* scratch) {
  float sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t j = 0; j < width; ++j) sum += row[j];
  const float mean = sum / static_cast<float>(width);
#pragma omp simd reduction(+ : squares)
  for (std::int64_t j = 0; j < width; ++j) squares += (row[j] - mean) * (row[j] - mean);
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

template <typename X, typename V>
INLINE void pass_rows(const RowPass& pass, std::int64_t begin, std::int64_t end) {
  const std::int64_t width = pass.width;
  std::vector<float> buffer(static_cast<std::size_t>(2 * width));
  float *row = buffer.data(), *scratch = row + width;
  for (std::int64_t r = begin; r < end; ++r) {
    const std::int64_t batch = r / pass.rows_per_batch;
    const std::int64_t lane = pass.lanes.empty() ? 0 : pass.lanes[static_cast<std::size_t>(batch)];
    const std::int64_t at = pass.places == nullptr ? r : batch * pass.x_rows + pass.places[r];
    const X* x = static_cast<const X*>(pass.x) + at * width;
#pragma omp simd
    for (std::int64_t j = 0; j < width; ++j) row[j] = load(x, j);
    for (const Term& term : pass.terms) {
      if (r + 1 < end) ask_for_row<V>(term, r + 1, width);
      add_term<V>(term, r, batch, lane, width, row, scratch);
    }
    if (!pass.terms.empty() || pass.x_out != pass.x) {
      X* x_out = static_cast<X*>(pass.x_out) + r * width;
      for (std::int64_t j = 0; j < width; ++j) save(x_out, j, row[j]);
    }
    if (pass.norm.h != nullptr)
      normalise(pass.norm, batch, width, row, static_cast<V*>(pass.norm.h) + r * width, scratch);
  }
}

FOR_EVERY_PROCESSOR void pass_floats(const RowPass& pass, std::int64_t begin, std::int64_t end) {
  pass_rows<float, float>(pass, begin, end);
}

FOR_EVERY_PROCESSOR void pass_mixed(const RowPass& pass, std::int64_t begin, std::int64_t end) {
  pass_rows<float, BFloat16>(pass, begin, end);
}

FOR_EVERY_PROCESSOR void pass_halves(const RowPass& pass, std::int64_t begin, std::int64_t end) {
  pass_rows<BFloat16, BFloat16>(pass, begin, end);
}

// Sixteen sums side by side, each of words times odd numbers that change from step to step.
FOR_EVERY_PROCESSOR std::uint64_t checksum_of(const std::uint64_t* words, std::int64_t begin,
                                              std::int64_t end) {
  std::uint64_t sums[16] = {}, total = 0;
  std::int64_t i = begin;
  for (; i + 16 <= end; i += 16)
    for (int lane = 0; lane < 16; ++lane) {
      std::uint64_t word;
      std::memcpy(&word, words + i + lane, sizeof word);
      const auto factor = static_cast<std::uint64_t>(i + lane) * 2 + 1;
      sums[lane] += (word ^ (word >> 29)) * factor;
    }
  for (; i < end; ++i) {
    std::uint64_t word;
    std::memcpy(&word, words + i, sizeof word);
    total += (word ^ (word >> 29)) * (static_cast<std::uint64_t>(i) * 2 + 1);
  }
  for (const std::uint64_t sum : sums) total += sum;
  return total;
}

}  // namespace

void run(const RowPass& pass, int threads) {
  const std::int64_t work = pass.width * (2 + static_cast<std::int64_t>(pass.terms.size()));
  const auto part = pass.narrow_stream   ? pass_halves
                    : pass.narrow_values ? pass_mixed
                                         : pass_floats;
  in_parts(pass.rows, (kGrain + work - 1) / work, threads,
           [&pass, part](std::int64_t begin, std::int64_t end) { part(pass, begin, end); });
}

std::uint64_t checksum(const void* bytes, std::int64_t count, int threads) {
  const auto* words = static_cast<const std::uint64_t*>(bytes);
  const std::int64_t whole = count / 8, parts = 64;
  std::uint64_t sums[parts] = {};
  in_parts(parts, whole < kGrain ? parts : 1, threads, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = begin; p < end; ++p)
      sums[p] = checksum_of(words, whole * p / parts, whole * (p + 1) / parts);
  });
  std::uint64_t rest = 0, total = static_cast<std::uint64_t>(count);
  if (count % 8 != 0) std::memcpy(&rest, words + whole, static_cast<std::size_t>(count % 8));
  for (const std::uint64_t sum : sums) total += sum;
  return total + rest * 0x9e3779b97f4a7c15u;
}

}  // namespace l2c
