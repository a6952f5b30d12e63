// `scalebits generate`: continues a prompt, printing the text as it is made; or writes a corpus of the model's own
// text.
#include "cli/commands.h"

#include "cli/progress_line.h"
#include "cli/writing_arguments.h"
#include "core/atomic_file.h"
#include "core/error.h"
#include "tokenizer/tokenizer.h"
#include "writing/own_text.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace scalebits::cli {
namespace {

struct GenerateArguments {
  std::string model, prompt, prompt_file, corpus;
  WritingArguments writing;
  OwnTextOptions own_text;
  bool no_stop = false, no_echo = false;
};

/// All that a file holds, which may be a pipe; of "-", what standard input does.
std::string read_prompt(const std::string& path) {
  const bool standard = path == "-";
  const std::string name = standard ? "standard input" : path;
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(standard ? stdin : std::fopen(path.c_str(), "rb"),
                                                             std::fclose);
  std::string text, part(std::size_t{1} << 16, '\0');
  if (file)
    while (const std::size_t size = std::fread(part.data(), 1, part.size(), file.get())) text.append(part, 0, size);
  if (!file || std::ferror(file.get()) != 0) fail_input("{}: cannot be read: {}", name, std::strerror(errno));
  if (text.find('\0') != std::string::npos) fail_input("{}: wanted text in UTF-8, found a byte of 0", name);
  return text;
}

std::vector<std::int32_t> prompt_of(const RuntimeModel& model, const std::string& text) {
  const Tokenizer& tokenizer = model.require_tokenizer();
  std::vector<std::int32_t> prompt = tokenizer.encode(text, {.add_bos = tokenizer.adds_bos_by_default()});
  if (!prompt.empty()) return prompt;
  // An empty prompt: the beginning of any document.
  const auto start = tokenizer.start_token();
  if (!start)
    fail(ErrorKind::usage, "{}: the tokenizer has no beginning-of-text token, so the prompt must not be empty",
         model.source());
  return {*start};
}

void continue_prompt(const GenerateArguments& arguments) {
  const WritingArguments& writing = arguments.writing;
  const auto model = open_model(arguments.model, writing.runtime);
  const std::vector<std::int32_t> prompt = prompt_of(*model, arguments.prompt);
  Session session(*model, writing.runtime.session());
  // The last token is chosen, not read.
  if (static_cast<std::int64_t>(prompt.size()) + writing.tokens - 1 > session.max_positions())
    fail_input("{} prompt tokens and {} new ones are more than the {} positions there are", prompt.size(),
               writing.tokens, session.max_positions());
  TextWriter writer(session, model->require_tokenizer(),
                    {.sampling = writing.sampling,
                     .stop_ids = arguments.no_stop ? std::vector<std::int32_t>{} : model->spec().eos_ids,
                     .stops = writing.stops});
  if (!arguments.no_echo) print_now(arguments.prompt);
  const Written written = writer.write(prompt, writing.tokens, print_now);
  print_now("\n");
  if (writing.runtime.runtime.profile) print_writing_report(*model, written);
  if (written.end == WritingEnd::interrupted)
    fail(ErrorKind::interrupted, "stopped after {} tokens", written.tokens.size());
}

/// Text that the model writes from nothing: calibration or held-out text where no data set is at hand.
void write_corpus(GenerateArguments arguments) {
  require_card_for_positions(arguments.writing.runtime, "generate --corpus");
  if (arguments.corpus.empty()) fail(ErrorKind::usage, "--corpus: wanted the name of a file, found nothing");
  check_output(arguments.corpus, {arguments.model});
  const auto model = open_model(arguments.model, arguments.writing.runtime);
  const Tokenizer& tokenizer = model->require_tokenizer();
  arguments.own_text.start_token = tokenizer.bos();
  arguments.own_text.seed = arguments.writing.sampling.seed;
  arguments.own_text.kv = arguments.writing.runtime.kv;
  ProgressLine line;
  const auto texts = write_own_text(*model, arguments.own_text, std::ref(line));
  std::string text;
  for (const auto& tokens : texts) text += tokenizer.decode(tokens, {.special_text = false}) + "\n\n";
  write_file_atomically(arguments.corpus, text);
  fmt::print("{}: {} tokens\n", arguments.corpus, arguments.own_text.windows * arguments.own_text.length);
  if (arguments.writing.runtime.runtime.profile) print_profile(model->profile(), stderr);
}

/// Exactly one thing to write, and no option of the other.
void require_one_task(const CLI::App& command) {
  const bool corpus = command.count("--corpus") > 0;
  const auto tasks = int{corpus} + int{command.count("--prompt") > 0} + int{command.count("--prompt-file") > 0};
  if (tasks != 1) fail(ErrorKind::usage, "generate: give exactly one of --prompt, --prompt-file and --corpus");
  for (const char* const flag : {"--tokens", "--temperature", "--top-k", "--top-p", "--min-p", "--repetition-penalty",
                                 "--repetition-window", "--stop", "--no-stop", "--no-echo"})
    if (corpus && command.count(flag) > 0)
      fail(ErrorKind::usage,
           "generate: {} is for a prompt; --corpus writes --windows pieces of --length tokens at temperature 1", flag);
}

}  // namespace

void add_generate(CLI::App& app) {
  auto arguments = std::make_shared<GenerateArguments>();
  CLI::App* const command = app.add_subcommand("generate", "Continue a prompt, or write a corpus");
  command->add_option("MODEL", arguments->model, "Artifact, Hugging Face folder or GGUF file")->required();
  command->add_option("--prompt", arguments->prompt, "Text to continue")->type_name("TEXT");
  command
      ->add_option("--prompt-file", arguments->prompt_file,
                   "Continue the text in this file, a newline at its end included; -: standard input's")
      ->type_name("FILE");
  add_writing_options(*command, arguments->writing);
  auto* const corpus =
      command
          ->add_option("--corpus", arguments->corpus,
                       "Instead of continuing a prompt, write text of the model's own to this file, at temperature 1")
          ->type_name("FILE");
  command->add_flag("--no-stop", arguments->no_stop, "Go on after an end-of-text token");
  command->add_flag("--no-echo", arguments->no_echo, "Print the continuation only");
  command->add_option("--windows", arguments->own_text.windows, "Corpus: how many pieces of text [64]")
      ->check(CLI::Range(1, 1 << 20))
      ->type_name("N")
      ->needs(corpus);
  command->add_option("--length", arguments->own_text.length, "Corpus: tokens of each [512]")
      ->check(CLI::Range(2, 1 << 20))
      ->type_name("N")
      ->needs(corpus);
  command->footer(
      "Examples:\n"
      "  scalebits generate small.safetensors --prompt \"The capital of France is\"\n"
      "  scalebits generate small.safetensors --prompt \"Once upon a time\" --temperature 0.8 --top-p 0.95 --seed 7 "
      "-n 200\n"
      "  scalebits generate small.safetensors --prompt $'Q: What is a whale?\\nA:' --stop Q: --profile\n"
      "  scalebits generate small.safetensors --prompt-file article.txt --no-echo -n 200\n"
      "`scalebits chat` asks a model that was taught to converse.");
  command->callback([arguments, command] {
    require_one_task(*command);
    if (command->count("--corpus") > 0) return write_corpus(*arguments);
    require_temperature(*command, arguments->writing);
    if (command->count("--prompt-file") > 0) arguments->prompt = read_prompt(arguments->prompt_file);
    continue_prompt(*arguments);
  });
}

}  // namespace scalebits::cli
