// Products for 1 to 32 tokens: reads the stream of weights once, at the speed of memory. Each warp follows its run of
// cells (schedule.h) through a window in shared memory (stream_window.h), turns records into fragments and multiplies
// on the tensor cores, also for one token: there the other columns cost nothing that memory would not cost anyway. A
// tile's products are exact integers times f16; they are scaled and their zero points taken off in f32, once per group.
// For one token there is a kernel that also gathers: each block takes the inputs of its own cells, while its first
// weights are on their way, so that a product is one launch.
#include "kernels/cuda/activate.h"
#include "kernels/cuda/card.cuh"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launches.h"
#include "kernels/cuda/stream_window.h"

namespace scalebits::cuda {
namespace {

using Window = StreamWindow<16>;

/// kTokenBlocks: of 8 tokens. kWarps: of a thread block. kGroups: of a cell. gathers: for one token, which then stands
/// in all 8 columns.
template <int kTokenBlocks, int kWarps, int kGroups, bool gathers>
struct SmallBatch {
  static constexpr int kTokens = gathers ? 1 : kTokenBlocks * kTokenBlock;
  static constexpr int kColumns = gathers ? 1 : 2;  // of a lane's in mma's result, that are tokens of their own
  static constexpr int kPartValues = kPanelRows * kTokens;

  struct alignas(16) Shared {
    std::uint8_t ring[kWarps][Window::kRingBytes];  // at the end of a run: its part of its last panel
    float head[kWarps][kPartValues];                // of its first panel, when that is another one
    SideConstants side[kMostParts];
    std::uint32_t cells[kWarps + 1];  // where the warps' runs begin
    float squares[kWarps];            // of a warp's inputs

    /// Of kernels that gather: inputs of the block's cells, 16 bytes each for [cell, lane mod 4, half], then sums, then
    /// factors: powers of two that bring a cell's largest input into [1, 2), as a token's elsewhere.
    __device__ uint4* x() { return reinterpret_cast<uint4*>(this + 1); }
  };
  static_assert(kPartValues * sizeof(float) <= Window::kRingBytes);

  /// Of one cell and lane.
  struct Cell {
    std::uint32_t widths;
    uint4 x[kTokenBlocks][2];
    float2 sums[kGroups][kTokenBlocks];
    float factor;  // of gathered inputs
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
  const int warp = threadIdx.x / kLanes;
  const int lane = __shfl_xor_sync(~0u, static_cast<int>(threadIdx.x) % kLanes, 0);  // kept, not asked for at every use
  const WarpRun run = args.schedule.runs[blockIdx.x * kWarps + warp];
  Window window = {};
  const std::uint8_t* source = args.matrix.stream + run.first_byte + lane * 16;  // of the lane's copy of the next chunk
  const std::uint32_t own_chunks = chunks_of_lane();                             // that hold bytes for the lane
  std::uint32_t first_column = 0, gathered = 0;  // cells whose inputs lie in shared memory, from this column on

  __device__ std::uint32_t chunks_of_lane() const {
    const std::int64_t bytes = static_cast<std::int64_t>(run.last_byte - run.first_byte) - lane * 16;
    return bytes > 0 ? static_cast<std::uint32_t>((bytes + kChunkBytes - 1) / kChunkBytes) : 0;
  }
  __device__ float* gathered_sums() const { return reinterpret_cast<float*>(shared.x() + gathered * 8); }
  __device__ float* gathered_factors() const { return gathered_sums() + gathered * 2; }

