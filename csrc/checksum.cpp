#include "checksum.hpp"

#include <cstring>

#include "processors.hpp"
#include "team.hpp"

namespace l2c {
namespace {

constexpr std::int64_t kGrain = 1 << 14;  // Words for which a second thread is worth waking.
constexpr std::int64_t kAhead = 512;      // Words, a page: left alone the processor stops at each.

// Sixteen sums side by side, each of words times odd numbers that change from step to step.
FOR_EVERY_PROCESSOR std::uint64_t checksum_of(const std::uint64_t* words, std::int64_t begin,
                                              std::int64_t end) {
  std::uint64_t sums[16] = {}, total = 0;
  std::int64_t i = begin;
  for (; i + 16 <= end; i += 16) {
    // Behind the last word too: no processor faults on what it is asked for.
    __builtin_prefetch(words + i + kAhead);
    __builtin_prefetch(words + i + kAhead + 8);
    for (int lane = 0; lane < 16; ++lane) {
      std::uint64_t word;
      std::memcpy(&word, words + i + lane, sizeof word);
      const auto factor = static_cast<std::uint64_t>(i + lane) * 2 + 1;
      sums[lane] += (word ^ (word >> 29)) * factor;
    }
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
