// The contract of products on a card, on the card: cuda_check [--quick] [--prompts] [--card N].
//   - the reference kernel is the product with the decoded matrix, by the CPU's f64 (small shapes);
//   - every kernel gives the reference's results up to f32 roundings: all widths, odd shapes, random mixes, orders,
//   groups
//     and blocks, one to three matrices in a launch, 1 to 300 tokens, f16, bf16 and f32;
//   - every result is written and nothing else is; two runs give the same bits; a token that is not finite stays alone.
//   - decoding of whole models is what the emulated device gives (cuda_decoder_check.cpp).
// Needs no library. Exits with 77 after saying SKIPPED where there is no card. --quick: for compute-sanitizer.
// --prompts: only products of more than 32 tokens, the only ones that have kernels of some cards' own.
#include "cuda_decoder_check.h"
#include "cuda_random.h"

#include "core/float_types.h"
#include "kernels/cuda/card_device.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace scalebits::cuda {
namespace {

constexpr float kUntouched = -77;

struct Options {
  int card = 0;
  bool quick = false, prompts = false;
};

struct Check {
  Options options;
  Engine engine{options.card};
  Draw draw{7};
  int cases = 0, failures = 0;
  double worst = 0;  // error ÷ what is allowed

  void fail(const std::string& what) {
    if (++failures <= 20) std::printf("FAILED: %s\n", what.c_str());
  }

  struct Activations {
    std::vector<float> values;  // [tokens, cols], as the card is given them
    CardBuffer buffer;
    CardInput input;
  };
  Activations activations(ElementType type, int tokens, std::int64_t cols) {
    Activations x;
    x.values.resize(static_cast<std::size_t>(tokens * cols));
    std::vector<std::uint16_t> halves;
    const float size = type == ElementType::f16 ? 1.0f : 1e6f;  // beyond f16: only factors bring them in
    for (float& value : x.values) {
      value = draw.real() * size;
      if (type == ElementType::f32) continue;
      halves.push_back(type == ElementType::f16 ? f32_to_f16(value) : f32_to_bf16(value));
      value = type == ElementType::f16 ? f16_to_f32(halves.back()) : bf16_to_f32(halves.back());
    }
    const std::uint64_t bytes = x.values.size() * (type == ElementType::f32 ? 4 : 2);
    x.buffer = CardBuffer(bytes);
    engine.upload(x.buffer, type == ElementType::f32 ? static_cast<const void*>(x.values.data()) : halves.data(),
                  bytes);
    x.input = {.x = x.buffer.data(), .x_stride = cols, .type = type, .tokens = tokens};
    return x;
  }

  struct Wanted {
    std::vector<float> y, magnitude, half_error;
  };
  Wanted reference(const OwnedMatrix& matrix, const CardInput& input) {
    const auto count = static_cast<std::size_t>(input.tokens * matrix.shape.rows);
    const CardBuffer y(count * 4), magnitude(count * 4), half_error(count * 4);
    engine.reference(matrix.view(), input, y, magnitude, half_error);
    Wanted wanted{std::vector<float>(count), std::vector<float>(count), std::vector<float>(count)};
    engine.download(wanted.y.data(), y, count * 4);
    engine.download(wanted.magnitude.data(), magnitude, count * 4);
    engine.download(wanted.half_error.data(), half_error, count * 4);
    return wanted;
  }

