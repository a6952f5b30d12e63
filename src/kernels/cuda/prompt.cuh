// What the kernels for prompts share: a block computes a tile of results over a stretch of the inputs, reads records
// out of shared memory, and gives its results to the outputs or, where the inputs were split, leaves partial sums,
// which the block that arrives last adds up in order.
#pragma once

#include "kernels/cuda/card.cuh"
#include "kernels/cuda/launches.h"

namespace scalebits::cuda {

/// The block (x, y, z) has the results of panels x · tile_panels on, tokens y · kPromptTokens on, inputs of the z-th of
/// `splits` stretches. for_results(body) calls body(row of the tile, token of the tile, value) for this thread's; rows
/// beyond the stream may be left out. For all threads of the block.
template <int tile_panels, typename ForResults>
__device__ void give_results(const ProductArgs& args, int splits, int threads, const ForResults& for_results) {
  constexpr int kTileValues = tile_panels * kPanelRows * kPromptTokens;
  const auto store = [&](int row, int token, float value) {
    store_result(args, blockIdx.x * tile_panels + row / kPanelRows, row % kPanelRows,
                 blockIdx.y * kPromptTokens + token, value);
  };
  if (splits == 1) return for_results(store);
  const std::uint64_t at = blockIdx.y * std::uint64_t{gridDim.x} + blockIdx.x;
  float* const parts = args.schedule.sums + at * splits * kTileValues;
  float* const own = parts + std::uint64_t{blockIdx.z} * kTileValues;
  for_results([&](int row, int token, float value) { own[row * kPromptTokens + token] = value; });
  if (arrive({args.schedule.arrivals + at, static_cast<std::uint32_t>(splits)}) == 0) return;
  for (int i = threadIdx.x; i < kTileValues; i += threads) {
    const int row = i / kPromptTokens;
    if (blockIdx.x * tile_panels + row / kPanelRows >= args.matrix.panels) return;
    float sum = 0;
    for (int part = 0; part < splits; ++part) sum += __ldcg(parts + part * std::int64_t{kTileValues} + i);
    store(row, i % kPromptTokens, sum);
  }
}

/// The stretch of cells of the block.
struct Stretch {
  std::uint32_t first, last;
};
__device__ inline Stretch stretch_of(const ProductArgs& args, int splits) {
  const std::uint64_t cells = args.matrix.cells, split = blockIdx.z;
  return {static_cast<std::uint32_t>(cells * split / splits), static_cast<std::uint32_t>(cells * (split + 1) / splits)};
}

__device__ inline void copy_side_constants(const ProductArgs& args, SideConstants* to, int threads) {
  constexpr int kWords = sizeof(SideConstants) / 4;
  for (int i = threadIdx.x; i < args.matrix.parts * kWords; i += threads)
    reinterpret_cast<std::uint32_t*>(to)[i] = reinterpret_cast<const std::uint32_t*>(args.matrix.side)[i];
}

/// Reads a record in shared memory.
struct LoadShared {
  const std::uint8_t* record;
  template <int n>
  __device__ void words(int byte, std::uint32_t* out) const {
    if constexpr (n == 4) {
      const uint4 value = *reinterpret_cast<const uint4*>(record + byte);
      out[0] = value.x, out[1] = value.y, out[2] = value.z, out[3] = value.w;
    } else if constexpr (n == 2) {
      const uint2 value = *reinterpret_cast<const uint2*>(record + byte);
      out[0] = value.x, out[1] = value.y;
    } else {
      out[0] = *reinterpret_cast<const std::uint32_t*>(record + byte);
    }
  }
};

}  // namespace scalebits::cuda
