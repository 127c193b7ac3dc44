#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "check.hpp"
#include "cuda_device.hpp"
#include "layout.hpp"
#include "memory.hpp"

namespace l2c {
namespace {

// Few large handles: with thousands of small ones vLLM saw sleep take seconds
// (github.com/vllm-project/vllm/pull/45648).
constexpr std::int64_t kChunkBytes = std::int64_t{1} << 30;

struct Chunk {
  cu::MemoryHandle handle;
  std::int64_t offset;
  std::int64_t bytes;
};

// Addresses are reserved once and freed with the object. Chunks always cover a prefix of the range,
// in order, so what is mapped is the end of the last one; access is set over the whole range when
// the last is in place.
class CudaMemory final : public Memory {
 public:
  CudaMemory(int device, std::int64_t bytes);
  ~CudaMemory() override;

  void take() override;
  void give_back() override;
  void fill(unsigned char byte) override;
  void used_on(std::uintptr_t stream) override;

  std::uintptr_t address() const override { return base_; }
  std::int64_t reserved_bytes() const override { return bytes_; }
  std::int64_t mapped_bytes() const override { return mapped_; }

 private:
  cu::AllocationProperties properties() const;
  void wait_for_work();
  void add_chunk(std::int64_t offset, std::int64_t bytes);
  void allow_access();
  void drop_last_chunk();
  void drop_after(std::size_t kept) noexcept;
  std::string describe_free() const;

