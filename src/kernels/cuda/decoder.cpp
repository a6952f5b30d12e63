#include "kernels/cuda/decoder.h"

#include "kernels/cuda/device_weights.h"
#include "kernels/cuda/half.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numeric>
#include <utility>

namespace scalebits::cuda {
namespace {

/// Sequences of a recorded step at most: what products for small batches take.
constexpr int kMostStepTokens = 32;

[[noreturn]] void refuse(const std::string& why) { throw CardError(why); }

std::string mebibytes(std::uint64_t bytes) {
  const std::uint64_t tenths = bytes * 10 / (1 << 20);
  return std::to_string(tenths / 10) + "." + std::to_string(tenths % 10) + " MiB";
}

}  // namespace

struct Decoder::State {
  std::shared_ptr<Device> device;
  DecoderShape shape;
  DecoderLimits limits;
  DecoderMemory memory;
  std::vector<DeviceLayer> layers;  // from memory.first_layer on
  DeviceTable embedding, positions;
  Site head;
  DeviceNorm final_norm;
  SequenceCache spare;  // the first sequence's room, until it is asked for
  std::shared_ptr<std::uint64_t> caches = std::make_shared<std::uint64_t>(0);  // bytes of those that live
  DeviceMemory states, x, other_x, delta, normed, q, k, v, attended, gate, up, maxima, parts, arrivals, cosines, sines;
  DeviceMemory first_rows, scored_rows, scored_normed, all_logits, best, best_arrivals, ids;
  int last_read = 0, scored = 0;  // tokens
  bool head_is_done = false;      // by the step, for all tokens
  struct Step {
    bool met = false;
    std::unique_ptr<Recording> recording;
  };
  std::map<int, Step> steps;  // by the number of tokens

  CacheShape cache_shape() const { return {shape.kv_heads, shape.head_dim}; }
  int layer_count() const { return shape.layers - memory.first_layer; }
  Attend attention(int tokens, bool one_sequence) const {
    Attend attend{.states = states.as<TokenState>(),
                  .shape = cache_shape(),
                  .tokens = tokens,
                  .one_sequence = one_sequence,
                  .heads = shape.heads,
                  .window = shape.window,
                  .q = q.as<float>(),
                  .parts = parts.as<float>(),
                  .arrivals = arrivals.as<std::uint32_t>(),
                  .out = attended.as<std::uint16_t>()};
    attend.splits = attend.splits_for(device->multiprocessors());
    return attend;
  }

  struct Request {
    DeviceMemory* memory;
    std::uint64_t bytes;
  };
  std::vector<Request> work_requests() {
    const auto tokens = static_cast<std::uint64_t>(limits.tokens), scores = static_cast<std::uint64_t>(limits.scored);
    const auto wide = [](std::int64_t width) { return static_cast<std::uint64_t>(width) * sizeof(float); };
    const std::int64_t q_width = std::int64_t{shape.heads} * shape.head_dim,
                       kv_width = std::int64_t{shape.kv_heads} * shape.head_dim;
    std::int64_t part_floats = 0, tiles = 0;
    for (int count = 1; count <= limits.tokens; ++count)
      for (const bool one_sequence : {false, true}) {
        const Attend attend = attention(count, one_sequence);
        part_floats = std::max(part_floats, attend.part_floats());
        tiles = std::max<std::int64_t>(tiles, attend.tiles());
      }
    const std::uint64_t angles =
        static_cast<std::uint64_t>(limits.positions) * shape.frequencies.size() * sizeof(float);
    return {{&states, tokens * sizeof(TokenState)},
            {&x, tokens * wide(shape.hidden)},
            {&other_x, wide(shape.hidden)},
            {&delta, tokens * wide(shape.hidden)},
            {&normed, tokens * wide(shape.hidden) / 2},
            {&q, tokens * wide(q_width)},
            {&k, tokens * wide(kv_width)},
            {&v, tokens * wide(kv_width)},
            {&attended, tokens * wide(q_width) / 2},
            {&gate, shape.gated ? tokens * wide(shape.intermediate) : 0},
            {&up, tokens * wide(shape.intermediate)},
            {&maxima, tokens * wide(Activate::pieces(shape.intermediate))},
            {&parts, wide(part_floats)},
            {&arrivals, wide(tiles * shape.kv_heads)},
            {&cosines, angles},
            {&sines, angles},
            {&first_rows, kMostStepTokens * sizeof(std::int32_t)},
            {&scored_rows, scores * sizeof(std::int32_t)},
            {&scored_normed, scores * wide(shape.hidden) / 2},
            {&all_logits, scores * wide(shape.vocab)},
            {&best, scores * Argmax::kSplits * sizeof(Argmax::Best)},
            {&best_arrivals, scores * sizeof(std::uint32_t)},
            {&ids, scores * sizeof(std::int32_t)}};
  }
  std::int64_t widest_input() const {
    return std::max<std::int64_t>({shape.hidden, shape.intermediate, std::int64_t{shape.heads} * shape.head_dim});
  }

