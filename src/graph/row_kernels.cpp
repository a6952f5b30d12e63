#include "graph/row_kernels.h"

namespace scalebits {

template <typename T>
const RowKernels<T>& row_kernels() {
  static const RowKernels<T> chosen = [] {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq"))
      return avx512::table<T>();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return avx2::table<T>();
#endif
    return portable::table<T>();
  }();
  return chosen;
}

template const RowKernels<float>& row_kernels<float>();
template const RowKernels<Bf16>& row_kernels<Bf16>();

}  // namespace scalebits
