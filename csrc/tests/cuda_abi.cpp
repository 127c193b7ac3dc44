// Holds the types of cuda_driver.hpp against a real cuda.h. Compiled, never run.
#include <cuda.h>

#include <cstddef>
#include <string_view>

#include "cuda_driver.hpp"
#include "same_call.hpp"

namespace l2c {
namespace {

#define L2C_SAME_CALL(name, ...) \
  static_assert(SameCall<decltype(CudaDriver::name), decltype(&::name)>::value, #name);
L2C_CUDA_CALLS(L2C_SAME_CALL)
static_assert(sizeof(cu::Result) == sizeof(CUresult));

// The versions that cuda.h gives these names today.
#define L2C_TEXT(name) #name
#define L2C_NAMES(name, symbol) static_assert(std::string_view(L2C_TEXT(name)) == symbol)
L2C_NAMES(cuEventDestroy, "cuEventDestroy_v2");
L2C_NAMES(cuMemGetInfo, "cuMemGetInfo_v2");
L2C_NAMES(cuCtxPushCurrent, "cuCtxPushCurrent_v2");
L2C_NAMES(cuCtxPopCurrent, "cuCtxPopCurrent_v2");
L2C_NAMES(cuDevicePrimaryCtxRelease, "cuDevicePrimaryCtxRelease_v2");

using Properties = cu::AllocationProperties;
static_assert(sizeof(Properties) == sizeof(CUmemAllocationProp));
static_assert(offsetof(Properties, type) == offsetof(CUmemAllocationProp, type));
static_assert(offsetof(Properties, requested_handle_types) ==
              offsetof(CUmemAllocationProp, requestedHandleTypes));
static_assert(offsetof(Properties, location.id) == offsetof(CUmemAllocationProp, location.id));
static_assert(offsetof(Properties, location.type) == offsetof(CUmemAllocationProp, location.type));
static_assert(offsetof(Properties, win32_handle_meta) ==
              offsetof(CUmemAllocationProp, win32HandleMetaData));
static_assert(offsetof(Properties, flags) == offsetof(CUmemAllocationProp, allocFlags));
static_assert(offsetof(Properties, flags.usage) == offsetof(CUmemAllocationProp, allocFlags.usage));
static_assert(sizeof(cu::AccessDescription) == sizeof(CUmemAccessDesc));
static_assert(offsetof(cu::AccessDescription, location) == offsetof(CUmemAccessDesc, location));
static_assert(offsetof(cu::AccessDescription, flags) == offsetof(CUmemAccessDesc, flags));

static_assert(cu::kSuccess == CUDA_SUCCESS);
static_assert(cu::kOutOfMemory == CUDA_ERROR_OUT_OF_MEMORY);
static_assert(cu::kAttributeVirtualMemory ==
              CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED);
static_assert(cu::kGranularityRecommended == CU_MEM_ALLOC_GRANULARITY_RECOMMENDED);
static_assert(cu::kAllocationPinned == CU_MEM_ALLOCATION_TYPE_PINNED);
static_assert(cu::kLocationDevice == CU_MEM_LOCATION_TYPE_DEVICE);
static_assert(cu::kEventWithoutTiming == CU_EVENT_DISABLE_TIMING);
static_assert(cu::kNotCapturing == CU_STREAM_CAPTURE_STATUS_NONE);
static_assert(cu::kCaptureModeRelaxed == CU_STREAM_CAPTURE_MODE_RELAXED);
static_assert(sizeof(CUstreamCaptureMode) == sizeof(int));
static_assert(sizeof(CUstreamCaptureStatus) == sizeof(int));
static_assert(cu::kAccessReadWrite == CU_MEM_ACCESS_FLAGS_PROT_READWRITE);

}  // namespace
}  // namespace l2c
