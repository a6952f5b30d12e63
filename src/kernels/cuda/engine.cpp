#include "kernels/cuda/engine.h"

#include "kernels/cuda/launches.h"
#include "kernels/cuda/stream_plan.h"

#include <algorithm>

namespace scalebits::cuda {
namespace {

void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw CardError(std::string("CUDA: ") + what + ": " + cudaGetErrorString(status));
}

int attribute(cudaDeviceAttr name, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, name, device), "reading the card's properties");
  return value;
}

Card describe(int device) {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, device), "reading the card's properties");
  return {.name = properties.name,
          .major = properties.major,
          .minor = properties.minor,
          .multiprocessors = properties.multiProcessorCount,
          .bytes = properties.totalGlobalMem,
          .cache_bytes = static_cast<std::uint64_t>(properties.l2CacheSize),
          .clock_ghz = attribute(cudaDevAttrClockRate, device) * 1e-6,
          .memory_clock_ghz = attribute(cudaDevAttrMemoryClockRate, device) * 1e-6};
}

template <typename T>
CardBuffer on_card(Engine& engine, std::span<const T> values) {
  if (values.empty()) return {};
  CardBuffer buffer(values.size_bytes());
  engine.upload(buffer, values.data(), values.size_bytes());
  return buffer;
}
template <typename T>
CardBuffer on_card(Engine& engine, const std::vector<T>& values) {
  return on_card(engine, std::span<const T>(values));
}

/// Blocks of 8 tokens that `tokens` are prepared for: what one of the kernels reads.
int token_blocks(int tokens) {
  for (int i = 1; i < kSmallBatchKernels; ++i)
    if (tokens <= small_batch_kernels()[i].token_blocks * kTokenBlock) return small_batch_kernels()[i].token_blocks;
  return (tokens + kPromptTokens - 1) / kPromptTokens * (kPromptTokens / kTokenBlock);
}

/// Of shared memory, for gathered inputs: 160 cells, about 10,000 inputs. With more, blocks would keep each other out.
constexpr int kMostGathered = 24 << 10;

/// Cells whose inputs a block needs, at most.
int gathered_cells(const Schedule& schedule, std::uint32_t panel_cells) {
  std::uint32_t most = 0;
  for (std::size_t block = 0; block + 1 < schedule.block_cells.size(); ++block)
    most = std::max(most, schedule.block_cells[block + 1] - schedule.block_cells[block]);
  return static_cast<int>(std::min(most, panel_cells));
}

}  // namespace

std::vector<Card> cards() {
  int count = 0, driver = 0;
  // Without a driver the runtime would complain of its version.
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0)
    throw CardError("no CUDA card: this machine has no NVIDIA driver");
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) throw CardError(std::string("no CUDA card: ") + cudaGetErrorString(status));
  std::vector<Card> found;
  for (int device = 0; device < count; ++device) {
    found.push_back(describe(device));
    if (found.back().major < 8)
      throw CardError("the card '" + found.back().name + "' has compute capability " +
                      std::to_string(found.back().major) + "." + std::to_string(found.back().minor) +
                      "; kernels need 8.0 or later (CUDA_VISIBLE_DEVICES leaves a card out)");
  }
  if (found.empty()) throw CardError("no CUDA card: the driver lists none");
  return found;
}

CardBuffer::CardBuffer(std::uint64_t bytes) : bytes_(bytes) {
  void* memory = nullptr;
  check(cudaMalloc(&memory, std::max<std::uint64_t>(bytes, 16)),
        ("asking for " + std::to_string(bytes) + " bytes of the card's memory").c_str());
  data_ = std::shared_ptr<void>(memory, [](void* old) { cudaFree(old); });
  check(cudaMemset(memory, 0, bytes), "clearing memory");
  check(cudaDeviceSynchronize(), "clearing memory");  // our stream does not wait for the default one
}

struct Engine::State {
  Card card;
  cudaStream_t stream = nullptr;
  int blocks[kSmallBatchKernels] = {};  // of each kernel, that run at once
  int most_gathered = 0;                // bytes of shared memory that a block may gather into
  // What prepare() left behind.
  CardBuffer fragments, sums, factors;
  ActivationView x;
  std::int64_t cols = 0;
  int groups = 0;

  ~State() {
    if (stream != nullptr) cudaStreamDestroy(stream);
  }
  void grow(CardBuffer& buffer, std::uint64_t bytes) {
    if (buffer.bytes() < bytes) buffer = CardBuffer(bytes);
  }
};

