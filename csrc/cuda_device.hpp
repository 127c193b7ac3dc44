// A GPU through its primary context: the one the CUDA runtime, and so torch, uses.
#pragma once

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
  void synchronize() const;

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

}  // namespace l2c
