#include "team.hpp"

#include <dlfcn.h>

#include <algorithm>

namespace l2c {
namespace {

// GNU OpenMP's stable entry points, of the library that is loaded already. A second one, linked
// here, would have a second set of threads, which would fight with the first for the cores.
using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
using ThreadNumber = int (*)();

struct OpenMp {
  Parallel parallel = nullptr;
  ThreadNumber number = nullptr;
  ThreadNumber count = nullptr;
};

template <typename Function>
Function loaded(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, name));
}

OpenMp find_openmp() {
  const OpenMp found{loaded<Parallel>("GOMP_parallel"), loaded<ThreadNumber>("omp_get_thread_num"),
                     loaded<ThreadNumber>("omp_get_num_threads")};
  const bool whole = found.parallel != nullptr && found.number != nullptr && found.count != nullptr;
  return whole ? found : OpenMp{};
}

struct Job {
  const OpenMp* openmp;
  std::int64_t count;
  const std::function<void(std::int64_t, std::int64_t)>* part;
};

void run_share(void* data) {
  const Job& job = *static_cast<const Job*>(data);
  const std::int64_t threads = job.openmp->count(), number = job.openmp->number();
  const std::int64_t begin = job.count * number / threads;
  const std::int64_t end = job.count * (number + 1) / threads;
  if (begin < end) (*job.part)(begin, end);
}

}  // namespace

void in_parts(std::int64_t count, std::int64_t grain, int threads,
              const std::function<void(std::int64_t, std::int64_t)>& part) {
  // Looked up at the first use: torch, which brings the library, may be imported after us.
  static const OpenMp openmp = find_openmp();
  const std::int64_t shares =
      std::min<std::int64_t>(threads, count / std::max<std::int64_t>(grain, 1));
  if (shares <= 1 || openmp.parallel == nullptr) {
    if (count > 0) part(0, count);
    return;
  }
  Job job{&openmp, count, &part};
  openmp.parallel(run_share, &job, static_cast<unsigned>(shares), 0);
}

}  // namespace l2c
