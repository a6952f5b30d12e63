#include "graph/generate.h"

#include "core/error.h"
#include "core/parallel.h"
#include "core/random.h"
#include "core/units.h"
#include "graph/denormals.h"
#include "graph/embedding.h"
#include "graph/layer.h"
#include "graph/memory_budget.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/softmax.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>

namespace scalebits {
namespace {

/// Of each sequence of own text, between two reports; after the first it shows what the whole will take.
constexpr std::int64_t kTokensPerReport = 8;
/// Own text: the part of its time in which it can be found that fewer windows fit, and how late it may end beyond.
constexpr double kTrialShare = 0.1, kMostOver = 1.5;

/// A model with the keys and values of what its sequences said so far; all sequences are equally long.
class Continuation {
 public:
  Continuation(const ModelSpec& spec, WeightSource& source, std::int64_t sequences, std::int64_t capacity,
               Compute compute, const ComputePlace& place);

  /// ids [sequences, length] int64 follow what was there → the logits [sequences, vocab] f32 after the last of them,
  /// in host memory.
  at::Tensor advance(const at::Tensor& ids);

 private:
  struct Cache {
    at::Tensor keys, values;  // [sequences * kv_heads, capacity, head_dim]
  };
  /// Weights in the operand type need memory of their own when all layers are kept.
  struct KeptLayer {
    Workspace memory;
    LayerWeights weights;
  };

  LayerActivations buffers(const at::Tensor& x, std::int64_t length);
  void attend_past(Cache& cache, const Attention& attention);

