#include "evaluate/choice_likelihood.h"

#include "core/error.h"
#include "evaluate/token_loss.h"
#include "tokenizer/tokenizer.h"

#include <algorithm>
#include <functional>

namespace scalebits {
namespace {

/// Contexts read together: enough for the short choices behind them to fill a pass, few enough for their caches to stay
/// small beside the weights.
constexpr std::size_t kContextsAtOnce = 16;

/// A context and the choices that follow it.
struct Prompt {
  struct Choice {
    std::span<const std::int32_t> ids;  // those scored
    double* log_likelihood;
  };
  std::span<const std::int32_t> context;
  std::vector<Choice> choices;
};

/// One for each question, or more where choices of different length have cut its context differently.
std::vector<Prompt> prompts_of(std::span<const std::vector<EncodedChoice>> questions,
                               std::vector<std::vector<double>>& results) {
  std::vector<Prompt> prompts;
  for (std::size_t i = 0; i < questions.size(); ++i) {
    results[i].assign(questions[i].size(), 0);
    for (std::size_t choice = 0; choice < questions[i].size(); ++choice) {
      const std::span<const std::int32_t> ids = questions[i][choice].ids;
      const auto scored = static_cast<std::size_t>(questions[i][choice].scored);
      SCALEBITS_ASSERT(scored >= 1 && scored < ids.size());
      const auto context = ids.first(ids.size() - scored);
      if (choice == 0 || !std::ranges::equal(context, prompts.back().context)) prompts.push_back({context, {}});
      prompts.back().choices.push_back({ids.last(scored), &results[i][choice]});
    }
  }
  return prompts;
}

std::int64_t tokens_of(const Prompt& prompt) {
  std::size_t count = prompt.context.size();
  for (const Prompt::Choice& choice : prompt.choices) count += choice.ids.size() - 1;
  return static_cast<std::int64_t>(count);
}

/// A token whose likelihood row `row` of some logits tells.
struct Target {
  std::int64_t row;
  std::int32_t id;
  double* sum;
};

void add_log_likelihoods(RuntimeModel& model, std::span<const Target> targets, const float* logits) {
  const std::int64_t vocab = model.spec().vocab;
  std::vector<double> losses(targets.size());
  model.threads().for_each(static_cast<std::int64_t>(targets.size()), [&](std::int64_t i) {
    const Target& target = targets[static_cast<std::size_t>(i)];
    losses[static_cast<std::size_t>(i)] = negative_log_likelihood(logits + target.row * vocab, vocab, target.id);
  });
  for (std::size_t i = 0; i < targets.size(); ++i) *targets[i].sum -= losses[i];
}

/// Reads all contexts, which tell of every choice's first token.
void score_first_tokens(RuntimeModel& model, std::span<Session> sessions, std::span<const Prompt> prompts) {
  std::vector<SessionStep> steps;
  std::vector<Target> targets;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    sessions[i].keep(0);
    steps.push_back({&sessions[i], prompts[i].context});
    for (const Prompt::Choice& choice : prompts[i].choices)
      targets.push_back({static_cast<std::int64_t>(i), choice.ids.front(), choice.log_likelihood});
  }
  add_log_likelihoods(model, targets, evaluate(steps).data());
}

/// Reads behind each context the choice of that number, which tells of its other tokens.
void score_other_tokens(RuntimeModel& model, std::span<Session> sessions, std::span<const Prompt> prompts,
                        std::size_t number) {
  std::vector<SessionStep> steps;
  std::vector<Target> targets;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    if (number >= prompts[i].choices.size()) continue;
    const auto& [ids, log_likelihood] = prompts[i].choices[number];
    if (ids.size() == 1) continue;
    sessions[i].keep(static_cast<std::int64_t>(prompts[i].context.size()));
    steps.push_back({&sessions[i], ids.first(ids.size() - 1)});
    for (const std::int32_t id : ids.subspan(1))
      targets.push_back({static_cast<std::int64_t>(targets.size()), id, log_likelihood});
  }
  if (steps.empty()) return;
  evaluate_all(steps, [&](std::int64_t first, std::int64_t rows, const float* logits) {
    const auto judged = std::span(targets).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(rows));
    for (Target& target : judged) target.row -= first;
    add_log_likelihoods(model, judged, logits);
  });
}

}  // namespace

EncodedChoice encode_choice(const Tokenizer& tokenizer, std::string_view context, std::string_view choice,
                            const EncodeChoiceOptions& options, const std::string& where) {
  const std::string text = std::string(context) + " " + std::string(choice);
  context = context.substr(0, context.find_last_not_of(" \t\n\r\f\v") + 1);
  const std::vector<std::int32_t> whole = tokenizer.encode(text, {.add_bos = options.bos});
  EncodedChoice encoded{tokenizer.encode(context, {.add_bos = options.bos}), 0};
  const std::size_t before = encoded.ids.size();
  if (before == 0) fail_input("{}: the context has no tokens", where);
  if (before >= whole.size()) fail_input("{}: choice '{}' adds no tokens to its context", where, choice);
  encoded.scored = static_cast<std::int64_t>(whole.size() - before);
  if (encoded.scored > options.max_positions)
    fail_input("{}: choice '{}' has {} tokens, more than the {} positions of the model", where, choice, encoded.scored,
               options.max_positions);
  encoded.ids.insert(encoded.ids.end(), whole.begin() + static_cast<std::ptrdiff_t>(before), whole.end());
  const auto most = static_cast<std::size_t>(options.max_positions) + 1;
  if (encoded.ids.size() > most)
    encoded.ids.erase(encoded.ids.begin(), encoded.ids.end() - static_cast<std::ptrdiff_t>(most));
  return encoded;
}

std::int64_t tokens_to_read(std::span<const std::vector<EncodedChoice>> questions) {
  std::vector<std::vector<double>> unused(questions.size());
  std::int64_t count = 0;
  for (const Prompt& prompt : prompts_of(questions, unused)) count += tokens_of(prompt);
  return count;
}

std::vector<std::vector<double>> log_likelihoods(RuntimeModel& model,
                                                 std::span<const std::vector<EncodedChoice>> questions, KvType kv,
                                                 const ProgressSink& progress) {
  std::vector<std::vector<double>> results(questions.size());
  const std::vector<Prompt> prompts = prompts_of(questions, results);
  SessionOptions session_options{.kv = kv, .max_positions = 1};
  for (const auto& choices : questions)
    for (const EncodedChoice& choice : choices)
      session_options.max_positions =
          std::max(session_options.max_positions, static_cast<std::int64_t>(choice.ids.size()) - 1);
  std::vector<Session> sessions;
  for (std::size_t i = 0; i < std::min(kContextsAtOnce, prompts.size()); ++i)
    sessions.emplace_back(model, session_options);

  const std::int64_t total = tokens_to_read(questions);
  std::int64_t read = 0;
  for (std::size_t first = 0; first < prompts.size(); first += sessions.size()) {
    if (interrupt_requested) fail(ErrorKind::interrupted, "the measurement was interrupted");
    if (progress)
      progress({static_cast<double>(read) / static_cast<double>(total), "measuring",
                fmt::format("token {} of {}", read, total)});
    const auto batch = std::span(prompts).subspan(first, std::min(sessions.size(), prompts.size() - first));
    score_first_tokens(model, sessions, batch);
    std::size_t most = 0;
    for (const Prompt& prompt : batch) most = std::max(most, prompt.choices.size());
    for (std::size_t number = 0; number < most; ++number) score_other_tokens(model, sessions, batch, number);
    for (const Prompt& prompt : batch) read += tokens_of(prompt);
  }
  return results;
}

}  // namespace scalebits
