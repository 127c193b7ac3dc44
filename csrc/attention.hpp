// Self-attention without a mask, on float32 or bfloat16, with sums in float32.
#pragma once

#include <cstdint>

namespace l2c {

// q, k and v are [batch, tokens, heads, head] with these strides, in elements, the last one 1; out
// is [batch, tokens, heads * head], contiguous.
struct Attention {
  const void *q, *k, *v;
  void* out;
  std::int64_t batch, tokens, heads, head;
  std::int64_t batch_stride, token_stride, head_stride;
  float scale;
  bool narrow;  // bfloat16.
  // Where it is not null: what each token gets of the rows of every part of `kPart` queries,
  // summed, float32 [batch, heads, parts, tokens].
  float* received = nullptr;
};

constexpr std::int64_t kPart = 64;  // Queries that a thread takes at a time.

inline std::int64_t parts_of(std::int64_t tokens) { return (tokens + kPart - 1) / kPart; }

// Each row of queries in one order, whatever the number of threads.
void run(const Attention& attention, int threads);

}  // namespace l2c