Engine::Engine(int card) : state_(std::make_unique<State>()) {
  const std::vector<Card> found = cards();
  if (card < 0 || card >= static_cast<int>(found.size()))
    throw CardError("there is no CUDA card " + std::to_string(card) + "; there are " + std::to_string(found.size()));
  check(cudaSetDevice(card), "choosing the card");
  state_->card = found[static_cast<std::size_t>(card)];
  check(cudaStreamCreateWithFlags(&state_->stream, cudaStreamNonBlocking), "making a stream");
  const int most_shared = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, card);
  for (int i = 0; i < kSmallBatchKernels; ++i) {
    const ProductKernel& kernel = small_batch_kernels()[i];
    const auto* function = reinterpret_cast<const void*>(kernel.run);
    int shared = static_cast<int>(kernel.shared_bytes);
    if (kernel.gathers) {
      state_->most_gathered = std::clamp(most_shared - shared, 0, kMostGathered);
      shared += state_->most_gathered;
    }
    check(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, shared), kernel.name);
    int blocks = 0;
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, function, kernel.warps * kLanes, kernel.shared_bytes),
          kernel.name);
    if (blocks == 0) throw CardError(std::string("CUDA: the kernel '") + kernel.name + "' does not fit this card");
    state_->blocks[i] = blocks * state_->card.multiprocessors;
  }
  const PromptKernel& prompt = prompt_kernel();
  check(cudaFuncSetAttribute(reinterpret_cast<const void*>(prompt.run), cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(prompt.shared_bytes)),
        prompt.name);
}

Engine::~Engine() = default;
const Card& Engine::card() const { return state_->card; }
void* Engine::stream() const { return state_->stream; }

void Engine::upload(const CardBuffer& to, const void* from, std::uint64_t bytes) {
  check(cudaMemcpyAsync(to.data(), from, bytes, cudaMemcpyHostToDevice, state_->stream), "copying to the card");
  wait();
}
void Engine::download(void* to, const CardBuffer& from, std::uint64_t bytes) {
  check(cudaMemcpyAsync(to, from.data(), bytes, cudaMemcpyDeviceToHost, state_->stream), "copying from the card");
  wait();
}
void Engine::wait() { check(cudaStreamSynchronize(state_->stream), "running kernels"); }

struct CardMatrices::State {
  std::vector<StoredShape> shapes;
  StreamPlan plan;  // without what lies on the card
  CardBuffer stream, widths, panel_bytes, cell_offsets, side, input_order;
  std::vector<CardBuffer> row_orders;
  struct Scheduled {
    int blocks = 0;
    int gathered_cells = 0;
    CardBuffer runs, block_cells, first_block, sharers, arrivals, sums;
  };
  std::vector<Scheduled> schedules;  // [small batch kernel]
  // Of the prompt's kernel, whose tiles may be split: one counter for each tile of results, partial sums.
  CardBuffer arrivals, sums;

  ProductArgs args(std::span<const CardOutput> outputs) const {
    if (outputs.size() != shapes.size()) throw std::logic_error("a product needs one output for each matrix");
    ProductArgs result;
    result.matrix = {.stream = stream.as<std::uint8_t>(),
                     .widths = widths.as<std::uint16_t>(),
                     .panel_bytes = panel_bytes.as<std::uint64_t>(),
                     .cell_offsets = cell_offsets.as<std::uint32_t>(),
                     .side = side.as<SideConstants>(),
                     .panels = plan.panels,
                     .cells = plan.cells,
                     .groups = plan.groups,
                     .parts = static_cast<int>(shapes.size())};
    for (std::size_t part = 0; part < shapes.size(); ++part) {
      result.part[part].first_panel = plan.first_panels[part];
      result.part[part].rows = static_cast<std::uint32_t>(shapes[part].rows);
      result.part[part].row_order = row_orders[part].as<std::uint32_t>();
      result.part[part].y = outputs[part].y;
      result.part[part].y_stride = outputs[part].y_stride;
    }
    return result;
  }
};

