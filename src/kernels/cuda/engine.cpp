#include "kernels/cuda/engine.h"

#include "kernels/cuda/launches.h"
#include "kernels/cuda/start.h"

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

CardBuffer::CardBuffer(std::uint64_t bytes) {
  void* memory = nullptr;
  check(cudaMalloc(&memory, std::max<std::uint64_t>(bytes, 1)),
        ("asking for " + std::to_string(bytes) + " bytes of the card's memory").c_str());
  static_cast<DeviceMemory&>(*this) = {std::shared_ptr<void>(memory, [](void* old) { cudaFree(old); }), bytes};
  check(cudaMemset(memory, 0, bytes), "clearing memory");
  check(cudaDeviceSynchronize(), "clearing memory");  // our stream does not wait for the default one
}

struct Engine::State {
  Card card;
  cudaStream_t stream = nullptr;
  int blocks[kSmallBatchKernels] = {};  // of each kernel, that run at once
  int most_gathered = 0;                // bytes of shared memory that a block may gather into
  // Partial sums of products whose panels or tiles are shared; of one product at a time, as all are done in order.
  CardBuffer small_batch_sums, prompt_sums, prompt_arrivals;
  const PromptKernel* own_prompt = nullptr;  // that only cards like this one run
  // What prepare() left behind.
  CardBuffer values, sums, factors;
  ActivationView x;
  std::int64_t cols = 0;
  int groups = 0;
  bool by_tokens = false;

  ~State() {
    if (stream != nullptr) cudaStreamDestroy(stream);
  }
  void grow(CardBuffer& buffer, std::uint64_t bytes) {
    if (buffer.bytes() < bytes) buffer = CardBuffer(bytes);
  }
  const PromptKernel& prompt_kernel_for(const MatricesPlan& plan) const {
    return own_prompt != nullptr && plan.fit_halves ? *own_prompt : prompt_kernel();
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
  std::uint64_t sum_bytes = 0;
  for (int i = 0; i < kSmallBatchKernels; ++i) {
    const ProductKernel& kernel = small_batch_kernels()[i];
    int shared = static_cast<int>(kernel.shared_bytes), blocks = 0;
    if (kernel.gathers) {
      state_->most_gathered = std::clamp(most_shared - shared, 0, kMostGathered);
      shared += state_->most_gathered;
    }
    for (const auto run : kernel.run) {
      const auto* function = reinterpret_cast<const void*>(run);
      check(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, shared), kernel.name);
      int fit = 0;
      check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&fit, function, kernel.warps * kLanes, kernel.shared_bytes),
            kernel.name);
      blocks = run == kernel.run[0] ? fit : std::min(blocks, fit);
    }
    if (blocks == 0) throw CardError(std::string("CUDA: the kernel '") + kernel.name + "' does not fit this card");
    state_->blocks[i] = blocks * state_->card.multiprocessors;
    sum_bytes = std::max(sum_bytes, part_sum_bytes(state_->blocks[i], kernel.token_blocks));
  }
  state_->small_batch_sums = CardBuffer(sum_bytes);
  std::uint64_t tile_bytes = 0;
  const auto admit = [&](const PromptKernel& prompt) {
    for (const auto run : prompt.run)
      check(cudaFuncSetAttribute(reinterpret_cast<const void*>(run), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(prompt.shared_bytes)),
            prompt.name);
    tile_bytes = std::max(tile_bytes, prompt.tile_bytes());
  };
  admit(prompt_kernel());
  if (state_->card.major == 9 && state_->card.minor == 0) state_->own_prompt = hopper_prompt_kernel();
  if (state_->own_prompt != nullptr) admit(*state_->own_prompt);
  const auto tiles = static_cast<std::uint64_t>(state_->card.multiprocessors);  // with partial sums
  state_->prompt_sums = CardBuffer(tile_bytes * tiles);
  state_->prompt_arrivals = CardBuffer(sizeof(std::uint32_t) * tiles);
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
  MatricesPlan plan;  // without what lies on the card
  CardBuffer stream, widths, panel_bytes, cell_offsets, side, input_order;
  std::vector<CardBuffer> row_orders;
  struct Scheduled {
    int blocks = 0;
    int gathered_cells = 0;
    CardBuffer runs, block_cells, block_part, first_part, sharers, arrivals;
  };
  std::vector<Scheduled> schedules;  // [small batch kernel]

  MatrixView view() const {
    return {.stream = stream.as<std::uint8_t>(),
            .widths = widths.as<std::uint16_t>(),
            .panel_bytes = panel_bytes.as<std::uint64_t>(),
            .cell_offsets = cell_offsets.as<std::uint32_t>(),
            .side = side.as<SideConstants>(),
            .panels = plan.stream.panels,
            .cells = plan.stream.cells,
            .groups = plan.stream.groups,
            .parts = static_cast<int>(plan.shapes.size())};
  }
  ProductArgs args(std::span<const CardOutput> outputs) const {
    if (outputs.size() != plan.shapes.size()) throw std::logic_error("a product needs one output for each matrix");
    ProductArgs result;
    result.matrix = view();
    for (std::size_t part = 0; part < plan.shapes.size(); ++part) {
      result.part[part].first_panel = plan.stream.first_panels[part];
      result.part[part].rows = static_cast<std::uint32_t>(plan.shapes[part].rows);
      result.part[part].row_order = row_orders[part].as<std::uint32_t>();
      result.part[part].y = outputs[part].y;
      result.part[part].y_stride = outputs[part].y_stride;
    }
    return result;
  }
};

