#include "cuda_device.hpp"

#include "check.hpp"

namespace l2c {

CudaDevice::CudaDevice(int index) : driver_(cuda_driver()), index_(index) {
  int count = 0;
  CHECK_CUDA(driver_, cuDeviceGetCount, (&count), "no usable GPU: check with nvidia-smi");
  CHECK_ARGUMENT(index >= 0 && index < count, "device ", index, ": this process sees ", count,
                 " GPU(s); check CUDA_VISIBLE_DEVICES");
  CHECK_CUDA(driver_, cuDeviceGet, (&device_, index), "device ", index);
  int virtual_memory = 0;
  CHECK_CUDA(driver_, cuDeviceGetAttribute, (&virtual_memory, cu::kAttributeVirtualMemory, device_),
             "device ", index);
  CHECK_STATE(virtual_memory != 0, "device ", index,
              " has no virtual memory management; use host memory (device -1)");
  CHECK_CUDA(driver_, cuDevicePrimaryCtxRetain, (&context_, device_), "device ", index);
}

// Results of clean-up are not looked at: nothing can be thrown, and at the end of the process the
// driver may already be gone.
CudaDevice::~CudaDevice() { driver_.cuDevicePrimaryCtxRelease_v2(device_); }

void CudaDevice::synchronize() const {
  CHECK_CUDA(driver_, cuCtxSynchronize, (), "waiting for device ", index_,
             ", where earlier work may have failed");
}

CurrentDevice::CurrentDevice(const CudaDevice& device) : driver_(device.driver()) {
  CHECK_CUDA(driver_, cuCtxPushCurrent_v2, (device.context()), "device ", device.index());
}

CurrentDevice::~CurrentDevice() {
  cu::Context popped = nullptr;
  driver_.cuCtxPopCurrent_v2(&popped);
}

}  // namespace l2c
