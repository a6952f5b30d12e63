// `scalebits chat`: a conversation on standard input and output, written down by the model's own chat template. One
// line is one turn; what was read before is kept, and only new tokens are evaluated.
#include "cli/commands.h"

#include "chat/conversation.h"
#include "cli/writing_arguments.h"
#include "core/error.h"
#include "core/progress.h"
#include "tokenizer/tokenizer.h"

#include <fmt/format.h>

#include <poll.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <ctime>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace scalebits::cli {
namespace {

struct ChatArguments {
  std::string model, system;
  WritingArguments writing{.tokens = 1024, .sampling = {.temperature = 0.7, .top_p = 0.95}};
};

constexpr const char* kCommands =
    "  /reset   begin a new conversation\n"
    "  /quit    end (so does the end of the input, Ctrl-D)\n"
    "  /help    this list\n"
    "A line that ends in \\ goes on in the next one. Ctrl-C stops an answer; between answers, it ends.\n";

/// Reading a line gives up at Ctrl-C instead of going on waiting.
void let_interrupts_end_reading() {
  struct sigaction action{};
  sigaction(SIGINT, nullptr, &action);
  action.sa_flags &= ~SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
}

std::tm local_time() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  return local;
}

std::vector<std::int32_t> stop_ids_of(const RuntimeModel& model, const Conversation& conversation) {
  std::vector<std::int32_t> ids = model.spec().eos_ids;
  for (const auto& id : {model.require_tokenizer().eos(), conversation.turn_end()})
    if (id) ids.push_back(*id);
  return ids;
}

class Chat {
 public:
  explicit Chat(const ChatArguments& arguments)
      : arguments_(arguments), interactive_(isatty(STDIN_FILENO) == 1),
        model_(open_model(arguments.model, arguments.writing.runtime)),
        conversation_(ChatTemplate(model_->chat_template(), model_->require_tokenizer(), arguments.model),
                      model_->require_tokenizer(), arguments.system, local_time()),
        session_(*model_, arguments.writing.runtime.session()),
        writer_(session_, model_->require_tokenizer(),
                {.sampling = arguments.writing.sampling,
                 .stop_ids = stop_ids_of(*model_, conversation_),
                 .stops = arguments.writing.stops,
                 .text_start = true}) {}

  void run() {
    if (interactive_) fmt::print("Say something; /help lists what else can be done.\n");
    while (const auto words = read_words()) {
      if (*words == "/quit") return;
      if (*words == "/reset")
        conversation_.reset();
      else if (*words == "/help")
        print_now(kCommands);
      else if (words->starts_with('/') && words->find_first_of(" /.", 1) == std::string::npos)
        fmt::print(stderr, "{} is not known here:\n{}", *words, kCommands);
      else if (!words->empty())
        answer(*words);
    }
  }

 private:
  /// False once Ctrl-C was pressed: a read that begins just after would wait for a line first. A terminal hands over
  /// one line at a time, so none lies in a buffer.
  bool input_comes() const {
    pollfd input{.fd = STDIN_FILENO, .events = POLLIN};
    while (interactive_ && !interrupt_requested)
      if (::poll(&input, 1, 100) > 0) return true;
    return !interactive_;
  }

  /// nullopt at the end of the input.
  std::optional<std::string> read_words() {
    std::string words, line;
    if (interactive_) print_now("\n> ");
    while (input_comes() && std::getline(std::cin, line)) {
      if (line.ends_with('\r')) line.pop_back();  // of a file from Windows
      words += line;
      if (!words.ends_with('\\')) return words;
      words.back() = '\n';
    }
    if (interactive_) print_now("\n");
    if (interrupt_requested && !interactive_) fail(ErrorKind::interrupted, "the conversation was interrupted");
    return words.empty() || interrupt_requested ? std::nullopt : std::optional(words);
  }

  void answer(const std::string& words) {
    Written written;
    bool asked = false;
    try {
      const std::vector<std::int32_t> prompt = conversation_.ask(words);
      asked = true;
      written = writer_.write(prompt, arguments_.writing.tokens, print_now);
    } catch (const Error& error) {
      if (!interactive_) throw;
      if (asked) conversation_.forget_question();  // a question that the template refuses is not in the conversation
      interrupt_requested = false;
      fmt::print(stderr, "{}\n", error.what());
      return;
    }
    print_now("\n");
    conversation_.answer(std::span(written.tokens).first(written.shown_tokens));
    if (arguments_.writing.runtime.runtime.profile) print_writing_report(*model_, written);
    if (written.end == WritingEnd::token_limit)
      fmt::print(stderr, "(stopped after {} tokens; -n allows more)\n", written.tokens.size());
    if (written.end == WritingEnd::out_of_positions)
      fmt::print(stderr, "(the model's {} positions are full; /reset begins anew)\n", session_.max_positions());
    if (written.end != WritingEnd::interrupted) return;
    if (!interactive_) fail(ErrorKind::interrupted, "stopped after {} tokens", written.tokens.size());
    interrupt_requested = false;
  }

  const ChatArguments& arguments_;
  const bool interactive_;
  std::unique_ptr<RuntimeModel> model_;
  Conversation conversation_;
  Session session_;
  TextWriter writer_;
};

}  // namespace

void add_chat(CLI::App& app) {
  auto arguments = std::make_shared<ChatArguments>();
  CLI::App* const command = app.add_subcommand("chat", "Converse with a model that was taught to");
  command
      ->add_option("MODEL", arguments->model,
                   "Artifact, Hugging Face folder or GGUF file; it must have a chat template")
      ->required();
  command
      ->add_option("--system", arguments->system,
                   "What the model is told first, above all questions [what its template has, often nothing]")
      ->type_name("TEXT");
  add_writing_options(*command, arguments->writing);
  command->footer(
      fmt::format("Each line is a question; between them:\n{}"
                  "Examples:\n"
                  "  scalebits chat small.safetensors --system \"Answer in one sentence.\"\n"
                  "  echo \"What is a whale?\" | scalebits chat small.safetensors --temperature 0",
                  kCommands));
  command->callback([arguments, command] {
    require_temperature(*command, arguments->writing);
    let_interrupts_end_reading();
    Chat(*arguments).run();
  });
}

}  // namespace scalebits::cli
