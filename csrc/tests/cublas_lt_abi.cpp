// Holds the types of cublas_lt.hpp against a real cublasLt.h. Compiled, never run.
#include <cublasLt.h>

#include <cstddef>

#include "cublas_lt.hpp"
#include "same_call.hpp"

namespace l2c {
namespace {

#define L2C_SAME_CALL(name, ...) \
  static_assert(SameCall<decltype(CublasLt::name), decltype(&::name)>::value, #name);
L2C_LT_CALLS(L2C_SAME_CALL)
L2C_SAME_CALL(cublasLtGetStatusName)
L2C_SAME_CALL(cublasLtGetVersion)

static_assert(sizeof(lt::Status) == sizeof(cublasStatus_t));
static_assert(sizeof(lt::Algorithm) == sizeof(cublasLtMatmulAlgo_t));
using Theirs = cublasLtMatmulHeuristicResult_t;
static_assert(sizeof(lt::Heuristic) == sizeof(Theirs));
static_assert(offsetof(lt::Heuristic, algorithm) == offsetof(Theirs, algo));
static_assert(offsetof(lt::Heuristic, workspace) == offsetof(Theirs, workspaceSize));
static_assert(offsetof(lt::Heuristic, state) == offsetof(Theirs, state));
static_assert(offsetof(lt::Heuristic, waves) == offsetof(Theirs, wavesCount));

static_assert(lt::kSuccess == CUBLAS_STATUS_SUCCESS);
static_assert(lt::kTranspose == CUBLAS_OP_T);
static_assert(lt::kFloat32 == CUDA_R_32F);
static_assert(lt::kEpilogueNone == CUBLASLT_EPILOGUE_DEFAULT);
static_assert(lt::kEpilogueBias == CUBLASLT_EPILOGUE_BIAS);
static_assert(lt::kEpilogueGelu == CUBLASLT_EPILOGUE_GELU);
static_assert((lt::kEpilogueBias | lt::kEpilogueGelu) == CUBLASLT_EPILOGUE_GELU_BIAS);
static_assert(lt::kDescriptionTransposeA == CUBLASLT_MATMUL_DESC_TRANSA);
static_assert(lt::kDescriptionEpilogue == CUBLASLT_MATMUL_DESC_EPILOGUE);
static_assert(lt::kDescriptionBias == CUBLASLT_MATMUL_DESC_BIAS_POINTER);
static_assert(lt::kPreferenceWorkspace == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
static_assert(lt::kPreferenceReductions == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK);
static_assert(lt::kPreferenceAlignmentA == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
static_assert(lt::kPreferenceAlignmentA + 1 == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES);
static_assert(lt::kPreferenceAlignmentA + 2 == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES);
static_assert(lt::kPreferenceAlignmentD == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);
static_assert(lt::kConfigSplits == CUBLASLT_ALGO_CONFIG_SPLITK_NUM);
static_assert(lt::kConfigReduction == CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME);
static_assert(lt::kConfigInnerShape == CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID);
static_assert(lt::kConfigCluster == CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID);
static_assert(lt::kReduceInComputeType == CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);

// What Python passes on.
static_assert(CUDA_R_32F == 0 && CUDA_R_16F == 2 && CUDA_R_16BF == 14);
static_assert(CUBLAS_COMPUTE_32F == 68 && CUBLAS_COMPUTE_32F_FAST_TF32 == 77);

}  // namespace
}  // namespace l2c
