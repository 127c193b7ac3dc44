/* A stand-in for libcublasLt: float32 products in host memory by five algorithms, of which one is
   named twice, one does not fit and one takes too much workspace; calls logged, made to fail on
   request, and what the library's contract forbids counted. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
enum { BIAS = 4, GELU = 32, SPLITS = 2, REDUCTION = 3 };

typedef struct {
  int compute, scale, transpose_a, epilogue;
  const float* bias;
} Description;
typedef struct {
  int type;
  uint64_t rows, columns;
  int64_t ld;
} Layout;
typedef struct {
  uint64_t workspace;
  uint32_t reductions, alignment[4];
} Preference;
/* Number of the algorithm, splits, reduction. */
typedef struct {
  uint64_t data[8];
} Algorithm;
typedef struct {
  Algorithm algorithm;
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
} Heuristic;

static int alive, misuses, handles, fail_nth, fail_code;
static char fail_call[64], calls[1 << 14];
static Preference asked;

const char* fake_calls(void) { return calls; }
int fake_alive(void) { return alive; }
int fake_misuses(void) { return misuses; }
int fake_handles(void) { return handles; }
uint64_t fake_asked_workspace(void) { return asked.workspace; }
uint32_t fake_asked_reductions(void) { return asked.reductions; }
uint32_t fake_asked_alignment(int matrix) { return asked.alignment[matrix]; }
void fake_fail(const char* call, int nth, int code) {
  snprintf(fail_call, sizeof fail_call, "%s", call);
  fail_nth = nth, fail_code = code;
}

static int begin(const char* call, uint64_t value) {
  const size_t length = strlen(calls);
  snprintf(calls + length, sizeof calls - length, "%s %llx\n", call, (unsigned long long)value);
  return fail_nth > 0 && strcmp(call, fail_call) == 0 && --fail_nth == 0 ? fail_code : OK;
}

#define BEGIN(value)                                               \
  do {                                                             \
    const int failed = begin(__func__, (uint64_t)(size_t)(value)); \
    if (failed != OK) return failed;                               \
  } while (0)
#define NEED(condition)                                \
  do {                                                 \
    if (!(condition)) return ++misuses, INVALID_VALUE; \
  } while (0)

size_t cublasLtGetVersion(void) { return 130001; }
const char* cublasLtGetStatusName(int status) {
  return status == NOT_SUPPORTED ? "CUBLAS_STATUS_NOT_SUPPORTED" : "CUBLAS_STATUS_INVALID_VALUE";
}

int cublasLtCreate(void** handle) {
  BEGIN(0);
  *handle = &handles;
  return ++handles, OK;
}

int cublasLtMatmulDescCreate(Description** description, int compute, int scale) {
  BEGIN(compute);
  *description = calloc(1, sizeof **description);
  (*description)->compute = compute, (*description)->scale = scale;
  return ++alive, OK;
}

int cublasLtMatmulDescDestroy(Description* description) {
  free(description);
  return --alive, OK;
}

int cublasLtMatmulDescSetAttribute(Description* description, int attribute, const void* value,
                                   size_t size) {
  BEGIN(attribute);
  NEED(size == (attribute == 8 ? sizeof(void*) : sizeof(int)));
  if (attribute == 3) memcpy(&description->transpose_a, value, size);
  if (attribute == 7) memcpy(&description->epilogue, value, size);
  if (attribute == 8) memcpy(&description->bias, value, size);
  NEED(attribute == 3 || attribute == 7 || attribute == 8);
  return OK;
}

int cublasLtMatrixLayoutCreate(Layout** layout, int type, uint64_t rows, uint64_t columns,
                               int64_t ld) {
  BEGIN(type);
  *layout = calloc(1, sizeof **layout);
  **layout = (Layout){type, rows, columns, ld};
  return ++alive, OK;
}

int cublasLtMatrixLayoutDestroy(Layout* layout) {
  free(layout);
  return --alive, OK;
}

int cublasLtMatmulPreferenceCreate(Preference** preference) {
  BEGIN(0);
  *preference = calloc(1, sizeof **preference);
  return ++alive, OK;
}

int cublasLtMatmulPreferenceDestroy(Preference* preference) {
  free(preference);
  return --alive, OK;
}

