#include "core/parallel.h"

#include "core/error.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace scalebits {
namespace {

thread_local bool inside_parallel_for = false;

struct Job {
  const std::function<void(std::int64_t)>* body;
  std::int64_t count;
  std::atomic<std::int64_t> next{0};
  std::mutex error_mutex;
  std::exception_ptr error;

  void run() {
    inside_parallel_for = true;
    for (std::int64_t i; (i = next.fetch_add(1)) < count;) {
      try {
        (*body)(i);
      } catch (...) {
        std::lock_guard lock(error_mutex);
        if (!error) error = std::current_exception();
        next = count;
      }
    }
    inside_parallel_for = false;
  }
};

class Pool {
 public:
  explicit Pool(int threads) {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { serve(); });
  }
  ~Pool() {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }
  void run(Job& job) {
    std::lock_guard one_job_at_a_time(run_mutex_);
    {
      std::lock_guard lock(mutex_);
      job_ = &job;
      ++generation_;
      busy_ = static_cast<int>(workers_.size());
    }
    wake_.notify_all();
    job.run();
    std::unique_lock lock(mutex_);
    done_.wait(lock, [&] { return busy_ == 0; });
    job_ = nullptr;
  }

 private:
  void serve() {
    std::uint64_t seen = 0;
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [&] { return stopping_ || generation_ != seen; });
      if (stopping_) return;
      seen = generation_;
      Job* job = job_;
      lock.unlock();
      job->run();
      lock.lock();
      if (--busy_ == 0) done_.notify_one();
    }
  }
  std::vector<std::thread> workers_;
  std::mutex run_mutex_, mutex_;
  std::condition_variable wake_, done_;
  Job* job_ = nullptr;
  std::uint64_t generation_ = 0;
  int busy_ = 0;
  bool stopping_ = false;
};

int& wanted_threads() {
  static int threads = std::max(1u, std::thread::hardware_concurrency());
  return threads;
}

}  // namespace

void set_thread_count(int threads) {
  if (threads < 1 || threads > 4096) fail(ErrorKind::usage, "number of threads must be 1 to 4096, found {}", threads);
  wanted_threads() = threads;
}

int thread_count() { return wanted_threads(); }

void parallel_for(std::int64_t count, const std::function<void(std::int64_t)>& body) {
  if (count <= 0) return;
  if (count == 1 || thread_count() == 1 || inside_parallel_for) {
    for (std::int64_t i = 0; i < count; ++i) body(i);
    return;
  }
  static Pool pool(thread_count());
  Job job{.body = &body, .count = count};
  pool.run(job);
  if (job.error) std::rethrow_exception(job.error);
}

}  // namespace scalebits
