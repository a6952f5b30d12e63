#include "bench/weight_pool.h"

#include "bench/machine_loops.h"
#include "core/error.h"
#include "core/random.h"
#include "core/units.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <string>
#include <system_error>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

namespace scalebits {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

[[noreturn]] void fail_system(const std::filesystem::path& folder, const char* what) {
  fail_input("{}: {} for the benchmark's weights: {}", folder.string(), what, std::strerror(errno));
}

void require_room(const std::filesystem::path& folder, std::uint64_t bytes) {
  std::error_code error;
  const std::filesystem::space_info space = std::filesystem::space(folder, error);
  if (!error && space.available < bytes)
    fail_input("{}: {} are free, and the benchmark's weights take {}", folder.string(), format_bytes(space.available),
               format_bytes(bytes));
}

/// Fills `bytes` from the random word number `first_word` on.
void fill(std::span<std::byte> bytes, std::uint64_t first_word, ThreadPool& threads) {
  const CounterRng random(1);
  threads.for_each(16, [&](std::int64_t part) {
    const std::size_t words = bytes.size() / 8;
    for (std::size_t i = words * std::size_t(part) / 16; i < words * std::size_t(part + 1) / 16; ++i) {
      const std::uint64_t word = random.bits(first_word + i);
      std::memcpy(bytes.data() + 8 * i, &word, 8);
    }
  });
}

/// A file without a name, of `size` random bytes on disk.
int make_file(const std::filesystem::path& folder, std::size_t size, ThreadPool& threads) {
  std::string name = (folder / "scalebits_bench_XXXXXX").string();
  const int file = ::mkstemp(name.data());
  if (file < 0) fail_system(folder, "cannot make a file");
  ::unlink(name.c_str());
  std::vector<std::byte> chunk(kHugePage);
  for (std::size_t done = 0; done < size; done += chunk.size()) {
    fill(chunk, done / 8, threads);
    for (std::size_t written = 0; written < chunk.size();) {
      const ssize_t now = ::write(file, chunk.data() + written, chunk.size() - written);
      if (now <= 0) {
        ::close(file);
        fail_system(folder, "cannot write a file");
      }
      written += static_cast<std::size_t>(now);
    }
  }
  ::fdatasync(file);  // or the system would write it back while we measure
  return file;
}

}  // namespace

WeightPool::WeightPool(Pages pages, const std::filesystem::path& folder, std::uint64_t bytes, ThreadPool& threads)
    : pages_(pages), size_((bytes + kHugePage - 1) / kHugePage * kHugePage) {
  constexpr int kReadWrite = PROT_READ | PROT_WRITE;
  void* mapped = MAP_FAILED;
  if (pages == Pages::ordinary) {
    require_room(folder, bytes);
    const int file = make_file(folder, size_, threads);
    mapped = ::mmap(nullptr, size_, kReadWrite, MAP_PRIVATE, file, 0);
    ::close(file);
  } else {
    mapped = ::mmap(nullptr, size_ + kHugePage, kReadWrite, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  }
  if (mapped == MAP_FAILED) fail_system(folder, "cannot map memory");
  data_ = static_cast<std::byte*>(mapped);
  if (pages == Pages::huge) {
    const auto misplaced = reinterpret_cast<std::uintptr_t>(data_) % kHugePage;
    const std::size_t skip = misplaced == 0 ? 0 : kHugePage - misplaced;
    if (skip > 0) ::munmap(data_, skip);
    data_ += skip;
    ::munmap(data_ + size_, kHugePage - skip);
    if (::madvise(data_, size_, MADV_HUGEPAGE) != 0) fail_system(folder, "cannot get huge pages");
    fill({data_, size_}, 0, threads);
  }
}

WeightPool::~WeightPool() { ::munmap(data_, size_); }

void WeightPool::settle(ThreadPool& threads) {
  if (pages_ == Pages::ordinary) ::madvise(data_, size_, MADV_DONTNEED);
  read_all(threads, Isa::scalar, bytes());
}

std::uint64_t read_all(ThreadPool& threads, Isa isa, std::span<const std::byte> bytes) {
  const ReadLoop* best = nullptr;
  for (const ReadLoop& loop : read_loops())
    if (best == nullptr && loop.isa <= isa && machine_has(loop.isa)) best = &loop;
  std::atomic<std::uint64_t> seen = 0;
  const std::size_t lines = bytes.size() / 512, size = static_cast<std::size_t>(threads.size());
  threads.run([&](int thread) {
    const auto index = static_cast<std::size_t>(thread);
    const std::size_t first = lines * index / size, last = lines * (index + 1) / size;
    seen.fetch_or(best->run(bytes.data() + 512 * first, 512 * (last - first)), std::memory_order_relaxed);
  });
  return seen;
}

}  // namespace scalebits