  CudaDevice device_;
  const CudaDriver& driver_;
  std::unique_ptr<WorkOnDevice> work_;
  std::int64_t bytes_ = 0;
  std::int64_t chunk_bytes_ = 0;
  cu::DevicePtr base_ = 0;
  std::vector<Chunk> chunks_;
  std::atomic<std::int64_t> mapped_{0};
};

CudaMemory::CudaMemory(int device, std::int64_t bytes)
    : device_(device), driver_(device_.driver()) {
  const CurrentDevice current(device_);
  const BesideCaptures beside(driver_);
  work_ = std::make_unique<WorkOnDevice>(device_);
  const cu::AllocationProperties wanted = properties();
  std::size_t granularity = 0;
  CHECK_CUDA(driver_, cuMemGetAllocationGranularity,
             (&granularity, &wanted, cu::kGranularityRecommended), "device ", device);
  CHECK_STATE(granularity > 0, "device ", device, " reports an allocation granularity of 0");
  bytes_ = round_up(bytes, static_cast<std::int64_t>(granularity), "reservation");
  chunk_bytes_ = round_up(kChunkBytes, static_cast<std::int64_t>(granularity), "chunk");
  chunks_.reserve(static_cast<std::size_t>((bytes_ - 1) / chunk_bytes_ + 1));
  // Last, because what throws in a constructor must leave nothing behind.
  CHECK_CUDA(driver_, cuMemAddressReserve, (&base_, bytes_, 0, 0, 0), bytes_,
             " bytes of addresses on device ", device);
}

// If the wait fails, the memory is left to the end of the process: work in flight would fault.
CudaMemory::~CudaMemory() {
  cu::Context popped = nullptr;
  if (driver_.cuCtxPushCurrent_v2(device_.context()) != cu::kSuccess) return;
  {
    const BesideCaptures beside(driver_);
    if (work_->wait() == cu::kSuccess) {
      drop_after(0);
      driver_.cuMemAddressFree(base_, bytes_);
    }
    work_.reset();
  }
  driver_.cuCtxPopCurrent_v2(&popped);
}

void CudaMemory::take() {
  const CurrentDevice current(device_);
  const BesideCaptures beside(driver_);
  const std::size_t kept = chunks_.size();
  try {
    for (std::int64_t offset = mapped_; offset < bytes_; offset += chunk_bytes_)
      add_chunk(offset, std::min(chunk_bytes_, bytes_ - offset));
    allow_access();
  } catch (...) {
    drop_after(kept);
    throw;
  }
  mapped_ = bytes_;
}

void CudaMemory::give_back() {
  const CurrentDevice current(device_);
  const BesideCaptures beside(driver_);
  wait_for_work();
  while (!chunks_.empty()) drop_last_chunk();
}

// Waited for, before and after, so no stream needs to be ordered with the write.
void CudaMemory::fill(unsigned char byte) {
  const CurrentDevice current(device_);
  const BesideCaptures beside(driver_);
  wait_for_work();
  const auto stream = reinterpret_cast<cu::Stream>(cu::kStreamOfThisThread);
  CHECK_CUDA(driver_, cuMemsetD8Async, (base_, byte, bytes_, stream), bytes_, " bytes on device ",
             device_.index());
  CHECK_CUDA(driver_, cuStreamSynchronize, (stream), "filling memory on device ", device_.index());
}

void CudaMemory::used_on(std::uintptr_t stream) {
  const CurrentDevice current(device_);
  work_->add(reinterpret_cast<cu::Stream>(stream));
}

void CudaMemory::wait_for_work() {
  CHECK_CUDA_RESULT(driver_, cuEventSynchronize, work_->wait(), "waiting for device ",
                    device_.index(), ", where earlier work may have failed");
}

cu::AllocationProperties CudaMemory::properties() const {
  cu::AllocationProperties wanted{};
  wanted.type = cu::kAllocationPinned;
  wanted.location = {cu::kLocationDevice, device_.index()};
  return wanted;
}

void CudaMemory::add_chunk(std::int64_t offset, std::int64_t bytes) {
  const cu::AllocationProperties wanted = properties();
  cu::MemoryHandle handle = 0;
  CHECK_CUDA(driver_, cuMemCreate, (&handle, bytes, &wanted, 0), bytes, " of ", bytes_,
             " bytes on device ", device_.index(), ", ", describe_free(),
             "; use a smaller batch, or give torch's unused memory back: torch.cuda.empty_cache()");
  const cu::Result mapped = driver_.cuMemMap(base_ + offset, bytes, 0, handle, 0);
  if (mapped != cu::kSuccess) driver_.cuMemRelease(handle);
  CHECK_CUDA_RESULT(driver_, cuMemMap, mapped, bytes, " bytes at offset ", offset, " on device ",
                    device_.index());
  chunks_.push_back({handle, offset, bytes});
}

void CudaMemory::allow_access() {
  const cu::AccessDescription access{properties().location, cu::kAccessReadWrite};
  CHECK_CUDA(driver_, cuMemSetAccess, (base_, bytes_, &access, 1), bytes_, " bytes on device ",
             device_.index());
}

void CudaMemory::drop_last_chunk() {
  const Chunk chunk = chunks_.back();
  CHECK_CUDA(driver_, cuMemUnmap, (base_ + chunk.offset, chunk.bytes), chunk.bytes,
             " bytes at offset ", chunk.offset, " on device ", device_.index());
  chunks_.pop_back();
  mapped_ = chunk.offset;
  CHECK_CUDA(driver_, cuMemRelease, (chunk.handle), chunk.bytes, " bytes on device ",
             device_.index());
}

void CudaMemory::drop_after(std::size_t kept) noexcept {
  for (; chunks_.size() > kept; chunks_.pop_back()) {
    driver_.cuMemUnmap(base_ + chunks_.back().offset, chunks_.back().bytes);
    driver_.cuMemRelease(chunks_.back().handle);
  }
}

std::string CudaMemory::describe_free() const {
  std::size_t free_bytes = 0;
  std::size_t total_bytes = 0;
  if (driver_.cuMemGetInfo_v2(&free_bytes, &total_bytes) != cu::kSuccess) return "free unknown";
  return join(free_bytes, " of ", total_bytes, " free");
}

}  // namespace

std::unique_ptr<Memory> reserve_cuda_memory(int device, std::int64_t bytes) {
  return std::make_unique<CudaMemory>(device, bytes);
}

}  // namespace l2c
