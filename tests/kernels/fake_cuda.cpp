// A CUDA runtime and its kernels in this machine's memory, for cuda_engine_test: the engine and the card's device are
// linked to this file instead of the toolkit's. A stream does nothing until someone waits for it, as a card may: copies
// from ordinary memory are taken at once, all else happens in order when it is waited for. Kernels check what they are
// given (shared memory, grids, schedules) and do their work slowly: operations by the emulated device, products weight
// by weight from the prepared activations, the way the real ones find them.
#include "kernels/cuda/emulated_device.h"
#include "kernels/cuda/half.h"
#include "kernels/cuda/launches.h"
#include "kernels/cuda/stream_weight.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

namespace {

using Step = std::function<void()>;
std::vector<Step> queue, captured;
bool capturing = false;
std::map<void*, std::size_t> allocated;
std::map<const void*, int> most_shared;
constexpr std::size_t kMemory = std::size_t{8} << 30;
constexpr int kMultiprocessors = 6, kBlocksEach = 2, kMostShared = 99 << 10;

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "fake CUDA: %s\n", what);
  std::abort();
}
void ask(Step step) { (capturing ? captured : queue).push_back(std::move(step)); }
void flush() {
  require(!capturing, "waiting or allocating while a stream is captured");
  std::vector<Step> steps;
  steps.swap(queue);
  for (const Step& step : steps) step();
}
std::size_t taken() {
  std::size_t sum = 0;
  for (const auto& [memory, bytes] : allocated) sum += bytes;
  return sum;
}

}  // namespace

struct CUgraph_st {
  std::vector<Step> steps;
};
struct CUgraphExec_st {
  std::vector<Step> steps;
};

extern "C" {
cudaError_t cudaDriverGetVersion(int* version) { return *version = 13000, cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {};
  std::strcpy(properties->name, "fake");
  properties->major = 9;
  properties->multiProcessorCount = kMultiprocessors;
  properties->totalGlobalMem = kMemory;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr name, int) {
  *value = name == cudaDevAttrMaxSharedMemoryPerBlockOptin ? kMostShared : 1000000;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaGetLastError() { return cudaSuccess; }
const char* cudaGetErrorString(cudaError_t) { return "an error of the fake runtime"; }
cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute, int value) {
  if (value > kMostShared) return cudaErrorInvalidValue;
  most_shared[function] = value;
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int, std::size_t) {
  return *blocks = kBlocksEach, cudaSuccess;
}
cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
  require(!capturing, "allocating while a stream is captured");
  if (taken() + bytes > kMemory) return cudaErrorMemoryAllocation;
  allocated[*memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256)] = bytes;
  std::memset(*memory, 0xee, bytes);
  return cudaSuccess;
}
cudaError_t cudaFree(void* memory) {
  flush();
  require(allocated.erase(memory) == 1, "freeing what was not allocated");
  std::free(memory);
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* all) {
  return *all = kMemory, *free = kMemory - taken(), cudaSuccess;
}
cudaError_t cudaMemset(void* memory, int value, std::size_t bytes) {
  std::memset(memory, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
  require(!capturing, "a copy in a recorded step");
  if (kind == cudaMemcpyHostToDevice)
    ask([to, bytes, staged = std::string(static_cast<const char*>(from), bytes)] {
      std::memcpy(to, staged.data(), bytes);
    });
  else
    ask([to, from, bytes] { std::memcpy(to, from, bytes); });
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }  // the default stream's work is done at once
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) { return *stream = nullptr, cudaSuccess; }
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return flush(), cudaSuccess; }
cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
  require(!capturing, "a capture in a capture");
  return capturing = true, cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  capturing = false;
  *graph = new CUgraph_st{std::exchange(captured, {})};
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* instance, cudaGraph_t graph, unsigned long long) {
  return *instance = new CUgraphExec_st{graph->steps}, cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete graph, cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t instance) { return delete instance, cudaSuccess; }
cudaError_t cudaGraphLaunch(cudaGraphExec_t instance, cudaStream_t) {
  queue.insert(queue.end(), instance->steps.begin(), instance->steps.end());
  return cudaSuccess;
}
}

