#include "train/fake_quantize.h"

#include "core/error.h"
#include "core/lanes.h"
#include "core/parallel.h"
#include "graph/elementwise.h"
#include "train/element_lanes.h"
#include "train/random_lanes.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

namespace scalebits {
namespace {

constexpr std::int64_t kTile = 128;
/// Columns of a strip whose tiles run down: their largest magnitudes stay in registers and the first cache.
constexpr std::int64_t kStripColumns = 128;

SCALEBITS_INLINE void take_largest(Lanes& largest, const Lanes& values) {
  Lanes magnitude = values;
  abs_lanes(magnitude);
  largest = magnitude > largest ? magnitude : largest;
}

/// The power of two in each lane.
SCALEBITS_INLINE void binade_lanes(Lanes& x) {
  Words bits;
  std::memcpy(&bits, &x, sizeof bits);
  bits &= 0x7f800000u;
  std::memcpy(&x, &bits, sizeof bits);
}

struct Rounding {
  float lowest;   // power of two: the smallest normal number
  float magic;    // 1.5 * 2^(23 - mantissa bits): times the binade's power of two, adding it rounds to the step
  float half;     // half a step, as a share of the binade's power of two
  float largest;  // of the element type
  bool stochastic;
  std::uint32_t key_low, key_high;
};

/// x := the elements' values after rounding in units of `scale`, of which `inverse` is the reciprocal (0 for 0).
SCALEBITS_INLINE void round_elements(Lanes& x, const Lanes& scale, const Lanes& inverse, const Rounding& rounding,
                                     std::uint32_t index) {
  x = x * inverse;
  Lanes binade = x;
  binade_lanes(binade);
  const Lanes lowest = Lanes{} + rounding.lowest;
  binade = binade < lowest ? lowest : binade;
  if (rounding.stochastic) {
    Words random;
    random_words(random, index, rounding.key_low, rounding.key_high);
    typedef std::int32_t Ints __attribute__((vector_size(kLanes * 4)));
    const Ints top = __builtin_convertvector(random >> 16, Ints);
    const Lanes uniform = (__builtin_convertvector(top, Lanes) + 0.5f) * 0x1p-16f;  // in (0, 1), never an end
    // Nearest of what lies at most half a step away, so a number on the grid stays.
    x += (uniform - 0.5f) * 2.0f * rounding.half * binade;
  }
  const Lanes magic = binade * rounding.magic;
  x = (x + magic) - magic;
  clamp_lanes(x, -rounding.largest, rounding.largest);
  x *= scale;
}

template <typename In, typename Out>
struct Strip {
  const In* in;
  Out* out;
  std::int64_t cols;           // distance between rows
  std::int64_t row, rows;      // first, count
  std::int64_t column, width;  // first, count
  std::int64_t run;            // length of a tile along the contracted dimension
  NumberFormat format;
  float tensor_scale, top_binade;  // of nvfp4; the power of two in the element type's largest number
  Rounding rounding;
};

SCALEBITS_INLINE float largest_lane(const Lanes& lanes) {
  typedef std::int32_t Indices __attribute__((vector_size(kLanes * 4)));
  constexpr Indices kIndices = {0, 1, 2, 3, 4, 5, 6, 7};
  static_assert(kLanes == 8);
  Lanes best = lanes;
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    const Lanes other = __builtin_shuffle(best, kIndices ^ distance);
    best = other > best ? other : best;
  }
  return best[0];
}

/// tile_scale() of a vector of tiles, operation by operation, and the reciprocals that elements are multiplied by.
template <typename In, typename Out>
SCALEBITS_INLINE void take_scales(const Strip<In, Out>& s, const Lanes& largest, Lanes& scales, Lanes& inverses) {
  const Lanes none{}, smallest = none + kSmallestScale;
  scales = largest / (none + s.rounding.largest);
  if (s.format == NumberFormat::mxfp4) {
    scales = largest;
    binade_lanes(scales);
    scales = scales / (none + s.top_binade);
    scales = largest < smallest ? none : scales;
  } else if (s.format == NumberFormat::nvfp4) {
    const Lanes quotient = scales / (none + s.tensor_scale);
    Lanes binade = quotient;
    binade_lanes(binade);
    const Lanes lowest = none + 0x1p-6f, most = none + kE4M3.largest;
    const Lanes magic = 0x1.8p20f * (binade < lowest ? lowest : binade);
    Lanes rounded = (quotient + magic) - magic;
    rounded = rounded > most ? most : rounded;
    scales = s.tensor_scale < kSmallestScale ? none : rounded * s.tensor_scale;
  }
  scales = scales < smallest ? none : scales;
  const Lanes infinite = none + std::numeric_limits<float>::infinity();
  scales = largest < infinite ? scales : largest;  // a NaN is not less, either
  inverses = scales > none ? 1.0f / scales : scales;
}

/// Takes in the magnitudes of elements that follow each other.
template <typename In>
SCALEBITS_INLINE void take_largest_of(Lanes& largest, const In* values, std::int64_t width) {
  std::int64_t i = 0;
  for (Lanes x; i + kLanes <= width; i += kLanes) {
    load_whole(x, values + i);
    take_largest(largest, x);
  }
  if (i < width) {
    Lanes x;
    load_elements(x, values + i, width - i);
    take_largest(largest, x);
  }
}
/// Rounds elements of one row under one scale.
template <typename In, typename Out>
SCALEBITS_INLINE void round_run(const Strip<In, Out>& s, std::int64_t at, std::int64_t width, float scale,
                                float inverse) {
  const Lanes scales = Lanes{} + scale, inverses = Lanes{} + inverse;
  std::int64_t i = 0;
  for (Lanes x; i + kLanes <= width; i += kLanes) {
    load_whole(x, s.in + at + i);
    round_elements(x, scales, inverses, s.rounding, static_cast<std::uint32_t>(at + i));
    store_elements(s.out + at + i, x, kLanes);
  }
  if (i < width) {
    Lanes x;
    load_elements(x, s.in + at + i, width - i);
    round_elements(x, scales, inverses, s.rounding, static_cast<std::uint32_t>(at + i));
    store_elements(s.out + at + i, x, width - i);
  }
}

/// Tiles of s.run along each row; the scales of as many as a vector has lanes are found together.
template <typename In, typename Out>
SCALEBITS_INLINE void quantize_rows(const Strip<In, Out>& s) {
  for (std::int64_t r = s.row; r < s.row + s.rows; ++r)
    for (std::int64_t c = 0; c < s.width; c += kLanes * s.run) {
      const std::int64_t at = r * s.cols + s.column + c, width = std::min(kLanes * s.run, s.width - c);
      Lanes largest{}, scales, inverses;
      for (std::int64_t tile = 0, i = 0; i < width; ++tile, i += s.run) {
        Lanes own{};
        take_largest_of(own, s.in + at + i, std::min(s.run, width - i));
        largest[tile] = largest_lane(own);
      }
      take_scales(s, largest, scales, inverses);
      for (std::int64_t tile = 0, i = 0; i < width; ++tile, i += s.run)
        round_run(s, at + i, std::min(s.run, width - i), scales[tile], inverses[tile]);
    }
}

/// One tile: the whole strip.
template <typename In, typename Out>
SCALEBITS_INLINE void quantize_block(const Strip<In, Out>& s) {
  Lanes largest{}, scales, inverses;
  for (std::int64_t r = s.row; r < s.row + s.rows; ++r) take_largest_of(largest, s.in + r * s.cols + s.column, s.width);
  take_scales(s, Lanes{} + largest_lane(largest), scales, inverses);
  for (std::int64_t r = s.row; r < s.row + s.rows; ++r)
    round_run(s, r * s.cols + s.column, s.width, scales[0], inverses[0]);
}

/// One tile per column of at most kStripColumns: all rows of the strip.
template <typename In, typename Out>
SCALEBITS_INLINE void quantize_columns(const Strip<In, Out>& s) {
  constexpr std::int64_t kVectors = kStripColumns / kLanes;
  Lanes largest[kVectors] = {}, scales[kVectors], inverses[kVectors];
  const std::int64_t whole = s.width / kLanes, vectors = (s.width + kLanes - 1) / kLanes;
  const std::int64_t rest = s.width - whole * kLanes;
  for (std::int64_t r = s.row; r < s.row + s.rows; ++r) {
    const In* const values = s.in + r * s.cols + s.column;
    Lanes x;
    for (std::int64_t v = 0; v < whole; ++v) {
      load_whole(x, values + v * kLanes);
      take_largest(largest[v], x);
    }
    if (rest > 0) {
      load_elements(x, values + whole * kLanes, rest);
      take_largest(largest[whole], x);
    }
  }
  for (std::int64_t v = 0; v < vectors; ++v) take_scales(s, largest[v], scales[v], inverses[v]);
  for (std::int64_t r = s.row; r < s.row + s.rows; ++r) {
    const std::int64_t at = r * s.cols + s.column;
    Lanes x;
    for (std::int64_t v = 0; v < whole; ++v) {
      const std::int64_t place = at + v * kLanes;
      load_whole(x, s.in + place);
      round_elements(x, scales[v], inverses[v], s.rounding, static_cast<std::uint32_t>(place));
      store_elements(s.out + place, x, kLanes);
    }
    if (rest > 0) {
      const std::int64_t place = at + whole * kLanes;
      load_elements(x, s.in + place, rest);
      round_elements(x, scales[whole], inverses[whole], s.rounding, static_cast<std::uint32_t>(place));
      store_elements(s.out + place, x, rest);
    }
  }
}

// The clones proper: one per pair of types and shape of tile, because a template cannot be one.
#define SCALEBITS_STRIP(IN, OUT)                                                  \
  SCALEBITS_CLONES void run_rows(const Strip<IN, OUT>& s) { quantize_rows(s); }   \
  SCALEBITS_CLONES void run_block(const Strip<IN, OUT>& s) { quantize_block(s); } \
  SCALEBITS_CLONES void run_columns(const Strip<IN, OUT>& s) { quantize_columns(s); }
SCALEBITS_STRIP(float, float)
SCALEBITS_STRIP(float, Bf16)
SCALEBITS_STRIP(Bf16, Bf16)
#undef SCALEBITS_STRIP

// As above: a clone for each type.
#define SCALEBITS_LARGEST(IN)                                                 \
  SCALEBITS_CLONES float largest_of_piece(const IN* in, std::int64_t count) { \
    Lanes largest{};                                                          \
    take_largest_of(largest, in, count);                                      \
    return largest_lane(largest);                                             \
  }
SCALEBITS_LARGEST(float)
SCALEBITS_LARGEST(Bf16)
#undef SCALEBITS_LARGEST

template <typename In>
float largest_of(const In* in, std::int64_t count) {
  constexpr std::int64_t kPiece = 1 << 16;
  std::vector<float> parts(static_cast<std::size_t>((count + kPiece - 1) / kPiece));
  parallel_for(static_cast<std::int64_t>(parts.size()), [&](std::int64_t piece) {
    const std::int64_t first = piece * kPiece;
    parts[static_cast<std::size_t>(piece)] = largest_of_piece(in + first, std::min(kPiece, count - first));
  });
  return parts.empty() ? 0 : *std::max_element(parts.begin(), parts.end());
}

std::int64_t run_length(NumberFormat format) {
  return format == NumberFormat::mxfp4 ? 32 : format == NumberFormat::nvfp4 ? 16 : kTile;
}

bool in_blocks(const FakeQuantize& how) { return how.is_weight && run_length(how.format) == kTile; }

}  // namespace

