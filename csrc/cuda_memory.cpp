#include "check.hpp"
#include "memory.hpp"

namespace l2c {

std::unique_ptr<Memory> reserve_cuda_memory(int device, std::int64_t bytes) {
  CHECK_STATE(device < 0, "device ", device, ": ", bytes, " bytes of GPU memory are not served yet");
  return nullptr;
}

}  // namespace l2c