  // Inputs between being asked for and being used. `scaled`: divided by a cell's factor before they become f16.
  template <ElementType type>
  struct Given {
    using Asked = Element<type>;
    static constexpr bool scaled = type != ElementType::f16;
    const InputView& input;
    __device__ Asked ask(std::int64_t i) const { return Asked::at(input.x, i); }
    __device__ auto value(const Asked& asked) const { return asked.value; }
  };
  struct Normed {
    struct Asked {
      float x, delta, bias, weight;
    };
    static constexpr bool scaled = false;
    const InputView& input;
    float inverse;
    __device__ static Asked ask_sum(const InputView& input, std::int64_t i) {
      const NormView& norm = input.norm;
      return {static_cast<const float*>(input.x)[i], norm.delta != nullptr ? norm.delta[i] : 0,
              norm.delta_bias != nullptr ? norm.delta_bias[i] : 0, 0};
    }
    __device__ static float sum(const Asked& asked) { return asked.x + (asked.delta + asked.bias); }
    __device__ Asked ask(std::int64_t i) const {
      Asked asked = ask_sum(input, i);
      asked.weight = input.norm.weight[i];
      return asked;
    }
    __device__ float value(const Asked& asked) const { return sum(asked) * inverse * asked.weight; }
  };
  struct Activated {
    struct Asked {
      float x, bias, up, up_bias;
    };
    static constexpr bool scaled = true;
    const InputView& input;
    __device__ Asked ask(std::int64_t i) const {
      const MlpView& mlp = input.mlp;
      return {static_cast<const float*>(input.x)[i], mlp.bias != nullptr ? mlp.bias[i] : 0,
              mlp.up != nullptr ? mlp.up[i] : 0, mlp.up_bias != nullptr ? mlp.up_bias[i] : 0};
    }
    __device__ float value(const Asked& asked) const {
      if (input.mlp.up == nullptr) return without_gate(asked.x + asked.bias);
      return with_gate(asked.x + asked.bias, asked.up + asked.up_bias);
    }
  };
  /// 1 / sqrt(mean of squares + eps) of the residual stream, which one of the blocks keeps.
  __device__ float norm_factor() {
    const InputView& input = args.input;
    float squares = 0;
    constexpr int kAtOnce = 16, kThreads = kWarps * kLanes;  // all on their way before the first is waited for
    for (std::int64_t first = threadIdx.x; first < input.inputs; first += kAtOnce * kThreads) {
      typename Normed::Asked asked[kAtOnce];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j)
        asked[j] = first + j * kThreads < input.inputs ? Normed::ask_sum(input, first + j * kThreads)
                                                       : typename Normed::Asked{};
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const float value = Normed::sum(asked[j]);
        squares += value * value;
        if (blockIdx.x == 0 && first + j * kThreads < input.inputs) input.norm.sum[first + j * kThreads] = value;
      }
    }
    for (int step = kLanes / 2; step > 0; step /= 2) squares += __shfl_xor_sync(~0u, squares, step);
    if (lane == 0) shared.squares[warp] = squares;
    __syncthreads();
    squares = 0;
    for (int w = 0; w < kWarps; ++w) squares += shared.squares[w];
    return 1 / sqrtf(squares / static_cast<float>(input.inputs) + input.norm.eps);
  }

  __device__ void gather_all() {
    const InputView& input = args.input;
    if (input.norm.weight != nullptr) return gather(Normed{input, norm_factor()});
    if (input.mlp.activates) return gather(Activated{input});
    if (input.type == ElementType::f16) return gather(Given<ElementType::f16>{input});
    if (input.type == ElementType::f32) return gather(Given<ElementType::f32>{input});
    gather(Given<ElementType::bf16>{input});
  }

  /// A warp a cell: two neighbouring inputs a lane, to where the fragments' lanes look for them.
  template <typename Inputs>
  __device__ void gather(const Inputs& inputs) {
    constexpr int kAtOnce = 4;  // cells: an input is known only when its number has come, twice the way to memory
    for (std::uint32_t begin = warp; begin < gathered; begin += kAtOnce * kWarps) {
      std::int64_t from[kAtOnce][2];  // below 0: nothing
      typename Inputs::Asked values[kAtOnce][2];
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
          values[j][second] = from[j][second] < 0 ? typename Inputs::Asked{} : inputs.ask(from[j][second]);
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const std::uint32_t i = begin + j * kWarps;
        if (i >= gathered) break;
        float factor = 1;
        __half low, high;
        if constexpr (Inputs::scaled) {
          const float first = inputs.value(values[j][0]), second = inputs.value(values[j][1]);
          const std::uint32_t larger = max(__float_as_uint(fabsf(first)), __float_as_uint(fabsf(second)));
          factor = token_factor(__uint_as_float(__reduce_max_sync(~0u, larger)));  // as integers: NaN is the largest
          const float inverse = 1 / factor;
          low = __float2half_rn(first * inverse), high = __float2half_rn(second * inverse);
        } else {
          low = __half(inputs.value(values[j][0])), high = __half(inputs.value(values[j][1]));
        }
        reinterpret_cast<std::uint32_t*>(
            shared.x())[(i * 4 + quad_of_pair(lane)) * kBlockRegisters + register_of_pair(lane)] =
            __half_as_ushort(low) | std::uint32_t{__half_as_ushort(high)} << 16;
        float sum = __half2float(low) + __half2float(high);
        for (int step = 1; step <= 8; step *= 2) sum += __shfl_xor_sync(~0u, sum, step);
        if (kGroups == 1) sum += __shfl_xor_sync(~0u, sum, 16);
        if (lane % 16 == 0) gathered_sums()[2 * i + lane / 16] = sum;
        if (lane == 0) gathered_factors()[i] = factor;
      }
    }
  }