  /// Products of the parts, f32, with rows that nobody may write between the tokens' results.
  std::vector<std::vector<float>> products(const std::vector<OwnedMatrix>& parts, const CardInput& input,
                                           const CardMatrices& matrices, bool gathering = false) {
    std::vector<CardBuffer> buffers;
    std::vector<CardOutput> outputs;
    for (const OwnedMatrix& part : parts) {
      const std::int64_t stride = part.shape.rows + 3;
      const std::vector<float> poison(static_cast<std::size_t>(input.tokens * stride), kUntouched);
      buffers.emplace_back(poison.size() * 4);
      engine.upload(buffers.back(), poison.data(), poison.size() * 4);
      outputs.push_back({buffers.back().data(), stride});
    }
    if (gathering) {
      engine.product(input, matrices, outputs, ElementType::f32);
    } else {
      engine.prepare(input, matrices);
      engine.multiply(matrices, outputs, ElementType::f32);
    }
    std::vector<std::vector<float>> results;
    for (const CardBuffer& buffer : buffers) {
      results.emplace_back(buffer.bytes() / 4);
      engine.download(results.back().data(), buffer, buffer.bytes());
    }
    return results;
  }

  void product(const std::vector<OwnedMatrix>& parts, ElementType type, int tokens) {
    if (options.prompts && tokens <= 32) return;
    ++cases;
    const Activations x = activations(type, tokens, parts[0].shape.cols);
    std::vector<StoredMatrix> views;
    for (const OwnedMatrix& part : parts) views.push_back(part.view());
    const CardMatrices matrices(engine, views);
    compare(parts, x.input, matrices, false);
    if (tokens == 1) compare(parts, x.input, matrices, true);
  }

  void compare(const std::vector<OwnedMatrix>& parts, const CardInput& input, const CardMatrices& matrices,
               bool gathering) {
    const int tokens = input.tokens;
    const KernelName kernel = engine.kernel_for(matrices, tokens);
    const auto first = products(parts, input, matrices, gathering),
               second = products(parts, input, matrices, gathering);
    for (std::size_t p = 0; p < parts.size(); ++p) {
      const OwnedMatrix& part = parts[p];
      const std::string name = std::to_string(part.shape.rows) + "x" + std::to_string(part.shape.cols) + ", blocks " +
                               std::to_string(part.shape.block_rows) + "x" + std::to_string(part.shape.block_cols) +
                               ", groups of " + std::to_string(part.shape.group_cols) + ", " + std::to_string(tokens) +
                               " tokens, type " + std::to_string(static_cast<int>(input.type)) + ", part " +
                               std::to_string(p) + ", " + (gathering ? "gathering" : kernel.name);
      if (std::memcmp(first[p].data(), second[p].data(), first[p].size() * 4) != 0) fail(name + ": two runs differ");
      const Wanted wanted = reference(part, input);
      const std::int64_t stride = part.shape.rows + 3;
      for (int token = 0; token < tokens; ++token)
        for (std::int64_t row = 0; row < stride; ++row) {
          const float found = first[p][static_cast<std::size_t>(token * stride + row)];
          const std::string place = name + ", token " + std::to_string(token) + ", row " + std::to_string(row);
          if (row >= part.shape.rows) {
            if (found != kUntouched) fail(place + ": written beyond the matrix");
            continue;
          }
          const auto at = static_cast<std::size_t>(token * part.shape.rows + row);
          // Each product is exact and added in f32: within a tile by mma, which may cut off a bit more than a rounding
          // does (two units are allowed), then once a group, then once a run.
          const double roundings = 2 * 64 + static_cast<double>(part.shape.cols) / 32 + 64;
          const double allowed =
              roundings * 0x1p-24 * wanted.magnitude[at] + (kernel.rounds_weights ? wanted.half_error[at] : 0) + 1e-30;
          const double error = std::abs(static_cast<double>(found) - wanted.y[at]);
          if (!(error <= allowed))
            fail(place + ": wanted " + std::to_string(wanted.y[at]) + ", found " + std::to_string(found));
          else
            worst = std::max(worst, error / allowed);
        }
    }
  }

  OwnedMatrix matrix(std::int64_t rows, std::int64_t cols, int width = -1) {
    const StoredShape shape = random_shape(draw, rows, cols);
    std::vector<std::uint8_t> widths = random_widths(draw, shape);
    if (width >= 0) widths.assign(widths.size(), static_cast<std::uint8_t>(width));
    return random_matrix(draw, shape, std::move(widths), draw.below(2) == 0, draw.below(2) == 0);
  }

