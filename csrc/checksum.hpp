// A number for the content of memory.
#pragma once

#include <cstdint>

namespace l2c {

// A number that changes with the bytes, and with their order in steps of 8.
std::uint64_t checksum(const void* bytes, std::int64_t count, int threads);

}  // namespace l2c
