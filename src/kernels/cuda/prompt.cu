// Products for more than 32 tokens. A thread block computes a tile of 256 rows x 128 tokens over a stretch of the
// inputs: each of its 8 warps decodes 32 rows of its own, so no weight is decoded twice, and all read the same
// activations out of shared memory, where two stages of a cell each are filled by asynchronous copies. Where there are
// fewer tiles than multiprocessors the inputs are split; partial sums are added up in order by the block that arrives
// last. Plain mma: it runs on every card since sm_80, and leaves Hopper's wgmma to a kernel of its own.
#include "kernels/cuda/prompt.cuh"

#include <algorithm>

namespace scalebits::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kWarpTiles = 2;
constexpr int kTilePanels = kWarps * kWarpTiles / kPanelTiles;
constexpr int kTokenBlocks = kPromptTokens / kTokenBlock;
constexpr int kStages = 2;
constexpr int kThreads = kWarps * kLanes;

struct Stage {
  uint4 x[kTokenBlocks][2][kLanes];                           // as in memory
  float sums[2][kPromptTokens];                               // by group
  uint4 weights[kWarps][kWarpTiles * kMostRecordBytes / 16];  // each warp's records
};
struct Shared {
  Stage stage[kStages];
  SideConstants side[kMostParts];
};

struct Prompt {
  const ProductArgs& args;
  Shared& shared;
  const int warp = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
  const std::uint32_t panel = blockIdx.x * kTilePanels + warp * kWarpTiles / kPanelTiles;
  const int first_tile = warp * kWarpTiles % kPanelTiles, first_block = blockIdx.y * kTokenBlocks;

  __device__ std::uint32_t widths_at(std::uint32_t cell) const {
    if (panel >= args.matrix.panels) return 0;
    return args.matrix.widths[std::uint64_t{panel} * args.matrix.cells + cell] >> (4 * first_tile) & 255;
  }

  /// Asks for a cell of the block's activations and of this warp's weights.
  __device__ void fetch(std::uint32_t cell, Stage& stage) const {
    const auto* x =
        reinterpret_cast<const uint4*>(args.x.values) + fragment_index(cell, first_block, args.x.blocks, 0, 0) / 4;
    uint4* to = &stage.x[0][0][0];
    for (int i = threadIdx.x; i < kTokenBlocks * 2 * kLanes; i += kThreads) copy_async(to + i, x + i);
    const int groups = args.matrix.groups, tokens = args.x.blocks * kTokenBlock;
    for (int i = threadIdx.x; i < groups * kPromptTokens / 4; i += kThreads) {
      const int group = i / (kPromptTokens / 4), token = i % (kPromptTokens / 4) * 4;
      copy_async(&stage.sums[group][token],
                 args.x.sums + sum_index(cell, group, groups, first_block * kTokenBlock + token, tokens));
    }
    if (panel < args.matrix.panels) {
      const std::uint64_t at = std::uint64_t{panel} * args.matrix.cells + cell;
      const std::uint32_t widths = args.matrix.widths[at];
      const int above = bytes_above(widths, first_tile, groups),
                bytes = bytes_above(widths, first_tile + kWarpTiles, groups) - above;
      const std::uint8_t* from = args.matrix.stream + args.matrix.panel_bytes[panel] +
                                 std::uint64_t{args.matrix.cell_offsets[at]} * 32 + above;
      for (int i = lane; i < bytes / 16; i += kLanes) copy_async(&stage.weights[warp][i], from + 16 * i);
    }
    close_group();
  }

  __device__ static void scale_add(float (&y)[4], const float (&c)[4], const SideValues& side, float2 sums) {
    y[0] = fmaf(side.scale[0], fmaf(-side.zero[0], sums.x, c[0]), y[0]);
    y[1] = fmaf(side.scale[0], fmaf(-side.zero[0], sums.y, c[1]), y[1]);
    y[2] = fmaf(side.scale[1], fmaf(-side.zero[1], sums.x, c[2]), y[2]);
    y[3] = fmaf(side.scale[1], fmaf(-side.zero[1], sums.y, c[3]), y[3]);
  }

