#include "checkpoint/finite_values.h"

#include "core/parallel.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace scalebits {
namespace {

/// Elements per task and per test: small enough to find the culprit in cheaply, large enough to stream.
constexpr std::int64_t kSliceElements = 1 << 18;
constexpr std::size_t kProbeElements = 4096;

/// True when an exponent is all ones. No early exit, so that the loop vectorises.
template <typename Bits>
bool any_not_finite(const std::byte* bytes, std::size_t count, Bits exponent) {
  bool found = false;
  for (std::size_t i = 0; i < count; ++i) {
    Bits bits;
    std::memcpy(&bits, bytes + i * sizeof(Bits), sizeof(Bits));
    found |= (bits & exponent) == exponent;
  }
  return found;
}

bool any_not_finite(const std::byte* bytes, std::size_t count, DType dtype) {
  switch (dtype) {
    case DType::f32: return any_not_finite<std::uint32_t>(bytes, count, 0x7f800000u);
    case DType::f16: return any_not_finite<std::uint16_t>(bytes, count, 0x7c00);
    case DType::bf16: return any_not_finite<std::uint16_t>(bytes, count, 0x7f80);
  }
  throw InternalError("unknown dtype");
}

/// 7 of [2, 5] → "[1, 2]".
std::string index_text(std::int64_t flat, const std::vector<std::int64_t>& shape) {
  std::vector<std::int64_t> index(shape.size());
  for (std::size_t axis = shape.size(); axis-- > 0; flat /= shape[axis]) index[axis] = flat % shape[axis];
  return fmt::format("[{}]", fmt::join(index, ", "));
}

}  // namespace

void check_finite(std::span<const std::byte> slice, DType dtype, std::int64_t first,
                  const std::vector<std::int64_t>& shape, const std::string& where) {
  const std::size_t step = size_bytes(dtype);
  const std::size_t count = slice.size() / step;
  for (std::size_t begin = 0; begin < count; begin += kProbeElements) {
    const std::size_t probe = std::min(kProbeElements, count - begin);
    if (!any_not_finite(slice.data() + begin * step, probe, dtype)) continue;
    std::size_t at = begin;
    while (!any_not_finite(slice.data() + at * step, 1, dtype)) ++at;
    std::vector<float> value(1);
    HostTensor{dtype, {1}, slice.subspan(at * step, step), nullptr}.copy_f32(0, value);
    fail_input("{}: element {} is {}, wanted a finite number", where,
               index_text(first + static_cast<std::int64_t>(at), shape), std::isnan(value[0]) ? "NaN" : "Inf");
  }
}

void check_finite(const std::vector<NamedTensor>& tensors) {
  struct Slice {
    const NamedTensor* named;
    std::int64_t first;
  };
  std::vector<Slice> slices;
  for (const NamedTensor& named : tensors)
    for (std::int64_t first = 0; first < named.tensor.elements(); first += kSliceElements)
      slices.push_back({&named, first});
  parallel_for(static_cast<std::int64_t>(slices.size()), [&](std::int64_t i) {
    const auto& [named, first] = slices[static_cast<std::size_t>(i)];
    const HostTensor& tensor = named->tensor;
    const auto count = static_cast<std::size_t>(std::min(kSliceElements, tensor.elements() - first));
    const std::size_t step = size_bytes(tensor.dtype);
    check_finite(tensor.bytes.subspan(static_cast<std::size_t>(first) * step, count * step), tensor.dtype, first,
                 tensor.shape, named->where);
  });
}

}  // namespace scalebits
