#include "runtime/session.h"

#include "core/error.h"
#include "core/progress.h"
#include "runtime/backend.h"

#include <algorithm>
#include <numeric>

namespace scalebits {

namespace {

std::int64_t positions_of(RuntimeModel& model, const SessionOptions& options) {
  const std::int64_t most = model.backend().most_positions();
  const std::int64_t wanted =
      options.max_positions == 0 ? std::min(most, model.spec().max_positions) : options.max_positions;
  if (wanted < 1 || wanted > most)
    fail(ErrorKind::usage, "positions of a session must be 1 to {}, found {}", most, wanted);
  if (model.spec().positions == PositionKind::learned && wanted > model.spec().max_positions)
    fail(ErrorKind::usage, "{}: this model has learned {} positions and cannot hold more, found {}", model.source(),
         model.spec().max_positions, wanted);
  return wanted;
}

}  // namespace

Session::Session(RuntimeModel& model, const SessionOptions& options)
    : model_(&model), max_positions_(positions_of(model, options)),
      cache_(model.backend().make_cache(options.kv, max_positions_)) {}

void Session::require_readable(std::span<const std::int32_t> tokens) const {
  if (tokens.empty()) fail(ErrorKind::usage, "there must be at least one token to read");
  const std::int64_t vocab = model_->spec().vocab;
  for (const std::int32_t id : tokens)
    if (id < 0 || id >= vocab) fail_input("token {} is outside the vocabulary of {} ({})", id, vocab, model_->source());
  if (length() + static_cast<std::int64_t>(tokens.size()) > max_positions_)
    fail_input("{}: {} tokens after the {} read so far are more than the {} positions there are", model_->source(),
               tokens.size(), length(), max_positions_);
}

/// on_pass(first, rows): numbers of the steps' tokens, counted end to end, after each pass.
template <typename OnPass>
void Session::read(std::span<const SessionStep> steps, const OnPass& on_pass) {
  if (steps.empty()) fail(ErrorKind::usage, "there must be at least one session");
  RuntimeModel& model = steps.front().session->model();
  for (std::size_t i = 0; i < steps.size(); ++i) {
    if (&steps[i].session->model() != &model) throw InternalError("sessions of one step must be of one model");
    for (std::size_t j = 0; j < i; ++j)
      if (steps[j].session == steps[i].session) throw InternalError("a session cannot be in one step twice");
    steps[i].session->require_readable(steps[i].tokens);
  }

  std::vector<PassToken> pass;
  std::vector<Session*> readers;  // of the pass's tokens
  std::int64_t first = 0;
  const auto run = [&] {
    if (interrupt_requested && first > 0) fail(ErrorKind::interrupted, "reading was interrupted");
    model.backend().read(pass);
    for (std::size_t row = 0; row < pass.size(); ++row) readers[row]->tokens_.push_back(pass[row].id);
    const auto rows = static_cast<std::int64_t>(pass.size());
    on_pass(first, rows);
    first += rows;
    pass.clear();
    readers.clear();
  };
  for (const SessionStep& step : steps) {
    const std::int64_t begin = step.session->length();
    for (std::size_t i = 0; i < step.tokens.size(); ++i) {
      pass.push_back({&step.session->cache_, begin + static_cast<std::int64_t>(i), step.tokens[i]});
      readers.push_back(step.session);
      if (static_cast<std::int64_t>(pass.size()) == model.options().chunk_tokens) run();
    }
  }
  if (!pass.empty()) run();
}

/// on_last(rows) of the pass, for the last tokens of the steps in order, as many at once as logits may be asked for.
template <typename OnLast>
void Session::read_to_last(std::span<const SessionStep> steps, const OnLast& on_last) {
  std::vector<std::int32_t> rows;
  std::size_t done = 0;  // steps whose last token has been read
  std::int64_t end = 0;  // of the tokens of the steps up to that one
  read(steps, [&](std::int64_t first, std::int64_t count) {
    rows.clear();
    for (; done < steps.size(); ++done) {
      const std::int64_t last = end + static_cast<std::int64_t>(steps[done].tokens.size()) - 1;
      if (last >= first + count) break;
      rows.push_back(static_cast<std::int32_t>(last - first));
      end = last + 1;
    }
    const auto most = static_cast<std::size_t>(steps.front().session->model().backend().logit_rows());
    for (std::size_t row = 0; row < rows.size(); row += most)
      on_last(std::span<const std::int32_t>(rows).subspan(row, std::min(most, rows.size() - row)));
  });
}

std::span<const float> evaluate(std::span<const SessionStep> steps) {
  std::span<const float> all;
  std::vector<float>* joined = nullptr;
  Session::read_to_last(steps, [&](std::span<const std::int32_t> rows) {
    RuntimeModel& model = steps.front().session->model();
    const float* const logits = model.backend().logits(rows);
    const std::size_t count = rows.size() * static_cast<std::size_t>(model.spec().vocab);
    all = {logits, count};
    if (rows.size() == steps.size()) return;
    if (joined == nullptr) joined = &model.joined_logits(), joined->clear();
    joined->insert(joined->end(), logits, logits + count);
    all = *joined;
  });
  return all;
}

std::vector<std::int32_t> likeliest(std::span<const SessionStep> steps) {
  std::vector<std::int32_t> ids;
  Session::read_to_last(steps, [&](std::span<const std::int32_t> rows) {
    const auto some = steps.front().session->model().backend().likeliest(rows);
    ids.insert(ids.end(), some.begin(), some.end());
  });
  return ids;
}

void evaluate_all(std::span<const SessionStep> steps, const LogitsSink& sink) {
  std::vector<std::int32_t> rows;
  Session::read(steps, [&](std::int64_t first, std::int64_t count) {
    Backend& backend = steps.front().session->model().backend();
    for (std::int64_t row = 0; row < count; row += backend.logit_rows()) {
      rows.resize(static_cast<std::size_t>(std::min(backend.logit_rows(), count - row)));
      std::iota(rows.begin(), rows.end(), static_cast<std::int32_t>(row));
      sink(first + row, static_cast<std::int64_t>(rows.size()), backend.logits(rows));
    }
  });
}

std::span<const float> Session::evaluate(std::span<const std::int32_t> tokens) {
  const SessionStep step{this, tokens};
  return scalebits::evaluate({&step, 1});
}

std::int32_t Session::likeliest(std::span<const std::int32_t> tokens) {
  const SessionStep step{this, tokens};
  return scalebits::likeliest({&step, 1}).front();
}

void Session::evaluate_all(std::span<const std::int32_t> tokens, const LogitsSink& sink) {
  const SessionStep step{this, tokens};
  scalebits::evaluate_all({&step, 1}, sink);
}

void Session::keep(std::int64_t count) {
  SCALEBITS_ASSERT(count >= 0 && count <= length());
  tokens_.resize(static_cast<std::size_t>(count));
}

std::int64_t Session::keep_shared_prefix(std::span<const std::int32_t> prompt) {
  const std::size_t most = std::min(tokens_.size(), prompt.empty() ? 0 : prompt.size() - 1);
  std::size_t count = 0;
  while (count < most && tokens_[count] == prompt[count]) ++count;
  keep(static_cast<std::int64_t>(count));
  return length();
}

}  // namespace scalebits
