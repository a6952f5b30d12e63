// The contract of what lies between products (decode.h), on a card: each is what its description says, by this CPU's
// f64, up to f32 roundings, for f16 and 8-bit caches, grouped heads, positions on both sides of a span's end, with and
// without norms of heads and rotation. Part of cuda_check.
#include "cuda_decode_check.h"

#include "core/float_types.h"
#include "kernels/cuda/decode.h"

#include <algorithm>
#include <cmath>

namespace scalebits::cuda {
namespace {

constexpr double kUnit = 0x1p-24;

struct DecodeCheck {
  Engine& engine;
  Draw draw{23};
  std::vector<std::string> failures;

  cudaStream_t stream() const { return static_cast<cudaStream_t>(engine.stream()); }
  std::vector<float> random(std::int64_t count) {
    std::vector<float> values(static_cast<std::size_t>(count));
    for (float& value : values) value = draw.real();
    return values;
  }
  template <typename T>
  CardBuffer on_card(const std::vector<T>& values) {
    CardBuffer buffer(values.size() * sizeof(T));
    engine.upload(buffer, values.data(), buffer.bytes());
    return buffer;
  }
  template <typename T>
  std::vector<T> from_card(const CardBuffer& buffer) {
    std::vector<T> values(buffer.bytes() / sizeof(T));
    engine.download(values.data(), buffer, buffer.bytes());
    return values;
  }
  void near(double found, double wanted, double allowed, const std::string& what) {
    if (!(std::abs(found - wanted) <= allowed) && failures.size() < 10)
      failures.push_back(what + ": wanted " + std::to_string(wanted) + ", found " + std::to_string(found));
  }

  void norms(int width, bool layer_norm) {
    const int rows = 3;
    const std::vector<float> x = random(rows * width), delta = random(rows * width), weight = random(width),
                             bias = random(width);
    const CardBuffer x_card = on_card(x), delta_card = on_card(delta), weight_card = on_card(weight),
                     bias_card = on_card(bias), out(static_cast<std::uint64_t>(rows * width) * 4);
    launch_norm({.x = x_card.as<float>(),
                 .delta = delta_card.as<float>(),
                 .weight = weight_card.as<float>(),
                 .bias = layer_norm ? bias_card.as<float>() : nullptr,
                 .eps = 1e-5f,
                 .rows = rows,
                 .width = width,
                 .out = out.as<float>()},
                stream());
    const auto found = from_card<float>(out), moved = from_card<float>(x_card);
    for (int row = 0; row < rows; ++row) {
      double mean = 0, squares = 0;
      const auto at = [&](int i) { return static_cast<std::size_t>(row * width + i); };
      const auto sum = [&](int i) { return static_cast<double>(x[at(i)] + delta[at(i)]); };  // rounded, as x is kept
      for (int i = 0; i < width; ++i) mean += layer_norm ? sum(i) / width : 0;
      for (int i = 0; i < width; ++i) squares += (sum(i) - mean) * (sum(i) - mean) / width;
      const double factor = 1 / std::sqrt(squares + 1e-5);
      for (int i = 0; i < width; ++i) {
        const auto c = static_cast<std::size_t>(i);
        near(moved[at(i)], sum(i), 0, "x + delta");
        near(found[at(i)], (sum(i) - mean) * factor * weight[c] + (layer_norm ? bias[c] : 0),
             (width + 16) * kUnit * (4 * factor + 2), layer_norm ? "LayerNorm" : "RMSNorm");
      }
    }
  }

  void activations() {
    const std::vector<float> gate = random(1000), up = random(1000);
    const CardBuffer silu = on_card(gate), relu = on_card(gate), up_card = on_card(up);
    launch_activation(silu.as<float>(), up_card.as<float>(), 1000, stream());
    launch_activation(relu.as<float>(), nullptr, 1000, stream());
    const auto found = from_card<float>(silu), cut = from_card<float>(relu);
    for (std::size_t i = 0; i < 1000; ++i) {
      near(found[i], gate[i] / (1 + std::exp(-double(gate[i]))) * up[i], 8 * kUnit, "silu");
      near(cut[i], std::max(gate[i], 0.0f), 0, "relu");
    }
  }

