// Self-attention without a mask, on float32.
#pragma once

#include <cstdint>

namespace l2c {

// q, k and v are [batch, tokens, heads, head] with these strides, in elements, the last one 1; out
// is [batch, tokens, heads * head], contiguous.
struct Attention {
  const float *q, *k, *v;
  float* out;
  std::int64_t batch, tokens, heads, head;
  std::int64_t batch_stride, token_stride, head_stride;
  float scale;
};

// Each row of queries in one order, whatever the number of threads.
void run(const Attention& attention, int threads);

}  // namespace l2c