namespace scalebits::cuda {
namespace {

constexpr int kPromptTile = 256 * kPromptTokens;  // results of a block

/// Input `col` (stored order) of the token, with its factor.
double prepared_input(const ProductArgs& args, int token, std::int64_t col) {
  const int pair = static_cast<int>(col % kCellCols / 2), lane = token % kTokenBlock * 4 + quad_of_pair(pair);
  const std::uint32_t word =
      args.x
          .fragments[fragment_index(col / kCellCols, token / kTokenBlock, args.x.blocks, lane, register_of_pair(pair))];
  const float value = half_to_float(static_cast<std::uint16_t>(col % 2 == 0 ? word : word >> 16));
  return double(value) * (args.x.factors != nullptr ? double(args.x.factors[token]) : 1);
}
double gathered_input(const ProductArgs& args, std::int64_t col) {
  const InputView& input = args.input;
  float factor = 1, largest = 0;
  for (std::int64_t i = 0; i < input.inputs && input.type != ElementType::f16; ++i)
    largest = std::max(largest, std::abs(element_at(input.x, input.type, i)));
  if (input.type != ElementType::f16) factor = token_factor(largest);
  const std::int64_t from = input.input_order != nullptr ? input.input_order[col] : col;
  return double(half_to_float(float_to_half(element_at(input.x, input.type, from) / factor))) * double(factor);
}

void multiply(const ProductArgs& args, bool gathers, std::int64_t inputs) {
  for (int part = 0; part < args.matrix.parts; ++part) {
    const PartView& view = args.part[part];
    for (int token = 0; token < args.x.tokens; ++token) {
      std::vector<double> x(static_cast<std::size_t>(inputs));
      for (std::int64_t col = 0; col < inputs; ++col)
        x[static_cast<std::size_t>(col)] = gathers ? gathered_input(args, col) : prepared_input(args, token, col);
      for (std::uint32_t row = 0; row < view.rows; ++row) {
        double sum = 0;
        for (std::int64_t col = 0; col < inputs; ++col)
          sum +=
              double(stream_weight(args.matrix, view.first_panel, row, col, part)) * x[static_cast<std::size_t>(col)];
        const std::int64_t to = view.row_order != nullptr ? view.row_order[row] : row;
        require(args.output == ElementType::f32, "results of decoders are f32");
        static_cast<float*>(view.y)[token * view.y_stride + to] = static_cast<float>(sum);
      }
    }
  }
}

/// Every cell has one run, counters are zero, and partial sums have their room.
void check_schedule(const ProductArgs& args, const ProductKernel& kernel, unsigned blocks, std::size_t shared) {
  const ScheduleView& schedule = args.schedule;
  std::uint32_t cell = 0;
  for (unsigned run = 0; run < blocks * static_cast<unsigned>(kernel.warps); ++run) {
    require(schedule.runs[run].first_cell == cell, "runs of cells have gaps");
    cell = schedule.runs[run].last_cell;
  }
  require(cell == args.matrix.panels * args.matrix.cells, "runs do not reach the end");
  require(blocks <= kMultiprocessors * kBlocksEach, "more blocks than run at once");
  for (std::uint32_t panel = 0; panel < args.matrix.panels; ++panel)
    require(schedule.arrivals[panel] == 0 && schedule.sharers[panel] > 0, "a counter is not zero");
  const std::size_t part = static_cast<std::size_t>(kPanelRows * kernel.token_blocks * kTokenBlock);
  std::fill_n(schedule.sums, 2 * blocks * part, -1.0f);  // found by the address sanitizer if it is too much
  std::uint32_t most = 0;
  for (unsigned block = 0; kernel.gathers && block < blocks; ++block)
    most = std::max(most, schedule.block_cells[block + 1] - schedule.block_cells[block]);
  require(shared >= kernel.shared_bytes + std::min(most, args.matrix.cells) * kGatheredBytes,
          "too little shared memory");
}

template <int index>
void small_batch(ProductArgs) {}
void prompt(ProductArgs, int) {}

std::int64_t inputs_prepared = 0;  // of the last preparation that was asked for

}  // namespace

const ProductKernel* small_batch_kernels() {
  static constexpr ProductKernel kKernels[kSmallBatchKernels] = {
      {"one token", 1, 8, true, 70000, small_batch<0>},
      {"small batch 8", 1, 8, false, 70000, small_batch<1>},
      {"small batch 16", 2, 4, false, 60000, small_batch<2>},
      {"small batch 32", 4, 4, false, 90000, small_batch<3>}};
  return kKernels;
}
const PromptKernel& prompt_kernel() {
  static constexpr PromptKernel kKernel = {"prompt", 256, 90000, prompt};
  return kKernel;
}
/// As prompt.cu's, with more splits than it would make here.
PromptGrid prompt_grid(std::uint32_t panels, std::uint32_t cells, int blocks, int multiprocessors) {
  PromptGrid grid{.rows = (panels + 3) / 4, .columns = static_cast<unsigned>(blocks / (kPromptTokens / kTokenBlock))};
  grid.tiles = std::uint64_t{grid.rows} * grid.columns;
  grid.splits = std::max(
      1, std::min(static_cast<int>(static_cast<std::uint64_t>(multiprocessors) / grid.tiles), static_cast<int>(cells)));
  if (grid.splits > 1)
    grid.sum_bytes = grid.tiles * static_cast<std::uint64_t>(grid.splits) * kPromptTile * sizeof(float);
  return grid;
}
std::uint64_t most_prompt_sum_bytes(int multiprocessors) {
  return static_cast<std::uint64_t>(multiprocessors) * kPromptTile * sizeof(float);
}

void launch_operation(const Operation& operation, cudaStream_t) {
  static const std::unique_ptr<Device> device = make_emulated_device();
  const Grid grid = std::visit([](const auto& op) { return op.grid(); }, operation);
  require(grid.x > 0 && grid.y > 0 && grid.z > 0 && grid.y < 65536 && grid.z < 65536, "a grid that no card takes");
  ask([operation] { device->run(operation); });
}

void launch_repack(const RepackArgs& args, cudaStream_t) {
  ask([args] {
    for (std::int64_t i = 0; i < args.count; ++i)
      for (int lane = 0; lane < kLanes; ++lane)
        repack_tile(args.shape, args.blob, args.tiles[i], lane,
                    reinterpret_cast<std::uint32_t*>(args.stream + args.records[i]));
  });
}

void launch_prepare(const PrepareArgs& args, cudaStream_t) {
  inputs_prepared = args.inputs;
  ask([args] {
    const std::int64_t cells = divide_up(args.inputs, kCellCols);
    const int padded = args.blocks * kTokenBlock;
    std::fill_n(args.sums, cells * args.groups * padded, 0.0f);
    for (int token = 0; token < padded; ++token) {
      float factor = 1, largest = 0;
      const auto value = [&](std::int64_t i) { return element_at(args.x, args.type, token * args.x_stride + i); };
      for (std::int64_t i = 0; i < args.inputs && token < args.tokens && args.type != ElementType::f16; ++i)
        largest = std::max(largest, std::abs(value(i)));
      if (args.type != ElementType::f16) args.factors[token] = factor = token_factor(largest);
      for (std::int64_t col = 0; col < cells * kCellCols; ++col) {
        const int pair = static_cast<int>(col % kCellCols / 2), lane = token % kTokenBlock * 4 + quad_of_pair(pair);
        std::uint32_t& word = args.fragments[fragment_index(col / kCellCols, token / kTokenBlock, args.blocks, lane,
                                                            register_of_pair(pair))];
        std::uint32_t bits = 0;
        if (token < args.tokens && col < args.inputs)
          bits = float_to_half(value(args.input_order != nullptr ? args.input_order[col] : col) / factor);
        word = col % 2 == 0 ? bits : word | bits << 16;
      }
    }
  });
}

void launch_reference(const ReferenceArgs&, cudaStream_t) { require(false, "the reference is not here"); }

}  // namespace scalebits::cuda