CardMatrices::CardMatrices(Engine& engine, std::span<const StoredMatrix> parts)
    : CardMatrices(engine, parts, plan_matrices(parts, engine.kernel_shapes())) {}

CardMatrices::CardMatrices(Engine& engine, std::span<const StoredMatrix> parts, MatricesPlan given)
    : state_(std::make_unique<State>()) {
  MatricesPlan& plan = state_->plan;
  plan = std::move(given);
  state_->stream = CardBuffer(plan.stream.bytes);
  for (std::size_t part = 0; part < parts.size(); ++part) {
    const CardBuffer blob = on_card(engine, parts[part].blob), places = on_card(engine, plan.tiles[part].tiles),
                     records = on_card(engine, plan.stream.records[part]);
    check(launch_repack({.shape = parts[part].shape,
                         .blob = blob.as<std::uint8_t>(),
                         .tiles = places.as<StoredTile>(),
                         .records = records.as<std::uint64_t>(),
                         .count = static_cast<std::int64_t>(plan.tiles[part].tiles.size()),
                         .stream = state_->stream.as<std::uint8_t>()},
                        static_cast<cudaStream_t>(engine.stream())),
          "repacking");
    engine.wait();
    state_->row_orders.push_back(on_card(engine, parts[part].row_order));
  }
  state_->input_order = on_card(engine, parts[0].input_order);
  state_->side = on_card(engine, plan.side);
  state_->widths = on_card(engine, plan.stream.widths);
  state_->panel_bytes = on_card(engine, plan.stream.panel_bytes);
  state_->cell_offsets = on_card(engine, plan.stream.cell_offsets);
  for (const Schedule& schedule : plan.schedules)
    state_->schedules.push_back({.blocks = schedule.blocks,
                                 .gathered_cells = gathered_cells(schedule, plan.stream.cells),
                                 .runs = on_card(engine, schedule.runs),
                                 .block_cells = on_card(engine, schedule.block_cells),
                                 .block_part = on_card(engine, schedule.block_part),
                                 .first_part = on_card(engine, schedule.first_part),
                                 .sharers = on_card(engine, schedule.sharers),
                                 .arrivals = CardBuffer(sizeof(std::uint32_t) * plan.stream.panels)});
  plan.tiles = {};
  plan.side = {};
  plan.schedules = {};
  plan.stream.records = {};
  plan.stream.widths = {};
  plan.stream.panel_bytes = {};
  plan.stream.cell_offsets = {};
}

