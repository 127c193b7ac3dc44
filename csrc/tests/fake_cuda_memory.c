#define _GNU_SOURCE
#include <string.h>
#include <sys/mman.h>

#include "fake_cuda.h"

#define MOST 64
#define FLAGS (MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)

typedef struct {
  u64 address, size, handle;
  int device; /* that may access it, or -1 */
} Range;
typedef struct {
  u64 size;
  int device;
} Physical;

static Range reserved[MOST], mapped[MOST];
static Physical physical[MOST]; /* handle h is physical[h - 1] */
static u64 free_bytes = (u64)1 << 40;

void fake_set_free(u64 bytes) { free_bytes = bytes; }

int memory_left_over(void) {
  int count = 0;
  for (int i = 0; i < MOST; ++i)
    count += !!reserved[i].size + !!mapped[i].size + !!physical[i].size;
  return count;
}

static Range* find(Range* ranges, u64 address, u64 size) {
  for (int i = 0; i < MOST; ++i)
    if (ranges[i].size && ranges[i].address == address && ranges[i].size == size) return &ranges[i];
  return NULL;
}

static Range* unused(Range* ranges) {
  for (int i = 0; i < MOST; ++i)
    if (!ranges[i].size) return &ranges[i];
  return NULL;
}

static Physical* behind(u64 handle) {
  return handle && handle <= MOST && physical[handle - 1].size ? &physical[handle - 1] : NULL;
}

static int inside(const Range* range, u64 address, u64 size) {
  return range->size && range->address >= address && range->address + range->size <= address + size;
}

static u64 mapped_in(u64 address, u64 size, int accessible) {
  u64 total = 0;
  for (int i = 0; i < MOST; ++i)
    if (inside(&mapped[i], address, size) && (!accessible || mapped[i].device >= 0))
      total += mapped[i].size;
  return total;
}

static int is_pinned_device(const Properties* wanted) {
  static const unsigned char none[8];
  return wanted->type == 1 && wanted->location.type == 1 && wanted->location.id >= 0 &&
         wanted->location.id < GPUS && !wanted->handle_types && !wanted->meta &&
         !memcmp(wanted->flags, none, sizeof none);
}

int cuMemGetInfo_v2(size_t* left, size_t* total) {
  BEGIN(0);
  NEED(depth > 0, INVALID_CONTEXT);
  *left = free_bytes, *total = (u64)1 << 40;
  return end_call(OK);
}

int cuMemGetAllocationGranularity(size_t* size, const Properties* wanted, int option) {
  BEGIN(option);
  NEED(is_pinned_device(wanted), INVALID_VALUE);
  *size = GRANULARITY;
  return end_call(OK);
}

int cuMemAddressReserve(u64* address, size_t size, size_t alignment, u64 hint, u64 flags) {
  BEGIN(size);
  NEED(size && size % GRANULARITY == 0 && !alignment && !hint && !flags, INVALID_VALUE);
  void* range = mmap(NULL, size, PROT_NONE, FLAGS, -1, 0);
  NEED(range != MAP_FAILED, OUT_OF_MEMORY);
  *address = (u64)range;
  *unused(reserved) = (Range){*address, size, 0, -1};
  return end_call(OK);
}

int cuMemAddressFree(u64 address, size_t size) {
  BEGIN(size);
  Range* range = find(reserved, address, size);
  NEED(range && !mapped_in(address, size, 0), INVALID_VALUE);
  munmap((void*)address, size);
  range->size = 0;
  return end_call(OK);
}

#ifndef FAKE_OLD_DRIVER
int cuMemCreate(u64* handle, size_t size, const Properties* wanted, u64 flags) {
  BEGIN(size);
  NEED(size && size % GRANULARITY == 0 && !flags && is_pinned_device(wanted), INVALID_VALUE);
  NEED(size <= free_bytes, OUT_OF_MEMORY);
  u64 index = 0;
  while (index < MOST && physical[index].size) ++index;
  NEED(index < MOST, OUT_OF_MEMORY);
  physical[index] = (Physical){size, wanted->location.id};
  free_bytes -= size;
  *handle = index + 1;
  return end_call(OK);
}
#endif

int cuMemRelease(u64 handle) {
  BEGIN(handle);
  NEED(behind(handle), INVALID_VALUE);
  for (int i = 0; i < MOST; ++i) NEED(!mapped[i].size || mapped[i].handle != handle, INVALID_VALUE);
  free_bytes += behind(handle)->size;
  behind(handle)->size = 0;
  return end_call(OK);
}

int cuMemMap(u64 address, size_t size, size_t offset, u64 handle, u64 flags) {
  BEGIN(size);
  NEED(behind(handle) && behind(handle)->size == size && !offset && !flags, INVALID_VALUE);
  NEED(!mapped_in(address, size, 0), INVALID_VALUE);
  int owned = 0;
  for (int i = 0; i < MOST; ++i)
    owned |=
        reserved[i].address <= address && address + size <= reserved[i].address + reserved[i].size;
  NEED(owned, INVALID_VALUE);
  *unused(mapped) = (Range){address, size, handle, -1};
  return end_call(OK);
}

int cuMemSetAccess(u64 address, size_t size, const Access* access, size_t count) {
  BEGIN(size);
  NEED(count == 1 && access->location.type == 1 && access->flags == 3, INVALID_VALUE);
  NEED(mapped_in(address, size, 0) == size, INVALID_VALUE);
  for (int i = 0; i < MOST; ++i) {
    if (!inside(&mapped[i], address, size)) continue;
    NEED(behind(mapped[i].handle)->device == access->location.id, INVALID_VALUE);
    mapped[i].device = access->location.id;
  }
  mprotect((void*)address, size, PROT_READ | PROT_WRITE);
  return end_call(OK);
}

int cuMemUnmap(u64 address, size_t size) {
  BEGIN(size);
  Range* range = find(mapped, address, size);
  NEED(range && !in_flight(), INVALID_VALUE);
  mmap((void*)address, size, PROT_NONE, FLAGS | MAP_FIXED, -1, 0);
  range->size = 0;
  return end_call(OK);
}

int cuMemsetD8Async(u64 address, unsigned char byte, size_t size, u64 stream) {
  BEGIN(size);
  NEED(depth > 0 && stream == 2, INVALID_CONTEXT);
  NEED(mapped_in(address, size, 1) == size && !in_flight(), INVALID_VALUE);
  memset((void*)address, byte, size);
  return end_call(OK);
}