  /// The reference kernel against this CPU.
  void reference_is_right(std::int64_t rows, std::int64_t cols) {
    ++cases;
    const OwnedMatrix m = matrix(rows, cols);
    const Activations x = activations(ElementType::f16, 2, cols);
    const Wanted wanted = reference(m, x.input);
    const StoredTiles tiles = find_stored_tiles(m.shape, m.widths);
    const auto* blob = reinterpret_cast<const std::uint8_t*>(m.blob.data());
    for (int token = 0; token < 2; ++token)
      for (std::int64_t row = 0; row < rows; ++row) {
        double sum = 0;
        for (std::int64_t col = 0; col < cols; ++col) {
          const StoredTile& tile = tiles.tiles[static_cast<std::size_t>(row / 16 * tile_col_count(m.shape) + col / 64)];
          if (tile.width == 0) continue;
          const int r = static_cast<int>(row % 16), c = static_cast<int>(col % 64), levels = 1 << tile.width;
          const std::uint8_t* side =
              blob + tile.side + (m.shape.group_cols == 32 ? c / 32 * group_side_bytes(m.shape) : 0);
          const double range = m.shape.scale_base * std::exp2(stored_side_code(side, m.shape.scale_bits, r) *
                                                              static_cast<double>(m.shape.scale_step_log2));
          const int half = m.shape.zero_bits == 0 ? 0 : 1 << (m.shape.zero_bits - 1);
          const double offset =
              static_cast<double>(stored_side_code(side + 2 * m.shape.scale_bits, m.shape.zero_bits, r)) - half;
          const double zero = 0.5 * (levels - 1) + (half == 0 ? 0 : offset * m.shape.zero_range * levels / half);
          const std::int64_t input = m.input_order.empty() ? col : m.input_order[static_cast<std::size_t>(col)];
          sum += range / (levels - 1) * (stored_code(blob + tile.codes, tile.width, r, c) - zero) *
                 x.values[static_cast<std::size_t>(token * cols + input)];
        }
        const std::int64_t original = m.row_order.empty() ? row : m.row_order[static_cast<std::size_t>(row)];
        const auto at = static_cast<std::size_t>(token * rows + original);
        if (!(std::abs(sum - wanted.y[at]) <= 1e-6 * wanted.magnitude[at]))
          fail("the reference kernel is not the CPU's product");
      }
  }

  /// Four vectors, here and there, that one token's inputs are made of.
  struct Ingredients {
    std::vector<float> values[4];
    CardBuffer buffers[4];
    const float* there(int which) const { return buffers[which].as<float>(); }
  };
  Ingredients ingredients(std::int64_t cols) {
    Ingredients made;
    for (std::size_t which = 0; which < 4; ++which) {
      for (std::int64_t i = 0; i < cols; ++i) made.values[which].push_back(draw.real() * (i % 71 == 0 ? 1e3f : 2));
      made.buffers[which] = CardBuffer(made.values[which].size() * 4);
      engine.upload(made.buffers[which], made.values[which].data(), made.values[which].size() * 4);
    }
    return made;
  }
  /// A product that makes its inputs against the reference with those that were made here, a rounding to f16 apart.
  void compare_made(const std::string& how, const OwnedMatrix& m, const CardInput& input,
                    const std::vector<float>& made) {
    ++cases;
    const std::string name = std::to_string(m.shape.rows) + "x" + std::to_string(m.shape.cols) + ", " + how;
    const StoredMatrix view = m.view();
    const CardMatrices matrices(engine, {&view, 1});
    if (!engine.gathers(matrices)) return fail(name + ": does not gather");
    const auto found = products({m}, input, matrices, true), again = products({m}, input, matrices, true);
    if (std::memcmp(found[0].data(), again[0].data(), found[0].size() * 4) != 0) fail(name + ": two runs differ");
    const CardBuffer x(made.size() * 4);
    engine.upload(x, made.data(), made.size() * 4);
    const Wanted wanted =
        reference(m, {.x = x.data(), .x_stride = m.shape.cols, .type = ElementType::f32, .tokens = 1});
    for (std::size_t row = 0; row < wanted.y.size(); ++row)
      if (!(std::abs(found[0][row] - wanted.y[row]) <= wanted.half_error[row] + 0x1p-14 * wanted.magnitude[row]))
        fail(name + ", row " + std::to_string(row) + ": wanted " + std::to_string(wanted.y[row]) + ", found " +
             std::to_string(found[0][row]));
  }

