// The contract of the operations between a card's products, on the CPU, where their very code runs thread by thread
// (kernels/cuda/emulated_device.h), forwards and backwards: each does what the CPU's runtime does, up to roundings to
// f16 where its results are f16 and of f32 sums in another order, on odd shapes; memory is counted.
#include "kernels/random_packed.h"

#include "kernels/attention.h"
#include "kernels/cuda/emulated_device.h"
#include "kernels/cuda/half.h"
#include "kernels/cuda/packed_matrix.h"
#include "kernels/linear.h"
#include "runtime/row_math.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

namespace scalebits {
namespace {

constexpr double kUnit = 0x1p-24;  // an f32 rounding
/// What rounding a value to f16 costs at most.
double half_rounding(double value) { return std::abs(value) * 0x1p-11 + 0x1p-25; }

class CudaOperations : public testing::TestWithParam<bool> {
 protected:
  template <typename T>
  cuda::DeviceMemory on_device(const std::vector<T>& values) {
    cuda::DeviceMemory memory = device->allocate(values.size() * sizeof(T));
    device->upload(memory.as<void>(), values.data(), memory.bytes());
    return memory;
  }
  template <typename T>
  std::vector<T> from_device(const cuda::DeviceMemory& memory) {
    std::vector<T> values(memory.bytes() / sizeof(T));
    device->download(values.data(), memory.as<void>(), memory.bytes());
    return values;
  }
  std::vector<float> random(std::int64_t count, float scale = 1) {
    std::vector<float> values(static_cast<std::size_t>(count));
    for (float& value : values) value = dice.real() * scale;
    return values;
  }
  /// As the device keeps a layer: both lay it out alike.
  cuda::DeviceMemory cache_of(const KvLayer& layer) {
    const cuda::CacheShape shape{static_cast<int>(layer.kv_heads()), static_cast<int>(layer.head_dim())};
    const bool i8 = layer.type() == KvType::i8;
    cuda::DeviceMemory memory = device->allocate(static_cast<std::uint64_t>(shape.layer_bytes(layer.capacity(), i8)));
    const auto planes = static_cast<std::size_t>(shape.plane_bytes(layer.capacity(), i8)),
               scales = static_cast<std::size_t>(shape.scale_bytes(layer.capacity(), i8));
    auto* to = memory.as<std::byte>();
    if (i8) std::memcpy(to, layer.key_scales(0), 2 * scales);
    std::memcpy(to + 2 * scales, layer.keys(0), 2 * planes);
    return memory;
  }
  cuda::TokenState state_of(const cuda::DeviceMemory& cache, const KvLayer& layer, std::int64_t position) {
    return {.position = static_cast<std::int32_t>(position),
            .cache = cache.as<std::uint8_t>(),
            .capacity = static_cast<std::int32_t>(layer.capacity()),
            .eight_bits = layer.type() == KvType::i8};
  }

  void check_attention(KvType type, int heads, int kv_heads, int dim, int tokens, std::int64_t first_position,
                       int window, bool one_sequence);