CardMatrices::~CardMatrices() = default;
CardMatrices::CardMatrices(CardMatrices&&) noexcept = default;
std::int64_t CardMatrices::cols() const { return state_->plan.cols(); }
std::int64_t CardMatrices::rows(int part) const { return state_->plan.shapes[static_cast<std::size_t>(part)].rows; }
std::uint64_t CardMatrices::bytes() const { return state_->plan.stream.bytes + state_->widths.bytes(); }
MatrixView CardMatrices::view() const { return state_->view(); }

namespace {

/// Bytes of prepared activations: values, sums of groups of 32, factors.
struct PreparedBytes {
  PreparedBytes(int tokens, std::int64_t cols) {
    const auto padded = static_cast<std::uint64_t>(token_blocks(tokens) * kTokenBlock),
               cells = static_cast<std::uint64_t>((cols + kCellCols - 1) / kCellCols);
    values = cells * kCellCols * padded * 2;
    sums = cells * 2 * padded * sizeof(float);
    factors = padded * sizeof(float);
  }
  std::uint64_t values, sums, factors;
};

}  // namespace

void Engine::reserve(int tokens, std::int64_t cols) {
  const PreparedBytes bytes(tokens, cols);
  state_->grow(state_->values, bytes.values);
  state_->grow(state_->sums, bytes.sums);
  state_->grow(state_->factors, bytes.factors);
}
std::uint64_t Engine::reserve_bytes(int tokens, std::int64_t cols) const {
  const PreparedBytes bytes(tokens, cols);
  return bytes.values + bytes.sums + bytes.factors + state_->small_batch_sums.bytes() + state_->prompt_sums.bytes() +
         state_->prompt_arrivals.bytes();
}

std::vector<KernelShape> Engine::kernel_shapes() const {
  std::vector<KernelShape> shapes;
  for (int i = 0; i < kSmallBatchKernels; ++i) shapes.push_back({state_->blocks[i], small_batch_kernels()[i].warps});
  return shapes;
}

KernelName Engine::kernel_for(const CardMatrices& matrices, int tokens) const {
  const int blocks = token_blocks(tokens);
  for (int i = 1; i < kSmallBatchKernels; ++i)
    if (small_batch_kernels()[i].token_blocks == blocks) return {small_batch_kernels()[i].name, false};
  const PromptKernel& kernel = state_->prompt_kernel_for(matrices.state_->plan);
  return {kernel.name, kernel.by_tokens};
}

void Engine::leave_own_kernels() { state_->own_prompt = nullptr; }

void Engine::prepare(const CardInput& input, const CardMatrices& matrices) {
  const CardMatrices::State& weights = *matrices.state_;
  const int blocks = token_blocks(input.tokens), groups = weights.plan.stream.groups;
  reserve(input.tokens, matrices.cols());
  state_->x = {.values = state_->values.as<std::uint32_t>(),
               .sums = state_->sums.as<float>(),
               .factors = input.type == ElementType::f16 ? nullptr : state_->factors.as<float>(),
               .tokens = input.tokens,
               .blocks = blocks};
  state_->cols = matrices.cols();
  state_->groups = groups;
  state_->by_tokens = blocks * kTokenBlock >= kPromptTokens && state_->prompt_kernel_for(weights.plan).by_tokens;
  check(launch_prepare({.x = input.x,
                        .x_stride = input.x_stride,
                        .type = input.type,
                        .maxima = input.maxima,
                        .maxima_count = input.maxima_count,
                        .tokens = input.tokens,
                        .blocks = blocks,
                        .inputs = matrices.cols(),
                        .groups = groups,
                        .input_order = weights.input_order.as<std::uint32_t>(),
                        .by_tokens = state_->by_tokens,
                        .values = state_->values.as<std::uint32_t>(),
                        .sums = state_->sums.as<float>(),
                        .factors = state_->factors.as<float>()},
                       state_->stream),
        "preparing activations");
}

