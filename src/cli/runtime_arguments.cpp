#include "cli/runtime_arguments.h"

#include "core/error.h"
#include "core/units.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

namespace scalebits::cli {

void add_runtime_options(CLI::App& command, RuntimeArguments& arguments) {
  command.add_option("--threads", arguments.runtime.threads, "Threads to use [one for each core]")
      ->check(CLI::Range(1, 1024))
      ->type_name("N");
  command
      .add_option_function<std::string>(
          "--isa", [&arguments](const std::string& name) { arguments.runtime.isa = isa_from_name(name); },
          "The highest instruction set to use, of those that `scalebits kernels` lists [the machine's]")
      ->type_name("ISA");
  const bool exact = arguments.runtime.activations == ActivationFormat::f32;
  command
      .add_option_function<std::string>(
          "--activations",
          [&arguments](const std::string& name) {
            arguments.runtime.activations = name == "i8" ? ActivationFormat::i8 : ActivationFormat::f32;
          },
          fmt::format("Inputs of products with packed weights: i8 is fast, f32 exact [{}]", exact ? "f32" : "i8"))
      ->check(CLI::IsMember({"f32", "i8"}))
      ->type_name("TYPE");
  command
      .add_option_function<std::string>(
          "--kv", [&arguments](const std::string& name) { arguments.kv = name == "i8" ? KvType::i8 : KvType::f16; },
          fmt::format("How keys and values are kept: i8 takes half the memory [{}]",
                      arguments.kv == KvType::f16 ? "f16" : "i8"))
      ->check(CLI::IsMember({"f16", "i8"}))
      ->type_name("TYPE");
  command
      .add_option("--positions", arguments.positions,
                  "Positions of a sequence to keep room for [the model's; on a card at most 8192 of them]")
      ->check(CLI::Range(1, 1 << 24))
      ->type_name("N");
  command
      .add_option_function<std::string>(
          "--device",
          [&arguments](const std::string& name) {
            arguments.runtime.device = name == "cuda" ? RuntimeDevice::cuda : RuntimeDevice::cpu;
          },
          "Where layers run: cpu, or cuda, the first card; activations are f16 there [cpu]")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->type_name("DEVICE");
  command
      .add_option_function<std::string>(
          "--gpu-memory",
          [&arguments](const std::string& size) { arguments.runtime.card.memory_bytes = parse_bytes(size); },
          "cuda: memory of the card to take; layers that do not fit run here [all that is free]")
      ->type_name("SIZE");
  command.add_flag("--profile", arguments.runtime.profile, "Print the time that each operation took");
}

void require_card_for_positions(const RuntimeArguments& arguments, const char* command) {
  if (arguments.positions > 0 && arguments.runtime.device == RuntimeDevice::cpu)
    fail(ErrorKind::usage, "{}: --positions needs --device cuda; on the CPU it takes the room that it needs", command);
}

std::unique_ptr<RuntimeModel> open_model(const std::string& path, const RuntimeArguments& arguments) {
  RuntimeOptions options = arguments.runtime;
  if (options.device == RuntimeDevice::cpu && options.card.memory_bytes > 0)
    fail(ErrorKind::usage, "--gpu-memory needs --device cuda");
  options.card.kv = arguments.kv;
  options.card.positions = arguments.positions;
  auto model = RuntimeModel::open(path, options);
  if (!model->placement().empty()) fmt::print(stderr, "{}: {}\n", path, model->placement());
  return model;
}

void print_profile(const Profile& profile, std::FILE* to) {
  const double total = profile.total_seconds();
  fmt::print(to, "{} tokens in {} passes, {:.3f} s in all:\n", profile.tokens, profile.passes, total);
  for (std::size_t i = 0; i < kOperations; ++i) {
    const double seconds = profile.seconds[i];
    if (seconds == 0) continue;
    fmt::print(to, "  {:<16} {:>10.3f} ms {:>5.1f} % {:>10.1f} µs per pass\n", name_of(static_cast<Operation>(i)),
               1e3 * seconds, total > 0 ? 100 * seconds / total : 0,
               profile.passes > 0 ? 1e6 * seconds / static_cast<double>(profile.passes) : 0);
  }
}

}  // namespace scalebits::cli
