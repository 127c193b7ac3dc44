// The part of the CUDA driver API that the arena and the graph loop need, opened at run time.
// Types are written out here, so that no CUDA toolkit is needed; tests/cuda_abi.cpp holds them
// against the real cuda.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace l2c {
namespace cu {

using Result = int;
using Device = int;
using DevicePtr = unsigned long long;
using MemoryHandle = unsigned long long;
using Context = struct OpaqueContext*;
using Stream = struct OpaqueStream*;
using Event = struct OpaqueEvent*;
using GraphExec = struct OpaqueGraphExec*;

constexpr Result kSuccess = 0;
constexpr Result kOutOfMemory = 2;
constexpr int kAttributeVirtualMemory = 102;
constexpr int kGranularityRecommended = 1;
constexpr int kAllocationPinned = 1;
constexpr int kLocationDevice = 1;
constexpr int kAccessReadWrite = 3;
constexpr unsigned int kEventWithoutTiming = 2;
constexpr int kNotCapturing = 0;
constexpr int kCaptureModeRelaxed = 2;
constexpr std::uintptr_t kStreamOfThisThread = 2;

struct Location {
  int type;
  int id;
};

struct AllocationProperties {
  int type;
  int requested_handle_types;
  Location location;
  void* win32_handle_meta;
  struct {
    unsigned char compression_type;
    unsigned char gpu_direct_rdma_capable;
    unsigned short usage;
    unsigned char reserved[4];
  } flags;
};

struct AccessDescription {
  Location location;
  int flags;
};

}  // namespace cu

// Symbol and parameter types; each returns a cu::Result.
#define L2C_CUDA_CALLS(X)                                                                    \
  X(cuInit, unsigned int)                                                                    \
  X(cuGetErrorName, cu::Result, const char**)                                                \
  X(cuGetErrorString, cu::Result, const char**)                                              \
  X(cuDeviceGetCount, int*)                                                                  \
  X(cuDeviceGet, cu::Device*, int)                                                           \
  X(cuDeviceGetAttribute, int*, int, cu::Device)                                             \
  X(cuDevicePrimaryCtxRetain, cu::Context*, cu::Device)                                      \
  X(cuDevicePrimaryCtxRelease_v2, cu::Device)                                                \
  X(cuCtxPushCurrent_v2, cu::Context)                                                        \
  X(cuCtxPopCurrent_v2, cu::Context*)                                                        \
  X(cuMemGetInfo_v2, std::size_t*, std::size_t*)                                             \
  X(cuMemGetAllocationGranularity, std::size_t*, const cu::AllocationProperties*, int)       \
  X(cuMemAddressReserve, cu::DevicePtr*, std::size_t, std::size_t, cu::DevicePtr,            \
    unsigned long long)                                                                      \
  X(cuMemAddressFree, cu::DevicePtr, std::size_t)                                            \
  X(cuMemCreate, cu::MemoryHandle*, std::size_t, const cu::AllocationProperties*,            \
    unsigned long long)                                                                      \
  X(cuMemRelease, cu::MemoryHandle)                                                          \
  X(cuMemMap, cu::DevicePtr, std::size_t, std::size_t, cu::MemoryHandle, unsigned long long) \
  X(cuMemUnmap, cu::DevicePtr, std::size_t)                                                  \
  X(cuMemSetAccess, cu::DevicePtr, std::size_t, const cu::AccessDescription*, std::size_t)   \
  X(cuMemsetD8Async, cu::DevicePtr, unsigned char, std::size_t, cu::Stream)                  \
  X(cuStreamIsCapturing, cu::Stream, int*)                                                   \
  X(cuStreamSynchronize, cu::Stream)                                                         \
  X(cuStreamWaitEvent, cu::Stream, cu::Event, unsigned int)                                  \
  X(cuThreadExchangeStreamCaptureMode, int*)                                                 \
  X(cuEventCreate, cu::Event*, unsigned int)                                                 \
  X(cuEventDestroy_v2, cu::Event)                                                            \
  X(cuEventRecord, cu::Event, cu::Stream)                                                    \
  X(cuEventSynchronize, cu::Event)                                                           \
  X(cuGraphUpload, cu::GraphExec, cu::Stream)                                                \
  X(cuGraphLaunch, cu::GraphExec, cu::Stream)

struct CudaDriver {
#define L2C_MEMBER(name, ...) cu::Result (*name)(__VA_ARGS__);
  L2C_CUDA_CALLS(L2C_MEMBER)
#undef L2C_MEMBER

  // "CUDA_ERROR_OUT_OF_MEMORY (out of memory)"
  std::string describe(cu::Result result) const;
};

// Opens libcuda and initialises it on the first call; throws, with the remedy, where it cannot.
// Makes no CUDA context.
const CudaDriver& cuda_driver();

// A driver that opens, and at least one GPU behind it.
bool cuda_available() noexcept;

}  // namespace l2c

// Throws RuntimeError, or MemoryError where the driver says so; the rest is what was being done.
#define CHECK_CUDA(driver, name, arguments, ...) \
  CHECK_CUDA_RESULT(driver, name, (driver).name arguments, __VA_ARGS__)

#define CHECK_CUDA_RESULT(driver, name, result, ...)                                          \
  do {                                                                                        \
    const ::l2c::cu::Result code = (result);                                                  \
    CHECK_MEMORY(code != ::l2c::cu::kOutOfMemory, #name, ": ", (driver).describe(code), ", ", \
                 __VA_ARGS__);                                                                \
    CHECK_STATE(code == ::l2c::cu::kSuccess, #name, ": ", (driver).describe(code), ", ",      \
                __VA_ARGS__);                                                                 \
  } while (false)