  void require_shape() const {
    if (shape.head_dim % 2 != 0 || shape.head_dim < 2 || shape.head_dim > kMostHeadDim)
      refuse("heads of " + std::to_string(shape.head_dim) + " channels cannot run on a card; 2 to " +
             std::to_string(kMostHeadDim) + " can, even numbers");
    if (shape.hidden > (shape.hidden % 4 == 0 ? Norm::kMostWidth : Norm::kMostWidth / 4))
      refuse("a hidden state of " + std::to_string(shape.hidden) + " channels cannot run on a card; up to " +
             std::to_string(Norm::kMostWidth) + " can, or " + std::to_string(Norm::kMostWidth / 4) +
             " when their number is no multiple of 4");
    if (limits.tokens < 1 || limits.scored < 1 || limits.positions < 1)
      throw std::logic_error("Decoder: limits must be 1 or more");
  }

  void build(const DecoderWeights& weights) {
    require_shape();
    Device& on = *device;
    head = Site(on, {weights.head ? &*weights.head : &weights.embedding});
    Need fixed = head.need();
    fixed.add(bytes_of(weights.final_norm));
    memory.head = fixed.bytes;
    memory.read = fixed.read;
    memory.work = on.reserve_bytes(limits.tokens, widest_input());
    const std::vector<Request> requests = work_requests();
    for (const Request& request : requests) memory.work += request.bytes;
    memory.staging = fixed.staging;

    // From the last layer on, as long as there is room.
    const auto layer_cache = static_cast<std::uint64_t>(cache_shape().layer_bytes(limits.positions, limits.eight_bits));
    memory.first_layer = shape.layers;
    std::vector<DeviceLayer> backwards;
    while (memory.first_layer > 0) {
      const LayerWeights& from = weights.layers[static_cast<std::size_t>(memory.first_layer - 1)];
      DeviceLayer layer(on, from, shape.gated);
      const Need need = layer.need(from);
      DecoderMemory with = memory;
      with.layers += need.bytes;
      with.read += need.read;
      with.cache += layer_cache;
      with.staging = std::max(with.staging, need.staging);
      with.first_layer -= 1;
      if (with.total() > limits.bytes) {
        if (backwards.empty())
          refuse("not one layer fits: " + mebibytes(limits.bytes) + " of the card's memory are allowed, and head (" +
                 mebibytes(memory.head) + "), work space (" + mebibytes(memory.work) + "), one layer (" +
                 mebibytes(need.bytes) + ") with keys and values of " + std::to_string(limits.positions) +
                 " positions (" + mebibytes(layer_cache) + ") and loading (" + mebibytes(with.staging) + ") take " +
                 mebibytes(with.total()));
        break;
      }
      memory = with;
      backwards.push_back(std::move(layer));
      if (backwards.size() == 1) {
        for (const Request& request : requests) *request.memory = on.allocate(request.bytes);
        on.reserve(limits.tokens, widest_input());
        head.load(on);
        final_norm = DeviceNorm(on, weights.final_norm);
      }
      backwards.back().load(on, from);
    }
    layers.assign(std::make_move_iterator(backwards.rbegin()), std::make_move_iterator(backwards.rend()));
    if (memory.first_layer == 0) load_embedding(weights);
    spare = new_cache(limits.positions, limits.eight_bits);
    make_angles();
    std::array<std::int32_t, kMostStepTokens> rows;
    std::iota(rows.begin(), rows.end(), 0);
    on.upload(first_rows.as<void>(), rows.data(), sizeof rows);
  }

