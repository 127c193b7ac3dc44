/* A stand-in for libcuda.so.1: the calls l2c_rt makes, over host memory, checked more strictly than
   a driver would, logged, and made to fail on request. Two "GPUs", granularity 64 KiB. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define GRANULARITY 65536u
#define GPUS 2
enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_CONTEXT = 201 };

typedef uint64_t u64;
typedef struct {
  int type, id;
} Location;
typedef struct {
  int type, handle_types;
  Location location;
  void* meta;
  unsigned char flags[8];
} Properties;
typedef struct {
  Location location;
  int flags;
} Access;

/* Logs a call and takes the lock; the code it shall fail with, or OK. */
int begin_call(const char* call, u64 value);
/* Gives the lock back, and counts a misuse of the API. */
int end_call(int result);
int memory_left_over(void);

extern __thread int depth; /* of this thread's stack of contexts */
int in_flight(void);       /* work was launched and not waited for */

#define BEGIN(value)                                       \
  do {                                                     \
    const int failed = begin_call(__func__, (u64)(value)); \
    if (failed != OK) return end_call(failed);             \
  } while (0)
#define NEED(condition, code)                \
  do {                                       \
    if (!(condition)) return end_call(code); \
  } while (0)
