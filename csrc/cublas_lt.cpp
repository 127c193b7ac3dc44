#include "cublas_lt.hpp"

#include <dlfcn.h>

#include <map>
#include <mutex>

#include "check.hpp"

namespace l2c {
namespace {

constexpr const char* kNames[] = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"};

template <typename Function>
void find_symbol(void* library, const char* name, Function& function) {
  void* symbol = dlsym(library, name);
  CHECK_STATE(symbol != nullptr, "cuBLASLt has no ", name, ": version 12 or newer is needed");
  function = reinterpret_cast<Function>(symbol);
}

// Two versions in one process would each take their memory, and only one is what PyTorch runs.
void* open_library() {
  void* library = nullptr;
  for (const int flags : {RTLD_NOW | RTLD_NOLOAD, RTLD_NOW | RTLD_LOCAL})
    for (const char* name : kNames)
      if (library == nullptr) library = dlopen(name, flags);
  CHECK_STATE(library != nullptr, dlerror(),
              ": install a PyTorch with CUDA, which brings cuBLASLt");
  return library;
}

// The library stays open for the life of the process, as PyTorch keeps it too.
CublasLt open_cublas_lt() {
  void* library = open_library();
  CublasLt calls{};
#define L2C_FIND(name, ...) find_symbol(library, #name, calls.name);
  L2C_LT_CALLS(L2C_FIND)
#undef L2C_FIND
  find_symbol(library, "cublasLtGetStatusName", calls.cublasLtGetStatusName);
  find_symbol(library, "cublasLtGetVersion", calls.cublasLtGetVersion);
  return calls;
}

}  // namespace

const CublasLt& cublas_lt() {
  static const CublasLt calls = open_cublas_lt();
  return calls;
}

lt::Handle CublasLt::handle(int device) const {
  static std::mutex mutex;
  static std::map<int, lt::Handle> handles;
  const std::lock_guard<std::mutex> lock(mutex);
  lt::Handle& handle = handles[device];
  if (handle == nullptr) CHECK_LT(*this, cublasLtCreate, (&handle), "device ", device);
  return handle;
}

}  // namespace l2c