int cublasLtMatmulPreferenceSetAttribute(Preference* preference, int attribute, const void* value,
                                         size_t size) {
  BEGIN(attribute);
  NEED(size == (attribute == 1 ? 8 : 4));
  if (attribute == 1) memcpy(&preference->workspace, value, size);
  if (attribute == 3) memcpy(&preference->reductions, value, size);
  if (attribute >= 5 && attribute <= 8) memcpy(&preference->alignment[attribute - 5], value, size);
  return OK;
}

int cublasLtMatmulAlgoGetHeuristic(void* handle, Description* description, Layout* a, Layout* b,
                                   Layout* c, Layout* d, Preference* preference, int most,
                                   Heuristic* results, int* count) {
  BEGIN(most);
  NEED(handle == &handles && description->transpose_a == 1 && c == d);
  NEED(a->rows == b->rows && a->columns == d->rows && b->columns == d->columns);
  asked = *preference;
  static const int numbers[] = {11, 12, 11, 13, 14, 15};
  for (*count = 0; *count < most && *count < 6; ++*count) {
    Heuristic result = {{{(uint64_t)numbers[*count], 1}}, 1024, OK, 1, {0}};
    if (numbers[*count] == 13) result.state = NOT_SUPPORTED;
    if (numbers[*count] == 14) result.workspace = preference->workspace + 1;
    results[*count] = result;
  }
  return OK;
}

/* Twelve cannot be cut; a cut in four does not fit, one in three takes too much workspace. */
int cublasLtMatmulAlgoConfigSetAttribute(Algorithm* algorithm, int attribute, const void* value,
                                         size_t size) {
  BEGIN(attribute);
  NEED(size == 4 && (attribute == SPLITS || attribute == REDUCTION));
  if (algorithm->data[0] == 12) return INVALID_VALUE;
  uint32_t number;
  memcpy(&number, value, size);
  algorithm->data[attribute == SPLITS ? 1 : 2] = number;
  return OK;
}

int cublasLtMatmulAlgoCheck(void* handle, Description* description, Layout* a, Layout* b, Layout* c,
                            Layout* d, const Algorithm* algorithm, Heuristic* result) {
  BEGIN(algorithm->data[0]);
  NEED(handle == &handles && description && a && b && c && d);
  if (algorithm->data[1] == 4) return NOT_SUPPORTED;
  result->workspace = algorithm->data[1] == 3 ? asked.workspace + 1 : 2048;
  return OK;
}

int cublasLtMatmulAlgoConfigGetAttribute(const Algorithm* algorithm, int attribute, void* value,
                                         size_t size, size_t* written) {
  if (size != (attribute >= 7 ? 2 : 4)) return ++misuses, INVALID_VALUE;
  if (attribute == 8) return INVALID_VALUE; /* as of a version without clusters */
  const uint64_t numbers[] = {66, algorithm->data[0], algorithm->data[1], algorithm->data[2]};
  const uint32_t number = attribute < 4 ? (uint32_t)numbers[attribute] : (uint32_t)attribute;
  memcpy(value, &number, size);
  *written = size;
  return OK;
}

static float gelu(float x) {
  return 0.5F * x * (1 + tanhf(0.7978845608F * (x + 0.044715F * x * x * x)));
}

int cublasLtMatmul(void* handle, Description* description, const float* alpha, const float* a,
                   Layout* a_layout, const float* b, Layout* b_layout, const float* beta,
                   const float* c, Layout* c_layout, float* d, Layout* d_layout,
                   const Algorithm* algorithm, void* workspace, size_t size, void* stream) {
  BEGIN((algorithm->data[0] << 16) + (algorithm->data[1] << 8) + (uint64_t)(size_t)stream);
  NEED(handle == &handles && *alpha == 1 && *beta == 0 && c == d && c_layout == d_layout);
  NEED(workspace != NULL && size == asked.workspace);
  for (uint64_t j = 0; j < d_layout->columns; ++j)
    for (uint64_t i = 0; i < d_layout->rows; ++i) {
      float sum = description->epilogue & BIAS ? description->bias[i] : 0;
      for (uint64_t l = 0; l < a_layout->rows; ++l)
        sum += a[l + i * (uint64_t)a_layout->ld] * b[l + j * (uint64_t)b_layout->ld];
      d[i + j * (uint64_t)d_layout->ld] = description->epilogue & GELU ? gelu(sum) : sum;
    }
  return OK;
}
