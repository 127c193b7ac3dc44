// Some tokens of each sample: their scores, which ones, and their rows put back among the others.
#pragma once

#include <cstdint>

namespace l2c {

// What each token of a sample gets, [samples, parts, tokens] summed over the parts, as a vector of
// length 1 (or shorter, where it is next to nothing).
struct Received {
  const float* parts;
  float* scores;  // [samples, tokens]
  std::int64_t samples, count, tokens;
};

void score(const Received& received);

// Of every sample's tokens the `count` of the largest scores + age_weight * (age / age_unit), as
// places in rising order. The last side * side tokens are an image's, row by row: in each cell of
// 2 x 2 of them the largest sum is multiplied by 1 + bonus. Without a side there are no cells.
struct Choice {
  const float* scores;   // [samples, tokens]
  float* ages;           // [samples, tokens]: then 0 of the chosen, one more of all others.
  std::int64_t* places;  // [samples, count]
  std::int64_t samples, tokens, count, side;
  float age_weight, age_unit, bonus;
};

// Of equal sums the one of the lower place; a NaN is above all numbers.
void choose(const Choice& choice);

// Row i of a sample's `count` rows goes to row places[i] of its `tokens` rows.
struct Scatter {
  const void* rows;
  void* out;
  const std::int64_t* places;
  std::int64_t samples, count, tokens, row_bytes;
};

void scatter(const Scatter& scatter);

}  // namespace l2c
