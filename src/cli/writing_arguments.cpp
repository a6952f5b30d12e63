#include "cli/writing_arguments.h"

#include "cli/repeated_option.h"
#include "core/error.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <system_error>

namespace scalebits::cli {

void add_writing_options(CLI::App& command, WritingArguments& arguments) {
  SamplingOptions& sampling = arguments.sampling;
  command.add_option("-n,--tokens", arguments.tokens, fmt::format("Tokens to write at most [{}]", arguments.tokens))
      ->check(CLI::Range(1, 1 << 20))
      ->type_name("N");
  command
      .add_option("--temperature", sampling.temperature,
                  fmt::format("0: always the likeliest token; 1: as the model was trained; more: wilder [{}]",
                              sampling.temperature))
      ->check(CLI::Range(0.0, 100.0))
      ->type_name("T");
  command.add_option("--top-k", sampling.top_k, "Draw among the K likeliest tokens [all]")
      ->check(CLI::Range(1, 1 << 20))
      ->type_name("K");
  command
      .add_option(
          "--top-p", sampling.top_p,
          fmt::format("Draw among the likeliest tokens that together have this probability [{}]", sampling.top_p))
      ->check(CLI::Range(0.0, 1.0))
      ->type_name("P");
  command
      .add_option("--min-p", sampling.min_p,
                  fmt::format("Leave out tokens less likely than this share of the likeliest [{}]", sampling.min_p))
      ->check(CLI::Range(0.0, 1.0))
      ->type_name("P");
  command
      .add_option("--repetition-penalty", sampling.repetition_penalty,
                  fmt::format("Above 1: recent tokens become less likely, even at temperature 0 [{}]",
                              sampling.repetition_penalty))
      ->check(CLI::Range(0.01, 100.0))
      ->type_name("R");
  command
      .add_option("--repetition-window", sampling.repetition_window,
                  fmt::format("How many tokens are recent [{}]", sampling.repetition_window))
      ->check(CLI::Range(0, 1 << 20))
      ->type_name("N");
  command.add_option("--seed", sampling.seed, "Another seed, another text [0]")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 62))
      ->type_name("N");
  one_value_each_time(
      command.add_option("--stop", arguments.stops, "End the text before this one; may be given several times"))
      ->type_name("TEXT");
  add_runtime_options(command, arguments.runtime);
}

void require_temperature(const CLI::App& command, const WritingArguments& arguments) {
  if (arguments.sampling.temperature > 0) return;
  for (const char* const flag : {"--top-k", "--top-p", "--min-p", "--seed"})
    if (command.count(flag) > 0) fail(ErrorKind::usage, "{}: {} needs --temperature above 0", command.get_name(), flag);
}

void print_now(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0) return;
  if (errno != EINTR) throw std::system_error(errno, std::generic_category());
  std::clearerr(stdout);  // Ctrl-C in chat, while the reader let it wait
}

void print_writing_report(const RuntimeModel& model, const Written& written) {
  const auto rate = [](auto count, double seconds) { return seconds > 0 ? static_cast<double>(count) / seconds : 0; };
  fmt::print(stderr, "\nprompt: {} tokens kept from before, {} read in {:.3f} s ({:.1f} tokens/s)\n",
             written.kept_tokens, written.read_tokens, written.read_seconds,
             rate(written.read_tokens, written.read_seconds));
  print_profile(written.reading, stderr);
  const std::size_t count = written.tokens.size();
  fmt::print(stderr, "text: {} tokens in {:.3f} s ({:.1f} tokens/s, weights read at {:.1f} GB/s)\n", count,
             written.write_seconds, rate(count, written.write_seconds),
             1e-9 * rate(static_cast<double>(model.bytes_per_token()) * static_cast<double>(written.writing.passes),
                         written.write_seconds));
  print_profile(written.writing, stderr);
}

}  // namespace scalebits::cli