extern "C" cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void** arguments,
                                        std::size_t shared, cudaStream_t) {
  using namespace scalebits::cuda;
  const ProductArgs args = *static_cast<const ProductArgs*>(arguments[0]);
  require(shared <= static_cast<std::size_t>(most_shared.at(function)), "more shared memory than was allowed");
  for (int i = 0; i < kSmallBatchKernels; ++i) {
    const ProductKernel& kernel = small_batch_kernels()[i];
    if (reinterpret_cast<const void*>(kernel.run) != function) continue;
    require(block.x == static_cast<unsigned>(kernel.warps * kLanes) && grid.y == 1 && grid.z == 1, "a wrong block");
    require(kernel.gathers ? args.x.tokens == 1 : args.x.blocks == kernel.token_blocks, "a kernel for other tokens");
    const std::int64_t inputs = kernel.gathers ? args.input.inputs : inputs_prepared;
    ask([args, &kernel, grid, shared, inputs] {
      check_schedule(args, kernel, grid.x, shared);
      multiply(args, kernel.gathers, inputs);
    });
    return cudaSuccess;
  }
  require(function == reinterpret_cast<const void*>(prompt_kernel().run), "an unknown kernel");
  const int splits = *static_cast<const int*>(arguments[1]);
  require(grid.z == static_cast<unsigned>(splits) &&
              args.x.blocks * kTokenBlock == static_cast<int>(grid.y) * kPromptTokens,
          "a wrong grid of a prompt");
  ask([args, grid, inputs = inputs_prepared] {
    const std::uint64_t tiles = std::uint64_t{grid.x} * grid.y;
    if (grid.z > 1) {
      for (std::uint64_t tile = 0; tile < tiles; ++tile)
        require(args.schedule.arrivals[tile] == 0, "a counter is not zero");
      std::fill_n(args.schedule.sums, tiles * grid.z * kPromptTile, -1.0f);
    }
    multiply(args, false, inputs);
  });
  return cudaSuccess;
}
