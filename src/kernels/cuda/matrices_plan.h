// All that is decided on the host before one or several matrices are put on a device: where their tiles go, who
// computes what, and how many bytes that takes, so that memory can be counted before it is asked for.
#pragma once

#include "kernels/cuda/product_args.h"
#include "kernels/cuda/stream_plan.h"

#include <cstdint>
#include <span>
#include <vector>

namespace scalebits::cuda {

/// A product kernel as schedules see it: how many of its blocks run at once, and their warps.
struct KernelShape {
  int blocks = 0;
  int warps = 0;
};

struct MatricesPlan {
  std::vector<StoredShape> shapes;  // [part]
  std::vector<StoredTiles> tiles;
  StreamPlan stream;
  std::vector<SideConstants> side;
  bool fit_halves = true;           // weights, times side[part].to_half
  std::vector<Schedule> schedules;  // [kernel]
  std::uint64_t bytes = 0;          // on the device, as long as the matrices live
  std::uint64_t staging_bytes = 0;  // there beside them while they are loaded

  std::int64_t cols() const { return shapes[0].cols; }
  /// That one product of one token reads: records and widths.
  std::uint64_t read_bytes() const { return stream.bytes + stream.widths.size() * sizeof(stream.widths[0]); }
};

/// Throws std::logic_error unless the parts agree in columns, groups and input order and their blobs are whole.
MatricesPlan plan_matrices(std::span<const StoredMatrix> parts, std::span<const KernelShape> kernels);

/// Where the results of a schedule's kernel lie for a while: kernels that share panels put partial sums there.
inline constexpr std::uint64_t part_sum_bytes(int blocks, int token_blocks) {
  return sizeof(float) * kPanelRows * kTokenBlock * static_cast<std::uint64_t>(token_blocks) * 2 *
         static_cast<std::uint64_t>(blocks);
}

}  // namespace scalebits::cuda