  /// One tile of 16 rows with all tokens.
  __device__ void tile(const std::uint8_t* record, int width, const SideConstants& constants, const Stage& stage,
                       float (&y)[kTokenBlocks][4]) const {
    const int groups = args.matrix.groups;
    const LoadShared load{record};
    std::uint32_t word[2], weights[kFragmentRegisters];
    load.words<1>(lane / 4 * 4, &word[0]);
    if (groups == 2) load.words<1>(32 + lane / 4 * 4, &word[1]);
    expand_tile(load, width, groups, lane, weights);
    const SideValues first = side_values(constants, word[0], width);
    SideValues second;
    if (groups == 2) second = side_values(constants, word[1], width);
#pragma unroll
    for (int block = 0; block < kTokenBlocks; ++block) {
      const uint4 x0 = stage.x[block][0][lane], x1 = stage.x[block][1][lane];
      const int token = block * kTokenBlock + lane % 4 * 2;
      float low[4] = {}, high[4] = {};
      multiply_add(low, weights, x0.x, x0.y);
      multiply_add(high, weights + 8, x1.x, x1.y);
      multiply_add(low, weights + 4, x0.z, x0.w);
      multiply_add(high, weights + 12, x1.z, x1.w);
      const float2 sums = *reinterpret_cast<const float2*>(&stage.sums[0][token]);
      if (groups == 2) {
        scale_add(y[block], low, first, sums);
        scale_add(y[block], high, second, *reinterpret_cast<const float2*>(&stage.sums[1][token]));
      } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) low[i] += high[i];
        scale_add(y[block], low, first, sums);
      }
    }
  }

  __device__ void compute(int splits) {
    copy_side_constants(args, shared.side, kThreads);
    const auto [first, last] = stretch_of(args, splits);
    wait_for_earlier();
    const SideConstants& constants = shared.side[panel < args.matrix.panels ? part_of(args, panel) : 0];
    float y[kWarpTiles][kTokenBlocks][4] = {};
    for (std::uint32_t ahead = 0; ahead + 1 < kStages; ++ahead)
      if (first + ahead < last)
        fetch(first + ahead, shared.stage[ahead]);
      else
        close_group();
    for (std::uint32_t cell = first; cell < last; ++cell) {
      if (const std::uint32_t next = cell + kStages - 1; next < last)
        fetch(next, shared.stage[(next - first) % kStages]);
      else
        close_group();
      wait_groups<kStages - 1>();
      __syncthreads();
      const Stage& stage = shared.stage[(cell - first) % kStages];
      const std::uint32_t widths = widths_at(cell);
      const auto* record = reinterpret_cast<const std::uint8_t*>(stage.weights[warp]);
#pragma unroll
      for (int t = 0; t < kWarpTiles; ++t)
        if (const int width = cell_width(widths, t); width > 0) {
          tile(record, width, constants, stage, y[t]);
          record += record_bytes(width, args.matrix.groups);
        }
      __syncthreads();  // before the stage is filled again
    }
    give_results<kTilePanels>(args, splits, kThreads, [&](const auto& body) { for_results(y, body); });
  }

  /// body(row of the block's tile, token of the tile, value) for this lane's results inside the stream.
  template <typename Body>
  __device__ void for_results(const float (&y)[kWarpTiles][kTokenBlocks][4], const Body& body) const {
    if (panel >= args.matrix.panels) return;
#pragma unroll
    for (int t = 0; t < kWarpTiles; ++t)
#pragma unroll
      for (int block = 0; block < kTokenBlocks; ++block)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          body((warp * kWarpTiles + t) * kStoredTileRows + lane / 4 + i / 2 * 8,
               block * kTokenBlock + lane % 4 * 2 + i % 2, y[t][block][i]);
  }
};

__global__ void __launch_bounds__(kThreads, 1) prompt(const __grid_constant__ ProductArgs args, int splits) {
  let_next_begin();
  Prompt{args, *reinterpret_cast<Shared*>(shared_memory())}.compute(splits);
}

}  // namespace

const PromptKernel& prompt_kernel() {
  static const PromptKernel kKernel = {.name = "prompt",
                                       .panels = kTilePanels,
                                       .by_tokens = false,
                                       .threads = kThreads,
                                       .shared_bytes = sizeof(Shared),
                                       .run = {prompt, prompt}};
  return kKernel;
}

PromptGrid prompt_grid(const PromptKernel& kernel, std::uint32_t panels, std::uint32_t cells, int blocks,
                       int multiprocessors) {
  const auto tile_panels = static_cast<std::uint32_t>(kernel.panels);
  PromptGrid grid;
  grid.rows = (panels + tile_panels - 1) / tile_panels;
  grid.columns = static_cast<unsigned>(blocks * kTokenBlock / kPromptTokens);
  grid.tiles = std::uint64_t{grid.rows} * grid.columns;
  // Four cells a stretch at least, or filling and emptying the pipeline would be most of the work.
  grid.splits = static_cast<int>(std::clamp<std::uint64_t>(static_cast<std::uint64_t>(multiprocessors) / grid.tiles, 1,
                                                           std::max<std::uint32_t>(cells / 4, 1)));
  if (grid.splits > 1) grid.sum_bytes = grid.tiles * static_cast<std::uint64_t>(grid.splits) * kernel.tile_bytes();
  return grid;
}

}  // namespace scalebits::cuda
