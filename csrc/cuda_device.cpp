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

CurrentDevice::CurrentDevice(const CudaDevice& device) : driver_(device.driver()) {
  CHECK_CUDA(driver_, cuCtxPushCurrent_v2, (device.context()), "device ", device.index());
}

CurrentDevice::~CurrentDevice() {
  cu::Context popped = nullptr;
  driver_.cuCtxPopCurrent_v2(&popped);
}

WorkOnDevice::WorkOnDevice(const CudaDevice& device) : device_(device) {
  CHECK_CUDA(device.driver(), cuEventCreate, (&done_, cu::kEventWithoutTiming), "device ",
             device.index());
}

WorkOnDevice::~WorkOnDevice() { device_.driver().cuEventDestroy_v2(done_); }

// Every stream is made to wait for what was there before, so that one event stands for all.
void WorkOnDevice::add(cu::Stream stream) {
  const CudaDriver& driver = device_.driver();
  int capturing = cu::kNotCapturing;
  CHECK_CUDA(driver, cuStreamIsCapturing, (stream, &capturing), "device ", device_.index());
  if (capturing != cu::kNotCapturing) return;
  const std::lock_guard one_at_a_time(mutex_);
  CHECK_CUDA(driver, cuStreamWaitEvent, (stream, done_, 0), "device ", device_.index());
  CHECK_CUDA(driver, cuEventRecord, (done_, stream), "device ", device_.index());
}

cu::Result WorkOnDevice::wait() noexcept { return device_.driver().cuEventSynchronize(done_); }

void wait_for_event(int index, std::uintptr_t event) {
  const CudaDevice device(index);
  const CurrentDevice current(device);
  const BesideCaptures beside(device.driver());
  CHECK_CUDA(device.driver(), cuEventSynchronize, (reinterpret_cast<cu::Event>(event)),
             "waiting for device ", index, ", where earlier work may have failed");
}

BesideCaptures::BesideCaptures(const CudaDriver& driver) : driver_(driver) {
  driver_.cuThreadExchangeStreamCaptureMode(&mode_);
}

BesideCaptures::~BesideCaptures() { driver_.cuThreadExchangeStreamCaptureMode(&mode_); }

}  // namespace l2c
