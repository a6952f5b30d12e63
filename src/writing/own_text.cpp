#include "writing/own_text.h"

#include "core/error.h"
#include "core/random.h"
#include "sampling/sampler.h"

#include <algorithm>
#include <memory>

namespace scalebits {
namespace {

constexpr std::int64_t kTogether = 16;  // sequences that share a reading of the weights; no result depends on it

}  // namespace

std::vector<std::vector<std::int32_t>> write_own_text(RuntimeModel& model, const OwnTextOptions& options,
                                                      const ProgressSink& progress) {
  const ModelSpec& spec = model.spec();
  if (options.windows < 1 || options.length < 1)
    fail(ErrorKind::usage, "text of its own must have windows and tokens, found {} of {}", options.windows,
         options.length);
  if (options.length > spec.max_positions)
    fail_input("{}: {} tokens are more than the model's {} positions", model.source(), options.length,
               spec.max_positions);
  const SamplingOptions sampling{.temperature = 1};
  const SessionOptions session_options{.kv = options.kv, .max_positions = options.length};
  const auto vocab = static_cast<std::size_t>(spec.vocab);
  // The stream after the last sequence's, so that start tokens are independent of the draws.
  const CounterRng start_rng(options.seed, static_cast<std::uint64_t>(options.windows));
  std::vector<std::vector<std::int32_t>> texts(static_cast<std::size_t>(options.windows));
  for (std::int64_t first = 0; first < options.windows; first += kTogether) {
    const std::int64_t count = std::min(kTogether, options.windows - first);
    std::vector<std::unique_ptr<Session>> sessions;
    std::vector<std::int32_t> next;
    for (std::int64_t i = 0; i < count; ++i) {
      sessions.push_back(std::make_unique<Session>(model, session_options));
      const auto random = static_cast<std::int32_t>(start_rng.below(static_cast<std::uint64_t>(first + i), vocab));
      next.push_back(options.start_token.value_or(spec.eos_ids.empty() ? random : spec.eos_ids.front()));
    }
    for (std::int64_t step = 0; step < options.length; ++step) {
      if (interrupt_requested) fail(ErrorKind::interrupted, "writing was interrupted");
      std::vector<SessionStep> steps;
      for (std::size_t i = 0; i < sessions.size(); ++i) steps.push_back({sessions[i].get(), {&next[i], 1}});
      const std::span<const float> logits = evaluate(steps);
      model.threads().for_each(count, [&](std::int64_t i) {
        const auto index = static_cast<std::size_t>(i);
        const CounterRng rng(options.seed, static_cast<std::uint64_t>(first + i));
        next[index] = choose_token(logits.subspan(index * vocab, vocab), sampling, {},
                                   rng.uniform(static_cast<std::uint64_t>(step)));
      });
      for (std::size_t i = 0; i < sessions.size(); ++i) texts[static_cast<std::size_t>(first) + i].push_back(next[i]);
      const std::int64_t done = first * options.length + (step + 1) * count, wanted = options.windows * options.length;
      if (progress && step % 8 == 7)
        progress({static_cast<double>(done) / static_cast<double>(wanted), "writing text",
                  fmt::format("{} of {} tokens", done, wanted)});
    }
  }
  return texts;
}

}  // namespace scalebits
