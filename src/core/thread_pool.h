// Threads of the running half: a few, on all cores pinned to one each, that run one function together and wait for the
// next by spinning shortly, then asleep. Decoding a token takes some hundred such runs of tens of microseconds each,
// too short for OpenMP's loops. The quantizing half uses core/parallel.h, which shares libtorch's threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace scalebits {

class ThreadPool {
 public:
  /// The caller is thread 0. `threads` 0: one for each core this process may use. Each worker stays on a core of its
  /// own if there are as many threads as cores and the process may use all of their time. Throws Error(usage) unless
  /// 0 <= threads <= 1024, Error(unsupported_hardware) when the system gives fewer.
  explicit ThreadPool(int threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  /// Calls body(thread) for each thread in [0, size()) at once and returns when all are done; rethrows the first
  /// exception. Not reentrant, and only from the thread that made the pool or one at a time. Throws Error(usage) in a
  /// forked process, where the threads are not.
  template <typename Body>
  void run(Body&& body) {
    using Stored = std::remove_reference_t<Body>;
    start({[](void* object, int thread) { (*static_cast<Stored*>(object))(thread); },
           const_cast<std::remove_const_t<Stored>*>(&body)});
  }

  /// Inside a run's body, which every thread then calls equally often and none leaves by an exception before: returns
  /// when all threads have called it, and what they wrote before is seen after.
  void meet();

  /// Calls body(i) for i in [0, count), handed out one by one.
  template <typename Body>
  void for_each(std::int64_t count, Body&& body) {
    if (count == 1 || size() == 1) {
      for (std::int64_t i = 0; i < count; ++i) body(i);
      return;
    }
    std::atomic<std::int64_t> next = 0;
    run([&](int) {
      for (std::int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) body(i);
    });
  }

 private:
  struct Call {
    void (*function)(void*, int) = nullptr;
    void* object = nullptr;
  };
  void start(Call call);
  void work(int thread);
  void call_guarded(int thread);
  void stop();

  const int made_at_;  // number of forks
  std::vector<std::thread> workers_;
  Call call_;
  alignas(64) std::atomic<std::uint32_t> round_ = 0;    // grows with each run; workers wait for it
  alignas(64) std::atomic<std::uint32_t> running_ = 0;  // workers still in this round
  alignas(64) std::atomic<std::uint32_t> met_ = 0;      // threads at the present meeting
  std::atomic<std::uint32_t> meetings_ = 0;             // that ended
  std::atomic<bool> stop_ = false;
  std::mutex error_mutex_;
  std::exception_ptr error_;
};

}  // namespace scalebits
