#include "loop_bindings.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <tuple>
#include <utility>
#include <vector>

#include "attention.hpp"
#include "check.hpp"
#include "checksum.hpp"
#include "few_rows.hpp"
#include "row_pass.hpp"
#include "tokens.hpp"

namespace py = pybind11;
using namespace py::literals;

namespace l2c {
namespace {

using NoGil = py::call_guard<py::gil_scoped_release>;

// (scale, elements from token to token, shift, elements from token to token), by address.
using OperandArguments = std::tuple<std::uintptr_t, std::int64_t, std::uintptr_t, std::int64_t>;
// (sources, coefficients, gate, elements from gate to gate, store, operand), by address.
using TermArguments = std::tuple<std::vector<std::uintptr_t>, std::vector<float>, std::uintptr_t,
                                 std::int64_t, std::uintptr_t, OperandArguments>;
// (h, epsilon, weight, bias, shift, scale, elements from shift to shift), by address.
using NormArguments = std::tuple<std::uintptr_t, float, std::uintptr_t, std::uintptr_t,
                                 std::uintptr_t, std::uintptr_t, std::int64_t>;

template <typename Pointer>
Pointer at(std::uintptr_t address) {
  return reinterpret_cast<Pointer>(address);
}

Term term_of(const TermArguments& arguments, std::size_t lanes) {
  const auto& [sources, coefficients, gate, gate_stride, store, operand] = arguments;
  const auto [scale, scale_stride, shift, shift_stride] = operand;
  const std::size_t wanted = coefficients.empty() ? 1 : coefficients.size() / lanes;
  CHECK_ARGUMENT(sources.size() == wanted && coefficients.size() % lanes == 0, sources.size(),
                 " sources and ", coefficients.size(), " coefficients in ", lanes, " lanes");
  Term term{{},
            coefficients,
            at<const float*>(gate),
            gate_stride,
            at<void*>(store),
            {at<const float*>(scale), scale_stride, at<const float*>(shift), shift_stride}};
  for (const std::uintptr_t source : sources) term.sources.push_back(at<const void*>(source));
  return term;
}

// How many lanes there are up to the highest of those of each batch.
std::size_t count_of(const std::vector<std::int32_t>& lanes, std::int64_t batches) {
  std::int32_t most = 0;
  CHECK_ARGUMENT(lanes.empty() || static_cast<std::int64_t>(lanes.size()) == batches, lanes.size(),
                 " lanes of ", batches, " batches");
  for (const std::int32_t lane : lanes) {
    CHECK_ARGUMENT(lane >= 0, "lane ", lane);
    most = std::max(most, lane);
  }
  return static_cast<std::size_t>(most) + 1;
}

// `places` is the address of int64 [rows], or 0, and the rows of a batch that they are places in.
void row_pass(std::pair<std::uintptr_t, std::uintptr_t> x, std::pair<bool, bool> narrow,
              std::tuple<std::int64_t, std::int64_t, std::int64_t> shape,
              const std::vector<TermArguments>& terms, const NormArguments& norm,
              std::pair<std::uintptr_t, std::int64_t> places, int threads,
              const std::vector<std::int32_t>& lanes) {
  const auto [rows, rows_per_batch, width] = shape;
  CHECK_ARGUMENT(rows >= 0 && rows_per_batch > 0 && width > 0, "rows ", rows, ", per batch ",
                 rows_per_batch, ", width ", width);
  CHECK_ARGUMENT(narrow.second || !narrow.first, "a narrow stream with wide values");
  RowPass pass{at<const void*>(x.first),
               at<void*>(x.second),
               narrow.first,
               narrow.second,
               rows,
               rows_per_batch,
               width,
               lanes,
               {},
               {}};
  const std::size_t count = count_of(lanes, rows / rows_per_batch);
  for (const TermArguments& term : terms) pass.terms.push_back(term_of(term, count));
  const auto& [h, epsilon, weight, bias, shift, scale, stride] = norm;
  pass.norm = {at<void*>(h),
               epsilon,
               at<const float*>(weight),
               at<const float*>(bias),
               at<const float*>(shift),
               at<const float*>(scale),
               stride};
  pass.places = at<const std::int64_t*>(places.first);
  pass.x_rows = places.second;
  const py::gil_scoped_release released;
  run(pass, threads);
}

// `received` is the address of float32 [batch, heads, parts, tokens], or 0.
void attention(std::tuple<std::uintptr_t, std::uintptr_t, std::uintptr_t, std::uintptr_t> tensors,
               std::uintptr_t received,
               std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t> shape,
               std::tuple<std::int64_t, std::int64_t, std::int64_t> strides, float scale,
               bool narrow, int threads) {
  const auto [q, k, v, out] = tensors;
  const auto [batch, tokens, heads, head] = shape;
  const auto [batch_stride, token_stride, head_stride] = strides;
  CHECK_ARGUMENT(batch >= 0 && tokens > 0 && heads > 0 && head > 0, "shape [", batch, ", ", tokens,
                 ", ", heads, ", ", head, "]");
  const Attention arguments{at<const void*>(q),
                            at<const void*>(k),
                            at<const void*>(v),
                            at<void*>(out),
                            batch,
                            tokens,
                            heads,
                            head,
                            batch_stride,
                            token_stride,
                            head_stride,
                            scale,
                            narrow,
                            at<float*>(received)};
  run(arguments, threads);
}

void score_tokens(std::uintptr_t parts, std::uintptr_t scores,
                  std::tuple<std::int64_t, std::int64_t, std::int64_t> shape) {
  const auto [samples, count, tokens] = shape;
  CHECK_ARGUMENT(samples >= 0 && count > 0 && tokens > 0, "parts [", samples, ", ", count, ", ",
                 tokens, "]");
  score(Received{at<const float*>(parts), at<float*>(scores), samples, count, tokens});
}

void choose_tokens(std::tuple<std::uintptr_t, std::uintptr_t, std::uintptr_t> tensors,
                   std::tuple<std::int64_t, std::int64_t, std::int64_t> shape,
                   std::tuple<float, float> age, std::int64_t side, float bonus) {
  const auto [scores, ages, places] = tensors;
  const auto [samples, tokens, count] = shape;
  CHECK_ARGUMENT(samples >= 0 && tokens >= count && count >= 0, count, " of ", tokens, " tokens");
  CHECK_ARGUMENT(side >= 0 && side * side <= tokens, "a side of ", side, " for ", tokens,
                 " tokens");
  choose(Choice{at<const float*>(scores), at<float*>(ages), at<std::int64_t*>(places), samples,
                tokens, count, side, std::get<0>(age), std::get<1>(age), bonus});
}

void scatter_rows(std::uintptr_t rows, std::uintptr_t out, std::uintptr_t places,
                  std::tuple<std::int64_t, std::int64_t, std::int64_t> shape,
                  std::int64_t row_bytes) {
  const auto [samples, count, tokens] = shape;
  CHECK_ARGUMENT(samples >= 0 && tokens >= count && count >= 0 && row_bytes >= 0, count, " of ",
                 tokens, " rows of ", row_bytes, " bytes");
  scatter(Scatter{at<const void*>(rows), at<void*>(out), at<const std::int64_t*>(places), samples,
                  count, tokens, row_bytes});
}

void few_rows(std::tuple<std::uintptr_t, std::uintptr_t, std::uintptr_t, std::uintptr_t> tensors,
              std::tuple<std::int64_t, std::int64_t, std::int64_t> shape, std::int64_t out_stride,
              int threads) {
  const auto [x, weight, bias, out] = tensors;
  const auto [rows, inner, columns] = shape;
  CHECK_ARGUMENT(rows >= 0 && inner > 0 && columns > 0 && columns % 4 == 0, "rows ", rows,
                 ", inner ", inner, ", columns ", columns);
  run(FewRows{at<const float*>(x), at<const float*>(weight), at<const float*>(bias),
              at<float*>(out), rows, inner, columns, out_stride},
      threads);
}

std::uint64_t checksum_at(std::uintptr_t address, std::int64_t bytes, int threads) {
  CHECK_ARGUMENT(bytes >= 0, "bytes ", bytes);
  return checksum(at<const void*>(address), bytes, threads);
}

}  // namespace

void bind_loops(py::module_& m) {
  m.def("attention_parts", &parts_of, "tokens"_a);
  m.def("row_pass", &row_pass, "x"_a, "narrow"_a, "shape"_a, "terms"_a, "norm"_a, "places"_a,
        "threads"_a, "lanes"_a = std::vector<std::int32_t>());
  m.def("attention", &attention, "tensors"_a, "received"_a, "shape"_a, "strides"_a, "scale"_a,
        "narrow"_a, "threads"_a, NoGil());
  m.def("score_tokens", &score_tokens, "parts"_a, "scores"_a, "shape"_a, NoGil());
  m.def("choose_tokens", &choose_tokens, "tensors"_a, "shape"_a, "age"_a, "side"_a, "bonus"_a,
        NoGil());
  m.def("scatter_rows", &scatter_rows, "rows"_a, "out"_a, "places"_a, "shape"_a, "row_bytes"_a,
        NoGil());
  m.def("few_rows", &few_rows, "tensors"_a, "shape"_a, "out_stride"_a, "threads"_a, NoGil());
  m.def("checksum", &checksum_at, "address"_a, "nbytes"_a, "threads"_a, NoGil());
}

}  // namespace l2c
