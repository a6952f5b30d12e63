#include "bench/model_bench.h"

#include "core/error.h"
#include "core/random.h"
#include "runtime/session.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <span>
#include <string>

namespace scalebits {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

std::vector<std::int32_t> random_tokens(std::int64_t count, std::int64_t vocab) {
  const CounterRng random(7);
  std::vector<std::int32_t> tokens;
  for (std::int64_t i = 0; i < count; ++i)
    tokens.push_back(static_cast<std::int32_t>(random.below(std::uint64_t(i), std::uint64_t(vocab))));
  return tokens;
}

/// Seconds to write `count` tokens, greedily, in all sessions at once.
double write_tokens(std::span<Session* const> sessions, std::int64_t count) {
  std::vector<std::int32_t> next(sessions.size(), 1);
  std::vector<SessionStep> steps;
  for (std::size_t i = 0; i < sessions.size(); ++i) steps.push_back({sessions[i], std::span(&next[i], 1)});
  const auto start = Clock::now();
  for (std::int64_t token = 0; token < count; ++token) {
    const std::vector<std::int32_t> ids = likeliest(steps);
    std::copy(ids.begin(), ids.end(), next.begin());  // where the steps look for them
  }
  return seconds_since(start);
}

void cut_lengths(std::vector<std::int64_t>& lengths, std::int64_t most) {
  for (std::int64_t& length : lengths) length = std::min(length, most);
  std::sort(lengths.begin(), lengths.end());
  lengths.erase(std::unique(lengths.begin(), lengths.end()), lengths.end());
}

}  // namespace

ModelBenchOptions cut_to_positions(const std::filesystem::path& path, ModelBenchOptions options) {
  const auto model = RuntimeModel::open(path, {.threads = 1});
  const std::int64_t positions = Session(*model, {.kv = options.kv}).max_positions();
  const auto require = [&](std::int64_t length, const std::string& what) {
    if (length > positions)
      fail(ErrorKind::usage, "{}: has {} positions, and {} is wanted", path.string(), positions, what);
  };
  if (options.tokens_asked) require(options.tokens, fmt::format("writing {} tokens", options.tokens));
  options.tokens = std::min(options.tokens, positions);
  if (options.prompts_asked)
    for (const std::int64_t length : options.prompts) require(length, fmt::format("a prompt of {}", length));
  else
    cut_lengths(options.prompts, positions);
  if (options.contexts_asked)
    for (const std::int64_t context : options.contexts)
      require(context + options.tokens, fmt::format("writing {} tokens after {}", options.tokens, context));
  else
    cut_lengths(options.contexts, positions - options.tokens);
  return options;
}

ModelBenchResult bench_model(const std::filesystem::path& path, const ModelBenchOptions& options,
                             const std::function<void(const std::string& work)>& on_work) {
  ModelBenchResult result;
  SCALEBITS_ASSERT(options.repeats >= 1 && options.tokens >= 1);
  on_work("loading");
  const std::int32_t first_token = 1;
  ModelTimes load{.work = "load to first token", .tokens = 1};
  for (int repeat = 0; repeat < options.repeats; ++repeat) {
    const auto start = Clock::now();
    const auto model = RuntimeModel::open(path, options.runtime);
    Session(*model, {.kv = options.kv}).evaluate({&first_token, 1});
    load.seconds.push_back(seconds_since(start));
  }
  result.times.push_back(std::move(load));

  const auto model = RuntimeModel::open(path, options.runtime);
  result.bytes_per_token = model->bytes_per_token();
  result.placement = model->placement();
  const SessionOptions session_options{.kv = options.kv};
  Session session(*model, session_options);
  const std::int64_t vocab = model->spec().vocab;

  for (const std::int64_t length : options.prompts) {
    on_work(fmt::format("a prompt of {}", length));
    const std::vector<std::int32_t> prompt = random_tokens(length, vocab);
    ModelTimes times{.work = "prompt", .tokens = length};
    for (int repeat = -1; repeat < options.repeats; ++repeat) {  // the first makes room
      session.keep(0);
      if (repeat == 0) model->profile() = {};
      const auto start = Clock::now();
      session.evaluate(prompt);
      if (repeat >= 0) times.seconds.push_back(seconds_since(start));
    }
    times.profile = model->profile();
    result.times.push_back(std::move(times));
  }
  for (const std::int64_t context : options.contexts) {
    on_work(fmt::format("decoding after {} tokens", context));
    session.keep(0);
    if (context > 0) session.evaluate(random_tokens(context, vocab));
    ModelTimes times{.work = "decode", .tokens = options.tokens, .context = context};
    model->profile() = {};
    for (int repeat = 0; repeat < options.repeats; ++repeat) {
      session.keep(context);
      Session* const one = &session;
      times.seconds.push_back(write_tokens({&one, 1}, options.tokens));
    }
    times.profile = model->profile();
    result.times.push_back(std::move(times));
  }
  for (const std::int64_t batch : options.batches) {
    on_work(fmt::format("decoding {} sequences together", batch));
    std::vector<std::unique_ptr<Session>> owned;
    std::vector<Session*> sessions;
    for (std::int64_t i = 0; i < batch; ++i)
      sessions.push_back(owned.emplace_back(std::make_unique<Session>(*model, session_options)).get());
    ModelTimes times{.work = "decode", .tokens = options.tokens, .batch = batch};
    model->profile() = {};
    for (int repeat = 0; repeat < options.repeats; ++repeat) {
      for (Session* const one : sessions) one->keep(0);
      times.seconds.push_back(write_tokens(sessions, options.tokens));
    }
    times.profile = model->profile();
    result.times.push_back(std::move(times));
  }
  return result;
}

}  // namespace scalebits
