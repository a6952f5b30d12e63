// The program `scalebits`: finds the sub-command, runs it, and turns errors into messages and exit statuses
// (2 usage, 3 bad input, 4 infeasible budget, 5 unsupported hardware, 6 lost process, 70 bug, 130 interrupted).
#include "cli/commands.h"

#include "core/error.h"
#include "core/parallel.h"
#include "core/progress.h"

#include <fmt/format.h>

#include <csignal>
#include <cstdio>

namespace {

/// The first Ctrl-C asks long work to save and stop; a second one ends the process at once.
void request_interrupt(int) {
  if (scalebits::interrupt_requested.exchange(true)) std::_Exit(130);
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
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::ParseError& error) {
    const int status = app.exit(error);
    return status == 0 ? 0 : static_cast<int>(ErrorKind::usage);
  } catch (const Error& error) {
    fmt::print(stderr, "scalebits: {}\n", error.what());
    return error.exit_status();
  } catch (const std::exception& error) {
    fmt::print(stderr, "scalebits: internal error, please report it: {}\n", error.what());
    return 70;
  }
}
