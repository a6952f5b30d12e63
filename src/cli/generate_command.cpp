// `scalebits generate`: continues a prompt, printing the text as it is made; or writes a corpus of the model's own
// text.
#include "cli/commands.h"

#include "cli/progress_line.h"
#include "core/atomic_file.h"
#include "core/parallel.h"
#include "graph/open_model.h"
#include "graph/generate.h"
#include "tokenizer/tokenizer.h"

#include <fmt/format.h>

#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace scalebits::cli {
namespace {

struct GenerateOptions {
  std::string model, prompt;
  std::int64_t tokens = 64;
  SamplingOptions sampling;
  std::string corpus;
  SelfTextOptions self_text;
  bool no_stop = false, no_echo = false;
  int threads = 0;
};

void print_now(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

void write_text(const GenerateOptions& options) {
  if (options.threads > 0) set_thread_count(options.threads);
  const OpenedModel model = open_model(options.model);
  const Tokenizer& tokenizer = model.require_tokenizer();
  std::vector<std::int32_t> prompt = tokenizer.encode(options.prompt, {.add_bos = tokenizer.adds_bos_by_default()});
  if (prompt.empty()) {
    // An empty prompt: the beginning of any document.
    const auto start = tokenizer.bos() ? tokenizer.bos() : tokenizer.eos();
    if (!start)
      fail(ErrorKind::usage, "{}: the tokenizer has no beginning-of-text token, so the prompt must not be empty",
           options.model);
    prompt.push_back(*start);
  }
  if (!options.no_echo) print_now(options.prompt);
  const std::vector<std::int32_t> stop_ids = options.no_stop ? std::vector<std::int32_t>{} : model.spec.eos_ids;
  StreamDecoder stream(tokenizer, {.special_text = false, .text_start = false});
  generate(model.spec, *model.weights, {prompt},
           {.max_new_tokens = options.tokens, .sampling = options.sampling, .stop_ids = stop_ids},
           [&](std::size_t, std::int32_t token) {
             print_now(stream.push(token));
             return true;
           });
  print_now(stream.finish() + "\n");
}

/// Text that the model writes from nothing: calibration or held-out text where no data set is at hand.
void write_corpus(GenerateOptions options) {
  if (options.threads > 0) set_thread_count(options.threads);
  const OpenedModel model = open_model(options.model);
  const Tokenizer& tokenizer = model.require_tokenizer();
  options.self_text.start_token = tokenizer.bos();
  options.self_text.seed = options.sampling.seed;
  ProgressLine line;
  const at::Tensor ids = sample_own_text(model.spec, *model.weights, options.self_text, std::ref(line));
  std::string text;
  for (std::int64_t window = 0; window < ids.size(0); ++window) {
    const auto* first = ids.const_data_ptr<std::int64_t>() + window * ids.size(1);
    const std::vector<std::int32_t> tokens(first, first + ids.size(1));
    text += tokenizer.decode(tokens, {.special_text = false}) + "\n\n";
  }
  write_file_atomically(options.corpus, text);
  fmt::print("{}: {} tokens\n", options.corpus, ids.numel());
}

}  // namespace

void add_generate(CLI::App& app) {
  auto options = std::make_shared<GenerateOptions>();
  CLI::App* const command = app.add_subcommand("generate", "Continue a prompt, or write a corpus");
  command->add_option("MODEL", options->model, "Hugging Face folder, GGUF file or artifact")->required();
  command->add_option("--prompt", options->prompt, "Text to continue")->type_name("TEXT");
  command->add_option("-n,--tokens", options->tokens, "Tokens to write at most [64]")
      ->check(CLI::Range(1, 1 << 20))
      ->type_name("N");
  command
      ->add_option("--temperature", options->sampling.temperature,
                   "0: always the likeliest token [0]; 1: as the model was trained")
      ->check(CLI::Range(0.0, 100.0))
      ->type_name("T");
  command->add_option("--top-k", options->sampling.top_k, "Draw among the K likeliest tokens [all]")
      ->check(CLI::Range(1, 1 << 20))
      ->type_name("K");
  command
      ->add_option("--top-p", options->sampling.top_p,
                   "Draw among the likeliest tokens that together have this probability [1]")
      ->check(CLI::Range(0.0, 1.0))
      ->type_name("P");
  command->add_option("--seed", options->sampling.seed, "Another seed, another text [0]")->type_name("N");
  command->add_flag("--no-stop", options->no_stop, "Go on after an end-of-text token");
  command->add_flag("--no-echo", options->no_echo, "Print the continuation only");
  command->add_option("--threads", options->threads, "Threads to use [all]")
      ->check(CLI::Range(1, 4096))
      ->type_name("N");
  command
      ->add_option("--corpus", options->corpus,
                   "Instead of continuing a prompt, write text of the model's own to this file")
      ->type_name("FILE");
  command->add_option("--windows", options->self_text.windows, "Corpus: how many pieces of text [64]")
      ->check(CLI::Range(1, 1 << 20))
      ->type_name("N");
  command->add_option("--length", options->self_text.length, "Corpus: tokens of each [512]")
      ->check(CLI::Range(2, 1 << 20))
      ->type_name("N");
  command->callback([options, command] {
    if ((command->count("--prompt") != 0) == (command->count("--corpus") != 0))
      fail(ErrorKind::usage, "generate: give exactly one of --prompt and --corpus");
    options->corpus.empty() ? write_text(*options) : write_corpus(*options);
  });
}

}  // namespace scalebits::cli