  SequenceCache new_cache(int capacity, bool eight_bits) {
    const auto bytes = static_cast<std::uint64_t>(layer_count() * cache_shape().layer_bytes(capacity, eight_bits));
    if (memory.total() - memory.cache + *caches + bytes > limits.bytes)
      refuse("keys and values of another sequence of " + std::to_string(capacity) + " positions take " +
             mebibytes(bytes) + ", and " + mebibytes(memory.total() - memory.cache + *caches) + " of the card's " +
             mebibytes(limits.bytes) + " that are allowed are taken");
    const DeviceMemory owned = device->allocate(bytes);
    *caches += bytes;
    const std::shared_ptr<void> counted(owned.as<void>(), [owned, all = caches](void*) { *all -= owned.bytes(); });
    return {{counted, bytes}, capacity, eight_bits};
  }

  void load_embedding(const DecoderWeights& weights) {
    Need need = DeviceTable::orders(weights.embedding);
    if (weights.head) {
      embedding.own = Site(*device, {&weights.embedding});
      need.add(embedding.own.need());
    }
    if (weights.positions) {
      positions.own = Site(*device, {&*weights.positions});
      need.add(positions.own.need());
      need.add(DeviceTable::orders(*weights.positions));
    }
    DecoderMemory with = memory;
    with.embedding = need.bytes;
    with.staging = std::max(with.staging, need.staging);
    if (with.total() > limits.bytes) return;
    memory = with;
    memory.embeds = true;
    if (weights.head) embedding.own.load(*device);
    embedding.load(*device, weights.embedding, weights.head ? embedding.own.table() : head.table());
    if (!weights.positions) return;
    positions.own.load(*device);
    positions.load(*device, *weights.positions, positions.own.table());
  }

  /// In f64, rounded once, as the CPU's.
  void make_angles() {
    if (shape.frequencies.empty()) return;
    std::vector<float> cosine, sine;
    for (int position = 0; position < limits.positions; ++position)
      for (const double frequency : shape.frequencies) {
        cosine.push_back(static_cast<float>(std::cos(position * frequency)));
        sine.push_back(static_cast<float>(std::sin(position * frequency)));
      }
    device->upload(cosines.as<void>(), cosine.data(), cosine.size() * sizeof(float));
    device->upload(sines.as<void>(), sine.data(), sine.size() * sizeof(float));
  }

  /// The site's product of norm(from + added). `to` becomes the sum: with `within`, which is for one token, the product
  /// makes both by itself, and `to` is not `from`; else it is.
  void normed_product(const Site& site, const DeviceNorm& weights, const float* added, const DeviceMemory* added_bias,
                      int rows, bool within, const DeviceMemory& from, const DeviceMemory& to,
                      std::span<const Site::Output> outputs) {
    if (within)
      return site.multiply(*device,
                           {.x = from.as<void>(),
                            .x_stride = shape.hidden,
                            .type = ElementType::f32,
                            .tokens = 1,
                            .norm = {.weight = weights.weight.as<float>(),
                                     .delta = added,
                                     .delta_bias = added_bias == nullptr ? nullptr : added_bias->as<float>(),
                                     .eps = shape.norm_eps,
                                     .sum = to.as<float>()}},
                           outputs);
    device->run(Norm{.x = from.as<float>(),
                     .delta = added,
                     .delta_bias = added_bias == nullptr ? nullptr : added_bias->as<float>(),
                     .weight = weights.weight.as<float>(),
                     .bias = weights.bias.as<float>(),
                     .eps = shape.norm_eps,
                     .rows = rows,
                     .width = shape.hidden,
                     .out = normed.as<std::uint16_t>()});
    site.multiply(*device, {normed.as<void>(), shape.hidden, ElementType::f16, rows}, outputs);
  }