  void attention(int heads, int kv_heads, int dim, bool eight_bits, bool norms_and_turns) {
    const int tokens = 520, capacity = 700, half = dim / 2;
    const std::string name = std::to_string(heads) + "/" + std::to_string(kv_heads) + " heads of " +
                             std::to_string(dim) + (eight_bits ? ", 8 bits" : ", f16");
    const std::vector<float> q = random(tokens * heads * dim), k = random(tokens * kv_heads * dim),
                             v = random(tokens * kv_heads * dim), q_norm = random(dim), k_norm = random(dim);
    std::vector<float> cosines, sines;
    for (int position = 0; position < tokens; ++position)
      for (int i = 0; i < half; ++i) {
        const double angle = position * std::pow(10000.0, -2.0 * i / dim);
        cosines.push_back(static_cast<float>(std::cos(angle)));
        sines.push_back(static_cast<float>(std::sin(angle)));
      }
    std::vector<std::int32_t> positions(tokens);
    std::iota(positions.begin(), positions.end(), 0);
    const std::uint64_t elements = static_cast<std::uint64_t>(kv_heads * capacity * dim),
                        slots = static_cast<std::uint64_t>(kv_heads * capacity);
    const CardBuffer keys(elements * (eight_bits ? 1 : 2)), values(elements * (eight_bits ? 1 : 2)),
        key_scales(slots * 4), value_scales(slots * 4),
        q_card = on_card(q), k_card = on_card(k), v_card = on_card(v), q_weight = on_card(q_norm),
        k_weight = on_card(k_norm), cosine_card = on_card(cosines), sine_card = on_card(sines),
        position_card = on_card(positions), out(static_cast<std::uint64_t>(tokens * heads * dim) * 4),
        parts(attention_part_bytes(tokens, heads, dim, capacity));
    const AttentionArgs args{.cache = {.keys = keys.data(),
                                       .values = values.data(),
                                       .key_scales = eight_bits ? key_scales.as<float>() : nullptr,
                                       .value_scales = eight_bits ? value_scales.as<float>() : nullptr,
                                       .capacity = capacity},
                             .positions = position_card.as<std::int32_t>(),
                             .tokens = tokens,
                             .heads = heads,
                             .kv_heads = kv_heads,
                             .head_dim = dim,
                             .q = q_card.as<float>(),
                             .k = k_card.as<float>(),
                             .v = v_card.as<float>(),
                             .q_norm = norms_and_turns ? q_weight.as<float>() : nullptr,
                             .k_norm = norms_and_turns ? k_weight.as<float>() : nullptr,
                             .eps = 1e-6f,
                             .cosines = norms_and_turns ? cosine_card.as<float>() : nullptr,
                             .sines = norms_and_turns ? sine_card.as<float>() : nullptr,
                             .parts = parts.as<float>(),
                             .out = out.as<float>()};
    launch_rotate_and_store(args, stream());
    launch_attention(args, stream());
    const auto found = from_card<float>(out), turned = from_card<float>(q_card);
    const auto read_cache = [&](const CardBuffer& buffer, const CardBuffer& scales) {
      std::vector<float> read;
      if (eight_bits) {
        const auto codes = from_card<std::int8_t>(buffer);
        const auto factors = from_card<float>(scales);
        for (std::size_t i = 0; i < codes.size(); ++i)
          read.push_back(codes[i] * factors[i / static_cast<std::size_t>(dim)]);
      } else {
        for (const std::uint16_t bits : from_card<std::uint16_t>(buffer)) read.push_back(f16_to_f32(bits));
      }
      return read;
    };
    const std::vector<float> kept_keys = read_cache(keys, key_scales), kept_values = read_cache(values, value_scales);

    // Norm and rotation of one head; a pair of values makes each.
    const auto turn = [&](const float* from, const std::vector<float>& weight, int position) {
      std::vector<double> row(from, from + dim);
      if (!norms_and_turns) return row;
      double squares = 0;
      for (const double value : row) squares += value * value / dim;
      for (int i = 0; i < dim; ++i)
        row[static_cast<std::size_t>(i)] *= weight[static_cast<std::size_t>(i)] / std::sqrt(squares + 1e-6);
      for (int i = 0; i < half; ++i) {
        const auto at = static_cast<std::size_t>(position * half + i), a = static_cast<std::size_t>(i),
                   b = static_cast<std::size_t>(i + half);
        const double first = row[a], second = row[b];
        row[a] = first * cosines[at] - second * sines[at];
        row[b] = second * cosines[at] + first * sines[at];
      }
      return row;
    };
    const double turning = (dim + 16) * kUnit * 4;
    for (int token = 0; token < tokens; ++token) {
      for (int head = 0; head < heads; ++head) {
        const auto row = turn(q.data() + (token * heads + head) * dim, q_norm, token);
        for (int i = 0; i < dim; ++i)
          near(turned[static_cast<std::size_t>((token * heads + head) * dim + i)], row[static_cast<std::size_t>(i)],
               turning, name + ": q");
      }
      for (int head = 0; head < kv_heads; ++head) {
        const auto row = turn(k.data() + (token * kv_heads + head) * dim, k_norm, token);
        const float* value = v.data() + (token * kv_heads + head) * dim;
        double largest_key = 0, largest_value = 0;
        for (int i = 0; i < dim; ++i) {
          largest_key = std::max(largest_key, std::abs(row[static_cast<std::size_t>(i)]));
          largest_value = std::max(largest_value, std::abs(double(value[i])));
        }
        for (int i = 0; i < dim; ++i) {
          const auto at = static_cast<std::size_t>((head * capacity + token) * dim + i);
          const double key = row[static_cast<std::size_t>(i)];
          // Half a step of the rounding.
          near(kept_keys[at], key,
               (eight_bits ? largest_key * (0.5001 / 127) : std::abs(key) * 0x1p-11 + 0x1p-25) + turning,
               name + ": kept key");
          near(kept_values[at], value[i],
               eight_bits ? largest_value * (0.5001 / 127) : std::abs(value[i]) * 0x1p-11 + 0x1p-25,
               name + ": kept value");
        }
      }
    }
    for (const int token : {0, 1, 254, 255, 256, 257, 511, 512, 519})
      for (int head = 0; head < heads; ++head) {
        const int kv_head = head / (heads / kv_heads);
        std::vector<double> weights;
        double largest = -1e300, magnitude = 0, total = 0;
        for (int position = 0; position <= token; ++position) {
          double score = 0, size = 0;
          for (int d = 0; d < dim; ++d) {
            const double term = double(turned[static_cast<std::size_t>((token * heads + head) * dim + d)]) *
                                kept_keys[static_cast<std::size_t>((kv_head * capacity + position) * dim + d)] /
                                std::sqrt(double(dim));
            score += term;
            size += std::abs(term);
          }
          weights.push_back(score);
          largest = std::max(largest, score);
          magnitude = std::max(magnitude, size);
        }
        for (double& weight : weights) total += weight = std::exp(weight - largest);
        // A score is off by its sum's roundings, an exponential by that and its own, sums by one rounding a term.
        const double allowed = 2 * ((dim + 8) * kUnit * magnitude + (token + 24) * kUnit);
        for (int d = 0; d < dim; ++d) {
          double wanted = 0;
          for (int position = 0; position <= token; ++position)
            wanted += weights[static_cast<std::size_t>(position)] / total *
                      kept_values[static_cast<std::size_t>((kv_head * capacity + position) * dim + d)];
          near(found[static_cast<std::size_t>((token * heads + head) * dim + d)], wanted, allowed,
               name + ": attention of token " + std::to_string(token));
        }
      }
  }
};

}  // namespace

std::vector<std::string> check_decoding(Engine& engine) {
  DecodeCheck check{engine};
  for (const bool layer_norm : {false, true})
    for (const int width : {1, 64, 576, 4096}) check.norms(width, layer_norm);
  check.activations();
  for (const bool eight_bits : {false, true}) {
    check.attention(9, 3, 64, eight_bits, true);
    check.attention(4, 1, 96, eight_bits, true);
    check.attention(2, 2, 128, eight_bits, false);
    check.attention(1, 1, 256, eight_bits, true);
  }
  return check.failures;
}

}  // namespace scalebits::cuda
