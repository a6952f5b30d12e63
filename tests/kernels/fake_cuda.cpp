// A CUDA runtime in this machine's memory, linked in place of the toolkit's to the engine and the card's device. A
// stream does nothing until someone waits for it, as a card may; then all happens in order, kernels thread by thread
// (threads/cuda_threads.h).
#include "cuda_threads.h"
#include "kernels/cuda/start.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace {

/// A kernel, or something else.
struct Step {
  std::function<void()> run;
  threads::Grid grid;
};
std::vector<Step> queue, captured;
bool capturing = false;
std::map<void*, std::size_t> allocated;
std::map<const void*, int> most_shared;
constexpr std::size_t kMemory = std::size_t{8} << 30;
constexpr int kMultiprocessors = 6, kBlocksEach = 2, kUsualShared = 48 << 10;
/// The smallest that kernels must fit, and one that has instructions of its own.
struct FakeCard {
  const char* name;
  int major, minor, most_shared;
};
constexpr FakeCard kCards[] = {{"fake 8.9", 8, 9, 99 << 10}, {"fake 9.0", 9, 0, 227 << 10}};
int current = 0;

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
  for (std::size_t i = 0; i < steps.size(); ++i)
    if (steps[i].run)
      steps[i].run();
    else
      threads::run_grid(steps[i].grid, i + 1 < steps.size() && !steps[i + 1].run ? &steps[i + 1].grid : nullptr);
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
cudaError_t cudaGetDeviceCount(int* count) { return *count = static_cast<int>(std::size(kCards)), cudaSuccess; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  *properties = {};
  std::strcpy(properties->name, kCards[device].name);
  properties->major = kCards[device].major;
  properties->minor = kCards[device].minor;
  properties->multiProcessorCount = kMultiprocessors;
  properties->totalGlobalMem = kMemory;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr name, int device) {
  *value = name == cudaDevAttrMaxSharedMemoryPerBlockOptin ? kCards[device].most_shared : 1000000;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) { return current = device, cudaSuccess; }
cudaError_t cudaGetLastError() { return cudaSuccess; }
const char* cudaGetErrorString(cudaError_t) { return "an error of the fake runtime"; }
cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute, int value) {
  if (value > kCards[current].most_shared) return cudaErrorInvalidValue;
  most_shared[function] = value;
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int, std::size_t) {
  return *blocks = kBlocksEach, cudaSuccess;
}
cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
  require(!capturing, "allocating while a stream is captured");
  if (taken() + bytes > kMemory) return cudaErrorMemoryAllocation;
  require(posix_memalign(memory, 256, bytes) == 0, "no memory");  // and no byte more
  allocated[*memory] = bytes;
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
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t) {
  require(!capturing, "a copy in a recorded step");
  ask({[to, from, bytes] { std::memcpy(to, from, bytes); }, {}});
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

cudaError_t threads::ask_for(const void* kernel, Grid grid) {
  const dim3 size = grid.size;
  require(size.x > 0 && size.y > 0 && size.z > 0 && size.y < 65536 && size.z < 65536, "a grid that no card takes");
  const auto allowed = most_shared.find(kernel);
  require(grid.shared <= kUsualShared ||
              (allowed != most_shared.end() && grid.shared <= static_cast<std::size_t>(allowed->second)),
          "more shared memory than was allowed");
  ask({{}, std::move(grid)});
  return cudaSuccess;
}
