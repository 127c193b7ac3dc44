#include "cuda_driver.hpp"

#include <dlfcn.h>

#include <exception>

#include "check.hpp"

namespace l2c {
namespace {

constexpr const char* kLibrary = "libcuda.so.1";

template <typename Function>
void find_symbol(void* library, const char* name, Function& function) {
  void* symbol = dlsym(library, name);
  CHECK_STATE(symbol != nullptr, kLibrary, " has no ", name,
              ": the NVIDIA driver is too old, version 455 or newer is needed");
  function = reinterpret_cast<Function>(symbol);
}

// The library stays open for the life of the process, as the CUDA runtime keeps it too.
CudaDriver open_driver() {
  void* library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  CHECK_STATE(library != nullptr, dlerror(),
              ": a GPU arena needs libcuda.so.1; install the NVIDIA driver, or use host memory "
              "(device -1, or tensors on the cpu)");
  CudaDriver driver{};
#define L2C_FIND(name, ...) find_symbol(library, #name, driver.name);
  L2C_CUDA_CALLS(L2C_FIND)
#undef L2C_FIND
  CHECK_CUDA(driver, cuInit, (0), "no usable GPU: check with nvidia-smi");
  return driver;
}

}  // namespace

const CudaDriver& cuda_driver() {
  static const CudaDriver driver = open_driver();
  return driver;
}

bool cuda_available() noexcept {
  try {
    int count = 0;
    return cuda_driver().cuDeviceGetCount(&count) == cu::kSuccess && count > 0;
  } catch (const std::exception&) {
    return false;
  }
}

std::string CudaDriver::describe(cu::Result result) const {
  const char* name = nullptr;
  const char* text = nullptr;
  if (cuGetErrorName(result, &name) != cu::kSuccess || name == nullptr)
    return join("CUDA error ", result);
  if (cuGetErrorString(result, &text) != cu::kSuccess || text == nullptr) return name;
  return join(name, " (", text, ")");
}

}  // namespace l2c