  void normed(std::int64_t rows, std::int64_t cols, bool first, bool biased) {
    const OwnedMatrix m = matrix(rows, cols);
    const Ingredients of = ingredients(cols);  // x, delta, its bias, the norm's weight
    std::vector<float> sum, made;
    double squares = 0;
    for (std::size_t i = 0; i < of.values[0].size(); ++i) {
      sum.push_back(of.values[0][i] + ((first ? 0 : of.values[1][i]) + (biased ? of.values[2][i] : 0)));
      squares += double(sum[i]) * double(sum[i]);
    }
    const double size = std::sqrt(squares / double(cols) + 0.01);
    for (std::size_t i = 0; i < sum.size(); ++i)
      made.push_back(static_cast<float>(double(sum[i]) / size * double(of.values[3][i])));
    const CardBuffer kept(sum.size() * 4);
    compare_made("normed", m,
                 {.x = of.there(0),
                  .x_stride = cols,
                  .type = ElementType::f32,
                  .tokens = 1,
                  .norm = {.weight = of.there(3),
                           .delta = first ? nullptr : of.there(1),
                           .delta_bias = biased ? of.there(2) : nullptr,
                           .eps = 0.01f,
                           .sum = kept.as<float>()}},
                 made);
    std::vector<float> kept_there(sum.size());
    engine.download(kept_there.data(), kept, sum.size() * 4);
    if (kept_there != sum) fail("normed inputs: the sum was not kept");
  }

  void activated(std::int64_t rows, std::int64_t cols, bool gated, bool biased) {
    const OwnedMatrix m = matrix(rows, cols);
    const Ingredients of = ingredients(cols);  // x, its bias, up, its bias
    std::vector<float> made;
    for (std::size_t i = 0; i < of.values[0].size(); ++i) {
      const auto plus = [&](int which) { return of.values[which][i] + (biased ? of.values[which + 1][i] : 0); };
      made.push_back(gated ? with_gate(plus(0), plus(2)) : without_gate(plus(0)));
    }
    compare_made(gated ? "activated with a gate" : "activated without gate", m,
                 {.x = of.there(0),
                  .x_stride = cols,
                  .type = ElementType::f32,
                  .tokens = 1,
                  .mlp = {.activates = true,
                          .bias = biased ? of.there(1) : nullptr,
                          .up = gated ? of.there(2) : nullptr,
                          .up_bias = gated && biased ? of.there(3) : nullptr}},
                 made);
  }

  void one_bad_token(int tokens, int bad, float value, bool gathering) {
    ++cases;
    const OwnedMatrix m = matrix(70, 130, 3);
    Activations x = activations(ElementType::f32, tokens, 130);
    x.values[static_cast<std::size_t>(bad * 130 + 7)] = value;
    engine.upload(x.buffer, x.values.data(), x.values.size() * 4);
    const StoredMatrix view = m.view();
    const auto y = products({m}, x.input, CardMatrices(engine, {&view, 1}), gathering)[0];
    for (int token = 0; token < tokens; ++token)
      for (int row = 0; row < 70; ++row)
        if (std::isfinite(y[static_cast<std::size_t>(token * 73 + row)]) != (token != bad))
          return fail("a token that is not finite must spoil its own results, all of them, and no others");
  }

