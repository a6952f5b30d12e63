#include "writing/text_writer.h"

#include "core/error.h"
#include "core/progress.h"
#include "core/random.h"
#include "sampling/stop_strings.h"
#include "tokenizer/tokenizer.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace scalebits {

TextWriter::TextWriter(Session& session, const Tokenizer& tokenizer, WritingOptions options)
    : session_(session), tokenizer_(tokenizer), options_(std::move(options)) {
  validate(options_.sampling);
  StopStrings checked(options_.stops);
}

Written TextWriter::write(std::span<const std::int32_t> prompt, std::int64_t max_tokens, const TextSink& sink) {
  if (max_tokens < 1) fail(ErrorKind::usage, "the number of new tokens must be at least 1, found {}", max_tokens);
  using Clock = std::chrono::steady_clock;
  const auto seconds_since = [](Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
  };
  Profile& profile = session_.model().profile();
  Written written;
  profile = {};
  Clock::time_point began = Clock::now();
  written.kept_tokens = session_.keep_shared_prefix(prompt);
  const auto fresh = prompt.subspan(static_cast<std::size_t>(written.kept_tokens));
  const CounterRng rng(options_.sampling.seed);
  // The likeliest token needs no logits, which a card would have to send.
  const bool greedy = options_.sampling.temperature == 0 && options_.sampling.repetition_penalty == 1;
  const auto next_after = [&](std::span<const std::int32_t> tokens) {
    if (greedy) return session_.likeliest(tokens);
    const std::span<const float> logits = session_.evaluate(tokens);
    return sampler_.choose(logits, options_.sampling, session_.tokens(), rng.uniform(draws_++));
  };
  std::int32_t token = next_after(fresh);
  written.read_tokens = static_cast<std::int64_t>(fresh.size());
  written.read_seconds = seconds_since(began);
  written.reading = std::exchange(profile, {});

  began = Clock::now();
  StreamDecoder stream(tokenizer_, {.special_text = false, .text_start = options_.text_start});
  StopStrings stops(options_.stops);
  std::size_t shown = 0, spelled = 0;     // bytes
  std::vector<std::size_t> spelled_with;  // each token, and all before it
  const auto show = [&](const std::string& text) {
    shown += text.size();
    if (!text.empty()) sink(text);
  };
  while (true) {
    written.end = WritingEnd::stop_token;
    if (std::find(options_.stop_ids.begin(), options_.stop_ids.end(), token) != options_.stop_ids.end()) break;
    written.tokens.push_back(token);
    const std::string piece = stream.push(token);
    spelled_with.push_back(spelled += piece.size());
    show(stops.push(piece));
    written.end = WritingEnd::stop_string;
    if (stops.stopped()) break;
    written.end = WritingEnd::token_limit;
    if (static_cast<std::int64_t>(written.tokens.size()) == max_tokens) break;
    written.end = WritingEnd::interrupted;
    if (interrupt_requested) break;
    written.end = WritingEnd::out_of_positions;
    if (session_.length() == session_.max_positions()) break;
    const std::int32_t read = token;
    token = next_after({&read, 1});
  }
  show(stops.push(stream.finish()));
  show(stops.finish());
  written.shown_tokens = written.tokens.size();
  if (stops.stopped())
    while (written.shown_tokens > 0 && spelled_with[written.shown_tokens - 1] > shown) --written.shown_tokens;
  written.write_seconds = seconds_since(began);
  written.writing = profile;
  return written;
}

}  // namespace scalebits
