#include "graph/cuda_device.h"

#include "core/error.h"
#include "graph/memory_budget.h"

#include <ATen/Context.h>
#include <ATen/DeviceAccelerator.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CachingDeviceAllocator.h>

#include <dlfcn.h>

namespace scalebits {

int load_cuda() {
  // Loaded when it is asked for, and not linked: PyPI's wheel holds it, but CUDA's own libraries, which it wants, are
  // several GB more, and with them every start of the program would take seconds. It registers itself with
  // libtorch_cpu, which asks once, at the first use of anything to do with CUDA.
  for (const char* const library : {"libc10_cuda.so", "libtorch_cuda.so"})
    if (::dlopen(library, RTLD_NOW | RTLD_GLOBAL) == nullptr)
      fail(ErrorKind::unsupported_hardware,
           "--device cuda needs a libtorch with CUDA, and CUDA's libraries: {}. The torch of a Python that runs on the "
           "card has them: build with -DSCALEBITS_TORCH=<its folder torch>",
           ::dlerror());
  const int cards = at::detail::getCUDAHooks().getNumGPUs();
  if (cards < 1)
    fail(ErrorKind::unsupported_hardware,
         "--device cuda: there is a libtorch with CUDA, but it finds no card, or no driver that is new enough for it");
  at::globalContext().lazyInitDevice(at::kCUDA);  // its allocator is asked before it allocates
  return cards;
}

std::uint64_t free_device_bytes(at::Device device) {
  if (device.is_cpu()) return half_of_own_memory_bytes();
  at::DeviceAllocator& allocator = *at::getDeviceAllocator(device.type());
  allocator.emptyCache();
  return static_cast<std::uint64_t>(allocator.getMemoryInfo(device.index()).first);
}

std::uint64_t take_peak_device_bytes(at::Device device) {
  if (device.is_cpu()) return 0;
  at::accelerator::synchronizeDevice(device.index());
  at::DeviceAllocator& allocator = *at::getDeviceAllocator(device.type());
  const auto of_both_pools = allocator.getDeviceStats(device.index())
                                 .reserved_bytes[static_cast<std::size_t>(c10::CachingAllocator::StatType::AGGREGATE)];
  allocator.resetPeakStats(device.index());
  return static_cast<std::uint64_t>(of_both_pools.peak);
}

}  // namespace scalebits
