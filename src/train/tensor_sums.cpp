#include "train/tensor_sums.h"

#include "core/error.h"
#include "core/parallel.h"
#include "graph/elementwise.h"
#include "train/element_lanes.h"
#include "train/random_lanes.h"

#include <algorithm>
#include <numeric>
#include <vector>

namespace scalebits {
namespace {

constexpr std::int64_t kPiece = 1 << 14;

SCALEBITS_INLINE void noise_lanes(Lanes& lanes, std::uint32_t index, std::uint32_t low, std::uint32_t high,
                                  float factor) {
  Words random;
  random_words(random, index, low, high);
  const Words sum = (random & 255u) + ((random >> 8) & 255u) + ((random >> 16) & 255u) + (random >> 24);
  typedef std::int32_t Ints __attribute__((vector_size(kLanes * 4)));
  lanes = (__builtin_convertvector(__builtin_convertvector(sum, Ints), Lanes) - 510.0f) * factor;
}

enum class Sum { products, distances };

template <typename A, typename B>
SCALEBITS_INLINE double piece_sum(Sum kind, const A* a, const B* b, std::int64_t first, std::int64_t count) {
  double total = 0;
  // Sums of a thousand terms in f32, those in double.
  for (std::int64_t start = 0; start < count; start += 1024) {
    Lanes sum{}, x, y;
    const std::int64_t end = std::min(count, start + 1024);
    for (std::int64_t i = start; i < end; i += kLanes) {
      load_elements(x, a + first + i, end - i);
      load_elements(y, b + first + i, end - i);
      if (kind == Sum::products)
        sum += x * y;
      else
        sum += (x - y) * (x - y);
    }
    total += sum_lanes(sum);
  }
  return total;
}

#define SCALEBITS_SUM(A, B)                                                                                     \
  SCALEBITS_CLONES double clone_sum(Sum kind, const A* a, const B* b, std::int64_t first, std::int64_t count) { \
    return piece_sum(kind, a, b, first, count);                                                                 \
  }
SCALEBITS_SUM(float, float)
SCALEBITS_SUM(float, Bf16)
SCALEBITS_SUM(Bf16, float)
SCALEBITS_SUM(Bf16, Bf16)
#undef SCALEBITS_SUM

template <typename T>
SCALEBITS_INLINE void piece_noise(T* values, std::int64_t first, std::int64_t count, const Noise& noise) {
  const auto low = static_cast<std::uint32_t>(noise.key), high = static_cast<std::uint32_t>(noise.key >> 32);
  const float factor = static_cast<float>(noise.deviation) / kByteSumDeviation;
  Lanes x, n;
  for (std::int64_t i = 0; i < count; i += kLanes) {
    load_elements(x, values + first + i, count - i);
    noise_lanes(n, static_cast<std::uint32_t>(first + i), low, high, factor);
    x += n;
    store_elements(values + first + i, x, count - i);
  }
}
SCALEBITS_CLONES void clone_noise(float* values, std::int64_t first, std::int64_t count, const Noise& noise) {
  piece_noise(values, first, count, noise);
}
SCALEBITS_CLONES void clone_noise(Bf16* values, std::int64_t first, std::int64_t count, const Noise& noise) {
  piece_noise(values, first, count, noise);
}

template <typename Body>
void for_pieces(std::int64_t count, Body&& body) {
  parallel_for((count + kPiece - 1) / kPiece,
               [&](std::int64_t piece) { body(piece, piece * kPiece, std::min(kPiece, count - piece * kPiece)); });
}

double sum_of(Sum kind, const at::Tensor& a, const at::Tensor& b) {
  SCALEBITS_ASSERT(a.numel() == b.numel() && a.is_contiguous() && b.is_contiguous());
  std::vector<double> parts(static_cast<std::size_t>((a.numel() + kPiece - 1) / kPiece));
  with_kernel_type(a.scalar_type(), [&]<typename A>() {
    with_kernel_type(b.scalar_type(), [&]<typename B>() {
      for_pieces(a.numel(), [&](std::int64_t piece, std::int64_t first, std::int64_t count) {
        parts[static_cast<std::size_t>(piece)] = clone_sum(kind, data_of<A>(a), data_of<B>(b), first, count);
      });
    });
  });
  return std::accumulate(parts.begin(), parts.end(), 0.0);
}

}  // namespace

double squared_norm(const at::Tensor& a) { return sum_of(Sum::products, a, a); }
double inner_product(const at::Tensor& a, const at::Tensor& b) { return sum_of(Sum::products, a, b); }
double squared_distance(const at::Tensor& a, const at::Tensor& b) { return sum_of(Sum::distances, a, b); }

void add_noise(const at::Tensor& tensor, const Noise& noise) {
  with_kernel_type(tensor.scalar_type(), [&]<typename T>() {
    for_pieces(tensor.numel(), [&](std::int64_t, std::int64_t first, std::int64_t count) {
      clone_noise(data_of<T>(tensor), first, count, noise);
    });
  });
}

}  // namespace scalebits
