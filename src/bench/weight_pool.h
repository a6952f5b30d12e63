// A stretch of memory above any cache, full of random bytes, that benchmarks place their weights in: any bytes are
// codes. It is a mapped file of ordinary pages, as a model is; or a copy of it in huge pages.
#pragma once

#include "core/thread_pool.h"
#include "kernels/isa.h"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

namespace scalebits {

class WeightPool {
 public:
  enum class Pages { ordinary, huge };

  /// The file lies in `folder`, is flushed to disk and has no name, so it is gone with the process. `bytes`: rounded up
  /// to 2 MiB. Throws Error(bad_input) naming the folder when there is no room, before anything is written.
  WeightPool(Pages pages, const std::filesystem::path& folder, std::uint64_t bytes, ThreadPool& threads);
  ~WeightPool();
  WeightPool(const WeightPool&) = delete;
  WeightPool& operator=(const WeightPool&) = delete;

  Pages pages() const { return pages_; }
  /// May be written to, which makes private copies of the pages.
  std::span<std::byte> bytes() { return {data_, size_}; }
  /// Gives up what was written, where pages are the file's, and brings all of it into memory.
  void settle(ThreadPool& threads);

 private:
  Pages pages_;
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// All threads read their share of `bytes` with the best loop of `isa`. Returns something that depends on every byte
/// but the last below 512 per thread.
std::uint64_t read_all(ThreadPool& threads, Isa isa, std::span<const std::byte> bytes);

}  // namespace scalebits
