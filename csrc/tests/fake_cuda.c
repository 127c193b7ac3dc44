#define _GNU_SOURCE
#include "fake_cuda.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

__thread int depth;
int in_flight;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int retained[GPUS], misuses, fail_nth, fail_code;
static char fail_call[64], calls[1 << 16];

/* What tests ask and tell. */
const char* fake_calls(void) { return calls; }
void fake_forget_calls(void) { calls[0] = 0; }
int fake_depth(void) { return depth; }
int fake_misuses(void) { return misuses; }
int fake_left_over(void) { return memory_left_over() + retained[0] + retained[1]; }
void fake_fail(const char* call, int nth, int code) {
  snprintf(fail_call, sizeof fail_call, "%s", call);
  fail_nth = nth, fail_code = code;
}

int begin_call(const char* call, u64 value) {
  pthread_mutex_lock(&lock);
  const size_t length = strlen(calls);
  snprintf(calls + length, sizeof calls - length, "%s %llx\n", call, (unsigned long long)value);
  if (fail_nth > 0 && strcmp(call, fail_call) == 0 && --fail_nth == 0) return fail_code;
  return OK;
}

int end_call(int result) {
  misuses += result == INVALID_VALUE || result == INVALID_CONTEXT;
  pthread_mutex_unlock(&lock);
  return result;
}

int cuInit(unsigned flags) {
  BEGIN(flags);
  return end_call(OK);
}

int cuGetErrorName(int code, const char** name) {
  *name = code == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_ILLEGAL_ADDRESS";
  return code == OUT_OF_MEMORY || code == 700 ? OK : INVALID_VALUE;
}

int cuGetErrorString(int code, const char** text) {
  *text = "out of memory";
  return code == OUT_OF_MEMORY ? OK : INVALID_VALUE;
}

int cuDeviceGetCount(int* count) {
  BEGIN(0);
  *count = GPUS;
  return end_call(OK);
}

int cuDeviceGet(int* device, int index) {
  BEGIN(index);
  NEED(index >= 0 && index < GPUS, INVALID_VALUE);
  *device = index;
  return end_call(OK);
}

int cuDeviceGetAttribute(int* value, int attribute, int device) {
  BEGIN(device);
  NEED(attribute == 102, INVALID_VALUE);
#ifdef FAKE_NO_VIRTUAL_MEMORY
  *value = 0;
#else
  *value = 1;
#endif
  return end_call(OK);
}

int cuDevicePrimaryCtxRetain(void** context, int device) {
  BEGIN(device);
  ++retained[device], *context = &retained[device];
  return end_call(OK);
}

int cuDevicePrimaryCtxRelease_v2(int device) {
  BEGIN(device);
  NEED(retained[device] > 0, INVALID_CONTEXT);
  --retained[device];
  return end_call(OK);
}

int cuCtxPushCurrent_v2(void* context) {
  BEGIN((int*)context - retained);
  NEED(*(int*)context > 0, INVALID_CONTEXT);
  ++depth;
  return end_call(OK);
}

int cuCtxPopCurrent_v2(void** context) {
  BEGIN(0);
  NEED(depth > 0, INVALID_CONTEXT);
  --depth, *context = NULL;
  return end_call(OK);
}

int cuCtxSynchronize(void) {
  BEGIN(0);
  NEED(depth > 0, INVALID_CONTEXT);
  in_flight = 0;
  end_call(OK);
  usleep(200); /* time for a launch that nothing keeps away */
  return OK;
}

int cuGraphLaunch(void* graph, void* stream) {
  BEGIN(((u64)graph << 16) + (u64)stream);
  NEED(depth > 0, INVALID_CONTEXT);
  in_flight = 1;
  return end_call(OK);
}
