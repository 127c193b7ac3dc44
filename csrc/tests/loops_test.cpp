// The loops over rows without Python, for the sanitizers: every operand is allocated to the byte,
// so that whatever is read or written beyond it is found.
#include <dlfcn.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "attention.hpp"
#include "checksum.hpp"
#include "few_rows.hpp"
#include "row_pass.hpp"
#include "tokens.hpp"

#define EXPECT(condition)                                                           \
  do {                                                                              \
    if (!(condition)) {                                                             \
      std::fprintf(stderr, "%s:%d: expected %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                                 \
    }                                                                               \
  } while (false)

// What the loops take for libgomp, which a process with torch has: `count` threads at once.
extern "C" __attribute__((visibility("default"))) void GOMP_parallel(void (*part)(void*),
                                                                     void* data, unsigned count,
                                                                     unsigned flags);
extern "C" __attribute__((visibility("default"))) int omp_get_thread_num();
extern "C" __attribute__((visibility("default"))) int omp_get_num_threads();

namespace {
thread_local int number = 0, threads_now = 1;
int teams = 0;
}  // namespace

int omp_get_thread_num() { return number; }
int omp_get_num_threads() { return threads_now; }

void GOMP_parallel(void (*part)(void*), void* data, unsigned count, unsigned) {
  ++teams;
  std::vector<std::thread> team;
  for (unsigned i = 0; i < count; ++i)
    team.emplace_back([=] {
      number = static_cast<int>(i);
      threads_now = static_cast<int>(count);
      part(data);
    });
  for (std::thread& thread : team) thread.join();
}

namespace l2c {
namespace {

using Floats = std::vector<float>;

Floats waves(std::int64_t count, float phase) {
  Floats values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = std::sin(static_cast<float>(i) * 0.37f + phase);
  return values;
}

bool near(double got, double expected) { return std::fabs(got - expected) < 1e-4; }

// Odd widths and rows: vector loops have a remainder, shares of rows are unequal.
void rows_are_added_kept_and_normalised(std::int64_t batch, std::int64_t tokens, std::int64_t width,
                                        int threads) {
  const std::int64_t rows = batch * tokens, count = rows * width;
  Floats x = waves(count, 0), h(x.size()), store(x.size());
  const Floats start = x, a = waves(count, 1), b = waves(count, 2), gate = waves(batch * width, 3),
               shift = waves(batch * width, 4), scale = waves(batch * width, 5);
  RowPass pass{x.data(), x.data(), false, false, rows, tokens, width, {}, {}, {}};
  pass.terms = {{{a.data()}, {}, gate.data(), width, nullptr},
                {{a.data(), b.data()}, {0.5f, -2.0f}, nullptr, 0, store.data()}};
  pass.norm = {h.data(), 1e-6f, nullptr, nullptr, shift.data(), scale.data(), width};
  run(pass, threads);
  for (std::int64_t r = 0; r < rows; ++r) {
    double mean = 0, squares = 0;
    const std::int64_t vectors = r / tokens * width;
    for (std::int64_t j = 0; j < width; ++j) {
      const auto i = static_cast<std::size_t>(r * width + j),
                 v = static_cast<std::size_t>(vectors + j);
      const double kept = 0.5 * a[i] - 2.0 * b[i];
      EXPECT(near(store[i], kept));
      EXPECT(near(x[i], start[i] + gate[v] * a[i] + kept));
      mean += x[i] / static_cast<double>(width);
    }
    for (std::int64_t j = 0; j < width; ++j)
      squares += std::pow(x[static_cast<std::size_t>(r * width + j)] - mean, 2);
    const double deviation = std::sqrt(squares / static_cast<double>(width) + 1e-6);
    for (std::int64_t j = 0; j < width; ++j) {
      const auto i = static_cast<std::size_t>(r * width + j),
                 v = static_cast<std::size_t>(vectors + j);
      EXPECT(std::fabs(h[i] - ((x[i] - mean) / deviation * (1 + scale[v]) + shift[v])) < 1e-3);
    }
  }
}

void sums_are_of_any_number_of_sources(std::int64_t rows, std::int64_t width, std::size_t count) {
  const Floats start = waves(rows * width, 0);
  Floats x = start;
  std::vector<Floats> sources;
  Term term;
  for (std::size_t k = 0; k < count; ++k) {
    sources.push_back(waves(rows * width, static_cast<float>(k)));
    term.coefficients.push_back(0.25f * static_cast<float>(k + 1));
  }
  for (const Floats& source : sources) term.sources.push_back(source.data());
  run(RowPass{x.data(), x.data(), false, false, rows, rows, width, {}, {term}, {}}, 1);
  for (std::size_t i = 0; i < x.size(); ++i) {
    double sum = start[i];
    for (std::size_t k = 0; k < count; ++k)
      sum += static_cast<double>(term.coefficients[k]) * sources[k][i];
    EXPECT(near(x[i], sum));
  }
}

// As many terms as make a tile of rows, of which there are several and a part of one.
void terms_of_several_sources_are_added_in_order(std::int64_t batch, std::int64_t tokens,
                                                 std::int64_t width, bool one_scale) {
  const std::int64_t rows = batch * tokens, count = rows * width;
  const Floats start = waves(count, 0), a = waves(count, 1), b = waves(count, 2),
               scale = waves(one_scale ? width : tokens * width, 3),
               shift = waves(one_scale ? tokens * width : width, 4);
  Floats x = start, kept(x.size());
  const Operand operand{scale.data(), one_scale ? 0 : width, shift.data(), one_scale ? width : 0};
  RowPass pass{x.data(), x.data(), false, false, rows, tokens, width, {}, {}, {}};
  pass.lanes.assign(static_cast<std::size_t>(batch), 1);
  for (const float more : {1.0f, 2.0f, 3.0f, 4.0f})
    pass.terms.push_back(
        {{a.data(), b.data()}, {9, 9, more, -0.5f}, nullptr, 0, kept.data(), operand});
  run(pass, 2);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const std::size_t v = i % scale.size(), w = i % shift.size();
    double sum = start[i], last = 0;
    for (const double more : {1.0, 2.0, 3.0, 4.0}) {
      last = (more * a[i] - 0.5 * b[i]) * (1 + scale[v]) + shift[w];
      sum += last;
    }
    EXPECT(near(x[i], sum) && near(kept[i], last));
  }
}

void few_rows_are_multiplied_where_the_weight_lies(std::int64_t rows, std::int64_t inner,
                                                   std::int64_t columns) {
  const std::int64_t stride = columns + 3;
  const Floats x = waves(rows * inner, 0), weight = waves(columns * inner, 1),
               bias = waves(columns, 2);
  Floats out(static_cast<std::size_t>((rows - 1) * stride + columns), 7), one(bias.size());
  run(FewRows{x.data(), weight.data(), bias.data(), out.data(), rows, inner, columns, stride}, 3);
  for (std::int64_t r = 0; r < rows; ++r) {
    run(FewRows{x.data() + r * inner, weight.data(), bias.data(), one.data(), 1, inner, columns, 0},
        1);
    for (std::int64_t c = 0; c < columns; ++c) {
      double sum = bias[static_cast<std::size_t>(c)];
      for (std::int64_t i = 0; i < inner; ++i)
        sum += static_cast<double>(x[static_cast<std::size_t>(r * inner + i)]) *
               weight[static_cast<std::size_t>(c * inner + i)];
      const float got = out[static_cast<std::size_t>(r * stride + c)];
      EXPECT(near(got, sum) && got == one[static_cast<std::size_t>(c)]);
    }
  }
}

void narrow_values_are_rounded(std::int64_t rows, std::int64_t width) {
  Floats x = waves(rows * width, 0);
  const Floats start = x;
  std::vector<std::uint16_t> value(x.size(), 0x3fc0), h(x.size());  // 1.5
  RowPass pass{x.data(), x.data(), false, true, rows, rows, width, {}, {}, {}};
  pass.terms = {{{value.data()}, {}, nullptr, 0, nullptr}};
  pass.norm.h = h.data();
  run(pass, 2);
  for (std::size_t i = 0; i < x.size(); ++i) EXPECT(near(x[i], start[i] + 1.5));
}

void attention_is_the_mean_of_the_values(std::int64_t batch, std::int64_t tokens,
                                         std::int64_t heads, std::int64_t head, int threads) {
  const std::int64_t count = batch * tokens * heads * head, width = heads * head;
  const Floats q = waves(count, 0), k = waves(count, 1), v = waves(count, 2);
  Floats out(q.size());
  const float scale = 1 / std::sqrt(static_cast<float>(head));
  run(Attention{q.data(), k.data(), v.data(), out.data(), batch, tokens, heads, head,
                tokens * width, width, head, scale, false},
      threads);
  const auto at = [&](std::int64_t b, std::int64_t t, std::int64_t h, std::int64_t i) {
    return static_cast<std::size_t>(((b * tokens + t) * heads + h) * head + i);
  };
  for (std::int64_t b = 0; b < batch; ++b)
    for (std::int64_t h = 0; h < heads; ++h)
      for (std::int64_t row = 0; row < tokens; ++row) {
        std::vector<double> mixed(static_cast<std::size_t>(head));
        double sum = 0;
        for (std::int64_t t = 0; t < tokens; ++t) {
          double score = 0;
          for (std::int64_t i = 0; i < head; ++i) score += q[at(b, row, h, i)] * k[at(b, t, h, i)];
          const double weight = std::exp(score * scale);
          sum += weight;
          for (std::int64_t i = 0; i < head; ++i)
            mixed[static_cast<std::size_t>(i)] += weight * v[at(b, t, h, i)];
        }
        for (std::int64_t i = 0; i < head; ++i)
          EXPECT(near(out[at(b, row, h, i)], mixed[static_cast<std::size_t>(i)] / sum));
      }
}

void scores_are_the_sum_of_the_parts_at_length_1(std::int64_t samples, std::int64_t parts,
                                                 std::int64_t tokens) {
  const Floats received = waves(samples * parts * tokens, 0);
  Floats scores(static_cast<std::size_t>(samples * tokens));
  score({received.data(), scores.data(), samples, parts, tokens});
  for (std::int64_t s = 0; s < samples; ++s) {
    double squares = 0, sum = 0, scored = 0;
    for (std::int64_t t = 0; t < tokens; ++t) {
      double own = 0;
      for (std::int64_t p = 0; p < parts; ++p)
        own += received[static_cast<std::size_t>((s * parts + p) * tokens + t)];
      squares += own * own;
      sum += own;
      scored += scores[static_cast<std::size_t>(s * tokens + t)];
    }
    EXPECT(near(scored * std::sqrt(squares), sum));
  }
}

void the_largest_tokens_are_chosen_and_put_back(std::int64_t samples, std::int64_t side,
                                                std::int64_t count) {
  const std::int64_t tokens = side * side + 1;
  const Floats scores = waves(samples * tokens, 0);
  Floats ages(scores.size(), 2);
  std::vector<std::int64_t> places(static_cast<std::size_t>(samples * count));
  choose({scores.data(), ages.data(), places.data(), samples, tokens, count, 0, 0.25f, 3, 0});
  std::vector<std::uint16_t> rows(places.size() * 3), out(scores.size() * 3);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<std::uint16_t>(i + 1);
  scatter({rows.data(), out.data(), places.data(), samples, count, tokens, 6});
  for (std::int64_t s = 0; s < samples; ++s) {
    float least = 2, most_of_others = -2;
    for (std::int64_t t = 0, i = 0; t < tokens; ++t) {
      const float score = scores[static_cast<std::size_t>(s * tokens + t)];
      const bool chosen = i < count && places[static_cast<std::size_t>(s * count + i)] == t;
      const std::uint16_t got = out[static_cast<std::size_t>((s * tokens + t) * 3)];
      EXPECT(got == (chosen ? rows[static_cast<std::size_t>((s * count + i) * 3)] : 0));
      EXPECT(ages[static_cast<std::size_t>(s * tokens + t)] == (chosen ? 0 : 3));
      (chosen ? least : most_of_others) =
          chosen ? std::fmin(least, score) : std::fmax(most_of_others, score);
      i += chosen;
    }
    EXPECT(least >= most_of_others);
  }
  // With cells every choice of all tokens is all of them, whatever their sums.
  std::vector<std::int64_t> all(scores.size());
  choose({scores.data(), ages.data(), all.data(), samples, tokens, tokens, side, 0.25f, 3, 0.6f});
  for (std::size_t i = 0; i < all.size(); ++i)
    EXPECT(all[i] == static_cast<std::int64_t>(i) % tokens);
}

void checksums_tell_bytes_and_their_order(std::int64_t bytes) {
  std::vector<unsigned char> content(static_cast<std::size_t>(bytes));
  for (std::size_t i = 0; i < content.size(); ++i) content[i] = static_cast<unsigned char>(i * 7);
  const std::uint64_t sum = checksum(content.data(), bytes, 1);
  EXPECT(checksum(content.data(), bytes, 3) == sum);
  if (bytes == 0) return;
  content.back() ^= 1;
  EXPECT(checksum(content.data(), bytes, 1) != sum);
  content.back() ^= 1;
  if (bytes < 16) return;
  for (std::size_t i = 0; i < 8; ++i) std::swap(content[i], content[i + 8]);
  EXPECT(checksum(content.data(), bytes, 1) != sum);
}

int run_all() {
  for (const int threads : {1, 3}) {
    rows_are_added_kept_and_normalised(2, 5, 7, threads);
    rows_are_added_kept_and_normalised(3, 41, 203, threads);
    attention_is_the_mean_of_the_values(1, 1, 1, 1, threads);
    attention_is_the_mean_of_the_values(2, 70, 3, 33, threads);
    attention_is_the_mean_of_the_values(1, 64, 2, 32, threads);
  }
  for (std::size_t count = 1; count < 8; ++count) sums_are_of_any_number_of_sources(3, 19, count);
  scores_are_the_sum_of_the_parts_at_length_1(2, 3, 17);
  the_largest_tokens_are_chosen_and_put_back(2, 4, 5);
  the_largest_tokens_are_chosen_and_put_back(3, 1, 0);
  terms_of_several_sources_are_added_in_order(2, 37, 1500, false);
  terms_of_several_sources_are_added_in_order(2, 37, 1500, true);
  for (const std::int64_t rows : {1, 3, 4, 5, 6, 8, 20})
    few_rows_are_multiplied_where_the_weight_lies(rows, 39, 260);
  narrow_values_are_rounded(5, 19);
  for (const std::int64_t bytes : {0, 1, 8, 16, 129, 1 << 20, (1 << 20) + 5})
    checksums_tell_bytes_and_their_order(bytes);
  EXPECT(teams > 0);
  std::puts("loops_test: all passed");
  return 0;
}

}  // namespace
}  // namespace l2c

int main() { return l2c::run_all(); }
