#define _GNU_SOURCE
#include "fake_cuda.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

__thread int depth;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int events, retained[GPUS], misuses, fail_nth, fail_code;
static char fail_call[64], calls[1 << 16];

/* What tests ask and tell. */
const char* fake_calls(void) { return calls; }
void fake_forget_calls(void) { calls[0] = 0; }
int fake_depth(void) { return depth; }
int fake_misuses(void) { return misuses; }
int fake_left_over(void) { return memory_left_over() + events + retained[0] + retained[1]; }
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

/* An event holds how much had been launched when it was recorded: every stream waits for what the
   event stood for before, as the library must see to. */
typedef struct {
  long recorded;
} Event;
static long launched, waited_for;
static int capturing;
static __thread int relaxed;

int in_flight(void) { return launched > waited_for; }
void fake_capture(int captures) { capturing = captures; }
void fake_event(Event** event) {
  static Event callers;
  *event = &callers;
}

int cuGraphUpload(void* graph, void* stream) {
  BEGIN(((u64)graph << 16) + (u64)stream);
  NEED(depth > 0 && relaxed, INVALID_CONTEXT);
  return end_call(OK);
}

int cuGraphLaunch(void* graph, void* stream) {
  BEGIN(((u64)graph << 16) + (u64)stream);
  NEED(depth > 0, INVALID_CONTEXT);
  ++launched;
  return end_call(OK);
}

int cuEventCreate(Event** event, unsigned flags) {
  BEGIN(flags);
  NEED(depth > 0 && flags == 2, INVALID_CONTEXT);
  *event = calloc(1, sizeof **event), ++events;
  return end_call(OK);
}

int cuEventDestroy_v2(Event* event) {
  BEGIN(0);
  free(event), --events;
  return end_call(OK);
}

int cuEventRecord(Event* event, void* stream) {
  BEGIN(stream);
  NEED(depth > 0 && !capturing, INVALID_CONTEXT);
  event->recorded = launched;
  return end_call(OK);
}

int cuEventSynchronize(Event* event) {
  BEGIN(0);
  NEED(depth > 0 && relaxed, INVALID_CONTEXT);
  if (event->recorded > waited_for) waited_for = event->recorded;
  end_call(OK);
  usleep(200); /* time for a launch that nothing keeps away */
  return OK;
}

int cuStreamWaitEvent(void* stream, Event* event, unsigned flags) {
  BEGIN(stream);
  NEED(event != NULL && flags == 0, INVALID_VALUE);
  return end_call(OK);
}

int cuStreamSynchronize(void* stream) {
  BEGIN(stream);
  return end_call(OK);
}

int cuStreamIsCapturing(void* stream, int* status) {
  BEGIN(stream);
  *status = capturing;
  return end_call(OK);
}

int cuThreadExchangeStreamCaptureMode(int* mode) {
  BEGIN(*mode);
  NEED(*mode == 2 || *mode == 0, INVALID_VALUE);
  const int before = relaxed ? 2 : 0;
  relaxed = *mode == 2, *mode = before;
  return end_call(OK);
}
