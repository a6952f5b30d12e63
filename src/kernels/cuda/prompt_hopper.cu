// Products for more than 32 tokens on cards of compute capability 9.0, by wgmma. A thread block computes a tile of 256
// rows x 128 tokens over a stretch of the inputs: rows cost little to bring, as they are packed, so that what the
// second cache must give is mostly activations. One warp asks for cells of both, by bulk copies into a ring of stages.
// Two warpgroups have two panels of 64 rows each: a warp turns a tile's codes into f16 numbers, whose registers are
// wgmma's first operand as they are, while the products with the tile before go on. Its one subtle rule is who may
// touch a stage: barrier `full` counts the copies' bytes, `empty` the warps whose products with it have ended.
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/prompt.cuh"

namespace scalebits::cuda {
namespace {

constexpr int kGroups = 2, kGroupPanels = 2, kTilePanels = kGroups * kGroupPanels;  // groups of four warps
constexpr int kWarps = kGroups * kPanelTiles;                                       // that compute
// Registers are given to warpgroups, so the warp that asks for copies has three beside it that do nothing.
constexpr int kComputing = kWarps * kLanes, kThreads = kComputing + 4 * kLanes;
constexpr int kComputingRegisters = 232, kAskingRegisters = 40;  // of a block's 65,536
constexpr int kCellBytes = kCellCols * 2;                        // of a token
constexpr int kAlignment = 8 * kCellBytes;                       // that descriptors want
constexpr int kStages = 4;

struct alignas(kAlignment) Stage {
  std::uint8_t x[kPromptTokens * kCellBytes];  // by tokens, as in memory
  std::uint8_t weights[kTilePanels][kPanelTiles * kMostRecordBytes];
  std::uint32_t tiles[kTilePanels][kPanelTiles];  // width, and from bit 4 on where the record begins
};
struct Shared {
  Stage stage[kStages];
  SideConstants side[kMostParts];
  Barrier full[kStages], empty[kStages];
};

template <int groups>
struct HopperPrompt {
  const ProductArgs& args;
  Shared& shared;
  const Stretch stretch;
  const int warp = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;

  /// Of the times that the stage of the stretch's i-th cell is filled.
  static __device__ unsigned round_parity(std::uint32_t i) { return i / kStages % 2; }

  /// By one lane for each panel: its weights, and, by the first, the activations.
  __device__ void fetch() const {
    const std::uint32_t panel = blockIdx.x * kTilePanels + lane;
    const std::uint64_t first = std::uint64_t{panel} * args.matrix.cells + stretch.first;
    const bool there = panel < args.matrix.panels;
    const std::uint8_t *weights = nullptr, *x = reinterpret_cast<const std::uint8_t*>(args.x.values);
    if (there)
      weights =
          args.matrix.stream + args.matrix.panel_bytes[panel] + std::uint64_t{args.matrix.cell_offsets[first]} * 32;
    const std::uint64_t x_cell = std::uint64_t{kTokenBlock * kCellBytes} * args.x.blocks;
    x += stretch.first * x_cell + blockIdx.y * std::uint64_t{kPromptTokens * kCellBytes};
    const std::uint32_t count = stretch.last - stretch.first;
    std::uint32_t widths = there ? args.matrix.widths[first] : 0;
    for (std::uint32_t i = 0; i < count; ++i) {
      const std::uint32_t next = there && i + 1 < count ? args.matrix.widths[first + i + 1] : 0;
      const int place = i % kStages;
      Stage& stage = shared.stage[place];
      Barrier& full = shared.full[place];
      shared.empty[place].wait(round_parity(i) ^ 1);
      std::uint32_t bytes = 0;
#pragma unroll
      for (int tile = 0; tile < kPanelTiles; ++tile) {
        stage.tiles[lane][tile] = cell_width(widths, tile) | bytes << 4;
        bytes += record_bytes(cell_width(widths, tile), groups);
      }
      full.arrive_expecting(bytes + (lane == 0 ? kPromptTokens * kCellBytes : 0));
      if (lane == 0) copy_bulk(stage.x, x, kPromptTokens * kCellBytes, full);
      if (bytes > 0) copy_bulk(stage.weights[lane], weights, bytes, full);
      x += x_cell, weights += bytes, widths = next;
    }
  }

