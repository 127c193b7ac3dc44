#include "tokens.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <vector>

namespace l2c {
namespace {

constexpr float kLeastLength = 1e-12f;  // As PyTorch's normalize has it.

// Larger for the larger number, and for the lower place of two that are equal.
std::uint64_t rank_of(float sum, std::int64_t place) {
  std::uint32_t bits;
  std::memcpy(&bits, &sum, sizeof bits);
  bits = sum != sum ? ~0u : (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
  return static_cast<std::uint64_t>(bits) << 32 | ~static_cast<std::uint32_t>(place);
}

std::int64_t place_of(std::uint64_t rank) { return ~static_cast<std::uint32_t>(rank); }

void raise_best_of_cells(float* image, std::int64_t side, float bonus) {
  for (std::int64_t row = 0; row + 1 < side; row += 2)
    for (std::int64_t column = 0; column + 1 < side; column += 2) {
      float* best = image + row * side + column;
      for (const std::int64_t other : {std::int64_t{1}, side, side + 1})
        if (image[row * side + column + other] > *best) best = image + row * side + column + other;
      *best *= 1 + bonus;
    }
}

}  // namespace

void score(const Received& r) {
  for (std::int64_t sample = 0; sample < r.samples; ++sample) {
    const float* part = r.parts + sample * r.count * r.tokens;
    float* scores = r.scores + sample * r.tokens;
    std::copy_n(part, r.tokens, scores);
    for (std::int64_t p = 1; p < r.count; ++p)
      for (std::int64_t t = 0; t < r.tokens; ++t) scores[t] += part[p * r.tokens + t];
    double squares = 0;
    for (std::int64_t t = 0; t < r.tokens; ++t)
      squares += static_cast<double>(scores[t]) * scores[t];
    const auto length = static_cast<float>(std::sqrt(squares));
    for (std::int64_t t = 0; t < r.tokens; ++t) scores[t] /= std::max(length, kLeastLength);
  }
}

void choose(const Choice& c) {
  const auto grow = [](float age) { return age + 1; };
  if (c.count == 0) {
    std::transform(c.ages, c.ages + c.samples * c.tokens, c.ages, grow);
    return;
  }
  std::vector<float> sums(static_cast<std::size_t>(c.tokens));
  std::vector<std::uint64_t> ranks(sums.size());
  for (std::int64_t sample = 0; sample < c.samples; ++sample) {
    const float* scores = c.scores + sample * c.tokens;
    float* ages = c.ages + sample * c.tokens;
    for (std::int64_t t = 0; t < c.tokens; ++t)
      sums[static_cast<std::size_t>(t)] = scores[t] + c.age_weight * (ages[t] / c.age_unit);
    if (c.side > 0) raise_best_of_cells(sums.data() + c.tokens - c.side * c.side, c.side, c.bonus);
    for (std::int64_t t = 0; t < c.tokens; ++t)
      ranks[static_cast<std::size_t>(t)] = rank_of(sums[static_cast<std::size_t>(t)], t);
    std::nth_element(ranks.begin(), ranks.begin() + (c.count - 1), ranks.end(), std::greater<>());
    std::int64_t* places = c.places + sample * c.count;
    std::transform(ranks.begin(), ranks.begin() + c.count, places, place_of);
    std::sort(places, places + c.count);
    std::transform(ages, ages + c.tokens, ages, grow);
    for (std::int64_t i = 0; i < c.count; ++i) ages[places[i]] = 0;
  }
}

void scatter(const Scatter& s) {
  const char* row = static_cast<const char*>(s.rows);
  for (std::int64_t sample = 0; sample < s.samples; ++sample)
    for (std::int64_t i = 0; i < s.count; ++i, row += s.row_bytes) {
      const std::int64_t place = sample * s.tokens + s.places[sample * s.count + i];
      std::memcpy(static_cast<char*>(s.out) + place * s.row_bytes, row,
                  static_cast<std::size_t>(s.row_bytes));
    }
}

}  // namespace l2c
