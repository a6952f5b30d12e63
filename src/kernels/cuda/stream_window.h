// The window through which a warp reads its run of the stream: a ring of kRingChunks chunks of 512 bytes in shared
// memory, filled ahead by asynchronous copies, one chunk at a time whatever the widths. Positions only, so that a test
// can walk them on the CPU; the copies are the caller's. Its one subtle rule: every call of advance() stands for one
// group of copies, an empty one beyond the end, so that waiting for all but the newest kAheadChunks - 1 groups means
// that chunk `arrived` is there. A record touches at most 4 chunks, so a chunk that is overwritten has been read.
#pragma once

#include "kernels/cuda/host_device.h"

namespace scalebits::cuda {

inline constexpr std::uint32_t kChunkBytes = 512;  // 16 for each lane

template <int ring_chunks>
struct StreamWindow {
  static constexpr std::uint32_t kRingChunks = ring_chunks;
  static constexpr std::uint32_t kRingBytes = kRingChunks * kChunkBytes;
  static constexpr int kAheadChunks = ring_chunks - 4;
  static_assert((ring_chunks & (ring_chunks - 1)) == 0 && kAheadChunks >= 2);

  std::uint32_t position = 0;  // of the next record, bytes from the start of the run
  std::uint32_t asked = 0;     // chunks, a group of copies each
  std::uint32_t arrived = 0;   // of them, that are there

  /// Chunks that must be there before `bytes` bytes can be read.
  SCALEBITS_HD std::uint32_t chunks_for(std::uint32_t bytes) const {
    return (position + bytes + kChunkBytes - 1) / kChunkBytes;
  }
  /// The chunk that the next group of copies fetches. Before the first record kAheadChunks - 1 are asked for, then one
  /// for each that must be there.
  SCALEBITS_HD std::uint32_t ask() { return asked++; }
  SCALEBITS_HD void advance() { ++arrived; }
  SCALEBITS_HD void consume(std::uint32_t bytes) { position += bytes; }

  /// Place in the ring of a byte of the run.
  SCALEBITS_HD static std::uint32_t place(std::uint32_t byte) { return byte & (kRingBytes - 1); }
};

}  // namespace scalebits::cuda
