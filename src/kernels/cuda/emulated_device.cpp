#include "kernels/cuda/emulated_device.h"

#include "kernels/cuda/half.h"
#include "kernels/cuda/stream_weight.h"

#include <array>
#include <cmath>
#include <cstring>
#include <vector>

namespace scalebits::cuda {
namespace {

/// A block whose threads take turns (block.h).
template <int kThreads>
struct EmulatedBlock {
  int x = 0, y = 0, z = 0;
  bool backwards = false;

  template <typename T>
  using PerThread = std::array<T, static_cast<std::size_t>(kThreads)>;

  template <typename Body>
  void each(const Body& body) const {
    for (int i = 0; i < kThreads; ++i) body(backwards ? kThreads - 1 - i : i);
  }
  bool arrives_last(std::uint32_t* arrivals, std::uint32_t sharers) const {
    if (++*arrivals < sharers) return false;
    *arrivals = 0;
    return true;
  }
};

template <typename Op>
void emulate(const Op& operation, bool backwards) {
  const Grid grid = operation.grid();
  const std::int64_t blocks = std::int64_t{grid.x} * grid.y * grid.z;
  const auto shared = std::make_unique<typename Op::Shared>();
  for (std::int64_t i = 0; i < blocks; ++i) {
    const std::int64_t at = backwards ? blocks - 1 - i : i;
    std::memset(static_cast<void*>(shared.get()), 0xff,
                sizeof *shared);  // NaN: nobody may read what nobody has written
    EmulatedBlock<Op::kThreads> block{.x = static_cast<int>(at % grid.x),
                                      .y = static_cast<int>(at / grid.x % grid.y),
                                      .z = static_cast<int>(at / grid.x / grid.y),
                                      .backwards = backwards};
    operation.run(block, *shared);
  }
}

struct EmulatedMatrices : DeviceMatrices {
  MatricesPlan plan;
  std::vector<std::uint32_t> stream, input_order;
  std::vector<std::vector<std::uint32_t>> row_orders;
  std::shared_ptr<void> counted;

  MatrixView view() const override {
    return {.stream = reinterpret_cast<const std::uint8_t*>(stream.data()),
            .widths = plan.stream.widths.data(),
            .panel_bytes = plan.stream.panel_bytes.data(),
            .cell_offsets = plan.stream.cell_offsets.data(),
            .side = plan.side.data(),
            .panels = plan.stream.panels,
            .cells = plan.stream.cells,
            .groups = plan.stream.groups,
            .parts = static_cast<int>(plan.shapes.size())};
  }
};

/// One token's inputs, made of the residual stream.
std::vector<double> normed_inputs(const CardInput& input, std::int64_t cols) {
  const NormView& norm = input.norm;
  double squares = 0;
  for (std::int64_t i = 0; i < cols; ++i) {
    float& sum = norm.sum[i];
    sum = static_cast<const float*>(input.x)[i];
    if (norm.delta != nullptr) sum += norm.delta[i] + (norm.delta_bias != nullptr ? norm.delta_bias[i] : 0);
    squares += double(sum) * double(sum);
  }
  const float factor = 1 / std::sqrt(static_cast<float>(squares) / static_cast<float>(cols) + norm.eps);
  std::vector<double> x;
  for (std::int64_t i = 0; i < cols; ++i)
    x.push_back(double(half_to_float(float_to_half(norm.sum[i] * factor * norm.weight[i]))));
  return x;
}

/// x as the product's kernels take it: divided by the token's factor unless it is f16, rounded to f16.
std::vector<double> rounded_inputs(const CardInput& input, std::int64_t cols, int token) {
  const auto value = [&](std::int64_t i) {
    const float x = element_at(input.x, input.type, token * input.x_stride + i);
    if (!input.mlp.activates) return x;
    const auto plus = [i](float sum, const float* bias) { return sum + (bias != nullptr ? bias[i] : 0); };
    const float first = plus(x, input.mlp.bias);
    return input.mlp.up == nullptr ? without_gate(first) : with_gate(first, plus(input.mlp.up[i], input.mlp.up_bias));
  };
  const auto size = [&](std::int64_t i) {
    return input.maxima != nullptr ? input.maxima[token * input.maxima_count + i] : std::fabs(value(i));
  };
  float factor = 1, largest = 0;
  const std::int64_t sizes = input.maxima != nullptr ? input.maxima_count : cols;
  for (std::int64_t i = 0; i < sizes && input.type != ElementType::f16; ++i)
    largest = std::isnan(size(i)) || size(i) > largest ? size(i) : largest;
  if (input.type != ElementType::f16) factor = token_factor(largest);
  std::vector<double> x(static_cast<std::size_t>(cols));
  for (std::int64_t i = 0; i < cols; ++i)
    x[static_cast<std::size_t>(i)] = double(half_to_float(float_to_half(value(i) / factor))) * double(factor);
  return x;
}

class EmulatedDevice : public Device {
 public:
  explicit EmulatedDevice(const EmulationOptions& options) : options_(options) {}

  std::string name() const override { return "emulated"; }
  int multiprocessors() const override { return options_.multiprocessors; }
  std::uint64_t free_bytes() const override { return options_.bytes - *taken_; }

