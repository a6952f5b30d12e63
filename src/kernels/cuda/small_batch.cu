// Products for 1 to 32 tokens: reads the stream of weights once, at the speed of memory. Each warp follows its run of
// cells (schedule.h) through a window in shared memory (stream_window.h), turns records into fragments and multiplies
// on the tensor cores, also for one token: there the other columns cost nothing that memory would not cost anyway. A
// tile's products are exact integers times f16; they are scaled and their zero points taken off in f32, once per group.
// For one token there is a kernel that also gathers: each block takes the inputs of its own cells, while its first
// weights are on their way, so that a product is one launch.
#include "kernels/cuda/card.cuh"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launches.h"
#include "kernels/cuda/stream_window.h"

namespace scalebits::cuda {
namespace {

using Window = StreamWindow<16>;

/// kTokenBlocks: of 8 tokens. kWarps: of a thread block. gathers: for one token, which then stands in all 8 columns.
template <int kTokenBlocks, int kWarps, bool gathers>
struct SmallBatch {
  static constexpr int kTokens = kTokenBlocks * kTokenBlock;
  static constexpr int kPartValues = kPanelRows * kTokens;

  struct Shared {
    std::uint8_t ring[kWarps][Window::kRingBytes];  // at the end of a run: its part of its last panel
    float head[kWarps][kPartValues];                // of its first panel, when that is another one
    SideConstants side[kMostParts];
    std::uint32_t cells[kWarps + 1];  // where the warps' runs begin
    float largest[kWarps];            // input
    // Of kernels that gather: inputs of the block's cells, 16 bytes each for [cell, lane mod 4, half], then sums.
    alignas(16) uint4 x[];
  };
  static_assert(kPartValues * sizeof(float) <= Window::kRingBytes);

  /// Of one cell and lane.
  struct Cell {
    std::uint32_t widths;
    uint4 x[kTokenBlocks][2];
    float2 sums[2][kTokenBlocks];  // by group
  };

  /// Reads records through the window.
  struct Load {
    const std::uint8_t* ring;
    std::uint32_t position;
    template <int n>
    __device__ void words(int byte, std::uint32_t* out) const {
      const std::uint8_t* from = ring + Window::place(position + byte);
      if constexpr (n == 4) {
        const uint4 value = *reinterpret_cast<const uint4*>(from);
        out[0] = value.x, out[1] = value.y, out[2] = value.z, out[3] = value.w;
      } else if constexpr (n == 2) {
        const uint2 value = *reinterpret_cast<const uint2*>(from);
        out[0] = value.x, out[1] = value.y;
      } else {
        out[0] = *reinterpret_cast<const std::uint32_t*>(from);
      }
    }
  };

  const ProductArgs& args;
  Shared& shared;
  const int warp = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
  WarpRun run = args.schedule.runs[blockIdx.x * kWarps + warp];
  Window window = {};
  std::uint32_t first_column = 0, gathered = 0;  // cells whose inputs lie in shared memory, from this column on
  float factor = 1;

  __device__ float* gathered_sums() const { return reinterpret_cast<float*>(shared.x + gathered * 8); }

  template <ElementType type>
  __device__ void find_factor() {
    float largest = 0;
    bool finite = true;
    for (std::int64_t i = threadIdx.x; i < args.input.inputs; i += kWarps * kLanes) {
      const float value = fabsf(element<type>(args.input.x, i));
      finite &= value < INFINITY;
      largest = fmaxf(largest, value);
    }
    if (!finite) largest = INFINITY;
    for (int step = kLanes / 2; step > 0; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, step));
    if (lane == 0) shared.largest[warp] = largest;
    __syncthreads();
    for (int w = 0; w < kWarps; ++w) largest = fmaxf(largest, shared.largest[w]);
    factor = token_factor(largest);
  }

