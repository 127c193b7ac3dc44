#include "lt_product.hpp"

#include <algorithm>
#include <cstring>

#include "check.hpp"

namespace l2c {
namespace {

constexpr std::uint32_t kAlignment = 16;
constexpr std::size_t kWorkspaceAlignment = 256;
constexpr std::int32_t kMostSplits = 4;

bool equal(const lt::Algorithm& a, const lt::Algorithm& b) {
  return std::memcmp(&a, &b, sizeof a) == 0;
}

// FNV-1a, folded to 32 bits.
std::int64_t checksum(const lt::Algorithm& algorithm) {
  std::uint64_t hash = 14695981039346656037ull;
  for (const std::uint64_t word : algorithm.data)
    for (int shift = 0; shift < 64; shift += 8) {
      hash ^= (word >> shift) & 0xff;
      hash *= 1099511628211ull;
    }
  return static_cast<std::int64_t>((hash ^ (hash >> 32)) & 0xffffffffull);
}

LtProduct::Name name_of(const CublasLt& library, const lt::Algorithm& algorithm) {
  LtProduct::Name name{};
  for (int attribute = 0; attribute <= lt::kConfigCluster; ++attribute) {
    // The last two have two bytes, the others four.
    const std::size_t size = attribute >= lt::kConfigInnerShape ? 2 : 4;
    std::uint32_t value = 0;
    std::size_t written = 0;
    // A version may lack one; then it is the same for all.
    if (library.cublasLtMatmulAlgoConfigGetAttribute(&algorithm, attribute, &value, size,
                                                     &written) == lt::kSuccess)
      name[static_cast<std::size_t>(attribute)] = value;
  }
  name.back() = checksum(algorithm);
  return name;
}

bool aligned(const void* address, std::size_t alignment) {
  return reinterpret_cast<std::uintptr_t>(address) % alignment == 0;
}

class OwnedPreference {
 public:
  explicit OwnedPreference(const CublasLt& library) : library_(library) {
    CHECK_LT(library, cublasLtMatmulPreferenceCreate, (&value), "for a product's algorithms");
  }
  ~OwnedPreference() { library_.cublasLtMatmulPreferenceDestroy(value); }
  OwnedPreference(const OwnedPreference&) = delete;
  OwnedPreference& operator=(const OwnedPreference&) = delete;

  template <typename Value>
  void set(int attribute, Value wanted) {
    CHECK_LT(library_, cublasLtMatmulPreferenceSetAttribute,
             (value, attribute, &wanted, sizeof wanted), "attribute ", attribute);
  }

  lt::Preference value = nullptr;