void Engine::launch(int index, const CardMatrices& matrices, ProductArgs& args, int gathered) {
  const ProductKernel& kernel = small_batch_kernels()[index];
  const CardMatrices::State::Scheduled& schedule = matrices.state_->schedules[static_cast<std::size_t>(index)];
  args.schedule = {.runs = schedule.runs.as<WarpRun>(),
                   .block_cells = schedule.block_cells.as<std::uint32_t>(),
                   .block_part = schedule.block_part.as<std::uint32_t>(),
                   .first_part = schedule.first_part.as<std::uint32_t>(),
                   .sharers = schedule.sharers.as<std::uint32_t>(),
                   .arrivals = schedule.arrivals.as<std::uint32_t>(),
                   .sums = state_->small_batch_sums.as<float>()};
  check(start(kernel.run[matrices.state_->plan.stream.groups - 1], dim3(static_cast<unsigned>(schedule.blocks)),
              static_cast<unsigned>(kernel.warps * kLanes),
              kernel.shared_bytes + static_cast<std::size_t>(gathered * kGatheredBytes), state_->stream, args),
        kernel.name);
}

bool Engine::gathers(const CardMatrices& matrices) const {
  return matrices.state_->schedules[0].gathered_cells * kGatheredBytes <= state_->most_gathered;
}

void Engine::product(const CardInput& input, const CardMatrices& matrices, std::span<const CardOutput> outputs,
                     ElementType output) {
  const CardMatrices::State& weights = *matrices.state_;
  if (input.tokens > 1 || !gathers(matrices)) {
    if (input.norm.weight != nullptr || input.mlp.activates)
      throw std::logic_error("Engine::product: this one does not make its inputs");
    prepare(input, matrices);
    return multiply(matrices, outputs, output);
  }
  ProductArgs args = weights.args(outputs);
  args.input = {.x = input.x,
                .type = input.type,
                .inputs = matrices.cols(),
                .input_order = weights.input_order.as<std::uint32_t>(),
                .norm = input.norm,
                .mlp = input.mlp};
  args.x.tokens = 1;
  args.output = output;
  launch(0, matrices, args, weights.schedules[0].gathered_cells);
}

void Engine::multiply(const CardMatrices& matrices, std::span<const CardOutput> outputs, ElementType output) {
  const CardMatrices::State& weights = *matrices.state_;
  if (state_->cols != matrices.cols() || state_->groups != weights.plan.stream.groups)
    throw std::logic_error("Engine::multiply: inputs were prepared for other matrices");
  ProductArgs args = weights.args(outputs);
  args.x = state_->x;
  args.output = output;
  for (int i = 1; i < kSmallBatchKernels; ++i)
    if (small_batch_kernels()[i].token_blocks == args.x.blocks) return launch(i, matrices, args, 0);
  const PromptKernel& kernel = state_->prompt_kernel_for(weights.plan);
  if (kernel.by_tokens != state_->by_tokens)
    throw std::logic_error("Engine::multiply: inputs were prepared for matrices of other ranges");
  const PromptGrid grid = prompt_grid(kernel, weights.plan.stream.panels, weights.plan.stream.cells, args.x.blocks,
                                      state_->card.multiprocessors);
  if (grid.sum_bytes > state_->prompt_sums.bytes() ||
      (grid.splits > 1 && grid.tiles * sizeof(std::uint32_t) > state_->prompt_arrivals.bytes()))
    throw std::logic_error("Engine::multiply: more partial sums than there is room for");
  args.schedule.arrivals = state_->prompt_arrivals.as<std::uint32_t>();
  args.schedule.sums = state_->prompt_sums.as<float>();
  check(start(kernel.run[weights.plan.stream.groups - 1],
              dim3(grid.rows, grid.columns, static_cast<unsigned>(grid.splits)), static_cast<unsigned>(kernel.threads),
              kernel.shared_bytes, state_->stream, args, grid.splits),
        kernel.name);
}

}  // namespace scalebits::cuda