  /// The weights of the warp's tile in a panel as numbers; all zeros where it has none.
  __device__ void decode(const Stage& stage, int panel, const SideConstants& constants,
                         std::uint32_t (&weights)[kFragmentRegisters]) const {
    const std::uint32_t tile = stage.tiles[panel][warp % kPanelTiles];
    const int width = tile & 15;
    if (width == 0) {
#pragma unroll
      for (std::uint32_t& pair : weights) pair = 0;
      return;
    }
    const LoadShared load{stage.weights[panel] + (tile >> 4)};
    std::uint32_t side[groups];
#pragma unroll
    for (int group = 0; group < groups; ++group) load.words<1>(32 * group + lane / 4 * 4, &side[group]);
    expand_tile(load, width, groups, lane, weights);
    constexpr int kEach = kFragmentRegisters / groups;
#pragma unroll
    for (int group = 0; group < groups; ++group)
      make_weights<kEach>(constants, side[group], width, weights + kEach * group);
  }

  /// Of the warp's tiles in its group's panels, the first of which is number first_panel of the block's.
  using Sums = float[kGroupPanels][kPromptTokens / 2];

  __device__ void multiply(int first_panel, const SideConstants* const (&constants)[kGroupPanels], Sums& y) const {
    std::uint32_t weights[kGroupPanels][kFragmentRegisters];  // one panel's are read while the other's are made
    for (std::uint32_t i = 0; i < stretch.last - stretch.first; ++i) {
      const Stage& stage = shared.stage[i % kStages];
      shared.full[i % kStages].wait(round_parity(i));
      const std::uint64_t x = describe_tokens(stage.x);
#pragma unroll
      for (int p = 0; p < kGroupPanels; ++p) {
        decode(stage, first_panel + p, *constants[p], weights[p]);
        fence_products();
#pragma unroll
        for (int k = 0; k < 4; ++k) multiply_add_async(y[p], weights[p] + 4 * k, further_inputs(x, k));
        close_products();
        wait_products<1>();
        if (p == 0 && i > 0) release(i - 1);
      }
    }
    wait_products<0>();
  }
  __device__ void release(std::uint32_t i) const {
    __syncwarp();
    if (lane == 0) shared.empty[i % kStages].arrive();
  }

  __device__ void compute(int splits) {
    copy_side_constants(args, shared.side, kThreads);
    if (threadIdx.x < kStages) {
      shared.full[threadIdx.x].init(kTilePanels);
      shared.empty[threadIdx.x].init(kWarps);
      publish_barriers();
    }
    __syncthreads();
    wait_for_earlier();
    if (warp >= kWarps) {
      give_registers<kAskingRegisters>();
      if (warp == kWarps && lane < kTilePanels) fetch();
      return;
    }
    take_registers<kComputingRegisters>();
    const int first_panel = warp / kPanelTiles * kGroupPanels;  // of the tile's
    const std::uint32_t panel = blockIdx.x * kTilePanels + first_panel;
    const SideConstants* constants[kGroupPanels];
#pragma unroll
    for (int p = 0; p < kGroupPanels; ++p)
      constants[p] = shared.side + (panel + p < args.matrix.panels ? part_of(args, panel + p) : 0);
    Sums y = {};
    multiply(first_panel, constants, y);
    give_results<kTilePanels>(args, splits, kComputing, [&](const auto& body) {
#pragma unroll
      for (int p = 0; p < kGroupPanels; ++p) {
        if (panel + p >= args.matrix.panels) continue;
        const int row = (first_panel + p) * kPanelRows + warp % kPanelTiles * kStoredTileRows + lane / 4;
#pragma unroll
        for (int i = 0; i < kPromptTokens / 2; ++i)
          body(row + i % 4 / 2 * 8, i / 4 * kTokenBlock + lane % 4 * 2 + i % 2, y[p][i] * constants[p]->from_half);
      }
    });
  }
};

template <int groups>
__global__ void __launch_bounds__(kThreads, 1) prompt_hopper(const __grid_constant__ ProductArgs args, int splits) {
  let_next_begin();
  // Added to, not made of a number, or the compiler would forget that it is shared.
  std::uint8_t* const memory = shared_memory();
  auto& shared = *reinterpret_cast<Shared*>(memory + -reinterpret_cast<std::uintptr_t>(memory) % kAlignment);
  HopperPrompt<groups>{args, shared, stretch_of(args, splits)}.compute(splits);
}

}  // namespace

const PromptKernel* hopper_prompt_kernel() {
  static const PromptKernel kKernel = {.name = "prompt, wgmma",
                                       .panels = kTilePanels,
                                       .by_tokens = true,
                                       .threads = kThreads,
                                       .shared_bytes = sizeof(Shared) + kAlignment,
                                       .run = {prompt_hopper<1>, prompt_hopper<2>}};
  return &kKernel;
}

}  // namespace scalebits::cuda
