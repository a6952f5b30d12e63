// How a kernel is started: the one place, so that tests can put theirs there (tests/kernels/threads/).
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <type_traits>

namespace scalebits::cuda {

/// kernel<<<grid, threads, shared, stream>>>(arguments...), in words of C++.
template <typename... Parameters>
cudaError_t start(void (*kernel)(Parameters...), dim3 grid, unsigned threads, std::size_t shared, cudaStream_t stream,
                  std::type_identity_t<Parameters>... arguments) {
  void* pointers[] = {&arguments...};
  return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, dim3(threads), pointers, shared, stream);
}

}  // namespace scalebits::cuda