  const ModelSpec& spec_;
  WeightSource& source_;
  const at::ScalarType operand_;
  const ComputePlace place_;
  const Arithmetic& run_ = *place_.arithmetic;
  const std::int64_t sequences_, capacity_;
  RopeTable rope_;
  Workspace workspace_;
  std::vector<Cache> caches_;
  std::vector<std::unique_ptr<KeptLayer>> kept_;
  at::Tensor positions_;
  at::Tensor head_;
  Norm final_norm_;
  std::int64_t position_ = 0;
};

Continuation::Continuation(const ModelSpec& spec, WeightSource& source, std::int64_t sequences, std::int64_t capacity,
                           Compute compute, const ComputePlace& place)
    : spec_(spec), source_(source), operand_(operand_type(compute)), place_(place), sequences_(sequences),
      capacity_(capacity), rope_(spec, place.device), workspace_(place.device) {
  at::set_num_threads(thread_count());
  rope_.reserve(capacity);
  const auto weight_bytes = static_cast<std::uint64_t>(4 * layer_weight_count(spec) * spec.layers);
  // A source on another device keeps what that has room for.
  const bool keep = !place.separate_memory && weight_bytes <= half_of_own_memory_bytes();
  for (std::int64_t layer = 0; layer < spec.layers; ++layer) {
    const auto cache = [&] {
      return at::empty({sequences * spec.kv_heads, capacity, spec.head_dim},
                       at::TensorOptions(operand_).device(place.device));
    };
    caches_.push_back({cache(), cache()});
    if (!keep) continue;
    kept_.push_back(std::make_unique<KeptLayer>());
    kept_.back()->weights = fetch_layer(spec, source, layer, operand_, kept_.back()->memory, run_);
  }
  positions_ = fetch_positions(spec, source);
  head_ = source.head();
  if (head_.scalar_type() != operand_) {
    const at::Tensor rounded = at::empty(head_.sizes(), head_.options().dtype(operand_));
    run_.convert(head_, rounded);
    head_ = rounded;
  }
  final_norm_ = fetch_norm(spec, source, std::string(kFinalNormName));
}

LayerActivations Continuation::buffers(const at::Tensor& x, std::int64_t length) {
  const std::int64_t n = x.size(0), q = spec_.heads * spec_.head_dim, kv = spec_.kv_heads * spec_.head_dim;
  const auto take = [&](const char* name, std::int64_t width) { return workspace_.take(name, {n, width}, operand_); };
  LayerActivations a;
  a.x = x;
  a.middle = workspace_.take("middle", {n, spec_.hidden}, at::kFloat);
  a.q = take("q", q);
  a.k = take("k", kv);
  a.v = take("v", kv);
  if (spec_.qk_norm) {
    a.raw_q = take("raw q", q);
    a.raw_k = take("raw k", kv);
  }
  a.attended = take("attended", q);
  a.log_sums = workspace_.take("log sums", {sequences_, spec_.heads, length}, at::kFloat);
  if (has_gate(spec_)) a.gate = take("gate", spec_.intermediate);
  a.up = take("up", spec_.intermediate);
  return a;
}

void Continuation::attend_past(Cache& cache, const Attention& attention) {
  const std::int64_t length = attention.q.size(1), kv_heads = spec_.kv_heads, head_dim = spec_.head_dim;
  const auto store = [&](const at::Tensor& past, const at::Tensor& now) {
    past.view({sequences_, kv_heads, capacity_, head_dim}).narrow(2, position_, length).copy_(now.transpose(1, 2));
  };
  store(cache.keys, attention.k);
  store(cache.values, attention.v);
  if (length > 1) return run_.attend(attention);  // only the prompt comes in one piece, and it has no past

  const std::int64_t seen = spec_.sliding_window == 0 ? position_ + 1 : std::min(position_ + 1, spec_.sliding_window);
  const auto past = [&](const at::Tensor& all) { return all.narrow(1, position_ + 1 - seen, seen); };
  // The query heads of a group share their keys: they are rows of one small product.
  const at::Tensor q = attention.q.view({sequences_ * kv_heads, spec_.heads / kv_heads, head_dim});
  const at::Tensor scores =
      at::bmm(q, past(cache.keys).transpose(1, 2)).mul_(1.0 / std::sqrt(static_cast<double>(head_dim)));
  at::Tensor out = attention.out.view_as(q);
  at::bmm_out(out, at::softmax(scores, -1), past(cache.values));
}

at::Tensor Continuation::advance(const at::Tensor& ids) {
  const at::NoGradGuard no_grad;
  const DenormalsAreZero fast_numbers;
  const std::int64_t length = ids.size(1);
  SCALEBITS_ASSERT(ids.size(0) == sequences_ && position_ + length <= capacity_ && (length == 1 || position_ == 0));
  const at::Tensor x = workspace_.take("x", {sequences_ * length, spec_.hidden}, at::kFloat);
  embed(source_, positions_, ids, position_, x, run_.add);
  for (std::int64_t layer = 0; layer < spec_.layers; ++layer) {
    const auto index = static_cast<std::size_t>(layer);
    const LayerWeights weights =
        kept_.empty() ? fetch_layer(spec_, source_, layer, operand_, workspace_, run_) : kept_[index]->weights;
    const LayerContext context{
        spec_,      rope_,  workspace_, operand_,
        sequences_, length, position_,  [&](const Attention& attention) { attend_past(caches_[index], attention); },
        run_};
    layer_forward(context, weights, buffers(x, length), x, {});
  }
  position_ += length;
  const at::Tensor last = workspace_.take("last", {sequences_, spec_.hidden}, at::kFloat);
  last.copy_(x.view({sequences_, length, spec_.hidden}).select(1, length - 1));
  const at::Tensor normed = workspace_.take("normed last", {sequences_, spec_.hidden}, operand_);
  run_.add_norm(last, {}, final_norm_, {}, normed);
  const at::Tensor logits = workspace_.take("logits", {sequences_, spec_.vocab}, at::kFloat);
  run_.product_forward(normed, head_, logits);
  return logits.cpu();
}

at::Tensor ids_of(const std::vector<std::vector<std::int32_t>>& prompts, const ModelSpec& spec) {
  if (prompts.empty() || prompts.front().empty())
    fail(ErrorKind::usage, "there must be a prompt of at least one token");
  const auto length = static_cast<std::int64_t>(prompts.front().size());
  at::Tensor ids = at::empty({static_cast<std::int64_t>(prompts.size()), length}, at::kLong);
  auto* out = ids.data_ptr<std::int64_t>();
  for (const auto& prompt : prompts) {
    if (static_cast<std::int64_t>(prompt.size()) != length)
      fail(ErrorKind::usage, "prompts of one batch must be equally long");
    for (const std::int32_t id : prompt) {
      if (id < 0 || id >= spec.vocab) fail_input("token id {} is outside the vocabulary of {}", id, spec.vocab);
      *out++ = id;
    }
  }
  return ids;
}

}  // namespace

std::vector<std::vector<std::int32_t>> generate(const ModelSpec& spec, WeightSource& weights,
                                                const std::vector<std::vector<std::int32_t>>& prompts,
                                                const GenerationOptions& options, const TokenCallback& callback) {
  const SamplingOptions& sampling = options.sampling;
  const std::int64_t max_new_tokens = options.max_new_tokens;
  validate(sampling);
  at::Tensor ids = ids_of(prompts, spec);
  // The last token is chosen, not read.
  const std::int64_t sequences = ids.size(0), capacity = ids.size(1) + max_new_tokens - 1;
  if (max_new_tokens < 1)
    fail(ErrorKind::usage, "the number of new tokens must be at least 1, found {}", max_new_tokens);
  if (capacity > spec.max_positions)
    fail_input("{} prompt tokens and {} new ones are more than the model's {} positions", ids.size(1), max_new_tokens,
               spec.max_positions);

  Continuation model(spec, weights, sequences, capacity, options.compute, options.place);
  std::vector<std::vector<std::int32_t>> said = prompts, generated(prompts.size());
  std::vector<std::uint8_t> ended(prompts.size(), 0);
  at::Tensor next = at::empty({sequences, 1}, at::kLong);
  for (std::int64_t step = 0; step < max_new_tokens; ++step) {
    if (interrupt_requested) fail(ErrorKind::interrupted, "generation was interrupted");
    const at::Tensor logits = model.advance(step == 0 ? ids : next);
    auto* chosen = next.data_ptr<std::int64_t>();
    const auto* rows = logits.const_data_ptr<float>();
    for_rows(sequences, spec.vocab, [&](std::int64_t sequence) {
      const CounterRng rng(sampling.seed, options.first_sequence + static_cast<std::uint64_t>(sequence));
      chosen[sequence] =
          choose_token({rows + sequence * spec.vocab, static_cast<std::size_t>(spec.vocab)}, sampling,
                       said[static_cast<std::size_t>(sequence)], rng.uniform(static_cast<std::uint64_t>(step)));
    });
    bool wanted = true, all_ended = true;
    for (std::size_t sequence = 0; sequence < prompts.size(); ++sequence) {
      if (ended[sequence]) continue;
      const auto token = static_cast<std::int32_t>(chosen[sequence]);
      said[sequence].push_back(token);
      generated[sequence].push_back(token);
      ended[sequence] = std::find(options.stop_ids.begin(), options.stop_ids.end(), token) != options.stop_ids.end();
      all_ended = all_ended && ended[sequence];
      if (callback && !callback(sequence, token)) wanted = false;
    }
    if (!wanted || all_ended) break;
  }
  return generated;
}

std::uint64_t own_text_bytes(const ModelSpec& spec, Compute compute, std::int64_t length) {
  const at::ScalarType operand = operand_type(compute);
  const auto width = static_cast<std::uint64_t>(c10::elementSize(operand));
  const auto cached = static_cast<std::uint64_t>(2 * spec.layers * spec.kv_heads * spec.head_dim * length) * width;
  // Attention makes its keys, values and scores contiguous, a layer at a time.
  const auto scores = static_cast<std::uint64_t>(2 * spec.heads * length) * sizeof(float);
  return cached + cached / static_cast<std::uint64_t>(spec.layers) + scores +
         static_cast<std::uint64_t>(spec.vocab + 3 * spec.hidden) * sizeof(float) +
         layer_activation_bytes(spec, operand) + layer_temporary_bytes(spec, operand);
}

at::Tensor sample_own_text(const ModelSpec& spec, WeightSource& weights, const SelfTextOptions& options,
                           const ProgressSink& progress) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const auto seconds = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
  // The stream after the last sequence's, so that start tokens are independent of the draws.
  const CounterRng rng(options.seed, static_cast<std::uint64_t>(options.windows));
  std::vector<std::vector<std::int32_t>> prompts;
  for (std::int64_t window = 0; window < options.windows; ++window) {
    const auto random = static_cast<std::int32_t>(
        rng.below(static_cast<std::uint64_t>(window), static_cast<std::uint64_t>(spec.vocab)));
    prompts.push_back({options.start_token.value_or(spec.eos_ids.empty() ? random : spec.eos_ids.front())});
  }
  double all_seconds = 0;        // what all windows would take, once some of their tokens are there
  const auto affordable = [&] {  // windows begun anew
    return static_cast<std::int64_t>(static_cast<double>(options.windows) * (options.seconds - seconds()) /
                                     all_seconds);
  };
  // Late, when too few could be begun anew, a little too slow is better than nothing.
  const auto may_end_late = [&] {
    return seconds() > kTrialShare * options.seconds && affordable() < options.least_windows &&
           all_seconds < kMostOver * options.seconds;
  };
  const std::size_t at_once =
      options.windows_at_once > 0 ? static_cast<std::size_t>(options.windows_at_once) : prompts.size();
  bool in_time = true;
  const auto write = [&](bool try_only) {
    std::int64_t tokens = 0;
    const auto wanted = static_cast<std::int64_t>(prompts.size()) * options.length;
    std::vector<std::vector<std::int32_t>> written;
    for (std::size_t first = 0; first < prompts.size() && in_time; first += at_once) {
      const std::vector some(prompts.begin() + static_cast<std::ptrdiff_t>(first),
                             prompts.begin() + static_cast<std::ptrdiff_t>(std::min(first + at_once, prompts.size())));
      const auto tokens_per_report = kTokensPerReport * static_cast<std::int64_t>(some.size());
      const auto part =
          generate(spec, weights, some,
                   {.max_new_tokens = options.length,
                    .sampling = {.temperature = 1.0, .seed = options.seed},
                    .compute = options.compute,
                    .place = options.place,
                    .first_sequence = first},
                   [&](std::size_t, std::int32_t) {
                     if (++tokens % tokens_per_report != 0) return true;
                     if (progress)
                       progress({static_cast<double>(tokens) / static_cast<double>(wanted), "writing calibration text",
                                 fmt::format("{} of {} tokens", tokens, wanted)});
                     all_seconds = seconds() * static_cast<double>(wanted) / static_cast<double>(tokens);
                     in_time = !try_only || all_seconds <= options.seconds || may_end_late();
                     return in_time;
                   });
      written.insert(written.end(), part.begin(), part.end());
    }
    return written;
  };
  auto generated = write(true);
  if (generated.size() < prompts.size() || static_cast<std::int64_t>(generated.back().size()) < options.length) {
    in_time = true;
    const std::int64_t fewer = affordable();
    if (fewer < options.least_windows)
      fail(
          ErrorKind::usage,
          "the model would take about {} to write {} windows of calibration text, and the time limit leaves {} for it; "
          "give --calibration or a longer --time-limit",
          format_seconds(all_seconds), options.windows, format_seconds(options.seconds));
    if (progress)
      progress({-1, "time limit", fmt::format("windows of own text: {} instead of {}", fewer, options.windows)});
    prompts.resize(static_cast<std::size_t>(fewer));
    generated = write(false);
  }
  at::Tensor ids = at::empty({static_cast<std::int64_t>(generated.size()), options.length}, at::kLong);
  auto* out = ids.data_ptr<std::int64_t>();
  for (const auto& sequence : generated) out = std::copy(sequence.begin(), sequence.end(), out);
  return ids;
}

}  // namespace scalebits
