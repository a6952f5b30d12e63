#include "core/parallel.h"

#include "core/cores.h"
#include "core/error.h"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <thread>
#include <unistd.h>

namespace scalebits {
namespace {

int& wanted_threads() {
  static int threads = available_cores();
  return threads;
}

}  // namespace

void set_thread_count(int threads) {
  if (threads < 1 || threads > 4096) fail(ErrorKind::usage, "number of threads must be 1 to 4096, found {}", threads);
  wanted_threads() = threads;
}

int thread_count() { return wanted_threads(); }

void limit_spinning(char** argv) {
  if (std::getenv("GOMP_SPINCOUNT") != nullptr || std::getenv("OMP_WAIT_POLICY") != nullptr) return;
  ::setenv("GOMP_SPINCOUNT", "20000", 1);
  ::execv("/proc/self/exe", argv);  // returns only when it fails, and then all is as it was
}

void parallel_for(std::int64_t count, const std::function<void(std::int64_t)>& body) {
  if (count <= 1 || thread_count() == 1 || omp_in_parallel()) {
    for (std::int64_t i = 0; i < count; ++i) body(i);
    return;
  }
  std::atomic<bool> failed = false;
  std::mutex error_mutex;
  std::exception_ptr error;
  // Always the whole team: OpenMP ends the threads that a smaller one leaves over.
#pragma omp parallel for num_threads(thread_count()) schedule(dynamic, 1)
  for (std::int64_t i = 0; i < count; ++i) {
    if (failed) continue;
    try {
      body(i);
    } catch (...) {
      std::lock_guard lock(error_mutex);
      if (!error) error = std::current_exception();
      failed = true;
    }
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace scalebits
