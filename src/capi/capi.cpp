// The C interface over the runtime: checks pointers, turns exceptions into statuses and a message, and nothing else.
#include <scalebits/scalebits.h>

#include "core/error.h"
#include "core/random.h"
#include "runtime/session.h"
#include "sampling/sampler.h"
#include "tokenizer/tokenizer.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <vector>

struct scalebits_model {
  std::unique_ptr<scalebits::RuntimeModel> model;
};

struct scalebits_session {
  scalebits::Session session;
  std::vector<float> logits;           // empty: none
  mutable scalebits::Sampler sampler;  // drawing changes nothing but its memory
};

namespace {

using namespace scalebits;

thread_local std::string last_error;

scalebits_status failed(scalebits_status status, const char* message) {
  try {
    last_error = message;
  } catch (const std::bad_alloc&) {
    last_error.clear();
  }
  return status;
}

scalebits_status status_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::usage: return SCALEBITS_USAGE;
    case ErrorKind::unsupported_hardware: return SCALEBITS_UNSUPPORTED_HARDWARE;
    case ErrorKind::bad_input:
    case ErrorKind::infeasible_budget: return SCALEBITS_BAD_INPUT;
    case ErrorKind::interrupted:
    case ErrorKind::lost_process: break;  // of the command line only
  }
  return SCALEBITS_BUG;
}

/// Runs `body`, which may throw and returns a status.
template <typename Body>
scalebits_status guarded(const Body& body) {
  try {
    return body();
  } catch (const Error& error) {
    return failed(status_of(error.kind()), error.what());
  } catch (const std::bad_alloc&) {
    return failed(SCALEBITS_NO_MEMORY, "there is not enough memory");
  } catch (const std::filesystem::filesystem_error& error) {
    return failed(SCALEBITS_BAD_INPUT, error.what());
  } catch (const std::exception& error) {
    return failed(SCALEBITS_BUG, error.what());
  }
}

/// Runs `make`, for which the instruction set is settled: what the machine then lacks is memory, which threads need,
/// too. `advice`: what to say instead of the error's own words.
template <typename Make>
scalebits_status within_memory(const Make& make, const char* advice = nullptr) {
  try {
    make();
    return SCALEBITS_OK;
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::unsupported_hardware) throw;
    return failed(SCALEBITS_NO_MEMORY, advice != nullptr ? advice : error.what());
  }
}

void require(bool present, const char* what) {
  if (!present) fail(ErrorKind::usage, "{} must not be null", what);
}

/// The way of all functions that fill a buffer of the caller's.
template <typename Element, typename Source>
scalebits_status hand_out(const Source& from, Element* to, std::size_t capacity, std::size_t* count) {
  *count = from.size();
  std::copy_n(from.begin(), std::min(from.size(), capacity), to);
  if (from.size() <= capacity) return SCALEBITS_OK;
  return failed(SCALEBITS_TOO_SMALL,
                fmt::format("the buffer has room for {}, and {} are needed", capacity, from.size()).c_str());
}

}  // namespace