Tile tile_of(const FakeQuantize& how) {
  const std::int64_t run = run_length(how.format);
  if (in_blocks(how)) return {run, run};
  return how.tiling == Tiling::along_rows ? Tile{1, run} : Tile{run, 1};
}

template <typename In, typename Out>
void fake_quantize(const FakeQuantize& how, const In* in, std::int64_t rows, std::int64_t cols, Out* out) {
  const SmallFloat& element = element_of(how.format);
  const float step = 1.0f / static_cast<float>(1 << element.mantissa_bits);
  const auto power = [](int exponent) { return decode_e8m0(static_cast<std::uint32_t>(127 + exponent)); };
  Strip<In, Out> whole{.in = in,
                       .out = out,
                       .cols = cols,
                       .row = 0,
                       .rows = rows,
                       .column = 0,
                       .width = cols,
                       .run = run_length(how.format),
                       .format = how.format,
                       .tensor_scale = 0,
                       .top_binade = power(element.highest_exponent()),
                       .rounding = {power(element.lowest_exponent()), 1.5f * power(23 - element.mantissa_bits),
                                    step / 2, element.largest, how.stochastic, static_cast<std::uint32_t>(how.key),
                                    static_cast<std::uint32_t>(how.key >> 32)}};
  if (how.format == NumberFormat::nvfp4) whole.tensor_scale = nvfp4_tensor_scale(largest_of(in, rows * cols));
  const bool blocks = in_blocks(how);
  if (!blocks && how.tiling == Tiling::along_rows) {
    const std::int64_t rows_per_task = std::max<std::int64_t>(1, 16384 / std::max<std::int64_t>(1, cols));
    return parallel_for((rows + rows_per_task - 1) / rows_per_task, [&](std::int64_t task) {
      Strip<In, Out> strip = whole;
      strip.row = task * rows_per_task;
      strip.rows = std::min(rows_per_task, rows - strip.row);
      run_rows(strip);
    });
  }
  const std::int64_t height = blocks ? kTile : whole.run, width = blocks ? kTile : kStripColumns;
  const std::int64_t across = (cols + width - 1) / width;
  // One task for a whole band of rows: a strip of short tiles alone would not be worth its start.
  parallel_for((rows + height - 1) / height, [&](std::int64_t band) {
    Strip<In, Out> strip = whole;
    strip.row = band * height;
    strip.rows = std::min(height, rows - strip.row);
    for (std::int64_t i = 0; i < across; ++i) {
      strip.column = i * width;
      strip.width = std::min(width, cols - strip.column);
      blocks ? run_block(strip) : run_columns(strip);
    }
  });
}