CardMatrices::CardMatrices(Engine& engine, std::span<const StoredMatrix> parts) : state_(std::make_unique<State>()) {
  if (parts.empty() || parts.size() > kMostParts)
    throw std::logic_error("CardMatrices: 1 to " + std::to_string(kMostParts) + " matrices");
  std::vector<StoredTiles> tiles;
  for (const StoredMatrix& part : parts) {
    state_->shapes.push_back(part.shape);
    tiles.push_back(find_stored_tiles(part.shape, part.widths));
    if (part.shape.cols != parts[0].shape.cols || tile_groups(part.shape) != tile_groups(parts[0].shape) ||
        !std::ranges::equal(part.input_order, parts[0].input_order) || tiles.back().blob_bytes != part.blob.size())
      throw std::logic_error("CardMatrices: parts must read the same inputs in the same order and be whole");
  }
  StreamPlan& plan = state_->plan;
  plan = plan_stream(state_->shapes, tiles);
  state_->stream = CardBuffer(plan.bytes);
  for (std::size_t part = 0; part < parts.size(); ++part) {
    const CardBuffer blob = on_card(engine, parts[part].blob), places = on_card(engine, tiles[part].tiles),
                     records = on_card(engine, plan.records[part]);
    launch_repack({.shape = parts[part].shape,
                   .blob = blob.as<std::uint8_t>(),
                   .tiles = places.as<StoredTile>(),
                   .records = records.as<std::uint64_t>(),
                   .count = static_cast<std::int64_t>(tiles[part].tiles.size()),
                   .stream = state_->stream.as<std::uint8_t>()},
                  static_cast<cudaStream_t>(engine.stream()));
    check(cudaGetLastError(), "repacking");
    engine.wait();
    state_->row_orders.push_back(on_card(engine, parts[part].row_order));
  }
  state_->input_order = on_card(engine, parts[0].input_order);
  std::vector<SideConstants> side;
  for (const StoredShape& shape : state_->shapes) side.push_back(make_side_constants(shape));
  state_->side = on_card(engine, side);
  state_->widths = on_card(engine, plan.widths);
  state_->panel_bytes = on_card(engine, plan.panel_bytes);
  state_->cell_offsets = on_card(engine, plan.cell_offsets);
  for (int i = 0; i < kSmallBatchKernels; ++i) {
    const ProductKernel& kernel = small_batch_kernels()[i];
    const Schedule schedule =
        make_schedule(plan.widths, plan.groups, plan.cells, engine.state_->blocks[i], kernel.warps);
    const std::uint64_t part_bytes =
        sizeof(float) * kPanelRows * kTokenBlock * static_cast<std::uint64_t>(kernel.token_blocks);
    state_->schedules.push_back({.blocks = schedule.blocks,
                                 .gathered_cells = gathered_cells(schedule, plan.cells),
                                 .runs = on_card(engine, schedule.runs),
                                 .block_cells = on_card(engine, schedule.block_cells),
                                 .first_block = on_card(engine, schedule.first_block),
                                 .sharers = on_card(engine, schedule.sharers),
                                 .arrivals = CardBuffer(sizeof(std::uint32_t) * plan.panels),
                                 .sums = CardBuffer(part_bytes * 2 * static_cast<std::uint64_t>(schedule.blocks))});
  }
  for (auto& records : plan.records) records = {};
  plan.widths = {};
  plan.panel_bytes = {};
  plan.cell_offsets = {};
}

CardMatrices::~CardMatrices() = default;
CardMatrices::CardMatrices(CardMatrices&&) noexcept = default;
std::int64_t CardMatrices::cols() const { return state_->shapes[0].cols; }
std::int64_t CardMatrices::rows(int part) const { return state_->shapes[static_cast<std::size_t>(part)].rows; }
std::uint64_t CardMatrices::bytes() const { return state_->plan.bytes + state_->widths.bytes(); }

void Engine::prepare(const CardInput& input, const CardMatrices& matrices) {
  const CardMatrices::State& weights = *matrices.state_;
  const int blocks = token_blocks(input.tokens), tokens = blocks * kTokenBlock, groups = weights.plan.groups;
  const std::uint64_t cells = weights.plan.cells;
  state_->grow(state_->fragments, cells * kCellCols * static_cast<std::uint64_t>(tokens) * 2);
  state_->grow(state_->sums, cells * static_cast<std::uint64_t>(groups * tokens) * sizeof(float));
  state_->grow(state_->factors, static_cast<std::uint64_t>(tokens) * sizeof(float));
  state_->x = {.fragments = state_->fragments.as<std::uint32_t>(),
               .sums = state_->sums.as<float>(),
               .factors = input.type == ElementType::f16 ? nullptr : state_->factors.as<float>(),
               .tokens = input.tokens,
               .blocks = blocks};
  state_->cols = matrices.cols();
  state_->groups = groups;
  launch_prepare({.x = input.x,
                  .x_stride = input.x_stride,
                  .type = input.type,
                  .tokens = input.tokens,
                  .blocks = blocks,
                  .inputs = matrices.cols(),
                  .groups = groups,
                  .input_order = weights.input_order.as<std::uint32_t>(),
                  .fragments = state_->fragments.as<std::uint32_t>(),
                  .sums = state_->sums.as<float>(),
                  .factors = state_->factors.as<float>()},
                 state_->stream);
  check(cudaGetLastError(), "preparing activations");
}