 private:
  const CublasLt& library_;
};

}  // namespace

LtProduct::LtProduct(const LtShape& shape, int most, int cut_first)
    : shape_(shape), library_(cublas_lt()), handle_(library_.handle(shape.device)) {
  CHECK_ARGUMENT(
      shape.rows > 0 && shape.columns > 0 && shape.inner > 0 && most > 0 && cut_first >= 0, text(),
      ", ", most, " algorithms, ", cut_first, " of them cut");
  try {
    describe();
    ask(most);
    cut(std::min(algorithms_.size(), static_cast<std::size_t>(cut_first)));
  } catch (...) {
    destroy();
    throw;
  }
}

LtProduct::~LtProduct() { destroy(); }

void LtProduct::destroy() noexcept {
  for (const lt::Layout layout : {weight_, x_, y_})
    if (layout != nullptr) library_.cublasLtMatrixLayoutDestroy(layout);
  if (description_ != nullptr) library_.cublasLtMatmulDescDestroy(description_);
}

std::string LtProduct::text() const {
  return join("[", shape_.rows, ", ", shape_.columns, ", ", shape_.inner, "] of type ", shape_.type,
              " on device ", shape_.device);
}

// The library's matrices lie by columns: y^T = w x^T, where w lies transposed.
void LtProduct::describe() {
  const auto set = [this](int attribute, int value) {
    CHECK_LT(library_, cublasLtMatmulDescSetAttribute,
             (description_, attribute, &value, sizeof value), "attribute ", attribute, ", ",
             text());
  };
  const auto lay = [this](lt::Layout& layout, std::int64_t rows, std::int64_t columns) {
    CHECK_LT(library_, cublasLtMatrixLayoutCreate,
             (&layout, shape_.type, static_cast<std::uint64_t>(rows),
              static_cast<std::uint64_t>(columns), rows),
             text());
  };
  CHECK_LT(library_, cublasLtMatmulDescCreate, (&description_, shape_.compute, lt::kFloat32),
           text());
  set(lt::kDescriptionTransposeA, lt::kTranspose);
  const int epilogue =
      (shape_.bias ? lt::kEpilogueBias : 0) | (shape_.gelu ? lt::kEpilogueGelu : 0);
  set(lt::kDescriptionEpilogue, epilogue == 0 ? lt::kEpilogueNone : epilogue);
  lay(weight_, shape_.inner, shape_.columns);
  lay(x_, shape_.inner, shape_.rows);
  lay(y_, shape_.columns, shape_.rows);
}

void LtProduct::ask(int most) {
  OwnedPreference preference(library_);
  preference.set(lt::kPreferenceWorkspace, shape_.workspace);
  // Parts of a sum stay in float32 until the end.
  preference.set(lt::kPreferenceReductions, lt::kReduceInComputeType);
  for (int matrix = lt::kPreferenceAlignmentA; matrix <= lt::kPreferenceAlignmentD; ++matrix)
    preference.set(matrix, kAlignment);
  std::vector<lt::Heuristic> heuristics(static_cast<std::size_t>(most));
  int count = 0;
  CHECK_LT(library_, cublasLtMatmulAlgoGetHeuristic,
           (handle_, description_, weight_, x_, y_, y_, preference.value, most, heuristics.data(),
            &count),
           text());
  heuristics.resize(static_cast<std::size_t>(std::clamp(count, 0, most)));
  for (const lt::Heuristic& heuristic : heuristics)
    if (heuristic.state == lt::kSuccess && heuristic.workspace <= shape_.workspace)
      add(heuristic.algorithm);
}

// The heuristics seldom cut the inner dimension, which pays where a grid leaves a GPU idle.
void LtProduct::cut(std::size_t first) {
  for (std::size_t index = 0; index < first; ++index)
    for (std::int32_t splits = 2; splits <= kMostSplits; ++splits) {
      lt::Algorithm algorithm = algorithms_[index];
      const std::uint32_t reduction = lt::kReduceInComputeType;
      lt::Heuristic result{};
      // An algorithm without such cuts says so at one of these.
      if (library_.cublasLtMatmulAlgoConfigSetAttribute(&algorithm, lt::kConfigSplits, &splits,
                                                        sizeof splits) == lt::kSuccess &&
          library_.cublasLtMatmulAlgoConfigSetAttribute(
              &algorithm, lt::kConfigReduction, &reduction, sizeof reduction) == lt::kSuccess &&
          library_.cublasLtMatmulAlgoCheck(handle_, description_, weight_, x_, y_, y_, &algorithm,
                                           &result) == lt::kSuccess &&
          result.workspace <= shape_.workspace)
        add(algorithm);
    }
}

void LtProduct::add(const lt::Algorithm& algorithm) {
  for (const lt::Algorithm& known : algorithms_)
    if (equal(known, algorithm)) return;
  algorithms_.push_back(algorithm);
  names_.push_back(name_of(library_, algorithm));
}

void LtProduct::run(std::size_t algorithm, const LtOperands& operands) {
  CHECK_ARGUMENT(algorithm < algorithms_.size(), "algorithm ", algorithm, " of ",
                 algorithms_.size(), ", ", text());
  CHECK_ARGUMENT((operands.bias != nullptr) == shape_.bias, "bias, ", text());
  CHECK_ARGUMENT(aligned(operands.x, kAlignment) && aligned(operands.weight, kAlignment) &&
                     aligned(operands.y, kAlignment) && aligned(operands.bias, kAlignment) &&
                     aligned(operands.workspace, kWorkspaceAlignment),
                 "an address that is no multiple of ", kAlignment, ", or a workspace of ",
                 kWorkspaceAlignment, ", ", text());
  const float one = 1.0F, zero = 0.0F;
  const std::lock_guard<std::mutex> lock(mutex_);
  if (shape_.bias)
    CHECK_LT(library_, cublasLtMatmulDescSetAttribute,
             (description_, lt::kDescriptionBias, &operands.bias, sizeof operands.bias), text());
  CHECK_LT(library_, cublasLtMatmul,
           (handle_, description_, &one, operands.weight, weight_, operands.x, x_, &zero,
            operands.y, y_, operands.y, y_, &algorithms_[algorithm], operands.workspace,
            shape_.workspace, operands.stream),
           text());
}

}  // namespace l2c
