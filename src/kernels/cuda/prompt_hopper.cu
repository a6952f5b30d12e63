// Products for more than 32 tokens on cards of compute capability 9.0, by wgmma. A thread block computes a tile of 128
// rows x 128 or 256 tokens over a stretch of the inputs. One warp asks for cells of activations and weights, by bulk
// copies into a ring of stages; two warpgroups of 64 rows each turn a cell's codes into f16 numbers, each warp its tile
// of 16 rows, whose registers are wgmma's first operand as they are, while the products of the cell before go on. Its
// one subtle rule is who may touch a stage: barrier `full` counts the copies' bytes, `empty` the warps whose products
// with it have ended.
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/launches.h"
#include "kernels/cuda/prompt.cuh"

namespace scalebits::cuda {
namespace {

constexpr int kTilePanels = 2;                     // a warpgroup each
constexpr int kWarps = kTilePanels * kPanelTiles;  // that compute
// Registers are given to warpgroups, so the warp that asks for copies has three beside it that do nothing.
constexpr int kComputing = kWarps * kLanes, kThreads = kComputing + 4 * kLanes;
constexpr int kComputingRegisters = 232, kAskingRegisters = 40;  // of a block's 65,536
constexpr int kCellBytes = kCellCols * 2;                        // of a token
constexpr int kAlignment = 8 * kCellBytes;                       // that descriptors want

template <int tokens>
struct alignas(kAlignment) Stage {
  std::uint8_t x[tokens * kCellBytes];  // by tokens, as in memory
  std::uint8_t weights[kTilePanels][kPanelTiles * kMostRecordBytes];
};
template <int tokens>
struct Shared {
  static constexpr int kStages = tokens == 256 ? 5 : 7;
  Stage<tokens> stage[kStages];
  SideConstants side[kMostParts];
  Barrier full[kStages], empty[kStages];
};

template <int tokens>
struct HopperPrompt {
  static constexpr int kStages = Shared<tokens>::kStages;
  const ProductArgs& args;
  Shared<tokens>& shared;
  const Stretch stretch;
  const int warp = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;

  /// Of the times that the stage of the stretch's i-th cell is filled.
  static __device__ unsigned round_parity(std::uint32_t i) { return i / kStages % 2; }

  __device__ std::uint32_t widths_at(std::uint32_t panel, std::uint32_t cell) const {
    if (panel >= args.matrix.panels || cell >= stretch.last) return 0;
    return args.matrix.widths[std::uint64_t{panel} * args.matrix.cells + cell];
  }

  /// By one lane for each panel: its weights, and, by the first, the activations.
  __device__ void fetch() const {
    const std::uint32_t panel = blockIdx.x * kTilePanels + lane;
    const std::uint8_t *weights = nullptr, *x = reinterpret_cast<const std::uint8_t*>(args.x.values);
    if (panel < args.matrix.panels)
      weights = args.matrix.stream + args.matrix.panel_bytes[panel] +
                std::uint64_t{args.matrix.cell_offsets[std::uint64_t{panel} * args.matrix.cells + stretch.first]} * 32;
    const std::uint64_t x_cell = std::uint64_t{kTokenBlock * kCellBytes} * args.x.blocks;
    x += stretch.first * x_cell + blockIdx.y * std::uint64_t{tokens * kCellBytes};
    std::uint32_t widths = widths_at(panel, stretch.first);
    for (std::uint32_t i = 0; i < stretch.last - stretch.first; ++i) {
      const std::uint32_t next = widths_at(panel, stretch.first + i + 1);
      const int place = i % kStages;
      Stage<tokens>& stage = shared.stage[place];
      Barrier& full = shared.full[place];
      shared.empty[place].wait(round_parity(i) ^ 1);
      const std::uint32_t bytes = cell_bytes(widths, args.matrix.groups);
      full.arrive_expecting(bytes + (lane == 0 ? tokens * kCellBytes : 0));
      if (lane == 0) copy_bulk(stage.x, x, tokens * kCellBytes, full);
      if (bytes > 0) copy_bulk(stage.weights[lane], weights, bytes, full);
      x += x_cell, weights += bytes, widths = next;
    }
  }

