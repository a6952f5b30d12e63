#include "runtime/forward.h"

#include "core/error.h"
#include "runtime/row_math.h"

#include <algorithm>
#include <atomic>

namespace scalebits {
namespace {

/// Waking the threads costs some microseconds; this many elements take one thread longer.
constexpr std::int64_t kElementsPerTask = 16384;
constexpr std::uint64_t kLogitBytes = std::uint64_t{16} << 20;

}  // namespace

ForwardPass::ForwardPass(RuntimeModel& model)
    : model_(model), spec_(model.spec()), profile_(model.options().profile ? &model.profile() : nullptr),
      rotary_(spec_) {}

/// body(row) for each row of `width` elements, on all threads where it pays.
template <typename Body>
void ForwardPass::for_rows(std::int64_t rows, std::int64_t width, const Body& body) {
  const std::int64_t step = std::max<std::int64_t>(1, kElementsPerTask / width);
  model_.threads().for_each((rows + step - 1) / step, [&](std::int64_t task) {
    for (std::int64_t row = task * step; row < std::min(rows, (task + 1) * step); ++row) body(row);
  });
}

void ForwardPass::make_room(std::int64_t rows) {
  const auto reserve = [&](AlignedBuffer<float>& buffer, std::int64_t width) {
    buffer.reserve(static_cast<std::size_t>(rows * width));
  };
  const std::int64_t q_width = spec_.heads * spec_.head_dim, kv_width = spec_.kv_heads * spec_.head_dim;
  for (AlignedBuffer<float>* buffer : {&x_, &normed_, &delta_}) reserve(*buffer, spec_.hidden);
  for (AlignedBuffer<float>* buffer : {&q_, &attended_}) reserve(*buffer, q_width);
  for (AlignedBuffer<float>* buffer : {&k_, &v_}) reserve(*buffer, kv_width);
  for (AlignedBuffer<float>* buffer : {&gate_, &up_}) reserve(*buffer, spec_.intermediate);
}

void ForwardPass::multiply(std::span<const Product> products, const float* x, std::int64_t rows, std::int64_t width) {
  outputs_.clear();
  for (const Product& product : products) outputs_.push_back({product.linear, product.y, product.linear->rows()});
  model_.runner().run(outputs_, x, rows, width);
  for (const Product& product : products) {
    if (product.bias == nullptr || product.bias->empty()) continue;
    const std::int64_t outputs = product.linear->rows();
    for_rows(rows, outputs,
             [&](std::int64_t row) { add_row(product.y + row * outputs, product.bias->data(), outputs); });
  }
}

void ForwardPass::rotate_and_store(const RuntimeLayer& layer, std::int64_t index, std::span<const PassToken> tokens) {
  const std::int64_t d = spec_.head_dim, q_width = spec_.heads * d, kv_width = spec_.kv_heads * d;
  const auto eps = static_cast<float>(spec_.norm_eps);
  const auto turn = [&](float* row, std::int64_t heads, const std::vector<float>& norm, std::int64_t position) {
    if (!norm.empty())
      for (std::int64_t head = 0; head < heads; ++head) rms_norm(row + head * d, norm.data(), eps, d, row + head * d);
    if (spec_.positions == PositionKind::rotary)
      rotate_heads(row, heads, d, rotary_.cosines(position), rotary_.sines(position));
  };
  // Attention would hide what is not finite: a maximum and a rounding to 8 bits pass over NaN.
  std::atomic<bool> finite = true;
  for_rows(static_cast<std::int64_t>(tokens.size()), q_width + 2 * kv_width, [&](std::int64_t row) {
    const PassToken& token = tokens[static_cast<std::size_t>(row)];
    float *const q = q_.data() + row * q_width, *const k = k_.data() + row * kv_width,
                 *const v = v_.data() + row * kv_width;
    turn(q, spec_.heads, layer.q_norm, token.position);
    turn(k, spec_.kv_heads, layer.k_norm, token.position);
    if (!all_finite(q, q_width) || !all_finite(k, kv_width) || !all_finite(v, kv_width)) finite = false;
    token.cache->layer(index).store(token.position, k, v);
  });
  if (!finite) fail_not_finite(model_, fmt::format("queries, keys or values of layer {}", index));
  queries_.clear();
  for (std::size_t row = 0; row < tokens.size(); ++row) {
    const std::int64_t last = tokens[row].position + 1;
    const std::int64_t first = spec_.sliding_window == 0 ? 0 : std::max<std::int64_t>(0, last - spec_.sliding_window);
    const auto at = static_cast<std::int64_t>(row) * q_width;
    queries_.push_back({&tokens[row].cache->layer(index), q_.data() + at, attended_.data() + at, first, last});
  }
}

void ForwardPass::norm(const RuntimeNorm& norm, bool adds_delta, std::int64_t rows) {
  const std::int64_t width = spec_.hidden;
  const auto eps = static_cast<float>(spec_.norm_eps);
  const float* const weight = norm.weight.data();
  for_rows(rows, width, [&](std::int64_t row) {
    float *const x = x_.data() + row * width, *const delta = delta_.data() + row * width,
                 *const out = normed_.data() + row * width;
    if (spec_.norm == NormKind::layer) {
      if (adds_delta) add_row(x, delta, width);
      layer_norm(x, weight, norm.bias.data(), eps, width, out);
    } else if (adds_delta) {
      add_then_norm(x, delta, weight, eps, width, out);
    } else {
      rms_norm(x, weight, eps, width, out);
    }
  });
}

/// → x_.
void ForwardPass::embed(std::span<const PassToken> tokens) {
  const std::int64_t width = spec_.hidden;
  const auto row_of = [&](const Linear& table, std::int64_t index, float* out) {
    table.row(index, {out, static_cast<std::size_t>(width)});
  };
  for_rows(static_cast<std::int64_t>(tokens.size()), width, [&](std::int64_t row) {
    const PassToken& token = tokens[static_cast<std::size_t>(row)];
    float *const x = x_.data() + row * width, *const added = delta_.data() + row * width;
    row_of(model_.embedding(), token.id, x);
    if (model_.positions() == nullptr) return;
    row_of(*model_.positions(), spec_.position_offset + token.position, added);
    add_row(x, added, width);
  });
}

/// x_ and normed_ → x_ and delta_, which the next norm adds.
void ForwardPass::layer(const RuntimeLayer& layer, std::int64_t index, std::span<const PassToken> tokens) {
  const auto rows = static_cast<std::int64_t>(tokens.size());
  const std::int64_t hidden = spec_.hidden, intermediate = spec_.intermediate;
  const auto product = [&](LinearKind kind, float* y) { return Product{&layer.linear(kind), &layer.bias(kind), y}; };
  ProfileClock clock(profile_);

  const Product qkv[] = {product(LinearKind::q, q_.data()), product(LinearKind::k, k_.data()),
                         product(LinearKind::v, v_.data())};
  multiply(qkv, normed_.data(), rows, hidden);
  clock.spent_on(Operation::qkv);
  rotate_and_store(layer, index, tokens);
  clock.spent_on(Operation::rotate_and_store);
  attend(model_.threads(), model_.runner().kernels().highest, spec_.heads, queries_);
  clock.spent_on(Operation::attention);
  const Product output[] = {product(LinearKind::o, delta_.data())};
  multiply(output, attended_.data(), rows, spec_.heads * spec_.head_dim);
  clock.spent_on(Operation::output);
  norm(layer.mlp_norm, true, rows);
  clock.spent_on(Operation::norm);
  const bool gated = has_gate(spec_);
  if (gated) {
    const Product gate_up[] = {product(LinearKind::gate, gate_.data()), product(LinearKind::up, up_.data())};
    multiply(gate_up, normed_.data(), rows, hidden);
  } else {
    const Product up[] = {product(LinearKind::up, up_.data())};
    multiply(up, normed_.data(), rows, hidden);
  }
  clock.spent_on(Operation::gate_up);
  float* const inner = gated ? gate_.data() : up_.data();
  for_rows(rows, intermediate, [&](std::int64_t row) {
    const std::int64_t at = row * intermediate;
    gated ? silu_times(inner + at, up_.data() + at, intermediate) : relu(inner + at, intermediate);
  });
  clock.spent_on(Operation::activation);
  const Product down[] = {product(LinearKind::down, delta_.data())};
  multiply(down, inner, rows, intermediate);
  clock.spent_on(Operation::down);
}

void ForwardPass::run(std::span<const PassToken> tokens, std::int64_t count) {
  const auto rows = static_cast<std::int64_t>(tokens.size());
  const std::vector<RuntimeLayer>& layers = model_.layers();
  make_room(rows);
  for (const PassToken& token : tokens) rotary_.reserve(token.position + 1);

  ProfileClock clock(profile_);
  embed(tokens);
  clock.spent_on(Operation::embedding);
  for (std::int64_t i = 0; i < count; ++i) {
    const RuntimeLayer& next = layers[static_cast<std::size_t>(i)];
    ProfileClock norm_clock(profile_);
    norm(next.attention_norm, i > 0, rows);
    norm_clock.spent_on(Operation::norm);
    layer(next, i, tokens);
  }
  if (profile_ != nullptr) profile_->passes += 1, profile_->tokens += rows;
}

void ForwardPass::read(std::span<const PassToken> tokens) {
  run(tokens, spec_.layers);
  ProfileClock clock(profile_);
  norm(model_.final_norm(), true, static_cast<std::int64_t>(tokens.size()));
  clock.spent_on(Operation::norm);
}

const float* ForwardPass::residual(std::span<const PassToken> tokens, std::int64_t layers) {
  run(tokens, layers);
  if (layers == 0) return x_.data();
  const auto rows = static_cast<std::int64_t>(tokens.size());
  for_rows(rows, spec_.hidden, [&](std::int64_t row) {
    add_row(x_.data() + row * spec_.hidden, delta_.data() + row * spec_.hidden, spec_.hidden);
  });
  return x_.data();
}

KvCache ForwardPass::make_cache(KvType type, std::int64_t capacity) { return {spec_, type, capacity}; }

std::int64_t ForwardPass::most_positions() const { return std::int64_t{1} << 28; }

std::int64_t ForwardPass::logit_rows() const {
  const std::uint64_t row_bytes = static_cast<std::uint64_t>(spec_.vocab) * sizeof(float);
  return std::max<std::int64_t>(16, static_cast<std::int64_t>(kLogitBytes / row_bytes));
}

const float* ForwardPass::logits(std::span<const std::int32_t> rows) {
  ProfileClock clock(profile_);
  const auto count = static_cast<std::int64_t>(rows.size());
  const std::int64_t width = spec_.hidden;
  logits_.reserve(static_cast<std::size_t>(count * spec_.vocab));
  const float* hidden = normed_.data() + rows.front() * width;
  if (rows.back() - rows.front() + 1 != count) {  // not one after the other
    scored_.reserve(static_cast<std::size_t>(count * width));
    for (std::int64_t i = 0; i < count; ++i)
      std::copy_n(normed_.data() + rows[static_cast<std::size_t>(i)] * width, width, scored_.data() + i * width);
    hidden = scored_.data();
  }
  const Product head[] = {{&model_.head(), nullptr, logits_.data()}};
  multiply(head, hidden, count, width);
  largest_.resize(rows.size());
  for_rows(count, spec_.vocab, [&](std::int64_t row) {
    largest_[static_cast<std::size_t>(row)] = largest_of(logits_.data() + row * spec_.vocab, spec_.vocab);
  });
  clock.spent_on(Operation::head);
  if (!std::all_of(largest_.begin(), largest_.end(), [](const Largest& largest) { return largest.finite; }))
    fail_not_finite(model_);
  return logits_.data();
}

std::vector<std::int32_t> ForwardPass::likeliest(std::span<const std::int32_t> rows) {
  logits(rows);
  std::vector<std::int32_t> ids;
  for (const Largest& largest : largest_) ids.push_back(static_cast<std::int32_t>(largest.index));
  return ids;
}

void fail_not_finite(const RuntimeModel& model, std::string_view what) {
  fail_input("{}: {} are not finite: the model's weights hold NaN or overflow", model.source(), what);
}

}  // namespace scalebits
