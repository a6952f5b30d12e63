#include "kernels/cuda/card_device.h"

#include "kernels/cuda/engine.h"
#include "kernels/cuda/launches.h"

namespace scalebits::cuda {
namespace {

void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw CardError(std::string("CUDA: ") + what + ": " + cudaGetErrorString(status));
}

struct LoadedMatrices : DeviceMatrices {
  LoadedMatrices(Engine& engine, std::span<const StoredMatrix> parts, MatricesPlan plan)
      : matrices(engine, parts, std::move(plan)) {}
  MatrixView view() const override { return matrices.view(); }
  CardMatrices matrices;
};

class Graph : public Recording {
 public:
  Graph(cudaGraph_t graph, cudaStream_t stream) : stream_(stream) {
    const cudaError_t status = cudaGraphInstantiate(&instance_, graph, 0);
    cudaGraphDestroy(graph);
    check(status, "making a graph of a step");
  }
  ~Graph() override { cudaGraphExecDestroy(instance_); }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  void replay() override { check(cudaGraphLaunch(instance_, stream_), "replaying a step"); }

 private:
  cudaGraphExec_t instance_ = nullptr;
  cudaStream_t stream_;
};

class CardDevice : public Device {
 public:
  explicit CardDevice(int card) : engine_(card), stream_(static_cast<cudaStream_t>(engine_.stream())) {}

  std::string name() const override { return engine_.card().name; }
  int multiprocessors() const override { return engine_.card().multiprocessors; }
  std::uint64_t free_bytes() const override {
    std::size_t free = 0, all = 0;
    check(cudaMemGetInfo(&free, &all), "asking how much memory is free");
    return free;
  }

  DeviceMemory allocate(std::uint64_t bytes) override { return CardBuffer(bytes); }
  void upload(void* to, const void* from, std::uint64_t bytes) override {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream_), "copying to the card");
    engine_.wait();  // cards that share the host's memory may read from it later
  }
  void download(void* to, const void* from, std::uint64_t bytes) override {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_), "copying from the card");
    engine_.wait();
  }

  MatricesPlan plan(std::span<const StoredMatrix> parts) const override {
    return plan_matrices(parts, engine_.kernel_shapes());
  }
  std::unique_ptr<DeviceMatrices> load(std::span<const StoredMatrix> parts, MatricesPlan plan) override {
    return std::make_unique<LoadedMatrices>(engine_, parts, std::move(plan));
  }
  void reserve(int tokens, std::int64_t cols) override { engine_.reserve(tokens, cols); }
  std::uint64_t reserve_bytes(int tokens, std::int64_t cols) const override {
    return engine_.reserve_bytes(tokens, cols);
  }

  bool makes_inputs(const DeviceMatrices& matrices) const override {
    return engine_.gathers(static_cast<const LoadedMatrices&>(matrices).matrices);
  }
  void product(const CardInput& input, const DeviceMatrices& matrices, std::span<const CardOutput> outputs) override {
    engine_.product(input, static_cast<const LoadedMatrices&>(matrices).matrices, outputs, ElementType::f32);
  }
  void run(const Operation& operation) override {
    const auto* attend = std::get_if<Attend>(&operation);
    check(attend != nullptr && is_prompt(*attend) ? launch_attend_prompt(*attend, stream_)
                                                  : launch_operation(operation, stream_),
          "launching an operation");
  }

  std::unique_ptr<Recording> record(const std::function<void()>& work) override {
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "recording a step");
    cudaGraph_t graph = nullptr;
    try {
      work();
    } catch (...) {
      cudaStreamEndCapture(stream_, &graph);
      if (graph != nullptr) cudaGraphDestroy(graph);
      throw;
    }
    check(cudaStreamEndCapture(stream_, &graph), "recording a step");
    return std::make_unique<Graph>(graph, stream_);
  }

 private:
  Engine engine_;
  cudaStream_t stream_;
};

}  // namespace

std::unique_ptr<Device> open_card(int card) { return std::make_unique<CardDevice>(card); }

}  // namespace scalebits::cuda
