#include "core/thread_pool.h"

#include "core/cores.h"
#include "core/error.h"

#include <cerrno>
#include <new>
#include <pthread.h>
#include <sched.h>
#include <system_error>

namespace scalebits {
namespace {

/// About 30 to 60 microseconds: longer than what lies between two products, shorter than anyone notices.
constexpr int kSpins = 2000;

template <typename Condition>
bool spin_until(const Condition& condition) {
  for (int i = 0; i < kSpins; ++i) {
    if (condition()) return true;
    __builtin_ia32_pause();
  }
  return condition();
}

/// How many forks lie between the first process and this one, of those after the first call. Each run asks, which
/// getpid() would slow.
int count_forks() {
  static int forks = 0;
  static const int failed = ::pthread_atfork(nullptr, nullptr, [] { ++forks; });
  if (failed != 0) throw std::bad_alloc();
  return forks;
}

}  // namespace

ThreadPool::ThreadPool(int threads) : made_at_(count_forks()) {
  if (threads < 0 || threads > 1024) fail(ErrorKind::usage, "number of threads must be 1 to 1024, found {}", threads);
  const std::vector<int> allowed = allowed_cores();
  if (threads == 0) threads = available_cores();
  // With fewer threads, or where a quota gives less than the cores there are, others run on some of them, and the
  // scheduler knows better where.
  const bool pin = static_cast<std::size_t>(threads) == allowed.size() &&
                   static_cast<std::size_t>(available_cores()) == allowed.size();
  for (int thread = 1; thread < threads; ++thread) {
    try {
      workers_.emplace_back([this, thread] { work(thread); });
    } catch (const std::system_error& error) {
      stop();
      if (error.code().value() != EAGAIN) throw;
      fail(ErrorKind::unsupported_hardware, "the system gives {} of {} threads, no more: {}", thread, threads,
           error.code().message());
    } catch (...) {
      stop();
      throw;
    }
    if (!pin) continue;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(allowed[static_cast<std::size_t>(thread)], &set);
    pthread_setaffinity_np(workers_.back().native_handle(), sizeof set, &set);  // only speed depends on it
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
  stop_ = true;
  round_.fetch_add(1);
  round_.notify_all();
  for (std::thread& worker : workers_) made_at_ == count_forks() ? worker.join() : worker.detach();
}

void ThreadPool::call_guarded(int thread) {
  try {
    call_.function(call_.object, thread);
  } catch (...) {
    const std::lock_guard lock(error_mutex_);
    if (!error_) error_ = std::current_exception();
  }
}

void ThreadPool::start(Call call) {
  if (made_at_ != count_forks() && !workers_.empty())
    fail(ErrorKind::usage, "a forked process has none of the threads made before: open the model after fork()");
  call_ = call;
  running_.store(static_cast<std::uint32_t>(workers_.size()), std::memory_order_relaxed);
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  call_guarded(0);
  const auto done = [&] { return running_.load(std::memory_order_acquire) == 0; };
  while (!spin_until(done)) std::this_thread::yield();
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void ThreadPool::meet() {
  const std::uint32_t before = meetings_.load(std::memory_order_acquire);
  if (met_.fetch_add(1, std::memory_order_acq_rel) + 1 == static_cast<std::uint32_t>(size())) {
    met_.store(0, std::memory_order_relaxed);
    meetings_.store(before + 1, std::memory_order_release);
    return;
  }
  while (!spin_until([&] { return meetings_.load(std::memory_order_acquire) != before; })) std::this_thread::yield();
}

void ThreadPool::work(int thread) {
  for (std::uint32_t seen = 0;;) {
    while (!spin_until([&] { return round_.load(std::memory_order_acquire) != seen; })) round_.wait(seen);
    ++seen;
    if (stop_) return;
    call_guarded(thread);
    running_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace scalebits