  /// A warp a cell: two neighbouring inputs a lane, to where the fragments' lanes look for them.
  template <ElementType type>
  __device__ void gather() {
    if constexpr (type != ElementType::f16) find_factor<type>();
    constexpr int kAtOnce = 4;  // cells: an input is known only when its number has come, twice the way to memory
    for (std::uint32_t begin = warp; begin < gathered; begin += kAtOnce * kWarps) {
      std::int64_t from[kAtOnce][2];  // below 0: nothing
      __half values[kAtOnce][2];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j)
#pragma unroll
        for (int second = 0; second < 2; ++second) {
          std::uint32_t column = first_column + begin + j * kWarps;
          if (column >= args.matrix.cells) column -= args.matrix.cells;
          const std::int64_t input = std::int64_t{column} * kCellCols + 2 * lane + second;
          from[j][second] = begin + j * kWarps >= gathered || input >= args.input.inputs ? -1
                            : args.input.input_order != nullptr                          ? args.input.input_order[input]
                                                                                         : input;
        }
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j)
#pragma unroll
        for (int second = 0; second < 2; ++second)
          values[j][second] =
              from[j][second] < 0 ? __ushort_as_half(0) : rounded<type>(args.input.x, from[j][second], factor);
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const std::uint32_t i = begin + j * kWarps;
        if (i >= gathered) break;
        reinterpret_cast<std::uint32_t*>(
            shared.x)[(i * 4 + quad_of_pair(lane)) * kBlockRegisters + register_of_pair(lane)] =
            __half_as_ushort(values[j][0]) | std::uint32_t{__half_as_ushort(values[j][1])} << 16;
        float sum = __half2float(values[j][0]) + __half2float(values[j][1]);
        for (int step = 1; step <= 8; step *= 2) sum += __shfl_xor_sync(~0u, sum, step);
        if (args.matrix.groups == 1) sum += __shfl_xor_sync(~0u, sum, 16);
        if (lane % 16 == 0) gathered_sums()[2 * i + lane / 16] = sum;
      }
    }
  }

  __device__ void fetch(std::uint32_t chunk) {
    const std::uint64_t at = run.first_byte + std::uint64_t{chunk} * kChunkBytes + lane * 16;
    if (at < run.last_byte)
      copy_async(shared.ring[warp] + Window::place(chunk * kChunkBytes + lane * 16), args.matrix.stream + at);
    close_group();
  }
  /// Makes the next `bytes` bytes readable to all lanes.
  __device__ void await(std::uint32_t bytes) {
    const std::uint32_t wanted = window.chunks_for(bytes);
    if (window.arrived >= wanted) return;
    __syncwarp();  // all lanes have read what is overwritten now
    while (window.arrived < wanted) {
      fetch(window.next_chunk());
      window.advance();
    }
    wait_groups<Window::kAheadChunks - 1>();
    __syncwarp();
  }

  __device__ void load(std::uint32_t cell, std::uint32_t column, Cell& into) const {
    into.widths = args.matrix.widths[cell];
    const int groups = args.matrix.groups, tokens = args.x.blocks * kTokenBlock;
    if constexpr (gathers) {
      const std::uint32_t at =
          column >= first_column ? column - first_column : column + args.matrix.cells - first_column;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        into.x[0][half] = shared.x[(at * 4 + lane % 4) * 2 + half];
        const float sum = gathered_sums()[2 * at + half];
        into.sums[half][0] = make_float2(sum, sum);
      }
    } else {
#pragma unroll
      for (int block = 0; block < kTokenBlocks; ++block) {
#pragma unroll
        for (int half = 0; half < 2; ++half)
          into.x[block][half] = __ldg(reinterpret_cast<const uint4*>(
              args.x.fragments + fragment_index(column, block, args.x.blocks, lane, 4 * half)));
#pragma unroll
        for (int group = 0; group < 2; ++group)
          if (group < groups)
            into.sums[group][block] = __ldg(reinterpret_cast<const float2*>(
                args.x.sums + sum_index(column, group, groups, block * kTokenBlock + 2 * (lane % 4), tokens)));
      }
    }
  }

  /// y += scale · (c - zero · sum of the group).
  __device__ static void scale_add(float (&y)[4], const float (&c)[4], const SideValues& side, float2 sums) {
    y[0] = fmaf(side.scale[0], fmaf(-side.zero[0], sums.x, c[0]), y[0]);
    y[1] = fmaf(side.scale[0], fmaf(-side.zero[0], sums.y, c[1]), y[1]);
    y[2] = fmaf(side.scale[1], fmaf(-side.zero[1], sums.x, c[2]), y[2]);
    y[3] = fmaf(side.scale[1], fmaf(-side.zero[1], sums.y, c[3]), y[3]);
  }

  __device__ void tile(int width, const SideConstants& constants, const Cell& cell, float (&y)[kTokenBlocks][4]) {
    const int groups = args.matrix.groups, bytes = record_bytes(width, groups);
    await(bytes);
    const Load load{shared.ring[warp], window.position};
    std::uint32_t word[2], weights[kFragmentRegisters];
    load.template words<1>(lane / 4 * 4, &word[0]);
    if (groups == 2) load.template words<1>(32 + lane / 4 * 4, &word[1]);
    expand_tile(load, width, groups, lane, weights);
    window.consume(bytes);
    const SideValues first = side_values(constants, word[0], width);
    SideValues second;
    if (groups == 2) second = side_values(constants, word[1], width);
#pragma unroll
    for (int block = 0; block < kTokenBlocks; ++block) {
      float low[4] = {}, high[4] = {};
      const uint4 x0 = cell.x[block][0], x1 = cell.x[block][1];
      multiply_add(low, weights, x0.x, x0.y);
      multiply_add(high, weights + 8, x1.x, x1.y);
      multiply_add(low, weights + 4, x0.z, x0.w);
      multiply_add(high, weights + 12, x1.z, x1.w);
      if (groups == 2) {
        scale_add(y[block], low, first, cell.sums[0][block]);
        scale_add(y[block], high, second, cell.sums[1][block]);
      } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) low[i] += high[i];
        scale_add(y[block], low, first, cell.sums[0][block]);
      }
    }
  }

  /// Row of the panel and token of element i of y[tile][block].
  __device__ int row_of(int tile, int i) const { return tile * kStoredTileRows + lane / 4 + i / 2 * 8; }
  __device__ int token_of(int block, int i) const { return block * kTokenBlock + lane % 4 * 2 + i % 2; }

  __device__ void finish_panel(std::uint32_t panel, bool at_end, float (&y)[kPanelTiles][kTokenBlocks][4]) {
    const bool whole = has_whole(run.first_cell, run.last_cell, panel, args.matrix.cells);
    if (at_end) __syncwarp();  // the ring has been read
    float* part = at_end ? reinterpret_cast<float*>(shared.ring[warp]) : shared.head[warp];
#pragma unroll
    for (int t = 0; t < kPanelTiles; ++t)
#pragma unroll
      for (int block = 0; block < kTokenBlocks; ++block)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (whole)
            store_result(args, panel, row_of(t, i), token_of(block, i), y[t][block][i] * factor);
          else
            part[row_of(t, i) * kTokens + token_of(block, i)] = y[t][block][i];
          y[t][block][i] = 0;
        }
  }

  __device__ void follow_run() {
    if (run.first_cell == run.last_cell) return;
    const std::uint32_t cells = args.matrix.cells;
    std::uint32_t panel = run.first_cell / cells, column = run.first_cell % cells;
    float y[kPanelTiles][kTokenBlocks][4] = {};
    Cell now, next;
    load(run.first_cell, column, next);
    for (std::uint32_t cell = run.first_cell; cell < run.last_cell; ++cell) {
      now = next;
      const std::uint32_t next_column = column + 1 == cells ? 0 : column + 1;
      if (cell + 1 < run.last_cell) load(cell + 1, next_column, next);
      const SideConstants& constants = shared.side[part_of(args, panel)];
#pragma unroll
      for (int t = 0; t < kPanelTiles; ++t)
        if (const int width = cell_width(now.widths, t); width > 0) tile(width, constants, now, y[t]);
      const bool at_end = cell + 1 == run.last_cell;
      if (next_column == 0 || at_end) finish_panel(panel++, at_end, y);
      column = next_column;
    }
  }

  /// Sums up the parts of one element of the panel, in the order of the runs.
  __device__ float sum_of_runs(std::uint32_t panel, int element) const {
    float sum = 0;
    for (int w = 0; w < kWarps; ++w) {
      const std::uint32_t first = shared.cells[w], last = shared.cells[w + 1];
      if (!has_part(first, last, panel, args.matrix.cells)) continue;
      const bool at_end = panel == (last - 1) / args.matrix.cells;
      sum += at_end ? reinterpret_cast<const float*>(shared.ring[w])[element] : shared.head[w][element];
    }
    return sum;
  }

  __device__ void share_panel(std::uint32_t panel, std::uint32_t first, std::uint32_t last) {
    const std::uint32_t cells = args.matrix.cells;
    if (has_whole(first, last, panel, cells)) {
      for (int i = threadIdx.x; i < kPartValues; i += kWarps * kLanes)
        store_result(args, panel, i / kTokens, i % kTokens, sum_of_runs(panel, i) * factor);
      return;
    }
    const auto part_at = [&](std::uint32_t block, std::uint32_t block_first) {
      return args.schedule.sums + (block * 2 + part_slot(block_first, panel, cells)) * std::int64_t{kPartValues};
    };
    float* mine = part_at(blockIdx.x, first);
    for (int i = threadIdx.x; i < kPartValues; i += kWarps * kLanes) mine[i] = sum_of_runs(panel, i);
    const std::uint32_t sharers = args.schedule.sharers[panel];
    if (!arrives_last(args.schedule.arrivals + panel, sharers)) return;
    for (int i = threadIdx.x; i < kPartValues; i += kWarps * kLanes) {
      float sum = 0;
      std::uint32_t left = sharers;
      for (std::uint32_t block = args.schedule.first_block[panel]; left > 0; ++block) {
        const std::uint32_t block_first = args.schedule.block_cells[block];
        if (!has_part(block_first, args.schedule.block_cells[block + 1], panel, cells)) continue;
        sum += __ldcg(part_at(block, block_first) + i);
        --left;
      }
      store_result(args, panel, i / kTokens, i % kTokens, sum * factor);
    }
  }

  __device__ void compute() {
    constexpr int kWords = sizeof(SideConstants) / 4;
    for (int i = threadIdx.x; i < args.matrix.parts * kWords; i += kWarps * kLanes)
      reinterpret_cast<std::uint32_t*>(shared.side)[i] = reinterpret_cast<const std::uint32_t*>(args.matrix.side)[i];
    if (lane == 0) shared.cells[warp] = run.first_cell;
    const std::uint32_t first = args.schedule.block_cells[blockIdx.x], last = args.schedule.block_cells[blockIdx.x + 1];
    if (threadIdx.x == 0) shared.cells[kWarps] = last;
    for (std::uint32_t chunk = 0; chunk + 1 < Window::kAheadChunks; ++chunk) fetch(chunk);
    if constexpr (gathers) {
      first_column = first % args.matrix.cells;
      gathered = min(args.matrix.cells, last - first);
      if (args.input.type == ElementType::f32) gather<ElementType::f32>();
      if (args.input.type == ElementType::f16) gather<ElementType::f16>();
      if (args.input.type == ElementType::bf16) gather<ElementType::bf16>();
    }
    __syncthreads();
    follow_run();
    __syncthreads();
    const std::uint32_t cells = args.matrix.cells;
    for (std::uint32_t panel = first / cells; has_part(first, last, panel, cells); ++panel) {
      bool whole = false;  // one run had it all and has stored it
      for (int w = 0; w < kWarps; ++w) whole |= has_whole(shared.cells[w], shared.cells[w + 1], panel, cells);
      if (!whole) share_panel(panel, first, last);
    }
  }
};

template <int kTokenBlocks, int kWarps, int kBlocksPerSm, bool gathers = false>
__global__ void __launch_bounds__(kWarps* kLanes, kBlocksPerSm) small_batch(const __grid_constant__ ProductArgs args) {
  using Work = SmallBatch<kTokenBlocks, kWarps, gathers>;
  Work{args, *reinterpret_cast<typename Work::Shared*>(shared_memory())}.compute();
}

template <int kTokenBlocks, int kWarps, int kBlocksPerSm, bool gathers = false>
constexpr ProductKernel make_kernel(const char* name) {
  return {name,
          kTokenBlocks,
          kWarps,
          gathers,
          sizeof(typename SmallBatch<kTokenBlocks, kWarps, gathers>::Shared),
          small_batch<kTokenBlocks, kWarps, kBlocksPerSm, gathers>};
}

}  // namespace

const ProductKernel* small_batch_kernels() {
  static constexpr ProductKernel kKernels[kSmallBatchKernels] = {
      make_kernel<1, 8, 2, true>("one token"), make_kernel<1, 8, 2>("small batch 8"),
      make_kernel<2, 4, 3>("small batch 16"), make_kernel<4, 4, 2>("small batch 32")};
  return kKernels;
}

}  // namespace scalebits::cuda