extern "C" {

int32_t scalebits_api_version(void) { return SCALEBITS_API_VERSION; }
const char* scalebits_version(void) { return SCALEBITS_VERSION; }
const char* scalebits_last_error(void) { return last_error.c_str(); }

scalebits_model_options scalebits_model_options_default(void) { return {0, 0, nullptr}; }

scalebits_status scalebits_model_open(const char* path, const scalebits_model_options* options,
                                      scalebits_model** model) {
  return guarded([&] {
    require(path != nullptr, "path");
    require(model != nullptr, "model");
    const scalebits_model_options given = options != nullptr ? *options : scalebits_model_options_default();
    RuntimeOptions runtime;
    runtime.threads = given.threads;
    runtime.activations = given.exact_activations != 0 ? ActivationFormat::f32 : ActivationFormat::i8;
    if (given.isa != nullptr) runtime.isa = isa_from_name(given.isa);
    runtime.isa = highest_isa(runtime.isa);
    return within_memory([&] { *model = new scalebits_model{RuntimeModel::open(path, runtime)}; });
  });
}

void scalebits_model_close(scalebits_model* model) { delete model; }

int32_t scalebits_vocab_size(const scalebits_model* model) {
  return model != nullptr ? static_cast<int32_t>(model->model->spec().vocab) : 0;
}

int64_t scalebits_max_positions(const scalebits_model* model) {
  return model != nullptr ? model->model->spec().max_positions : 0;
}

int32_t scalebits_is_end(const scalebits_model* model, int32_t token) {
  if (model == nullptr) return 0;
  const auto& ids = model->model->spec().eos_ids;
  return std::find(ids.begin(), ids.end(), token) != ids.end();
}

int32_t scalebits_start_token(const scalebits_model* model) {
  const Tokenizer* const tokenizer = model != nullptr ? model->model->tokenizer().get() : nullptr;
  return tokenizer != nullptr ? tokenizer->start_token().value_or(-1) : -1;
}

scalebits_status scalebits_tokenize(const scalebits_model* model, const char* text, size_t length, int32_t text_start,
                                    int32_t* tokens, size_t capacity, size_t* count) {
  return guarded([&] {
    require(model != nullptr, "model");
    require(text != nullptr || length == 0, "text");
    require(tokens != nullptr || capacity == 0, "tokens");
    require(count != nullptr, "count");
    const Tokenizer& tokenizer = model->model->require_tokenizer();
    const std::string_view given = length == 0 ? std::string_view() : std::string_view(text, length);
    const bool add_bos = text_start != 0 && tokenizer.adds_bos_by_default();
    return hand_out(tokenizer.encode(given, {.add_bos = add_bos}), tokens, capacity, count);
  });
}

scalebits_status scalebits_detokenize(const scalebits_model* model, const int32_t* tokens, size_t count,
                                      int32_t text_start, char* text, size_t capacity, size_t* length) {
  return guarded([&] {
    require(model != nullptr, "model");
    require(tokens != nullptr || count == 0, "tokens");
    require(text != nullptr || capacity == 0, "text");
    require(length != nullptr, "length");
    const DecodeOptions options{.special_text = false, .text_start = text_start != 0};
    return hand_out(model->model->require_tokenizer().decode({tokens, count}, options), text, capacity, length);
  });
}

scalebits_session_options scalebits_session_options_default(void) { return {16, 0}; }

scalebits_status scalebits_session_open(scalebits_model* model, const scalebits_session_options* options,
                                        scalebits_session** session) {
  return guarded([&] {
    require(model != nullptr, "model");
    require(session != nullptr, "session");
    const scalebits_session_options given = options != nullptr ? *options : scalebits_session_options_default();
    if (given.kv_bits != 8 && given.kv_bits != 16)
      fail(ErrorKind::usage, "kv_bits must be 8 or 16, found {}", given.kv_bits);
    const SessionOptions wanted{.kv = given.kv_bits == 8 ? KvType::i8 : KvType::f16,
                                .max_positions = given.max_positions};
    return within_memory([&] { *session = new scalebits_session{Session(*model->model, wanted), {}, {}}; },
                         "there is no room for the keys and values of so many positions; max_positions asks for fewer");
  });
}

void scalebits_session_close(scalebits_session* session) { delete session; }

scalebits_status scalebits_evaluate(scalebits_session* session, const int32_t* tokens, size_t count) {
  return guarded([&] {
    require(session != nullptr, "session");
    require(tokens != nullptr || count == 0, "tokens");
    const std::int64_t before = session->session.length();
    try {
      const auto logits = session->session.evaluate({tokens, count});
      session->logits.assign(logits.begin(), logits.end());
    } catch (...) {
      session->session.keep(before);
      throw;
    }
    return SCALEBITS_OK;
  });
}

const float* scalebits_logits(const scalebits_session* session) {
  return session != nullptr && !session->logits.empty() ? session->logits.data() : nullptr;
}

int64_t scalebits_length(const scalebits_session* session) {
  return session != nullptr ? session->session.length() : 0;
}

scalebits_status scalebits_keep(scalebits_session* session, int64_t count) {
  return guarded([&] {
    require(session != nullptr, "session");
    if (count < 0 || count > session->session.length())
      fail(ErrorKind::usage, "{} tokens cannot be kept of {}", count, session->session.length());
    session->session.keep(count);
    session->logits.clear();
    return SCALEBITS_OK;
  });
}

scalebits_sampling scalebits_sampling_default(void) {
  const SamplingOptions options;
  return {options.temperature,       options.top_k, options.top_p, options.min_p, options.repetition_penalty,
          options.repetition_window, options.seed};
}

scalebits_status scalebits_sample(const scalebits_session* session, const scalebits_sampling* sampling,
                                  int32_t* token) {
  return guarded([&] {
    require(session != nullptr, "session");
    require(token != nullptr, "token");
    if (session->logits.empty())
      fail(ErrorKind::usage, "nothing has been evaluated, so there are no logits to draw from");
    const scalebits_sampling given = sampling != nullptr ? *sampling : scalebits_sampling_default();
    const SamplingOptions options{.temperature = given.temperature,
                                  .top_k = given.top_k,
                                  .top_p = given.top_p,
                                  .min_p = given.min_p,
                                  .repetition_penalty = given.repetition_penalty,
                                  .repetition_window = given.repetition_window,
                                  .seed = given.seed};
    const double uniform = CounterRng(given.seed).uniform(static_cast<std::uint64_t>(session->session.length()));
    *token = session->sampler.choose(session->logits, options, session->session.tokens(), uniform);
    return SCALEBITS_OK;
  });
}

}  // extern "C"
