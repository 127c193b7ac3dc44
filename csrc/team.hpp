// Work on the threads that PyTorch's own operators run on.
#pragma once

#include <cstdint>
#include <functional>

namespace l2c {

// Calls part(begin, end) so that the parts cover 0 .. count - 1, on at most `threads` threads, each
// with at least `grain` of them. Parts must not throw.
void in_parts(std::int64_t count, std::int64_t grain, int threads,
              const std::function<void(std::int64_t, std::int64_t)>& part);

}  // namespace l2c