void Engine::launch(int index, const CardMatrices& matrices, ProductArgs& args, int gathered) {
  const ProductKernel& kernel = small_batch_kernels()[index];
  const CardMatrices::State::Scheduled& schedule = matrices.state_->schedules[static_cast<std::size_t>(index)];
  args.schedule = {.runs = schedule.runs.as<WarpRun>(),
                   .block_cells = schedule.block_cells.as<std::uint32_t>(),
                   .first_block = schedule.first_block.as<std::uint32_t>(),
                   .sharers = schedule.sharers.as<std::uint32_t>(),
                   .arrivals = schedule.arrivals.as<std::uint32_t>(),
                   .sums = schedule.sums.as<float>()};
  void* arguments[] = {&args};
  check(cudaLaunchKernel(reinterpret_cast<const void*>(kernel.run), dim3(static_cast<unsigned>(schedule.blocks)),
                         dim3(static_cast<unsigned>(kernel.warps * kLanes)), arguments,
                         kernel.shared_bytes + static_cast<std::size_t>(gathered * kGatheredBytes), state_->stream),
        kernel.name);
}

void Engine::product(const CardInput& input, const CardMatrices& matrices, std::span<const CardOutput> outputs,
                     ElementType output) {
  const CardMatrices::State& weights = *matrices.state_;
  const int gathered = weights.schedules[0].gathered_cells;
  if (input.tokens > 1 || gathered * kGatheredBytes > state_->most_gathered) {
    prepare(input, matrices);
    return multiply(matrices, outputs, output);
  }
  ProductArgs args = weights.args(outputs);
  args.input = {.x = input.x,
                .type = input.type,
                .inputs = matrices.cols(),
                .input_order = weights.input_order.as<std::uint32_t>()};
  args.x.tokens = 1;
  args.output = output;
  launch(0, matrices, args, gathered);
}

void Engine::multiply(const CardMatrices& matrices, std::span<const CardOutput> outputs, ElementType output) {
  CardMatrices::State& weights = *matrices.state_;
  if (state_->cols != matrices.cols() || state_->groups != weights.plan.groups)
    throw std::logic_error("Engine::multiply: inputs were prepared for other matrices");
  ProductArgs args = weights.args(outputs);
  args.x = state_->x;
  args.output = output;
  for (int i = 1; i < kSmallBatchKernels; ++i)
    if (small_batch_kernels()[i].token_blocks == args.x.blocks) return launch(i, matrices, args, 0);
  const PromptKernel& kernel = prompt_kernel();
  const PromptGrid grid =
      prompt_grid(weights.plan.panels, weights.plan.cells, args.x.blocks, state_->card.multiprocessors);
  state_->grow(weights.arrivals, grid.tiles * sizeof(std::uint32_t));
  state_->grow(weights.sums, grid.sum_bytes);
  args.schedule.arrivals = weights.arrivals.as<std::uint32_t>();
  args.schedule.sums = weights.sums.as<float>();
  void* arguments[] = {&args, const_cast<int*>(&grid.splits)};
  check(cudaLaunchKernel(reinterpret_cast<const void*>(kernel.run),
                         dim3(grid.rows, grid.columns, static_cast<unsigned>(grid.splits)),
                         dim3(static_cast<unsigned>(kernel.threads)), arguments, kernel.shared_bytes, state_->stream),
        kernel.name);
}

void Engine::reference(const StoredMatrix& matrix, const CardInput& input, const CardBuffer& y,
                       const CardBuffer& magnitude) {
  const StoredTiles tiles = find_stored_tiles(matrix.shape, matrix.widths);
  const CardBuffer blob = on_card(*this, matrix.blob), places = on_card(*this, tiles.tiles),
                   rows = on_card(*this, matrix.row_order), columns = on_card(*this, matrix.input_order);
  launch_reference({.shape = matrix.shape,
                    .blob = blob.as<std::uint8_t>(),
                    .tiles = places.as<StoredTile>(),
                    .row_order = rows.as<std::uint32_t>(),
                    .input_order = columns.as<std::uint32_t>(),
                    .x = input.x,
                    .x_stride = input.x_stride,
                    .type = input.type,
                    .tokens = input.tokens,
                    .y = y.as<float>(),
                    .magnitude = magnitude.as<float>()},
                   state_->stream);
  check(cudaGetLastError(), "the reference product");
  wait();
}

}  // namespace scalebits::cuda