  void all() {
    const bool quick = options.quick;
    for (const std::int64_t cols : {1, 65, 200}) reference_is_right(40, cols);
    for (int width = 0; width <= 8; ++width)
      for (const int tokens : {1, 2, 9, 17, 33}) {
        if (quick && width % 3 != 0) continue;
        product({matrix(80, 200, width)}, ElementType::f16, tokens);
      }
    for (const std::int64_t rows : {1, 5, 64, 576})
      for (const std::int64_t cols : {1, 5, 65, 576})
        product({matrix(rows, cols)}, ElementType(draw.below(3)), 1 + static_cast<int>(draw.below(quick ? 10 : 40)));
    for (const int tokens : {1, 8, 16, 32, 40, 128, 130, 300})
      if (!quick || tokens <= 40 || tokens == 130) product({matrix(333, 777)}, ElementType(tokens % 3), tokens);
    {  // ranges too far apart for weights in halves
      StoredShape shape = usual_shape(130, 300);
      shape.scale_bits = 8, shape.scale_step_log2 = 0.1f;
      product({random_matrix(draw, shape, random_widths(draw, shape), true, true)}, ElementType::f32, 70);
    }
    const int launches = quick ? 3 : 13;  // the last one a prompt
    for (int repeat = 0; repeat < launches; ++repeat) {
      OwnedMatrix first = matrix(1 + draw.below(400), 1 + draw.below(600));
      OwnedMatrix second = first, third = first;
      for (OwnedMatrix* other : {&second, &third}) {
        StoredShape shape = first.shape;
        shape.rows = 1 + draw.below(300);
        shape.scale_base *= 2;
        *other = random_matrix(draw, shape, random_widths(draw, shape), true, false);
        other->input_order = first.input_order;
      }
      product({first, second, third}, ElementType::f16,
              repeat + 1 == launches ? 40 : 1 + static_cast<int>(draw.below(20)));
    }
    one_bad_token(140, 99, NAN, false);
    if (!options.prompts)
      for (const std::int64_t cols : {5, 576, 4100}) {
        normed(100, cols, cols == 5, cols == 576);
        activated(100, cols, cols != 5, cols == 576);
      }
    for (const float value : {INFINITY, -INFINITY, NAN}) {
      if (options.prompts) break;
      one_bad_token(5, 2, value, false);
      one_bad_token(1, 0, value, true);
    }
    if (!options.prompts) {
      ++cases;
      for (const std::string& failure : check_decoding(open_card(options.card), quick)) fail(failure);
    }
    if (quick) return;
    product({matrix(49153, 576)}, ElementType::f16, 1);
    product({matrix(4096, 4096)}, ElementType::f16, 1);
    product({matrix(4096, 4096)}, ElementType::bf16, 16);
    product({matrix(2048, 4096)}, ElementType::f16, 200);
  }
};

int run(const Options& options) {
  try {
    cards();
  } catch (const CardError& error) {
    std::printf("SKIPPED: %s\n", error.what());
    return 77;
  }
  Check check{options};
  std::printf("%s\n", check.engine.card().name.c_str());
  check.all();
  std::printf("%d cases, %d failures, largest error %.3f of what is allowed\n", check.cases, check.failures,
              check.worst);
  return check.failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace scalebits::cuda

int main(int count, char** arguments) {
  try {
    scalebits::cuda::Options options;
    for (int i = 1; i < count; ++i) {
      if (std::strcmp(arguments[i], "--quick") == 0) options.quick = true;
      if (std::strcmp(arguments[i], "--prompts") == 0) options.prompts = true;
      if (std::strcmp(arguments[i], "--card") == 0 && i + 1 < count) options.card = std::atoi(arguments[i + 1]);
    }
    return scalebits::cuda::run(options);
  } catch (const std::exception& error) {
    std::printf("FAILED: %s\n", error.what());
    return 1;
  }
}