  void run_layer(int index, int tokens, bool one_sequence) {
    const DeviceLayer& layer = layers[static_cast<std::size_t>(index)];
    Device& on = *device;
    const int q_width = shape.heads * shape.head_dim, kv_width = shape.kv_heads * shape.head_dim;
    const auto f16 = [&](const DeviceMemory& values, std::int64_t width) {
      return CardInput{values.as<void>(), width, ElementType::f16, tokens};
    };
    // Both or neither: then the stream is back in x after the layer.
    const bool within = tokens == 1 && !limits.apart && layer.attention_norm.bias.bytes() == 0 &&
                        layer.mlp_norm.bias.bytes() == 0 && layer.qkv.makes_inputs(on) &&
                        layer.gate_up.makes_inputs(on);
    const DeviceMemory& between = within ? other_x : x;
    const bool first = index == 0;
    const Site::Output qkv[] = {{q.as<float>(), q_width}, {k.as<float>(), kv_width}, {v.as<float>(), kv_width}};
    normed_product(layer.qkv, layer.attention_norm, first ? nullptr : delta.as<float>(),
                   first ? nullptr : &layers[static_cast<std::size_t>(index - 1)].biases[kDown], tokens, within, x,
                   between, qkv);
    on.run(RotateAndStore{
        .states = states.as<TokenState>(),
        .shape = cache_shape(),
        .layer = index,
        .tokens = tokens,
        .heads = shape.heads,
        .q = q.as<float>(),
        .k = k.as<float>(),
        .v = v.as<float>(),
        .biases = {layer.biases[kQ].as<float>(), layer.biases[kK].as<float>(), layer.biases[kV].as<float>()},
        .q_norm = layer.q_norm.as<float>(),
        .k_norm = layer.k_norm.as<float>(),
        .eps = shape.norm_eps,
        .cosines = shape.frequencies.empty() ? nullptr : cosines.as<float>(),
        .sines = shape.frequencies.empty() ? nullptr : sines.as<float>()});
    Attend attend = attention(tokens, one_sequence);
    attend.layer = index;
    on.run(attend);
    const Site::Output o[] = {{delta.as<float>(), shape.hidden}};
    layer.o.multiply(on, f16(attended, q_width), o);
    const Site::Output gate_up[] = {{gate.as<float>(), shape.intermediate}, {up.as<float>(), shape.intermediate}};
    normed_product(layer.gate_up, layer.mlp_norm, delta.as<float>(), &layer.biases[kO], tokens, within, between, x,
                   std::span(gate_up).subspan(shape.gated ? 0 : 1));
    const Site::Output down[] = {{delta.as<float>(), shape.hidden}};
    const DeviceMemory& left = shape.gated ? gate : up;
    CardInput activated{
        .x = left.as<void>(), .x_stride = shape.intermediate, .type = ElementType::f32, .tokens = tokens};
    if (tokens == 1 && !limits.apart && layer.down.makes_inputs(on)) {
      activated.mlp = {.activates = true,
                       .bias = layer.biases[shape.gated ? kGate : kUp].as<float>(),
                       .up = shape.gated ? up.as<float>() : nullptr,
                       .up_bias = layer.biases[kUp].as<float>()};
    } else {
      on.run(Activate{.gate = shape.gated ? gate.as<float>() : nullptr,
                      .up = up.as<float>(),
                      .gate_bias = layer.biases[kGate].as<float>(),
                      .up_bias = layer.biases[kUp].as<float>(),
                      .rows = tokens,
                      .width = shape.intermediate,
                      .maxima = maxima.as<float>()});
      activated.maxima = maxima.as<float>();
      activated.maxima_count = Activate::pieces(shape.intermediate);
    }
    layer.down.multiply(on, activated, down);
  }

