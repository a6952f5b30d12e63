// NaN and Inf have no place in a checkpoint: one poisons every later sum.
#pragma once

#include "model/checkpoint.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace scalebits {

/// Throws Error(bad_input) naming `where` (file and tensor), the element's index and its value unless all elements of
/// a slice of a tensor are finite. `first` is the flat index of the slice's first element; `shape` is the tensor's.
void check_finite(std::span<const std::byte> slice, DType dtype, std::int64_t first,
                  const std::vector<std::int64_t>& shape, const std::string& where);

/// A tensor and the file and name it goes by in messages.
struct NamedTensor {
  std::string where;
  HostTensor tensor;
};

/// The same for whole tensors, on all threads.
void check_finite(const std::vector<NamedTensor>& tensors);

}  // namespace scalebits