  std::unique_ptr<cuda::Device> device = cuda::make_emulated_device({.backwards = GetParam(), .multiprocessors = 24});
  Dice dice{91};
  ThreadPool threads{1};
};
INSTANTIATE_TEST_SUITE_P(Threads, CudaOperations, testing::Values(false, true),
                         [](const auto& order) { return order.param ? "Backwards" : "Forwards"; });

TEST_P(CudaOperations, NormsAreTheRuntimes) {
  for (const bool layer : {false, true})
    for (const bool adds : {false, true})
      for (const int width : {1, 5, 64, 300, 1030}) {
        const int rows = 3;
        const auto weight = random(width), bias = random(width), delta_bias = random(width),
                   delta = random(rows * width);
        std::vector<float> x = random(rows * width);
        const auto x_card = on_device(x), delta_card = on_device(delta), weight_card = on_device(weight),
                   bias_card = on_device(bias), delta_bias_card = on_device(delta_bias),
                   out = device->allocate(static_cast<std::uint64_t>(rows * width) * 2);
        cuda::Norm norm{.x = x_card.as<float>(),
                        .delta = adds ? delta_card.as<float>() : nullptr,
                        .delta_bias = adds && layer ? delta_bias_card.as<float>() : nullptr,
                        .weight = weight_card.as<float>(),
                        .bias = layer ? bias_card.as<float>() : nullptr,
                        .eps = 1e-5f,
                        .rows = rows,
                        .width = width,
                        .out = out.as<std::uint16_t>()};
        // A later token's norm alone, which leaves x as it was, then all of them.
        const auto order = on_device(std::vector<std::int32_t>{2});
        cuda::Norm last = norm;
        last.tokens = order.as<std::int32_t>(), last.rows = 1;
        device->run(last);
        const auto alone = from_device<std::uint16_t>(out);
        EXPECT_EQ(from_device<float>(x_card), x);
        device->run(norm);
        const auto found = from_device<std::uint16_t>(out);
        EXPECT_TRUE(std::equal(alone.begin(), alone.begin() + width, found.begin() + 2 * width));
        std::vector<float> wanted(x.size());
        for (int row = 0; row < rows; ++row) {
          float *const from = x.data() + row * width, *const to = wanted.data() + row * width;
          std::vector<float> added(delta.begin() + row * width, delta.begin() + (row + 1) * width);
          if (adds && layer) add_row(added.data(), delta_bias.data(), width);
          if (adds) add_row(from, added.data(), width);
          if (layer)
            layer_norm(from, weight.data(), bias.data(), 1e-5f, width, to);
          else
            rms_norm(from, weight.data(), 1e-5f, width, to);
        }
        EXPECT_EQ(from_device<float>(x_card), x) << "the sum is the same bits";
        for (std::size_t i = 0; i < wanted.size(); ++i) {
          // The sum's roundings move the factor, of at most 1 / sqrt(eps); a mean's error is one of x's size (2 to 3).
          const double size = std::abs(wanted[i]) + (layer ? 1 + 320 * (width == 1) : 0);
          ASSERT_NEAR(f16_to_f32(found[i]), wanted[i], half_rounding(wanted[i]) + (width + 16) * kUnit * 4 * size)
              << width << (layer ? ", LayerNorm" : ", RMSNorm");
        }
      }
}

TEST_P(CudaOperations, RotationAndCacheAreTheRuntimes) {
  struct Case {
    int heads, kv_heads, dim;
    bool norms, turns, biases;
  };
  for (const KvType type : {KvType::f16, KvType::i8})
    for (const Case& c : {Case{9, 3, 64, false, true, false},
                          {4, 1, 6, true, true, true},
                          {2, 2, 256, true, true, false},
                          {3, 3, 96, false, false, true},
                          {8, 4, 8, false, false, false}}) {
      const int tokens = 5, capacity = 40, half = c.dim / 2;
      const std::int64_t first = 30, q_width = c.heads * c.dim, kv_width = c.kv_heads * c.dim;
      std::vector<float> q = random(tokens * q_width, 3), k = random(tokens * kv_width, 3),
                         v = random(tokens * kv_width, 3);
      for (int i = 0; i < c.dim; ++i) v[static_cast<std::size_t>(i)] = 0;  // a head of nothing
      const auto q_norm = random(c.dim), k_norm = random(c.dim);
      const std::vector<float> bias[] = {random(q_width), random(kv_width), random(kv_width)};
      const auto cosines = random(capacity * half), sines = random(capacity * half);
      KvLayer wanted(type, c.kv_heads, capacity, c.dim);
      const KvLayer empty(type, c.kv_heads, capacity, c.dim);
      const auto cache = cache_of(empty), q_card = on_device(q), k_card = on_device(k), v_card = on_device(v),
                 q_norm_card = on_device(q_norm), k_norm_card = on_device(k_norm), cosine_card = on_device(cosines),
                 sine_card = on_device(sines), q_bias = on_device(bias[0]), k_bias = on_device(bias[1]),
                 v_bias = on_device(bias[2]);
      std::vector<cuda::TokenState> states;
      for (int token = 0; token < tokens; ++token) states.push_back(state_of(cache, empty, first + token));
      const auto states_card = on_device(states);
      cuda::RotateAndStore operation{.states = states_card.as<cuda::TokenState>(),
                                     .shape = {c.kv_heads, c.dim},
                                     .tokens = tokens,
                                     .heads = c.heads,
                                     .q = q_card.as<float>(),
                                     .k = k_card.as<float>(),
                                     .v = v_card.as<float>(),
                                     .q_norm = c.norms ? q_norm_card.as<float>() : nullptr,
                                     .k_norm = c.norms ? k_norm_card.as<float>() : nullptr,
                                     .eps = 1e-6f,
                                     .cosines = c.turns ? cosine_card.as<float>() : nullptr,
                                     .sines = c.turns ? sine_card.as<float>() : nullptr};
      if (c.biases)
        operation.biases[0] = q_bias.as<float>(), operation.biases[1] = k_bias.as<float>(),
        operation.biases[2] = v_bias.as<float>();
      device->run(operation);
      for (int token = 0; token < tokens; ++token) {
        float *const q_row = q.data() + token * q_width, *const k_row = k.data() + token * kv_width,
                     *const v_row = v.data() + token * kv_width;
        if (c.biases)
          add_row(q_row, bias[0].data(), q_width), add_row(k_row, bias[1].data(), kv_width),
              add_row(v_row, bias[2].data(), kv_width);
        const auto turn = [&](float* row, int heads, const std::vector<float>& norm) {
          for (int head = 0; c.norms && head < heads; ++head)
            rms_norm(row + head * c.dim, norm.data(), 1e-6f, c.dim, row + head * c.dim);
          if (c.turns)
            rotate_heads(row, heads, c.dim, cosines.data() + (first + token) * half,
                         sines.data() + (first + token) * half);
        };
        turn(q_row, c.heads, q_norm);
        turn(k_row, c.kv_heads, k_norm);
        wanted.store(first + token, k_row, v_row);
      }
      const auto found_q = from_device<float>(q_card);
      const double roundings = c.norms ? (c.dim + 16) * kUnit * 4 : 4 * kUnit;
      for (std::size_t i = 0; i < q.size(); ++i) ASSERT_NEAR(found_q[i], q[i], roundings * 8);
      const auto expected_cache = from_device<std::byte>(cache_of(wanted)), found_cache = from_device<std::byte>(cache);
      if (!c.norms) {  // the same operations on the same numbers
        EXPECT_EQ(found_cache, expected_cache);
        continue;
      }
      const auto scales = static_cast<std::size_t>(operation.shape.scale_bytes(capacity, type == KvType::i8));
      for (std::size_t i = 0; i < 2 * scales; i += 4) {
        float a, b;
        std::memcpy(&a, &found_cache[i], 4), std::memcpy(&b, &expected_cache[i], 4);
        ASSERT_NEAR(a, b, roundings * std::abs(b));
      }
      for (std::size_t i = 2 * scales; i < found_cache.size(); i += 2) {
        if (type == KvType::i8) {  // next to a half, either side
          ASSERT_LE(std::abs(int(std::int8_t(found_cache[i])) - int(std::int8_t(expected_cache[i]))), 1);
          continue;
        }
        std::uint16_t a, b;
        std::memcpy(&a, &found_cache[i], 2), std::memcpy(&b, &expected_cache[i], 2);
        ASSERT_NEAR(f16_to_f32(a), f16_to_f32(b), 2 * half_rounding(f16_to_f32(b)) + roundings * 8);
      }
    }
}

void CudaOperations::check_attention(KvType type, int heads, int kv_heads, int dim, int tokens,
                                     std::int64_t first_position, int window, bool one_sequence) {
  const std::int64_t positions = first_position + tokens, width = heads * dim;
  std::vector<KvLayer> layers;
  std::vector<cuda::DeviceMemory> caches;
  for (int i = 0; i < (one_sequence ? 1 : tokens); ++i) {
    KvLayer& layer = layers.emplace_back(type, kv_heads, positions + 7 * i + 3, dim);
    for (std::int64_t p = 0; p < positions; ++p)
      layer.store(p, random(kv_heads * dim, 2).data(), random(kv_heads * dim).data());
    caches.push_back(cache_of(layer));
  }
  const auto q = random(tokens * width, 2);
  std::vector<cuda::TokenState> states;
  std::vector<AttentionQuery> queries;
  std::vector<float> wanted(q.size());
  for (int token = 0; token < tokens; ++token) {
    const auto which = static_cast<std::size_t>(one_sequence ? 0 : token);
    const std::int64_t position = first_position + (one_sequence ? token : token * 3 % 5 - 4);
    states.push_back(state_of(caches[which], layers[which], position));
    queries.push_back({&layers[which], q.data() + token * width, wanted.data() + token * width,
                       window == 0 ? 0 : std::max<std::int64_t>(0, position + 1 - window), position + 1});
  }
  attend(threads, Isa::scalar, heads, queries);
  const auto states_card = on_device(states), q_card = on_device(q),
             out = device->allocate(static_cast<std::uint64_t>(tokens * width) * 2);
  cuda::Attend operation{.states = states_card.as<cuda::TokenState>(),
                         .shape = {kv_heads, dim},
                         .tokens = tokens,
                         .one_sequence = one_sequence,
                         .heads = heads,
                         .window = window,
                         .q = q_card.as<float>(),
                         .out = out.as<std::uint16_t>()};
  operation.splits = operation.splits_for(device->multiprocessors());
  const auto parts = device->allocate(static_cast<std::uint64_t>(operation.part_floats()) * 4),
             arrivals = device->allocate(static_cast<std::uint64_t>(kv_heads * operation.tiles()) * 4);
  operation.parts = parts.as<float>(), operation.arrivals = arrivals.as<std::uint32_t>();
  device->run(operation);
  const auto found = from_device<std::uint16_t>(out);
  for (const std::uint32_t count : from_device<std::uint32_t>(arrivals)) ASSERT_EQ(count, 0u);
  // A score errs by its sum's roundings of terms of 2 · 2 / sqrt(dim) each, an exponential by twice that, on either
  // side; values are at most 1.
  const double score = 4 * std::sqrt(double(dim)),
               allowed = 4 * ((dim + 8) * kUnit * score + double(positions + 24) * kUnit);
  for (std::size_t i = 0; i < wanted.size(); ++i)
    ASSERT_NEAR(f16_to_f32(found[i]), wanted[i], half_rounding(wanted[i]) + allowed)
        << heads << '/' << kv_heads << " heads of " << dim << ", " << tokens << " tokens from " << first_position
        << ", element " << i;
}

TEST_P(CudaOperations, AttentionIsTheRuntimes) {
  for (const KvType type : {KvType::f16, KvType::i8}) {
    for (const std::int64_t position : {0, 1, 63, 64, 700}) check_attention(type, 9, 3, 64, 1, position, 0, true);
    check_attention(type, 12, 1, 128, 1, 300, 0, true);  // a group of more rows than a block has
    check_attention(type, 2, 2, 256, 1, 100, 0, true);
    check_attention(type, 4, 2, 8, 70, 0, 0, true);    // a prompt
    check_attention(type, 3, 1, 96, 37, 90, 0, true);  // its second chunk
    check_attention(type, 4, 2, 16, 70, 3, 17, true);  // of a model that sees 17 positions
    check_attention(type, 8, 4, 32, 6, 140, 0, false);
    check_attention(type, 10, 1, 6, 3, 40, 9, false);
  }
}

TEST_P(CudaOperations, ActivationsAreTheRuntimes) {
  const int rows = 3, width = 301;
  const auto gate = random(rows * width, 8), up = random(rows * width), gate_bias = random(width),
             up_bias = random(width);
  for (const bool biases : {false, true}) {
    const auto gate_card = on_device(gate), up_card = on_device(up), gate_bias_card = on_device(gate_bias),
               up_bias_card = on_device(up_bias), cut_card = on_device(gate);
    const auto maxima = on_device(std::vector<float>(rows * 2, NAN)),
               cut_maxima = on_device(std::vector<float>(rows * 2, NAN));
    device->run(cuda::Activate{.gate = gate_card.as<float>(),
                               .up = up_card.as<float>(),
                               .gate_bias = biases ? gate_bias_card.as<float>() : nullptr,
                               .up_bias = biases ? up_bias_card.as<float>() : nullptr,
                               .rows = rows,
                               .width = width,
                               .maxima = maxima.as<float>()});
    device->run(cuda::Activate{.up = cut_card.as<float>(),
                               .up_bias = biases ? up_bias_card.as<float>() : nullptr,
                               .rows = rows,
                               .width = width,
                               .maxima = cut_maxima.as<float>()});
    auto left = gate, right = up, cut = gate;
    for (int row = 0; biases && row < rows; ++row) {
      add_row(left.data() + row * width, gate_bias.data(), width);
      add_row(right.data() + row * width, up_bias.data(), width);
      add_row(cut.data() + row * width, up_bias.data(), width);
    }
    silu_times(left.data(), right.data(), rows * width);
    relu(cut.data(), rows * width);
    EXPECT_EQ(from_device<float>(cut_card), cut);
    const auto found = from_device<float>(gate_card);
    const auto expect_maxima = [&](const std::vector<float>& values, const std::vector<float>& largest) {
      for (int row = 0; row < rows; ++row)
        for (int piece = 0; piece < 2; ++piece) {
          float wanted = 0;
          for (int i = 256 * piece; i < std::min(width, 256 * (piece + 1)); ++i)
            wanted = std::max(wanted, std::abs(values[static_cast<std::size_t>(row * width + i)]));
          EXPECT_EQ(largest[static_cast<std::size_t>(2 * row + piece)], wanted);
        }
    };
    expect_maxima(cut, from_device<float>(cut_maxima));
    expect_maxima(found, from_device<float>(maxima));
    for (std::size_t i = 0; i < left.size(); ++i) ASSERT_NEAR(found[i], left[i], 16 * kUnit * std::abs(left[i]));
  }
}

std::vector<std::uint16_t> halves(const std::vector<float>& values, bool bf16) {
  std::vector<std::uint16_t> bits;
  for (const float value : values) bits.push_back(bf16 ? f32_to_bf16(value) : f32_to_f16(value));
  return bits;
}

TEST_P(CudaOperations, DenseProducts) {
  for (const auto& [rows, cols, tokens] : {std::tuple(1, 1, 1), {9, 65, 3}, {30, 576, 9}, {5, 64, 17}})
    for (const auto type : {cuda::ElementType::f32, cuda::ElementType::f16, cuda::ElementType::bf16})
      for (const auto x_type : {cuda::ElementType::f32, cuda::ElementType::f16}) {
        const auto w = random(rows * cols), x = random(tokens * cols);
        const auto on = [&](const std::vector<float>& values, cuda::ElementType as) {
          return as == cuda::ElementType::f32 ? on_device(values)
                                              : on_device(halves(values, as == cuda::ElementType::bf16));
        };
        const auto w_card = on(w, type), x_card = on(x, x_type),
                   y = device->allocate(static_cast<std::uint64_t>(rows * tokens) * 4);
        device->run(cuda::DenseProduct{.weights = w_card.as<void>(),
                                       .type = type,
                                       .rows = rows,
                                       .cols = cols,
                                       .x = x_card.as<void>(),
                                       .x_type = x_type,
                                       .tokens = tokens,
                                       .y = y.as<float>()});
        const auto found = from_device<float>(y);
        for (int token = 0; token < tokens; ++token)
          for (int row = 0; row < rows; ++row) {
            double wanted = 0, size = 0;
            for (int col = 0; col < cols; ++col) {
              const double term = double(cuda::element_at(w_card.as<void>(), type, row * cols + col)) *
                                  double(cuda::element_at(x_card.as<void>(), x_type, token * cols + col));
              wanted += term, size += std::abs(term);
            }
            ASSERT_NEAR(found[static_cast<std::size_t>(token * rows + row)], wanted, (cols + 32) * kUnit * size);
          }
      }
}

TEST_P(CudaOperations, PackedRowsAndProductsAreTheRuntimes) {
  for (int repeat = 0; repeat < 6; ++repeat) {
    const std::int64_t rows = 1 + dice.below(150), cols = 1 + dice.below(300);
    const MatrixFormat format = random_packed_format(dice, rows, cols);
    RandomPacked packed = random_packed(dice, format, random_block_widths(dice, format));
    const Linear linear{"packed", *packed.weights};
    const cuda::StoredMatrix stored = stored_matrix(*packed.weights);
    const std::uint64_t before = device->free_bytes();
    auto plan = device->plan({&stored, 1});
    const std::uint64_t bytes = plan.bytes;
    const auto matrices = device->load({&stored, 1}, std::move(plan));
    EXPECT_EQ(before - device->free_bytes(), bytes);
    std::vector<std::uint32_t> places(packed.row_order.size());
    for (std::size_t i = 0; i < places.size(); ++i) places[packed.row_order[i]] = static_cast<std::uint32_t>(i);
    const auto place_card = on_device(places), order_card = on_device(packed.input_order);
    const int tokens = 3;
    std::vector<cuda::TokenState> states(tokens);
    for (auto& state : states) state.id = static_cast<std::int32_t>(dice.below(rows)), state.position = 1;
    const auto positions = random(4 * cols);
    const auto states_card = on_device(states), position_card = on_device(positions),
               x = device->allocate(static_cast<std::uint64_t>(tokens * cols) * 4);
    device->run(
        cuda::Embed{.states = states_card.as<cuda::TokenState>(),
                    .embedding = {.packed = matrices->view(),
                                  .stored_row = places.empty() ? nullptr : place_card.as<std::uint32_t>(),
                                  .input_order = packed.input_order.empty() ? nullptr : order_card.as<std::uint32_t>()},
                    .positions = {.dense = position_card.as<void>(), .type = cuda::ElementType::f32},
                    .has_positions = true,
                    .position_offset = 2,
                    .tokens = tokens,
                    .width = static_cast<int>(cols),
                    .x = x.as<float>()});
    const auto embedded = from_device<float>(x);
    // What roundings are relative to: a code and a zero as the card keeps them, offset by up to 4 (1 bit) to 4.2 times
    // (7 bits) the number of levels, times the largest scale.
    const SideFormat& side = format.side;
    const double range = 10 * range_value(side, (1 << side.scale_bits) - 1);
    for (int token = 0; token < tokens; ++token) {
      std::vector<float> row(static_cast<std::size_t>(cols));
      linear.row(states[static_cast<std::size_t>(token)].id, row);
      for (std::int64_t i = 0; i < cols; ++i)
        ASSERT_NEAR(embedded[static_cast<std::size_t>(token * cols + i)],
                    row[static_cast<std::size_t>(i)] + positions[static_cast<std::size_t>(3 * cols + i)],
                    4 * kUnit * (range + std::fabs(positions[static_cast<std::size_t>(3 * cols + i)])));
    }
    LinearRunner runner(threads, Isa::scalar, ActivationFormat::f32);
    std::vector<float> inputs = random(tokens * cols), wanted(static_cast<std::size_t>(tokens * rows));
    for (float& value : inputs) value = f16_to_f32(f32_to_f16(value));
    const LinearOutput output{&linear, wanted.data(), rows};
    runner.run({&output, 1}, inputs.data(), tokens, cols);
    const auto inputs_card = on_device(halves(inputs, false)),
               y = device->allocate(static_cast<std::uint64_t>(tokens * rows) * 4);
    const cuda::CardOutput result{y.as<void>(), rows};
    device->product({inputs_card.as<void>(), cols, cuda::ElementType::f16, tokens}, *matrices, {&result, 1});
    const auto found = from_device<float>(y);
    for (std::size_t i = 0; i < found.size(); ++i)
      ASSERT_NEAR(found[i], wanted[i], double(cols + 8) * 4 * kUnit * range * double(cols)) << "element " << i;
  }
}

TEST_P(CudaOperations, TheLikeliestTokenIsTheFirstOfEquals) {
  const int rows = 5, count = 20000;
  std::vector<float> logits = random(rows * count);
  const auto at = [&](int row, int i) -> float& { return logits[static_cast<std::size_t>(row * count + i)]; };
  at(0, 19999) = at(0, 777) = at(0, 778) = 5;
  at(1, 0) = 5;
  at(2, 300) = NAN;
  at(3, 19999) = -INFINITY;
  for (int i = 0; i < count; ++i) at(4, i) = -FLT_MAX;
  const auto logits_card = on_device(logits), parts = device->allocate(rows * 32 * sizeof(cuda::Argmax::Best)),
             arrivals = device->allocate(rows * 4), ids = device->allocate(rows * 4);
  for (int repeat = 0; repeat < 2; ++repeat) {  // arrivals are zero again
    device->run(cuda::Argmax{.logits = logits_card.as<float>(),
                             .rows = rows,
                             .count = count,
                             .parts = parts.as<cuda::Argmax::Best>(),
                             .arrivals = arrivals.as<std::uint32_t>(),
                             .ids = ids.as<std::int32_t>()});
    EXPECT_EQ(from_device<std::int32_t>(ids), (std::vector<std::int32_t>{777, 0, -1, -1, 0}));
  }
}

TEST_P(CudaOperations, MemoryIsCountedAndARecordedStepKeepsItsArguments) {
  const auto small = cuda::make_emulated_device({.bytes = 1000});
  {
    const auto some = small->allocate(600);
    EXPECT_EQ(small->free_bytes(), 400u);
    EXPECT_THROW(small->allocate(401), cuda::CardError);
  }
  EXPECT_EQ(small->free_bytes(), 1000u);
  const auto up = on_device(std::vector<float>{-1, 2}), largest = on_device(std::vector<float>{7});
  const auto step = device->record(
      [&] { device->run(cuda::Activate{.up = up.as<float>(), .rows = 1, .width = 2, .maxima = largest.as<float>()}); });
  EXPECT_EQ(from_device<float>(up), (std::vector<float>{-1, 2})) << "recorded, not done";
  step->replay();
  EXPECT_EQ(from_device<float>(up), (std::vector<float>{0, 2}));
  EXPECT_EQ(from_device<float>(largest), (std::vector<float>{2}));
}

}  // namespace
}  // namespace scalebits