  void run_layers(int tokens, bool one_sequence) {
    if (memory.embeds)
      device->run(Embed{.states = states.as<TokenState>(),
                        .embedding = embedding.view,
                        .positions = positions.view,
                        .has_positions = positions.view.dense != nullptr || positions.view.packed.stream != nullptr,
                        .position_offset = shape.position_offset,
                        .tokens = tokens,
                        .width = shape.hidden,
                        .x = x.as<float>()});
    for (int layer = 0; layer < layer_count(); ++layer) run_layer(layer, tokens, one_sequence);
  }

  /// Final norm, head and likeliest token of `count` tokens, whose numbers `rows` holds.
  void run_head(const DeviceMemory& rows, int count) {
    device->run(Norm{.x = x.as<float>(),
                     .delta = delta.as<float>(),
                     .delta_bias = layers.back().biases[kDown].as<float>(),
                     .weight = final_norm.weight.as<float>(),
                     .bias = final_norm.bias.as<float>(),
                     .tokens = rows.as<std::int32_t>(),
                     .eps = shape.norm_eps,
                     .rows = count,
                     .width = shape.hidden,
                     .out = scored_normed.as<std::uint16_t>()});
    const Site::Output logits[] = {{all_logits.as<float>(), shape.vocab}};
    head.multiply(*device, {scored_normed.as<void>(), shape.hidden, ElementType::f16, count}, logits);
    device->run(Argmax{.logits = all_logits.as<float>(),
                       .rows = count,
                       .count = shape.vocab,
                       .parts = best.as<Argmax::Best>(),
                       .arrivals = best_arrivals.as<std::uint32_t>(),
                       .ids = ids.as<std::int32_t>()});
  }

