// How a kernel is started: the one place, so that tests can put theirs there (tests/kernels/threads/).
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <type_traits>

namespace scalebits::cuda {

/// Whether a kernel may begin while the one before it still runs, on cards that know that (9.0 on): it waits for the
/// other's results by itself (instructions.cuh), and has its first weights by then. For measurements of what it is
/// worth.
inline bool launches_overlap = true;

inline bool can_overlap() {
  int device = 0, major = 0;
  return launches_overlap && cudaGetDevice(&device) == cudaSuccess &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess && major >= 9;
}

/// kernel<<<grid, threads, shared, stream>>>(arguments...), in words of C++.
template <typename... Parameters>
cudaError_t start(void (*kernel)(Parameters...), dim3 grid, unsigned threads, std::size_t shared, cudaStream_t stream,
                  std::type_identity_t<Parameters>... arguments) {
  void* pointers[] = {&arguments...};
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid, config.blockDim = dim3(threads), config.dynamicSmemBytes = shared, config.stream = stream;
  config.attrs = &overlap, config.numAttrs = can_overlap() ? 1 : 0;
  return cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(kernel), pointers);
}

}  // namespace scalebits::cuda
