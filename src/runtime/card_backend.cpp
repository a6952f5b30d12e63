#include "runtime/card_backend.h"

#include "core/error.h"
#include "core/units.h"
#include "kernels/cuda/card_device.h"
#include "kernels/cuda/packed_matrix.h"
#include "model/rope_frequencies.h"
#include "runtime/row_math.h"

#include <algorithm>

namespace scalebits {
namespace {

/// A context that most cards hold; the cache of the model's own may be larger than its weights.
constexpr std::int64_t kUsualPositions = 8192;
/// Tokens of a pass: what one launch's grid takes.
constexpr std::int64_t kMostTokens = 1024;

/// What the card cannot do is the hardware's fault here.
template <typename Work>
auto on_card(const RuntimeModel& model, const Work& work) {
  try {
    return work();
  } catch (const cuda::CardError& error) {
    fail(ErrorKind::unsupported_hardware, "{}: {}", model.source(), error.what());
  }
}

cuda::ElementType element_type(DType dtype) {
  return dtype == DType::f32   ? cuda::ElementType::f32
         : dtype == DType::f16 ? cuda::ElementType::f16
                               : cuda::ElementType::bf16;
}

cuda::HostMatrix host_matrix(const Linear& linear) {
  if (const auto* packed = std::get_if<PackedWeights>(&linear.weights)) return stored_matrix(*packed);
  const auto& dense = std::get<DenseWeights>(linear.weights);
  return cuda::DenseMatrix{dense.bytes, element_type(dense.dtype), dense.rows, dense.cols};
}

cuda::NormWeights norm_of(const RuntimeNorm& norm) { return {norm.weight, norm.bias}; }

cuda::DecoderShape shape_of(const ModelSpec& spec) {
  const auto small = [](std::int64_t value) { return static_cast<int>(value); };
  cuda::DecoderShape shape{.layers = small(spec.layers),
                           .hidden = small(spec.hidden),
                           .intermediate = small(spec.intermediate),
                           .heads = small(spec.heads),
                           .kv_heads = small(spec.kv_heads),
                           .head_dim = small(spec.head_dim),
                           .vocab = small(spec.vocab),
                           .window = small(spec.sliding_window),
                           .norm_eps = static_cast<float>(spec.norm_eps),
                           .gated = has_gate(spec),
                           .position_offset = small(spec.position_offset)};
  if (spec.positions == PositionKind::rotary) shape.frequencies = rope_frequencies(spec);
  return shape;
}

cuda::DecoderWeights weights_of(const RuntimeModel& model) {
  static_assert(static_cast<int>(LinearKind::down) == cuda::kDown && kLinearKinds.size() == cuda::kRoles);
  cuda::DecoderWeights weights{.embedding = host_matrix(model.embedding()), .final_norm = norm_of(model.final_norm())};
  if (model.positions() != nullptr) weights.positions = host_matrix(*model.positions());
  if (!model.spec().tied_head) weights.head = host_matrix(model.head());
  for (const RuntimeLayer& layer : model.layers()) {
    cuda::LayerWeights& to = weights.layers.emplace_back();
    for (std::size_t i = 0; i < kLinearKinds.size(); ++i) {
      if (layer.linears[i]) to.matrices[i] = host_matrix(*layer.linears[i]);
      to.biases[i] = layer.biases[i];
    }
    to.attention_norm = norm_of(layer.attention_norm);
    to.mlp_norm = norm_of(layer.mlp_norm);
    to.q_norm = layer.q_norm, to.k_norm = layer.k_norm;
  }
  return weights;
}

std::int64_t positions_of(const RuntimeModel& model) {
  const std::int64_t wanted = model.options().card.positions;
  return wanted == 0 ? std::min(kUsualPositions, model.spec().max_positions) : wanted;
}

}  // namespace

CardBackend::CardBackend(RuntimeModel& model) : model_(model), front_(model), positions_(positions_of(model)) {
  const RuntimeOptions& options = model.options();
  if (options.chunk_tokens > kMostTokens)
    fail(ErrorKind::usage, "a chunk on a card must be 1 to {} tokens, found {}", kMostTokens, options.chunk_tokens);
  if (positions_ < 1 || positions_ > 1 << 24)
    fail(ErrorKind::usage, "positions on a card must be 1 to {}, found {}", 1 << 24, positions_);
  on_card(model, [&] {
    std::shared_ptr<cuda::Device> device = options.card.device;
    if (!device) device = cuda::open_card();
    const std::uint64_t free = device->free_bytes(), allowed = options.card.memory_bytes;
    // Of all that is free, a little is left for what nobody counts: allocations rounded up, recorded steps.
    if (allowed > free)
      throw cuda::CardError(fmt::format("{} of the memory of '{}' were allowed, {} are free", format_bytes(allowed),
                                        device->name(), format_bytes(free)));
    decoder_ = std::make_unique<cuda::Decoder>(device, shape_of(model.spec()), weights_of(model),
                                               cuda::DecoderLimits{.bytes = allowed == 0 ? free - free / 32 : allowed,
                                                                   .positions = static_cast<int>(positions_),
                                                                   .eight_bits = options.card.kv == KvType::i8,
                                                                   .tokens = static_cast<int>(options.chunk_tokens),
                                                                   .scored = static_cast<int>(logit_rows())});
  });
}

std::int64_t CardBackend::logit_rows() const { return std::min(front_.logit_rows(), model_.options().chunk_tokens); }

KvCache CardBackend::make_cache(KvType type, std::int64_t capacity) {
  return on_card(model_, [&] {
    return KvCache(model_.spec(), type, capacity, decoder_->memory().first_layer,
                   decoder_->make_cache(static_cast<int>(capacity), type == KvType::i8));
  });
}

void CardBackend::read(std::span<const PassToken> tokens) {
  tokens_.clear();
  for (const PassToken& token : tokens)
    tokens_.push_back({token.id, static_cast<std::int32_t>(token.position), &token.cache->card()});
  const cuda::DecoderMemory& memory = decoder_->memory();
  const float* const hidden = memory.embeds ? nullptr : front_.residual(tokens, memory.first_layer);
  Profile* const profile = model_.options().profile ? &model_.profile() : nullptr;
  if (profile != nullptr && memory.embeds) {
    profile->passes += 1;
    profile->tokens += static_cast<std::int64_t>(tokens.size());
  }
  ProfileClock clock(profile);
  on_card(model_, [&] { decoder_->read(tokens_, hidden); });
  clock.spent_on(Operation::card);
}

const float* CardBackend::logits(std::span<const std::int32_t> rows) {
  ProfileClock clock(model_.options().profile ? &model_.profile() : nullptr);
  const auto count = rows.size() * static_cast<std::size_t>(model_.spec().vocab);
  logits_.reserve(count);
  on_card(model_, [&] {
    decoder_->score(rows);
    decoder_->logits(logits_.data());
  });
  clock.spent_on(Operation::card);
  if (!all_finite(logits_.data(), static_cast<std::int64_t>(count))) fail_not_finite(model_);
  return logits_.data();
}

std::vector<std::int32_t> CardBackend::likeliest(std::span<const std::int32_t> rows) {
  ProfileClock clock(model_.options().profile ? &model_.profile() : nullptr);
  const auto ids = on_card(model_, [&] {
    decoder_->score(rows);
    return decoder_->likeliest();
  });
  clock.spent_on(Operation::card);
  if (std::ranges::count(ids, -1) > 0) fail_not_finite(model_);
  return ids;
}

std::string CardBackend::placement() const {
  const cuda::DecoderMemory& memory = decoder_->memory();
  const std::int64_t layers = model_.spec().layers, here = memory.first_layer;
  const std::string split = here > 0 ? fmt::format("layers {} to {} and the head; embedding and layers 0 to {} here",
                                                   here, layers - 1, here - 1)
                            : memory.embeds ? fmt::format("all {} layers, embedding and head", layers)
                                            : fmt::format("all {} layers and the head; the embedding here", layers);
  return fmt::format(
      "card '{}': {}; {} there: layers {}, head {}, embedding {}, keys and values of {} positions {}, "
      "work space {}, loading {}",
      decoder_->device().name(), split, format_bytes(memory.total()), format_bytes(memory.layers),
      format_bytes(memory.head), format_bytes(memory.embedding), positions_, format_bytes(memory.cache),
      format_bytes(memory.work), format_bytes(memory.staging));
}

}  // namespace scalebits
