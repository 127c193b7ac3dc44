#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>

#include "check.hpp"
#include "layout.hpp"
#include "memory.hpp"

namespace l2c {
namespace {

// Pages arrive at first touch, as everywhere on Linux; `mapped` counts what the range may take.
class HostMemory final : public Memory {
 public:
  explicit HostMemory(std::int64_t bytes)
      : bytes_(round_up(bytes, sysconf(_SC_PAGESIZE), "reservation")) {
    address_ = mmap(nullptr, static_cast<std::size_t>(bytes_), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK_MEMORY(address_ != MAP_FAILED, "host arena of ", bytes_, " bytes: ", std::strerror(errno),
                 "; use fewer slots or a smaller batch");
  }

  ~HostMemory() override { munmap(address_, static_cast<std::size_t>(bytes_)); }

  void take() override {
    // Read in long rows: large pages come a sixth faster. Where the kernel has none, it says no.
    madvise(address_, static_cast<std::size_t>(bytes_), MADV_HUGEPAGE);
    mapped_ = bytes_;
  }

  void give_back() override {
    const int failed = madvise(address_, static_cast<std::size_t>(bytes_), MADV_DONTNEED);
    CHECK_STATE(failed == 0, "host arena of ", bytes_,
                " bytes cannot give its pages back: ", std::strerror(errno));
    mapped_ = 0;
  }

  void fill(unsigned char byte) override {
    std::memset(address_, byte, static_cast<std::size_t>(bytes_));
  }

  void used_on(std::uintptr_t stream) override {
    CHECK_ARGUMENT(false, "stream ", stream, ", but host memory has none");
  }

  std::uintptr_t address() const override { return reinterpret_cast<std::uintptr_t>(address_); }
  std::int64_t reserved_bytes() const override { return bytes_; }
  std::int64_t mapped_bytes() const override { return mapped_; }

 private:
  std::int64_t bytes_;
  void* address_ = nullptr;
  std::atomic<std::int64_t> mapped_{0};
};

}  // namespace

std::unique_ptr<Memory> reserve_host_memory(std::int64_t bytes) {
  return std::make_unique<HostMemory>(bytes);
}

}  // namespace l2c
