// train: the number formats agree with ml_dtypes code by code, and fake quantisation with a plain loop over scalar
// codecs, for every format, tiling and pair of types; stochastic rounding is unbiased and repeatable.
#include "train/fake_quantize.h"
#include "train/number_format.h"

#include "core/error.h"
#include "core/float_types.h"
#include "core/parallel.h"
#include "core/random.h"
#include "safetensors/safetensors.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace scalebits {
namespace {

std::vector<float> golden(const std::string& name) {
  const auto file =
      SafetensorsFile::open(std::string(SCALEBITS_SOURCE_DIR) + "/tests/data/train/number_formats.safetensors");
  const auto& entry = file.entry(name);
  std::vector<float> values(entry.bytes.size() / sizeof(float));
  std::memcpy(values.data(), entry.bytes.data(), entry.bytes.size());
  return values;
}

void expect_same_bits(float found, float wanted, const std::string& what) {
  if (std::isnan(wanted)) {
    EXPECT_TRUE(std::isnan(found)) << what;
  } else {
    EXPECT_EQ(std::bit_cast<std::uint32_t>(found), std::bit_cast<std::uint32_t>(wanted))
        << what << ": " << found << " for " << wanted;
  }
}

const std::pair<const char*, SmallFloat> kTypes[] = {{"e2m1", kE2M1}, {"e4m3", kE4M3}};

TEST(NumberFormat, EveryCodeMeansWhatMlDtypesSays) {
  for (const auto& [name, type] : kTypes) {
    const auto values = golden(std::string(name) + ".values");
    ASSERT_EQ(values.size(), std::size_t{1} << type.bits());
    for (std::uint32_t code = 0; code < values.size(); ++code) {
      expect_same_bits(decode(type, code), values[code], fmt::format("{} code {}", name, code));
      if (!std::isnan(values[code])) {
        EXPECT_EQ(encode(type, values[code]), code) << name;
      }
    }
  }
  const auto scales = golden("e8m0.values");
  ASSERT_EQ(scales.size(), 256u);
  for (std::uint32_t code = 0; code < 256; ++code) expect_same_bits(decode_e8m0(code), scales[code], "e8m0");
}

TEST(NumberFormat, RoundsAsMlDtypesDoes) {
  for (const auto& [name, type] : kTypes) {
    const auto inputs = golden(std::string(name) + ".inputs"), rounded = golden(std::string(name) + ".rounded");
    ASSERT_GT(inputs.size(), 900u);
    for (std::size_t i = 0; i < inputs.size(); ++i)
      expect_same_bits(round_to(type, inputs[i]), rounded[i], fmt::format("{} of {}", name, inputs[i]));
  }
}

TEST(NumberFormat, SaturatesAndKeepsNan) {
  const float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for (const auto& [name, type] : kTypes)
    for (const float beyond : {type.largest * 1.0001f, type.largest * 1.5f, 1e30f, infinity}) {
      EXPECT_EQ(round_to(type, beyond), type.largest) << name;
      EXPECT_EQ(round_to(type, -beyond), -type.largest) << name;
    }
  EXPECT_EQ(encode(kE4M3, nan), 0x7fu);
  EXPECT_THROW(encode(kE2M1, nan), InternalError);
  EXPECT_TRUE(std::isnan(round_to(kE2M1, nan)));
  EXPECT_THROW(number_format_from_name("fp5"), Error);
}

TEST(NumberFormat, ScalesAreOfTheirType) {
  for (const float input : golden("e4m3.inputs")) {
    const float value = std::fabs(input);
    EXPECT_EQ(tile_scale(NumberFormat::nvfp4, value, 1), round_to(kE4M3, value / 6)) << value;
    if (value > 0) {
      EXPECT_EQ(tile_scale(NumberFormat::mxfp4, value, 0), std::ldexp(1.0f, std::ilogb(value) - 2)) << value;
    }
  }
  EXPECT_EQ(tile_scale(NumberFormat::fp8, 0, 0), 0);
  EXPECT_EQ(tile_scale(NumberFormat::fp4, 1e-38f, 0), 0);
  EXPECT_EQ(tile_scale(NumberFormat::fp4, 3, 0), 0.5f);
}

float to_float(float value) { return value; }
float to_float(Bf16 value) { return bf16_to_f32(value.bits); }
template <typename T>
T from_float(float value) {
  if constexpr (std::is_same_v<T, float>)
    return value;
  else
    return {f32_to_bf16(value)};
}

/// The definition, one tile after the other with the scalar codecs.
template <typename In, typename Out>
std::vector<Out> slow_fake_quantize(const FakeQuantize& how, const std::vector<In>& in, std::int64_t rows,
                                    std::int64_t cols) {
  const SmallFloat& type = element_of(how.format);
  const std::int64_t run = how.format == NumberFormat::mxfp4 ? 32 : how.format == NumberFormat::nvfp4 ? 16 : 128;
  const bool block = how.is_weight && run == 128, across = how.tiling == Tiling::along_rows;
  const std::int64_t height = block || !across ? run : 1, width = block || across ? run : 1;
  float tensor_largest = 0;
  for (const In value : in) tensor_largest = std::max(tensor_largest, std::fabs(to_float(value)));
  std::vector<Out> out(in.size());
  for (std::int64_t r0 = 0; r0 < rows; r0 += height)
    for (std::int64_t c0 = 0; c0 < cols; c0 += width) {
      const auto each = [&](const auto& body) {
        for (std::int64_t r = r0; r < std::min(rows, r0 + height); ++r)
          for (std::int64_t c = c0; c < std::min(cols, c0 + width); ++c) body(static_cast<std::size_t>(r * cols + c));
      };
      float largest = 0;
      each([&](std::size_t i) { largest = std::max(largest, std::fabs(to_float(in[i]))); });
      const float scale = tile_scale(how.format, largest, nvfp4_tensor_scale(tensor_largest));
      each([&](std::size_t i) {
        const float scaled = scale > 0 ? to_float(in[i]) * (1.0f / scale) : 0;
        float rounded = round_to(type, scaled);
        if (how.stochastic && scale > 0) {
          const float magnitude = std::fabs(scaled);
          const int exponent = std::max(type.lowest_exponent(), magnitude > 0 ? std::ilogb(magnitude) : -100);
          const float step = std::ldexp(1.0f, exponent - type.mantissa_bits);
          const float low = std::floor(scaled / step) * step;
          const bool up = (scaled - low) / step > 1 - stochastic_uniform(how.key, static_cast<std::uint32_t>(i));
          rounded = std::clamp(up ? low + step : low, -type.largest, type.largest);
        }
        out[i] = from_float<Out>(rounded * scale);
      });
    }
  return out;
}

template <typename In>
std::vector<In> random_matrix(std::int64_t count, std::uint64_t seed) {
  const CounterRng rng(seed);
  std::vector<In> values;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto index = static_cast<std::uint64_t>(i);
    const double spread = std::exp2(static_cast<double>(rng.below(3 * index, 12)) - 6);
    values.push_back(from_float<In>(
        rng.below(3 * index + 1, 9) == 0 ? 0.0f : static_cast<float>(rng.normal(1'000'000 + index) * spread)));
  }
  return values;
}

