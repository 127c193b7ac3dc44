// A GPU through its primary context: the one the CUDA runtime, and so torch, uses.
#pragma once

#include <cstdint>
#include <mutex>

#include "cuda_driver.hpp"

namespace l2c {

// Holds the primary context; made on first use if nothing else made it.
class CudaDevice {
 public:
  explicit CudaDevice(int index);
  ~CudaDevice();
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;

  const CudaDriver& driver() const { return driver_; }
  int index() const { return index_; }
  cu::Context context() const { return context_; }

 private:
  const CudaDriver& driver_;
  int index_;
  cu::Device device_ = 0;
  cu::Context context_ = nullptr;
};

// Makes a device current on this thread, and what was current before again at the end.
class CurrentDevice {
 public:
  explicit CurrentDevice(const CudaDevice& device);
  ~CurrentDevice();
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

 private:
  const CudaDriver& driver_;
};

// What the device has been given, on whichever streams, up to some moment.
class WorkOnDevice {
 public:
  explicit WorkOnDevice(const CudaDevice& device);
  ~WorkOnDevice();
  WorkOnDevice(const WorkOnDevice&) = delete;
  WorkOnDevice& operator=(const WorkOnDevice&) = delete;

  // And what the stream has been given until now; nothing inside a capture, whose graph is its
  // owner's to order. The device must be current, as for `wait`.
  void add(cu::Stream stream);
  // Returns the first error instead of throwing it: also destructors wait.
  cu::Result wait() noexcept;

 private:
  const CudaDevice& device_;
  std::mutex mutex_;
  cu::Event done_ = nullptr;
};

// Waits for an event of the caller's (CUevent), and so for what was recorded in it alone.
void wait_for_event(int device, std::uintptr_t event);

// On this thread, calls that a capture would forbid, as CUDA's headers have it: these do it no
// harm.
class BesideCaptures {
 public:
  explicit BesideCaptures(const CudaDriver& driver);
  ~BesideCaptures();
  BesideCaptures(const BesideCaptures&) = delete;
  BesideCaptures& operator=(const BesideCaptures&) = delete;

 private:
  const CudaDriver& driver_;
  int mode_ = cu::kCaptureModeRelaxed;
};

}  // namespace l2c
