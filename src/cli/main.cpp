// The program `scalebits`: finds the sub-command, runs it, and turns errors into messages and exit statuses
// (2 usage, 3 bad input, 4 infeasible budget, 5 unsupported hardware, 6 lost process, 70 bug, 130 interrupted).
#include "cli/commands.h"
#include "cli/help_format.h"

#include "core/error.h"
#include "core/parallel.h"
#include "core/progress.h"

#include <fmt/format.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <iostream>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <system_error>

namespace {

/// The first Ctrl-C asks long work to save and stop; a second one ends the process at once.
void request_interrupt(int) {
  if (scalebits::interrupt_requested.exchange(true)) std::_Exit(130);
}

/// CLI11 would only say that some command is wanted.
void require_known_command(const CLI::App& app, int argc, char** argv) {
  using namespace scalebits;
  if (argc < 2 || argv[1][0] == '-') return;
  std::string names;
  for (const CLI::App* const command : app.get_subcommands({})) {
    if (command->get_name() == argv[1]) return;
    names += (names.empty() ? "" : ", ") + command->get_name();
  }
  fail(ErrorKind::usage, "there is no command '{}'; there are {}", argv[1], names);
}

/// An option of many values, such as --calibration, goes on to the next flag, and MODEL may be among what it took.
void tell_what_took_model(const CLI::App& app, const CLI::ParseError& error) {
  if (!std::string_view(error.what()).starts_with("MODEL is required")) return;
  for (const CLI::App* const command : app.get_subcommands())
    for (const CLI::Option* const option : command->get_options())
      if (option->get_allow_extra_args() && option->count() > 1)
        fmt::print(stderr, "{} took '{}', too: if that is MODEL, put it in front of {}.\n", option->get_name(),
                   option->results().back(), option->get_name());
}

}  // namespace

int main(int argc, char** argv) {
  using namespace scalebits;
  limit_spinning(argv);
  CLI::App app{
      "Fit a language model into the memory you have, losing as little quality as possible.\n"
      "Start with:  scalebits quantize MODEL -o small.safetensors --budget 60MiB\n"
      "MODEL is a Hugging Face folder or a GGUF file. `scalebits COMMAND --help` explains each command.",
      "scalebits"};
  app.formatter(std::make_shared<cli::HelpFormat>());  // commands take it over
  app.require_subcommand(1);
  app.set_version_flag("--version", "scalebits 0.1.0");
  cli::add_quantize(app);
  cli::add_plan(app);
  cli::add_compare(app);
  cli::add_perplexity(app);
  cli::add_kl(app);
  cli::add_zeroshot(app);
  cli::add_generate(app);
  cli::add_chat(app);
  cli::add_inspect(app);
  cli::add_verify(app);
  cli::add_train(app);
  cli::add_convert(app);
  cli::add_kernels(app);
  cli::add_bench(app);
  cli::add_random(app);
  std::signal(SIGINT, request_interrupt);
  try {
    require_known_command(app, argc, argv);
    app.parse(argc, argv);
    if (std::fflush(stdout) != 0 || std::ferror(stdout)) throw std::system_error(errno, std::generic_category());
    return 0;
  } catch (const CLI::ParseError& error) {
    const int status = app.exit(error);
    if (status == 0) return std::cout.flush() ? 0 : static_cast<int>(ErrorKind::bad_input);  // --help and --version
    tell_what_took_model(app, error);
    return static_cast<int>(ErrorKind::usage);
  } catch (const Error& error) {
    fmt::print(stderr, "scalebits: {}\n", error.what());
    return error.exit_status();
  } catch (const std::system_error& error) {  // of file systems, and of streams by way of fmt
    fmt::print(stderr, "scalebits: {}{}\n", std::ferror(stdout) ? "standard output cannot be written: " : "",
               error.what());
    return static_cast<int>(ErrorKind::bad_input);
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "scalebits: this machine's memory is out\n");
    return static_cast<int>(ErrorKind::unsupported_hardware);
  } catch (const std::exception& error) {
    fmt::print(stderr, "scalebits: internal error, please report it: {}\n", error.what());
    return 70;
  }
}