  /// A tile's weights as numbers; all zeros where it has none.
  __device__ void decode(const std::uint8_t* cell, std::uint32_t widths, const SideConstants& constants,
                         std::uint32_t (&weights)[kFragmentRegisters]) const {
    const int tile = warp % kPanelTiles, width = cell_width(widths, tile), groups = args.matrix.groups;
    if (width == 0) {
#pragma unroll
      for (std::uint32_t& pair : weights) pair = 0;
      return;
    }
    const LoadShared load{cell + cell_bytes(widths & ((1u << 4 * tile) - 1), groups)};
    std::uint32_t first, second = 0;  // side words of the groups
    load.words<1>(lane / 4 * 4, &first);
    if (groups == 2) load.words<1>(32 + lane / 4 * 4, &second);
    expand_tile(load, width, groups, lane, weights);
    if (groups == 1) {
      make_weights<kFragmentRegisters>(constants, first, width, weights);
    } else {
      make_weights<kFragmentRegisters / 2>(constants, first, width, weights);
      make_weights<kFragmentRegisters / 2>(constants, second, width, weights + kFragmentRegisters / 2);
    }
  }

  __device__ void multiply(std::uint32_t panel, const SideConstants& constants, float (&y)[tokens / 2]) const {
    const std::uint32_t count = stretch.last - stretch.first;
    std::uint32_t weights[2][kFragmentRegisters];
    std::uint32_t widths = widths_at(panel, stretch.first);
    const auto step = [&](std::uint32_t i, std::uint32_t(&own)[kFragmentRegisters]) {
      const std::uint32_t next = widths_at(panel, stretch.first + i + 1);
      const Stage<tokens>& stage = shared.stage[i % kStages];
      shared.full[i % kStages].wait(round_parity(i));
      decode(stage.weights[warp / kPanelTiles], widths, constants, own);
      const std::uint64_t x = describe_tokens(stage.x);
      fence_products();
#pragma unroll
      for (int k = 0; k < 4; ++k) multiply_add_async(y, own + 4 * k, x + 2 * k);
      close_products();
      wait_products<1>();
      if (i > 0) release(i - 1);
      widths = next;
    };
    // By twos, so that registers have names: one cell's are read while the next one's are made.
    for (std::uint32_t i = 0; i < count; i += 2) {
      step(i, weights[0]);
      if (i + 1 < count) step(i + 1, weights[1]);
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
    const std::uint32_t panel = blockIdx.x * kTilePanels + warp / kPanelTiles;
    const SideConstants& constants = shared.side[panel < args.matrix.panels ? part_of(args, panel) : 0];
    float y[tokens / 2] = {};
    multiply(panel, constants, y);
    give_results<kTilePanels, tokens>(args, splits, kComputing, [&](const auto& body) {
      if (panel >= args.matrix.panels) return;
#pragma unroll
      for (int i = 0; i < tokens / 2; ++i)
        body(warp * kStoredTileRows + lane / 4 + i % 4 / 2 * 8, i / 4 * kTokenBlock + lane % 4 * 2 + i % 2,
             y[i] * constants.from_half);
    });
  }
};

template <int tokens>
__global__ void __launch_bounds__(kThreads, 1) prompt_hopper(const __grid_constant__ ProductArgs args, int splits) {
  let_next_begin();
  const auto address = reinterpret_cast<std::uintptr_t>(shared_memory());
  auto& shared = *reinterpret_cast<Shared<tokens>*>((address + kAlignment - 1) / kAlignment * kAlignment);
  HopperPrompt<tokens>{args, shared, stretch_of(args, splits)}.compute(splits);
}

template <int tokens>
constexpr PromptKernel describe(const char* name) {
  return {.name = name,
          .panels = kTilePanels,
          .tokens = tokens,
          .by_tokens = true,
          .threads = kThreads,
          .shared_bytes = sizeof(Shared<tokens>) + kAlignment,
          .run = prompt_hopper<tokens>};
}

}  // namespace

std::span<const PromptKernel> hopper_prompt_kernels() {
  static const PromptKernel kKernels[] = {describe<256>("prompt, wgmma, 256 tokens"),
                                          describe<128>("prompt, wgmma, 128 tokens")};
  return kKernels;
}

}  // namespace scalebits::cuda