  /// A token, or one each of several sequences, with the head: the first time as it comes, so that all room is made;
  /// then recorded, then replayed.
  bool is_step(int tokens, bool one_sequence) const {
    return tokens == 1 || (!one_sequence && tokens <= std::min(kMostStepTokens, limits.scored));
  }
  void run_step(int tokens) {
    const auto work = [&] {
      run_layers(tokens, tokens == 1);
      run_head(first_rows, tokens);
    };
    Step& step = steps[tokens];
    if (!std::exchange(step.met, true)) return work();
    if (!step.recording) step.recording = device->record(work);
    step.recording->replay();
  }
};

Decoder::Decoder(std::shared_ptr<Device> device, DecoderShape shape, const DecoderWeights& weights,
                 DecoderLimits limits)
    : state_(std::make_unique<State>()) {
  state_->device = std::move(device);
  state_->shape = std::move(shape);
  state_->limits = limits;
  state_->build(weights);
}

Decoder::~Decoder() = default;
const DecoderMemory& Decoder::memory() const { return state_->memory; }
const Device& Decoder::device() const { return *state_->device; }

SequenceCache Decoder::make_cache(int capacity, bool eight_bits) {
  SequenceCache spare = std::exchange(state_->spare, SequenceCache{});
  if (spare.capacity == capacity && spare.eight_bits == eight_bits) return spare;
  spare = {};  // makes room
  return state_->new_cache(capacity, eight_bits);
}

void Decoder::read(std::span<const DecoderToken> tokens, const float* hidden) {
  State& state = *state_;
  if (tokens.empty() || tokens.size() > static_cast<std::size_t>(state.limits.tokens) ||
      (hidden == nullptr) != state.memory.embeds)
    throw std::logic_error("Decoder::read: too many tokens, none, or a hidden state where there should be none");
  std::vector<TokenState> states;
  bool one_sequence = true;
  for (const DecoderToken& token : tokens) {
    if (token.position < 0 || token.position >= token.cache->capacity)
      throw std::logic_error("Decoder::read: a position outside of its cache");
    one_sequence = one_sequence && token.cache == tokens[0].cache &&
                   token.position == tokens[0].position + static_cast<std::int32_t>(states.size());
    states.push_back({.id = token.id,
                      .position = token.position,
                      .cache = token.cache->memory.as<std::uint8_t>(),
                      .capacity = token.cache->capacity,
                      .eight_bits = token.cache->eight_bits});
  }
  state.device->upload(state.states.as<void>(), states.data(), states.size() * sizeof(TokenState));
  if (hidden != nullptr)
    state.device->upload(state.x.as<void>(), hidden,
                         tokens.size() * static_cast<std::size_t>(state.shape.hidden) * sizeof(float));
  state.last_read = static_cast<int>(tokens.size());
  state.head_is_done = state.is_step(state.last_read, one_sequence);
  if (state.head_is_done)
    state.run_step(state.last_read);
  else
    state.run_layers(state.last_read, one_sequence);
}

void Decoder::score(std::span<const std::int32_t> tokens) {
  State& state = *state_;
  if (tokens.empty() || tokens.size() > static_cast<std::size_t>(state.limits.scored))
    throw std::logic_error("Decoder::score: too many tokens, or none");
  state.scored = static_cast<int>(tokens.size());
  bool all = state.scored == state.last_read;
  for (std::size_t i = 0; i < tokens.size(); ++i) all = all && tokens[i] == static_cast<std::int32_t>(i);
  if (state.head_is_done && all) return;
  state.head_is_done = false;  // its logits are overwritten
  state.device->upload(state.scored_rows.as<void>(), tokens.data(), tokens.size_bytes());
  state.run_head(state.scored_rows, state.scored);
}

void Decoder::logits(float* to) {
  state_->device->download(
      to, state_->all_logits.as<void>(),
      static_cast<std::uint64_t>(state_->scored) * static_cast<std::uint64_t>(state_->shape.vocab) * sizeof(float));
}

std::vector<std::int32_t> Decoder::likeliest() {
  std::vector<std::int32_t> found(static_cast<std::size_t>(state_->scored));
  state_->device->download(found.data(), state_->ids.as<void>(), found.size() * sizeof(std::int32_t));
  return found;
}

std::vector<Decoder::Trace> Decoder::traces() {
  State& state = *state_;
  const DecoderShape& shape = state.shape;
  std::vector<Trace> traces;
  const auto take = [&](const char* name, const DeviceMemory& memory, std::int64_t width, ElementType type) {
    const auto count = static_cast<std::size_t>(state.last_read * width);
    std::vector<std::byte> bytes(count * element_bytes(type));
    state.device->download(bytes.data(), memory.as<void>(), bytes.size());
    Trace& trace = traces.emplace_back(Trace{name, std::vector<float>(count)});
    for (std::size_t i = 0; i < count; ++i)
      trace.values[i] = element_at(bytes.data(), type, static_cast<std::int64_t>(i));
  };
  const std::int64_t q_width = std::int64_t{shape.heads} * shape.head_dim,
                     kv_width = std::int64_t{shape.kv_heads} * shape.head_dim;
  take("k of the first product", state.k, kv_width, ElementType::f32);
  take("v of the first product", state.v, kv_width, ElementType::f32);
  take("q rotated", state.q, q_width, ElementType::f32);
  take("attention", state.attended, q_width, ElementType::f16);
  take("x with attention's product", state.x, shape.hidden, ElementType::f32);
  take("the MLP's norm", state.normed, shape.hidden, ElementType::f16);
  take("up", state.up, shape.intermediate, ElementType::f32);
  if (shape.gated) take("activation", state.gate, shape.intermediate, ElementType::f32);
  take("the MLP's product", state.delta, shape.hidden, ElementType::f32);
  return traces;
}

}  // namespace scalebits::cuda