  __device__ void fetch() {
    const std::uint32_t chunk = window.ask();
    if (chunk < own_chunks) copy_async(shared.ring[warp] + Window::place(chunk * kChunkBytes) + lane * 16, source);
    source += kChunkBytes;
    close_group();
  }
  /// Makes the next `bytes` bytes readable to all lanes.
  __device__ void await(std::uint32_t bytes) {
    const std::uint32_t wanted = window.chunks_for(bytes);
    if (window.arrived >= wanted) return;
    __syncwarp();  // all lanes have read what is overwritten now
#pragma unroll 1
    for (; window.arrived < wanted; window.advance()) fetch();
    wait_groups<Window::kAheadChunks - 1>();
    __syncwarp();
  }

  __device__ void load(std::uint32_t cell, std::uint32_t column, Cell& into) const {
    into.widths = args.matrix.widths[cell];
    const int tokens = args.x.blocks * kTokenBlock;
    if constexpr (gathers) {
      const std::uint32_t at =
          column >= first_column ? column - first_column : column + args.matrix.cells - first_column;
#pragma unroll
      for (int half = 0; half < 2; ++half) into.x[0][half] = shared.x()[(at * 4 + lane % 4) * 2 + half];
#pragma unroll
      for (int group = 0; group < kGroups; ++group) {
        const float sum = gathered_sums()[2 * at + group];
        into.sums[group][0] = make_float2(sum, sum);
      }
      into.factor = gathered_factors()[at];
    } else {
#pragma unroll
      for (int block = 0; block < kTokenBlocks; ++block) {
#pragma unroll
        for (int half = 0; half < 2; ++half)
          into.x[block][half] = __ldg(reinterpret_cast<const uint4*>(
              args.x.values + fragment_index(column, block, args.x.blocks, lane, 4 * half)));
#pragma unroll
        for (int group = 0; group < kGroups; ++group)
          into.sums[group][block] = __ldg(reinterpret_cast<const float2*>(
              args.x.sums + sum_index(column, group, kGroups, block * kTokenBlock + 2 * (lane % 4), tokens)));
      }
    }
  }

