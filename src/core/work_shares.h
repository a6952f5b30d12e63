// Work for a few threads in contiguous shares, one for each, so that memory is read in streams; a thread that is done
// takes from the ends of the others' shares, so that all end together though one was late or was interrupted.
#pragma once

#include "core/error.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>

namespace scalebits {

/// [first, last) of some indices.
struct WorkRange {
  std::int64_t first = 0;
  std::int64_t last = 0;
};

class WorkShares {
 public:
  explicit WorkShares(int threads)
      : threads_(threads), shares_(std::make_unique<Share[]>(static_cast<std::size_t>(threads))) {}

  /// Thread t's share is [first, last); before any thread takes. Indices are below 2^32.
  void set(int thread, WorkRange share) {
    SCALEBITS_ASSERT(share.first >= 0 && share.first <= share.last && share.last < std::int64_t{1} << 32);
    share_of(thread).left.store(pack(share), std::memory_order_relaxed);
  }

  /// What `thread` does next: half of what is left of its own share, from the front; or the last index of the share of
  /// which most is left. None once all is taken. Every index is handed out once.
  std::optional<WorkRange> take(int thread) {
    if (const auto own = take_from(thread, Part::front_half)) return own;
    for (;;) {
      int richest = -1;
      std::int64_t most = 0;
      for (int other = 0; other < threads_; ++other) {
        const WorkRange left = unpack(share_of(other).left.load(std::memory_order_relaxed));
        if (left.last - left.first > most) richest = other, most = left.last - left.first;
      }
      if (richest < 0) return std::nullopt;
      if (const auto others = take_from(richest, Part::last)) return others;
    }
  }

  /// All that is left of its own share, where each piece costs a preparation of its own.
  std::optional<WorkRange> take_all(int thread) { return take_from(thread, Part::all); }

 private:
  enum class Part { front_half, last, all };
  struct alignas(64) Share {
    std::atomic<std::uint64_t> left = 0;
  };
  static std::uint64_t pack(WorkRange range) {
    return static_cast<std::uint64_t>(range.first) << 32 | static_cast<std::uint64_t>(range.last);
  }
  static WorkRange unpack(std::uint64_t packed) {
    return {static_cast<std::int64_t>(packed >> 32), static_cast<std::int64_t>(packed & 0xffffffff)};
  }
  Share& share_of(int thread) { return shares_[static_cast<std::size_t>(thread)]; }

  std::optional<WorkRange> take_from(int thread, Part part) {
    std::atomic<std::uint64_t>& left = share_of(thread).left;
    for (std::uint64_t seen = left.load(std::memory_order_relaxed);;) {
      const auto [first, last] = unpack(seen);
      if (first == last) return std::nullopt;
      WorkRange taken{first, last}, rest{last, last};
      if (part == Part::front_half) taken.last = rest.first = first + (last - first + 1) / 2;
      if (part == Part::last) taken.first = last - 1, rest = {first, last - 1};
      if (left.compare_exchange_weak(seen, pack(rest), std::memory_order_relaxed)) return taken;
    }
  }

  int threads_;
  std::unique_ptr<Share[]> shares_;
};

}  // namespace scalebits