template <typename In, typename Out>
void expect_agreement(std::int64_t rows, std::int64_t cols) {
  const auto in = random_matrix<In>(rows * cols, static_cast<std::uint64_t>(rows * 1000 + cols));
  for (const NumberFormat format : kNumberFormats) {
    if (format == NumberFormat::bf16) continue;
    for (const Tiling tiling : {Tiling::along_rows, Tiling::down_columns})
      for (const bool is_weight : {false, true})
        for (const bool stochastic : {false, true}) {
          const FakeQuantize how{format, tiling, is_weight, stochastic, 0x1234567890abcdefull};
          const auto wanted = slow_fake_quantize<In, Out>(how, in, rows, cols);
          std::vector<Out> found(in.size());
          fake_quantize(how, in.data(), rows, cols, found.data());
          std::size_t differences = 0;
          for (std::size_t i = 0; i < in.size(); ++i) differences += to_float(found[i]) != to_float(wanted[i]);
          // Where a draw falls on the very border the two forms of the comparison may round apart.
          EXPECT_LE(differences, stochastic ? in.size() / 10'000 : 0)
              << name_of(format) << (tiling == Tiling::along_rows ? " rows" : " columns")
              << (is_weight ? " weight" : "") << (stochastic ? " stochastic " : " ") << rows << "x" << cols;
        }
  }
}

TEST(FakeQuantize, IsTheDefinitionForEveryShape) {
  expect_agreement<float, float>(300, 200);
  expect_agreement<float, Bf16>(130, 256);
  expect_agreement<Bf16, Bf16>(129, 70);
  expect_agreement<float, float>(1, 5);
  expect_agreement<Bf16, Bf16>(7, 1);
}

TEST(FakeQuantize, StochasticRoundingIsUnbiased) {
  // One tile holds 6, so its scale is 1, and 128 - 1 times the value under test.
  for (const float value : {0.1f, 0.75f, 1.9f, 2.5f, 3.01f, -4.6f, 0.5f, 3.0f}) {
    double sum = 0;
    std::size_t count = 0, off_grid = 0;
    for (std::uint64_t key = 0; key < 400; ++key) {
      std::vector<float> in(128, value), out(128);
      in[0] = 6;
      fake_quantize({.format = NumberFormat::fp4, .stochastic = true, .key = key * 0x9e3779b97f4a7c15ull}, in.data(), 1,
                    128, out.data());
      for (std::size_t i = 1; i < 128; ++i) {
        sum += out[i], ++count;
        off_grid += round_to(kE2M1, out[i]) != out[i];
      }
    }
    const double step = std::fabs(value) < 2 ? 0.5 : std::fabs(value) < 4 ? 1 : 2;
    // Five standard errors of a mean of draws that are at most one step apart.
    EXPECT_NEAR(sum / static_cast<double>(count), value, 5 * 0.5 * step / std::sqrt(static_cast<double>(count)));
    EXPECT_EQ(off_grid, 0u);
    if (round_to(kE2M1, value) == value) {
      EXPECT_NEAR(sum / static_cast<double>(count), value, 1e-6);
    }
  }
}

TEST(FakeQuantize, DoesNotDependOnThreads) {
  const auto in = random_matrix<float>(500 * 300, 3);
  std::vector<float> one(in.size()), many(in.size());
  const int before = thread_count();
  for (const NumberFormat format : {NumberFormat::fp4, NumberFormat::nvfp4})
    for (const Tiling tiling : {Tiling::along_rows, Tiling::down_columns}) {
      const FakeQuantize how{.format = format, .tiling = tiling, .stochastic = true, .key = 5};
      set_thread_count(1);
      fake_quantize(how, in.data(), 500, 300, one.data());
      set_thread_count(3);
      fake_quantize(how, in.data(), 500, 300, many.data());
      EXPECT_EQ(one, many);
    }
  set_thread_count(before);
}

TEST(FakeQuantize, LetsNoNanOrInfinityPassForANumber) {
  for (const NumberFormat format : kNumberFormats) {
    if (format == NumberFormat::bf16) continue;
    for (const Tiling tiling : {Tiling::along_rows, Tiling::down_columns})
      for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
        std::vector<float> in(40 * 40, 1.0f), out(in.size());
        std::vector<Bf16> rounded(in.size());
        in[123] = bad;
        fake_quantize({.format = format, .tiling = tiling}, in.data(), 40, 40, out.data());
        fake_quantize({.format = format, .tiling = tiling}, in.data(), 40, 40, rounded.data());
        EXPECT_TRUE(std::isnan(out[123])) << name_of(format) << " " << bad;
        EXPECT_TRUE(std::isnan(to_float(rounded[123]))) << name_of(format) << " " << bad;
      }
  }
}

}  // namespace
}  // namespace scalebits
