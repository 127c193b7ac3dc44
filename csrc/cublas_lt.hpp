// The part of cuBLASLt that products with a chosen algorithm need, opened at run time.
// Types are written out here, so that no CUDA toolkit is needed; tests/cublas_lt_abi.cpp holds them
// against the real cublasLt.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace l2c {
namespace lt {

using Status = int;
using Handle = struct OpaqueLtHandle*;
using Description = struct OpaqueLtDescription*;
using Layout = struct OpaqueLtLayout*;
using Preference = struct OpaqueLtPreference*;
using Stream = struct OpaqueLtStream*;

constexpr Status kSuccess = 0;
constexpr int kTranspose = 1;
constexpr int kFloat32 = 0;
constexpr int kEpilogueNone = 1;
constexpr int kEpilogueBias = 4;
constexpr int kEpilogueGelu = 32;
constexpr int kDescriptionTransposeA = 3;
constexpr int kDescriptionEpilogue = 7;
constexpr int kDescriptionBias = 8;
constexpr int kPreferenceWorkspace = 1;
constexpr int kPreferenceReductions = 3;
constexpr int kPreferenceAlignmentA = 5;
constexpr int kPreferenceAlignmentD = 8;
constexpr int kConfigSplits = 2;
constexpr int kConfigReduction = 3;
constexpr int kConfigInnerShape = 7;
constexpr int kConfigCluster = 8;
constexpr std::uint32_t kReduceInComputeType = 2;

struct Algorithm {
  std::uint64_t data[8];
};

struct Heuristic {
  Algorithm algorithm;
  std::size_t workspace;
  Status state;
  float waves;
  int reserved[4];
};

}  // namespace lt

// Symbol and parameter types; each returns an lt::Status.
#define L2C_LT_CALLS(X)                                                                       \
  X(cublasLtCreate, lt::Handle*)                                                              \
  X(cublasLtMatmulDescCreate, lt::Description*, int, int)                                     \
  X(cublasLtMatmulDescDestroy, lt::Description)                                               \
  X(cublasLtMatmulDescSetAttribute, lt::Description, int, const void*, std::size_t)           \
  X(cublasLtMatrixLayoutCreate, lt::Layout*, int, std::uint64_t, std::uint64_t, std::int64_t) \
  X(cublasLtMatrixLayoutDestroy, lt::Layout)                                                  \
  X(cublasLtMatmulPreferenceCreate, lt::Preference*)                                          \
  X(cublasLtMatmulPreferenceDestroy, lt::Preference)                                          \
  X(cublasLtMatmulPreferenceSetAttribute, lt::Preference, int, const void*, std::size_t)      \
  X(cublasLtMatmulAlgoGetHeuristic, lt::Handle, lt::Description, lt::Layout, lt::Layout,      \
    lt::Layout, lt::Layout, lt::Preference, int, lt::Heuristic*, int*)                        \
  X(cublasLtMatmulAlgoCheck, lt::Handle, lt::Description, lt::Layout, lt::Layout, lt::Layout, \
    lt::Layout, const lt::Algorithm*, lt::Heuristic*)                                         \
  X(cublasLtMatmulAlgoConfigGetAttribute, const lt::Algorithm*, int, void*, std::size_t,      \
    std::size_t*)                                                                             \
  X(cublasLtMatmulAlgoConfigSetAttribute, lt::Algorithm*, int, const void*, std::size_t)      \
  X(cublasLtMatmul, lt::Handle, lt::Description, const void*, const void*, lt::Layout,        \
    const void*, lt::Layout, const void*, const void*, lt::Layout, void*, lt::Layout,         \
    const lt::Algorithm*, void*, std::size_t, lt::Stream)

struct CublasLt {
#define L2C_MEMBER(name, ...) lt::Status (*name)(__VA_ARGS__);
  L2C_LT_CALLS(L2C_MEMBER)
#undef L2C_MEMBER
  const char* (*cublasLtGetStatusName)(lt::Status);
  std::size_t (*cublasLtGetVersion)();

  // The handle of a device, which is the current one; made at the first call, kept for good.
  lt::Handle handle(int device) const;
};

// The library that the process has loaded already, as PyTorch's, or the one that the loader finds.
// Throws, with the remedy, where there is none or it is too old.
const CublasLt& cublas_lt();

}  // namespace l2c

// Throws RuntimeError with the status; the rest is what was being done.
#define CHECK_LT(library, name, arguments, ...)                                                  \
  do {                                                                                           \
    const ::l2c::lt::Status code = (library).name arguments;                                     \
    CHECK_STATE(code == ::l2c::lt::kSuccess, #name, ": ", (library).cublasLtGetStatusName(code), \
                ", ", __VA_ARGS__);                                                              \
  } while (false)
