// One range of addresses that keeps its place while its physical memory comes and goes.
#pragma once

#include <cstdint>
#include <memory>

namespace l2c {

class Memory {
 public:
  virtual ~Memory() = default;
  Memory() = default;
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  // Both leave things as they were, or further on in the wanted direction, when they throw.
  virtual void take() = 0;       // physical memory behind the whole range
  virtual void give_back() = 0;  // no physical memory behind any of it
  virtual void fill(unsigned char byte) = 0;
  // What a stream has been given until now uses the memory: all of the above waits for it.
  virtual void used_on(std::uintptr_t stream) = 0;

  virtual std::uintptr_t address() const = 0;
  virtual std::int64_t reserved_bytes() const = 0;
  virtual std::int64_t mapped_bytes() const = 0;
};

std::unique_ptr<Memory> reserve_host_memory(std::int64_t bytes);
std::unique_ptr<Memory> reserve_cuda_memory(int device, std::int64_t bytes);

}  // namespace l2c