  DeviceMemory allocate(std::uint64_t bytes) override {
    const auto owner = take(bytes);
    const auto memory = std::make_shared<std::vector<std::uint64_t>>(bytes / 8 + 1);
    return {std::shared_ptr<void>(memory->data(), [owner, memory](void*) {}), bytes};
  }
  void upload(void* to, const void* from, std::uint64_t bytes) override {
    require_not_recording();
    if (bytes > 0) std::memcpy(to, from, bytes);
  }
  void download(void* to, const void* from, std::uint64_t bytes) override {
    require_not_recording();
    if (bytes > 0) std::memcpy(to, from, bytes);
  }

  MatricesPlan plan(std::span<const StoredMatrix> parts) const override {
    constexpr KernelShape kKernels[] = {{4, 8}, {4, 8}, {6, 4}, {4, 4}};
    return plan_matrices(parts, kKernels);
  }
  std::unique_ptr<DeviceMatrices> load(std::span<const StoredMatrix> parts, MatricesPlan plan) override {
    take(plan.bytes + plan.staging_bytes);
    auto matrices = std::make_unique<EmulatedMatrices>();
    matrices->counted = take(plan.bytes);
    matrices->stream.resize(plan.stream.bytes / 4 + 1);
    for (std::size_t part = 0; part < parts.size(); ++part) {
      const auto* const blob = reinterpret_cast<const std::uint8_t*>(parts[part].blob.data());
      for (std::size_t i = 0; i < plan.tiles[part].tiles.size(); ++i)
        for (int lane = 0; lane < kLanes; ++lane)
          repack_tile(parts[part].shape, blob, plan.tiles[part].tiles[i], lane,
                      matrices->stream.data() + plan.stream.records[part][i] / 4);
      matrices->row_orders.emplace_back(parts[part].row_order.begin(), parts[part].row_order.end());
    }
    matrices->input_order.assign(parts[0].input_order.begin(), parts[0].input_order.end());
    matrices->plan = std::move(plan);
    return matrices;
  }
  void reserve(int, std::int64_t) override {}
  std::uint64_t reserve_bytes(int, std::int64_t) const override { return 0; }

  bool makes_inputs(const DeviceMatrices&) const override { return options_.makes_inputs; }
  void product(const CardInput& input, const DeviceMatrices& matrices, std::span<const CardOutput> outputs) override {
    const auto& weights = static_cast<const EmulatedMatrices&>(matrices);
    const std::vector<CardOutput> results(outputs.begin(), outputs.end());
    ask([this, input, &weights, results] { multiply(input, weights, results); });
  }
  void run(const Operation& operation) override {
    ask([this, operation] { std::visit([&](const auto& op) { emulate(op, options_.backwards); }, operation); });
  }

  std::unique_ptr<Recording> record(const std::function<void()>& work) override {
    require_not_recording();
    auto recording = std::make_unique<Steps>();
    recording_ = recording.get();
    work();
    recording_ = nullptr;
    return recording;
  }

 private:
  struct Steps : Recording {
    std::vector<std::function<void()>> steps;
    void replay() override {
      for (const auto& step : steps) step();
    }
  };

  void ask(std::function<void()> step) {
    if (recording_ != nullptr)
      recording_->steps.push_back(std::move(step));
    else
      step();
  }
  void require_not_recording() const {
    if (recording_ != nullptr) throw std::logic_error("a step that is recorded may hold products and operations alone");
  }
  /// Gives back what it took with its last owner, which may outlive the device.
  std::shared_ptr<void> take(std::uint64_t bytes) {
    if (bytes > free_bytes())
      throw CardError("emulated device: " + std::to_string(bytes) + " bytes were asked for, " +
                      std::to_string(free_bytes()) + " are there");
    *taken_ += bytes;
    return {nullptr, [taken = taken_, bytes](void*) { *taken -= bytes; }};
  }
  static void multiply(const CardInput& input, const EmulatedMatrices& weights,
                       const std::vector<CardOutput>& outputs) {
    const MatricesPlan& plan = weights.plan;
    const MatrixView view = weights.view();
    const std::int64_t cols = plan.cols();
    std::vector<std::vector<double>> x;
    for (int token = 0; token < input.tokens; ++token)
      x.push_back(input.norm.weight != nullptr ? normed_inputs(input, cols) : rounded_inputs(input, cols, token));
    for (std::size_t part = 0; part < outputs.size(); ++part)
      for (std::int64_t row = 0; row < plan.shapes[part].rows; ++row) {
        const auto& order = weights.row_orders[part];
        const std::int64_t to = order.empty() ? row : order[static_cast<std::size_t>(row)];
        std::vector<double> sums(x.size());
        for (std::int64_t col = 0; col < cols; ++col) {
          const double weight = stream_weight(view, plan.stream.first_panels[part], row, col, static_cast<int>(part));
          const std::size_t from = weights.input_order.empty() ? static_cast<std::size_t>(col)
                                                               : weights.input_order[static_cast<std::size_t>(col)];
          for (std::size_t token = 0; token < x.size(); ++token) sums[token] += weight * x[token][from];
        }
        for (std::size_t token = 0; token < x.size(); ++token)
          static_cast<float*>(outputs[part].y)[static_cast<std::int64_t>(token) * outputs[part].y_stride + to] =
              static_cast<float>(sums[token]);
      }
  }

  EmulationOptions options_;
  std::shared_ptr<std::uint64_t> taken_ = std::make_shared<std::uint64_t>(0);
  Steps* recording_ = nullptr;
};

}  // namespace

std::unique_ptr<Device> make_emulated_device(const EmulationOptions& options) {
  return std::make_unique<EmulatedDevice>(options);
}

}  // namespace scalebits::cuda
