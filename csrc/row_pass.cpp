#include "row_pass.hpp"

#include <algorithm>

#include "bfloat16.hpp"
#include "lanes.hpp"
#include "processors.hpp"
#include "row_norm.hpp"
#include "team.hpp"

namespace l2c {
namespace {

constexpr std::int64_t kGrain = 1 << 14;  // Elements for which a second thread is worth waking.
constexpr std::int64_t kTile = 3 << 14;   // Floats, of a second cache of a megabyte or half of one.
constexpr std::size_t kManySources = 8;
constexpr std::int64_t kAhead = 2;  // Rows, for which memory is asked while one is summed.
constexpr std::int64_t kPage = 1024, kBehind = 128;  // Floats.

// What a sum is made of and becomes, in one row; null ones are left out.
template <typename V>
struct SumRow {
  const float *scale, *shift, *gate;
  V* store;
  float *sum, *row;
};

// The weighted sum of `kCount` sources from `first` on, and of those before, of one N of columns:
// kept for those behind, or where `kLast` added to the row.
template <typename N, typename V, int kCount, bool kLast>
INLINE void weighted_columns(const V* const* sources, const float* coefficients, bool first,
                             const SumRow<V>& to, std::int64_t j) {
  N total = first ? N{} : read<N>(to.sum + j);
#pragma GCC unroll 5
  for (int i = 0; i < kCount; ++i) total += coefficients[i] * read<N>(sources[i] + j);
  if (!kLast) return write(to.sum + j, total);
  if (to.scale != nullptr) total += total * read<N>(to.scale + j);
  if (to.shift != nullptr) total += read<N>(to.shift + j);
  if (to.store != nullptr) write(to.store + j, total);
  N value = read<N>(to.row + j);
  value = to.gate == nullptr ? value + total : value + read<N>(to.gate + j) * total;
  write(to.row + j, value);
}

// The last rows ask for what lies behind: no processor faults on that.
template <typename T>
INLINE void ask_ahead(const T* row, std::int64_t width, std::int64_t j) {
  if (row != nullptr) __builtin_prefetch(row + kAhead * width + j, 0, 2);
}

template <typename V, int kCount, bool kLast>
INLINE void weighted_part(const Term& term, const float* all, std::size_t first, std::int64_t at,
                          std::int64_t width, const SumRow<V>& to) {
  const V* sources[kCount];
  for (int i = 0; i < kCount; ++i) sources[i] = static_cast<const V*>(term.sources[first + i]) + at;
  const float* own = all + first;
  std::int64_t j = 0;
  for (; j + kLanes <= width; j += kLanes) {
    for (int i = 0; i < kCount; ++i) ask_ahead(sources[i], width, j);
    if (kLast) ask_ahead(to.scale, width, j);
    if (kLast) ask_ahead(to.shift, width, j);
    weighted_columns<Vector, V, kCount, kLast>(sources, own, first == 0, to, j);
  }
  for (; j < width; ++j) weighted_columns<float, V, kCount, kLast>(sources, own, first == 0, to, j);
}

template <typename V>
INLINE void add_sum(const Term& term, std::int64_t at, std::int64_t lane, std::int64_t width,
                    const SumRow<V>& to) {
  std::size_t i = 0;
  const std::size_t count = term.sources.size();
  const float* coefficients = term.coefficients.data() + static_cast<std::size_t>(lane) * count;
  // A predictor of order 4 reads five: one sweep reads the sum once less than two do.
  for (; i + 5 < count; i += 5) weighted_part<V, 5, false>(term, coefficients, i, at, width, to);
  if (count - i == 5) return weighted_part<V, 5, true>(term, coefficients, i, at, width, to);
  if (count - i == 4) return weighted_part<V, 4, true>(term, coefficients, i, at, width, to);
  if (count - i == 3) return weighted_part<V, 3, true>(term, coefficients, i, at, width, to);
  if (count - i == 2) return weighted_part<V, 2, true>(term, coefficients, i, at, width, to);
  weighted_part<V, 1, true>(term, coefficients, i, at, width, to);
}

// `store` may be what the value was read from.
template <typename V>
INLINE void add(const V* value, const float* gate, V* store, std::int64_t width, float* row) {
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

// What the next row takes, asked for while this one is summed.
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

INLINE const float* row_of(const float* part, std::int64_t stride, std::int64_t token) {
  return part == nullptr ? nullptr : part + token * stride;
}

// Which row of the pass, and which batch, lane and token it is.
struct Place {
  std::int64_t row, batch, lane, token;
};

INLINE Place place_of(const RowPass& pass, std::int64_t row) {
  const std::int64_t batch = row / pass.rows_per_batch;
  const std::int64_t lane = pass.lanes.empty() ? 0 : pass.lanes[static_cast<std::size_t>(batch)];
  return {row, batch, lane, row - batch * pass.rows_per_batch};
}

template <typename V>
INLINE void add_term(const Term& term, const Place& place, std::int64_t width, float* row,
                     float* sum) {
  const std::int64_t at = place.row * width;
  const float* gate = row_of(term.gate, term.gate_stride, place.batch);
  V* store = term.store == nullptr ? nullptr : static_cast<V*>(term.store) + at;
  if (term.coefficients.empty()) {
    add(static_cast<const V*>(term.sources[0]) + at, gate, store, width, row);
  } else {
    const Operand& operand = term.operand;
    const float* scale = row_of(operand.scale, operand.scale_stride, place.token);
    const float* shift = row_of(operand.shift, operand.shift_stride, place.token);
    add_sum<V>(term, at, place.lane, width, {scale, shift, gate, store, sum, row});
  }
}

// Where registers are read whole lines at a time, and not where tensors begin in their pages: the
// processor takes a row that is read for one that was just written, by that part of the address.
INLINE float* in_page(float* buffer) {
  const std::uintptr_t page = kPage * sizeof(float);
  const auto address = (reinterpret_cast<std::uintptr_t>(buffer) + page - 1) / page * page;
  return reinterpret_cast<float*>(address) + kBehind;
}

// Of many sums the rows of a tile stay in the second cache while each term's are read one behind
// the other, as memory gives them fastest: of a hundred sources in turn the processor foresees
// none.
INLINE std::int64_t rows_of_tile(const RowPass& pass) {
  std::size_t sources = 0;
  for (const Term& term : pass.terms)
    sources +=
        term.sources.size() + (term.operand.scale != nullptr) + (term.operand.shift != nullptr);
  const bool sums = sources >= std::max(2 * pass.terms.size(), kManySources);
  return sums ? std::max<std::int64_t>(1, kTile / pass.width) : 1;
}

template <typename X>
INLINE void read_row(const RowPass& pass, const Place& place, float* row) {
  const std::int64_t at =
      pass.places == nullptr ? place.row : place.batch * pass.x_rows + pass.places[place.row];
  const X* x = static_cast<const X*>(pass.x) + at * pass.width;
#pragma omp simd
  for (std::int64_t j = 0; j < pass.width; ++j) row[j] = load(x, j);
}

template <typename X, typename V>
INLINE void write_row(const RowPass& pass, const Place& place, const float* row, float* scratch) {
  const std::int64_t at = place.row * pass.width;
  if (!pass.terms.empty() || pass.x_out != pass.x) {
    X* x_out = static_cast<X*>(pass.x_out) + at;
    for (std::int64_t j = 0; j < pass.width; ++j) save(x_out, j, row[j]);
  }
  if (pass.norm.h != nullptr)
    normalise(pass.norm, place.batch, pass.width, row, static_cast<V*>(pass.norm.h) + at, scratch);
}

template <typename X, typename V>
INLINE void pass_rows(const RowPass& pass, std::int64_t begin, std::int64_t end) {
  const std::int64_t width = pass.width, tile = rows_of_tile(pass);
  std::vector<float> buffer(static_cast<std::size_t>((1 + tile) * width + kPage + kBehind));
  std::vector<Place> places(static_cast<std::size_t>(tile));
  float *scratch = in_page(buffer.data()), *rows = scratch + width;
  for (std::int64_t first = begin; first < end; first += tile) {
    const std::int64_t count = std::min(tile, end - first);
    Place* const place = places.data();
    for (std::int64_t i = 0; i < count; ++i) {
      place[i] = place_of(pass, first + i);
      read_row<X>(pass, place[i], rows + i * width);
    }
    for (const Term& term : pass.terms) {
      if (tile == 1 && first + 1 < end) ask_for_row<V>(term, first + 1, width);
      for (std::int64_t i = 0; i < count; ++i)
        add_term<V>(term, place[i], width, rows + i * width, scratch);
    }
    for (std::int64_t i = 0; i < count; ++i)
      write_row<X, V>(pass, place[i], rows + i * width, scratch);
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

}  // namespace

void run(const RowPass& pass, int threads) {
  const std::int64_t work = pass.width * (2 + static_cast<std::int64_t>(pass.terms.size()));
  const auto part = pass.narrow_stream   ? pass_halves
                    : pass.narrow_values ? pass_mixed
                                         : pass_floats;
  in_parts(pass.rows, (kGrain + work - 1) / work, threads,
           [&pass, part](std::int64_t begin, std::int64_t end) { part(pass, begin, end); });
}

}  // namespace l2c
