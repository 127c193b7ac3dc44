// One shape of product by cuBLASLt, and the algorithms that it has for it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "cublas_lt.hpp"

namespace l2c {

// y [rows, columns] = gelu(x [rows, inner] w^T + bias), all contiguous by rows, w [columns, inner].
// `type` and `compute` are cudaDataType and cublasComputeType_t; `gelu` is the tanh form.
struct LtShape {
  int device;
  std::int64_t rows;
  std::int64_t columns;
  std::int64_t inner;
  int type;
  int compute;
  bool bias;
  bool gelu;
  std::size_t workspace;  // bytes that an algorithm may use
};

struct LtOperands {
  const void* x;
  const void* weight;
  const void* bias;  // null where the shape has none
  void* y;
  void* workspace;  // of as many bytes as the shape says, aligned to 256
  lt::Stream stream;
};

class LtProduct {
 public:
  // What tells algorithms of one version of the library apart: its configuration, as far as the
  // library tells it, and a checksum of the rest.
  using Name = std::array<std::int64_t, 10>;

  // The device is the current one. At most `most` heuristics, in the library's order, and after
  // them the first `cut_first` again, with their inner dimension cut where they can.
  LtProduct(const LtShape& shape, int most, int cut_first);
  ~LtProduct();
  LtProduct(const LtProduct&) = delete;
  LtProduct& operator=(const LtProduct&) = delete;

  const std::vector<Name>& names() const { return names_; }
  // Enqueues the product; the device is the current one.
  void run(std::size_t algorithm, const LtOperands& operands);

 private:
  void describe();
  void ask(int most);
  void cut(std::size_t first);
  void add(const lt::Algorithm& algorithm);
  void destroy() noexcept;
  std::string text() const;

  const LtShape shape_;
  const CublasLt& library_;
  const lt::Handle handle_;
  lt::Description description_ = nullptr;
  lt::Layout weight_ = nullptr, x_ = nullptr, y_ = nullptr;
  std::vector<lt::Algorithm> algorithms_;
  std::vector<Name> names_;
  std::mutex mutex_;  // the description holds the bias of one call
};

}  // namespace l2c