  /// y += scale · (c - zero · sum of the group).
  __device__ static void scale_add(float (&y)[2 * kColumns], const float (&c)[4], const SideValues& side, float2 sums) {
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int column = 0; column < kColumns; ++column) {
        float& to = y[half * kColumns + column];
        const float sum = column == 0 ? sums.x : sums.y;
        to = fmaf(side.scale[half], fmaf(-side.zero[half], sum, c[2 * half + column]), to);
      }
  }

  __device__ void tile(int width, const SideConstants& constants, const Cell& cell,
                       float (&y)[kTokenBlocks][2 * kColumns]) {
    const int bytes = record_bytes(width, kGroups);
    await(bytes);
    const Load load{shared.ring[warp], window.position};
    std::uint32_t word[kGroups], weights[kFragmentRegisters];
#pragma unroll
    for (int group = 0; group < kGroups; ++group) load.template words<1>(32 * group + lane / 4 * 4, &word[group]);
    expand_tile(load, width, kGroups, lane, weights);
    window.consume(bytes);
    SideValues side[kGroups];
#pragma unroll
    for (int group = 0; group < kGroups; ++group)
      side[group] = side_values(constants, word[group], width, gathers ? cell.factor : 1);
#pragma unroll
    for (int block = 0; block < kTokenBlocks; ++block) {
      float low[4] = {}, high[4] = {};
      const uint4 x0 = cell.x[block][0], x1 = cell.x[block][1];
      multiply_add(low, weights, x0.x, x0.y);
      multiply_add(high, weights + 8, x1.x, x1.y);
      multiply_add(low, weights + 4, x0.z, x0.w);
      multiply_add(high, weights + 12, x1.z, x1.w);
      if constexpr (kGroups == 2) {
        scale_add(y[block], low, side[0], cell.sums[0][block]);
        scale_add(y[block], high, side[1], cell.sums[1][block]);
      } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) low[i] += high[i];
        scale_add(y[block], low, side[0], cell.sums[0][block]);
      }
    }
  }

  __device__ void finish_panel(std::uint32_t panel, bool at_end, float (&y)[kPanelTiles][kTokenBlocks][2 * kColumns]) {
    const bool whole = has_whole(run.first_cell, run.last_cell, panel, args.matrix.cells);
    if (at_end) __syncwarp();  // the ring has been read
    float* part = at_end ? reinterpret_cast<float*>(shared.ring[warp]) : shared.head[warp];
    const bool stores = !gathers || lane % 4 == 0;  // else lanes of a quad hold the same
#pragma unroll
    for (int t = 0; t < kPanelTiles; ++t)
#pragma unroll
      for (int block = 0; block < kTokenBlocks; ++block)
#pragma unroll
        for (int i = 0; i < 2 * kColumns; ++i) {
          const int row = t * kStoredTileRows + lane / 4 + i / kColumns * 8;
          const int token = gathers ? 0 : block * kTokenBlock + lane % 4 * 2 + i % kColumns;
          if (stores && whole) store_result(args, panel, row, token, y[t][block][i]);
          if (stores && !whole) part[row * kTokens + token] = y[t][block][i];
          y[t][block][i] = 0;
        }
  }

  __device__ void follow_run() {
    if (run.first_cell == run.last_cell) return;
    const std::uint32_t cells = args.matrix.cells;
    std::uint32_t panel = run.first_cell / cells, column = run.first_cell % cells;
    const SideConstants* constants = &shared.side[part_of(args, panel)];
    float y[kPanelTiles][kTokenBlocks][2 * kColumns] = {};
    Cell now, next;
    load(run.first_cell, column, next);
    for (std::uint32_t cell = run.first_cell; cell < run.last_cell; ++cell) {
      now = next;
      const std::uint32_t next_column = column + 1 == cells ? 0 : column + 1;
      if (cell + 1 < run.last_cell) load(cell + 1, next_column, next);
#pragma unroll
      for (int t = 0; t < kPanelTiles; ++t)
        if (const int width = cell_width(now.widths, t); width > 0) tile(width, *constants, now, y[t]);
      const bool at_end = cell + 1 == run.last_cell;
      column = next_column;
      if (column > 0 && !at_end) continue;
      finish_panel(panel++, at_end, y);
      constants = &shared.side[part_of(args, panel)];
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

  /// A panel that the block has some of, or all but in several runs: body(element, its sum over the block's runs).
  template <typename Body>
  __device__ void for_sums(std::uint32_t panel, const Body& body) const {
    for (int i = threadIdx.x; i < kPartValues; i += kWarps * kLanes) body(i, sum_of_runs(panel, i));
  }
  __device__ void store_sum(std::uint32_t panel, int i, float sum) const {
    store_result(args, panel, i / kTokens, i % kTokens, sum);
  }

  /// Stores the panels of cells [first, last) that no run has stored. Of those that other blocks have cells of, the
  /// first and the last, whoever arrives last adds up the parts, in the order of the blocks.
  __device__ void finish_panels(std::uint32_t first, std::uint32_t last) const {
    const std::uint32_t cells = args.matrix.cells;
    const std::uint32_t own_part = args.schedule.block_part[blockIdx.x];
    std::uint32_t early = 0, late = 0;  // panels
    int count = 0;                      // of them that others have cells of
    for (std::uint32_t panel = first / cells; has_part(first, last, panel, cells); ++panel) {
      bool stored = false;  // one run had it all
      for (int w = 0; w < kWarps; ++w) stored |= has_whole(shared.cells[w], shared.cells[w + 1], panel, cells);
      if (stored) continue;
      if (has_whole(first, last, panel, cells)) {
        for_sums(panel, [&](int i, float sum) { store_sum(panel, i, sum); });
        continue;
      }
      // The block is the first one to have cells of the later panel, so its part there is that panel's first.
      float* const mine = part_at(count == 0 ? own_part : args.schedule.first_part[panel]);
      for_sums(panel, [&](int i, float sum) { mine[i] = sum; });
      (count == 0 ? early : late) = panel;
      ++count;
    }
    if (count == 0) return;
    const auto arrival = [&](std::uint32_t panel) {
      return Arrival{args.schedule.arrivals + panel, args.schedule.sharers[panel]};
    };
    const Arrival first_arrival = arrival(early), second_arrival = count == 2 ? arrival(late) : Arrival{};
    const unsigned is_last = arrive(first_arrival, second_arrival);
    if (is_last & 1) join(early, first_arrival.sharers);
    if (is_last & 2) join(late, second_arrival.sharers);
  }
  __device__ void join(std::uint32_t panel, std::uint32_t sharers) const {
    const float* const parts = part_at(args.schedule.first_part[panel]);
    for (int i = threadIdx.x; i < kPartValues; i += kWarps * kLanes) {
      float sum = 0;
#pragma unroll 4
      for (std::uint32_t s = 0; s < sharers; ++s) sum += __ldcg(parts + s * std::int64_t{kPartValues} + i);
      store_sum(panel, i, sum);
    }
  }
  __device__ float* part_at(std::uint32_t part) const { return args.schedule.sums + part * std::int64_t{kPartValues}; }

  __device__ void compute() {
    constexpr int kWords = sizeof(SideConstants) / 4;
    for (int i = threadIdx.x; i < args.matrix.parts * kWords; i += kWarps * kLanes)
      reinterpret_cast<std::uint32_t*>(shared.side)[i] = reinterpret_cast<const std::uint32_t*>(args.matrix.side)[i];
    if (lane == 0) shared.cells[warp] = run.first_cell;
    const std::uint32_t first = args.schedule.block_cells[blockIdx.x], last = args.schedule.block_cells[blockIdx.x + 1];
    if (threadIdx.x == 0) shared.cells[kWarps] = last;
#pragma unroll 1
    while (window.asked + 1 < Window::kAheadChunks) fetch();
    wait_for_earlier();
    if constexpr (gathers) {
      first_column = first % args.matrix.cells;
      gathered = min(args.matrix.cells, last - first);
      gather_all();
    }
    __syncthreads();
    follow_run();
    __syncthreads();
    finish_panels(first, last);
  }
};

template <int kTokenBlocks, int kWarps, int kBlocksPerSm, int kGroups, bool gathers>
__global__ void __launch_bounds__(kWarps* kLanes, kBlocksPerSm) small_batch(const __grid_constant__ ProductArgs args) {
  let_next_begin();
  using Work = SmallBatch<kTokenBlocks, kWarps, kGroups, gathers>;
  Work{args, *reinterpret_cast<typename Work::Shared*>(shared_memory())}.compute();
}

template <int kTokenBlocks, int kWarps, int kBlocksPerSm, bool gathers = false>
constexpr ProductKernel make_kernel(const char* name) {
  return {name,
          kTokenBlocks,
          kWarps,
          gathers,
          sizeof(typename SmallBatch<kTokenBlocks, kWarps, 1, gathers>::Shared),
          {small_batch<kTokenBlocks, kWarps, kBlocksPerSm, 1, gathers>,
           small_batch<kTokenBlocks, kWarps, kBlocksPerSm, 2, gathers>}};
}

}  // namespace

const ProductKernel* small_batch_kernels() {
  static constexpr ProductKernel kKernels[kSmallBatchKernels] = {
      make_kernel<1, 8, 2, true>("one token"), make_kernel<1, 8, 2>("small batch 8"),
      make_kernel<2, 4, 3>("small batch 16"), make_kernel<4, 4, 2>("small batch 32")};
  return kKernels;
}

}  // namespace scalebits::cuda
