// One pass over the rows of a residual stream: what branches gave is added, kept and normalised.
#pragma once

#include <cstdint>
#include <vector>

namespace l2c {

// sum * (1 + scale) + shift, with float32 rows of a stride for the tokens of every batch; null ones
// are left out.
struct Operand {
  const float* scale = nullptr;
  std::int64_t scale_stride = 0;
  const float* shift = nullptr;
  std::int64_t shift_stride = 0;
};

// x += gate * value, where value is the sum of coefficient * source over the sources. Sources are
// [rows, width]; coefficients [lanes, sources], of which a batch takes those of its own lane; gate
// is float32 [batch, width] with a stride between batches, or null for one. Where `store` is not
// null the value goes there too, which may be one of the sources.
struct Term {
  std::vector<const void*> sources;
  std::vector<float> coefficients;  // Empty: one source, as it is.
  const float* gate = nullptr;
  std::int64_t gate_stride = 0;
  void* store = nullptr;
  Operand operand{};  // Of a sum with coefficients.
};

// h = (x - mean) / sqrt(variance + epsilon) * weight + bias, then h * (1 + scale) + shift.
// All float32; weight and bias are [width], scale and shift [batch, width] with one stride; null
// ones are left out. Where `h` is null nothing is normalised.
struct Norm {
  void* h = nullptr;
  float epsilon = 0;
  const float* weight = nullptr;
  const float* bias = nullptr;
  const float* shift = nullptr;
  const float* scale = nullptr;
  std::int64_t stride = 0;
};

struct RowPass {
  const void* x;
  void* x_out;         // May be x.
  bool narrow_stream;  // x is bfloat16, not float32.
  bool narrow_values;  // So are sources, stores and h.
  std::int64_t rows, rows_per_batch, width;
  std::vector<std::int32_t> lanes;  // Of each batch; empty: all of the first.
  std::vector<Term> terms;
  Norm norm;
  // Where it is not null, [rows]: row r is read from row places[r] of its batch, of x_rows each. No
  // terms then, and nothing is written but h.
  const std::int64_t* places = nullptr;
  std::int64_t x_rows = 0;
};

// Sums in float32, each row by one thread and in one order, whatever their number.
void run(const RowPass& pass, int threads);

}  // namespace l2c
