#include "runtime/session.h"

#include "core/error.h"
#include "core/progress.h"
#include "runtime/forward.h"

#include <algorithm>
#include <cstring>

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

std::span<const float> evaluate(std::span<const SessionStep> steps) {
  if (steps.empty()) fail(ErrorKind::usage, "there must be at least one session");
  RuntimeModel& model = steps.front().session->model();
  for (std::size_t i = 0; i < steps.size(); ++i) {
    if (&steps[i].session->model() != &model) throw InternalError("sessions of one step must be of one model");
    for (std::size_t j = 0; j < i; ++j)
      if (steps[j].session == steps[i].session) throw InternalError("a session cannot be in one step twice");
    steps[i].session->require_readable(steps[i].tokens);
  }

  ForwardPass& forward = model.forward();
  const auto width = static_cast<std::size_t>(model.spec().hidden);
  std::vector<float> last_hidden(steps.size() * width);
  std::vector<PassToken> pass;
  struct Read {
    std::size_t step;
    bool is_last;
  };
  std::vector<Read> read;
  bool is_first = true;
  const auto run = [&] {
    if (interrupt_requested && !is_first) fail(ErrorKind::interrupted, "reading the prompt was interrupted");
    is_first = false;
    const float* hidden = forward.hidden(pass);
    for (std::size_t row = 0; row < pass.size(); ++row) {
      steps[read[row].step].session->tokens_.push_back(pass[row].id);
      if (read[row].is_last) std::memcpy(&last_hidden[read[row].step * width], hidden + row * width, 4 * width);
    }
    pass.clear();
    read.clear();
  };
  for (std::size_t i = 0; i < steps.size(); ++i) {
    Session& session = *steps[i].session;
    const std::int64_t begin = session.length();
    for (std::size_t j = 0; j < steps[i].tokens.size(); ++j) {
      pass.push_back({&session.cache_, begin + static_cast<std::int64_t>(j), steps[i].tokens[j]});
      read.push_back({i, j + 1 == steps[i].tokens.size()});
      if (static_cast<std::int64_t>(pass.size()) == model.options().chunk_tokens) run();
    }
  }
  if (!pass.empty()) run();
  const float* logits = forward.logits(last_hidden.data(), static_cast<std::int64_t>(steps.size()));
  return {logits, steps.size() * static_cast<std::size_t>(model.spec().vocab)};
}

std::span<const float> Session::evaluate(std::span<const std::int32_t> tokens) {
  const SessionStep step{this, tokens};
  return scalebits::evaluate({&step, 1});
}

void Session::evaluate_all(std::span<const std::int32_t> tokens, const LogitsSink& sink) {
  require_readable(tokens);
  ForwardPass& forward = model_->forward();
  const std::int64_t width = model_->spec().hidden, count = static_cast<std::int64_t>(tokens.size());
  std::vector<PassToken> pass;
  for (std::int64_t first = 0; first < count; first += model_->options().chunk_tokens) {
    if (interrupt_requested && first > 0) fail(ErrorKind::interrupted, "reading was interrupted");
    const std::int64_t rows = std::min(model_->options().chunk_tokens, count - first);
    pass.clear();
    for (std::int64_t i = 0; i < rows; ++i)
      pass.push_back({&cache_, length() + i, tokens[static_cast<std::size_t>(first + i)]});
    const float* hidden = forward.hidden(pass);
    for (const PassToken& token : pass) tokens_.push_back(token.id);
    for (std::int64_t row = 0; row < rows; row += forward.logit_rows()) {
      const std::int64_t some = std::min(forward.logit_rows(), rows - row);
      sink(first + row, some, forward.logits(hidden + row * width, some));
    }
  }
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