template void fake_quantize(const FakeQuantize&, const float*, std::int64_t, std::int64_t, float*);
template void fake_quantize(const FakeQuantize&, const float*, std::int64_t, std::int64_t, Bf16*);
template void fake_quantize(const FakeQuantize&, const Bf16*, std::int64_t, std::int64_t, Bf16*);

void fake_quantize(const FakeQuantize& how, const at::Tensor& in, const at::Tensor& out) {
  const std::int64_t rows = in.size(0), cols = in.size(1);
  if (out.scalar_type() == at::kFloat) {
    SCALEBITS_ASSERT(in.scalar_type() == at::kFloat);
    fake_quantize(how, data_of<float>(in), rows, cols, data_of<float>(out));
  } else if (in.scalar_type() == at::kFloat) {
    fake_quantize(how, data_of<float>(in), rows, cols, data_of<Bf16>(out));
  } else {
    fake_quantize(how, data_of<Bf16>(in), rows, cols, data_of<Bf16>(out));
  }
}

float stochastic_uniform(std::uint64_t key, std::uint32_t index) {
  std::uint32_t x = index;
  mix_key(x, static_cast<std::uint32_t>(key), static_cast<std::uint32_t>(key >> 32));
  return (static_cast<float>(x >> 16) + 0.5f) * 0x1p-16f;
}

}  // namespace scalebits
