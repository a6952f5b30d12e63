#include "runtime/session.h"

#include "core/error.h"
#include "core/progress.h"
#include "runtime/forward.h"

#include <algorithm>

namespace scalebits {

namespace {

std::int64_t positions_of(const RuntimeModel& model, const SessionOptions& options) {
  constexpr std::int64_t kMost = std::int64_t{1} << 28;
  const std::int64_t wanted = options.max_positions == 0 ? model.spec().max_positions : options.max_positions;
  if (wanted < 1 || wanted > kMost)
    fail(ErrorKind::usage, "positions of a session must be 1 to {}, found {}", kMost, wanted);
  if (model.spec().positions == PositionKind::learned && wanted > model.spec().max_positions)
    fail(ErrorKind::usage, "{}: this model has learned {} positions and cannot hold more, found {}", model.source(),
         model.spec().max_positions, wanted);
  return wanted;
}

}  // namespace

Session::Session(RuntimeModel& model, const SessionOptions& options)
    : model_(&model), max_positions_(positions_of(model, options)), cache_(model.spec(), options.kv, max_positions_) {}

void Session::require_readable(std::span<const std::int32_t> tokens) const {
  if (tokens.empty()) fail(ErrorKind::usage, "there must be at least one token to read");
  const std::int64_t vocab = model_->spec().vocab;
  for (const std::int32_t id : tokens)
    if (id < 0 || id >= vocab) fail_input("token {} is outside the vocabulary of {} ({})", id, vocab, model_->source());
  if (length() + static_cast<std::int64_t>(tokens.size()) > max_positions_)
    fail_input("{}: {} tokens after the {} read so far are more than the {} positions there are", model_->source(),
               tokens.size(), length(), max_positions_);
}

/// on_hidden(first, rows, hidden [rows, hidden]) of the steps' tokens, counted end to end, after each pass.
template <typename OnHidden>
void Session::read(std::span<const SessionStep> steps, const OnHidden& on_hidden) {
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
    const float* hidden = model.forward().hidden(pass);
    for (std::size_t row = 0; row < pass.size(); ++row) readers[row]->tokens_.push_back(pass[row].id);
    const auto rows = static_cast<std::int64_t>(pass.size());
    on_hidden(first, rows, hidden);
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

std::span<const float> evaluate(std::span<const SessionStep> steps) {
  std::vector<float> last_hidden;
  std::size_t done = 0;  // steps whose last token has been read
  std::int64_t end = 0;  // of the tokens of the steps up to that one
  Session::read(steps, [&](std::int64_t first, std::int64_t rows, const float* hidden) {
    const auto width = steps.front().session->model().spec().hidden;
    for (; done < steps.size(); ++done) {
      const std::int64_t last = end + static_cast<std::int64_t>(steps[done].tokens.size()) - 1;
      if (last >= first + rows) break;
      last_hidden.insert(last_hidden.end(), hidden + (last - first) * width, hidden + (last - first + 1) * width);
      end = last + 1;
    }
  });
  RuntimeModel& model = steps.front().session->model();
  const float* logits = model.forward().logits(last_hidden.data(), static_cast<std::int64_t>(steps.size()));
  return {logits, steps.size() * static_cast<std::size_t>(model.spec().vocab)};
}

void evaluate_all(std::span<const SessionStep> steps, const LogitsSink& sink) {
  Session::read(steps, [&](std::int64_t first, std::int64_t rows, const float* hidden) {
    RuntimeModel& model = steps.front().session->model();
    ForwardPass& forward = model.forward();
    for (std::int64_t row = 0; row < rows; row += forward.logit_rows()) {
      const std::int64_t some = std::min(forward.logit_rows(), rows - row);
      sink(first + row, some, forward.logits(hidden + row * model.spec().hidden, some));
    }
  });
}

std::span<const float> Session::evaluate(std::span<const std::int32_t> tokens) {
  const SessionStep step{this, tokens};
  return scalebits::evaluate({&step, 1});
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
