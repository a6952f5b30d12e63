// `scalebits random`: an artifact of a stated architecture with random weights, to measure speed on.
#include "cli/commands.h"

#include "artifact/artifact.h"
#include "bench/random_artifact.h"
#include "cli/progress_line.h"
#include "core/error.h"
#include "core/parallel.h"
#include "core/units.h"

#include <fmt/format.h>

#include <chrono>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace scalebits::cli {
namespace {

struct RandomOptions {
  std::string output, preset, widths;
  RandomArtifactOptions artifact;
  int threads = 0;
  bool quiet = false;
};

void write_random(const RandomOptions& options) {
  if (options.threads > 0) set_thread_count(options.threads);
  const auto start = std::chrono::steady_clock::now();
  const std::uint64_t wanted = artifact_file_bytes(describe_random_artifact(options.artifact));
  {
    ProgressLine line(options.quiet);
    write_random_artifact(options.output, options.artifact, [&](std::uint64_t bytes) {
      line({static_cast<double>(bytes) / static_cast<double>(wanted), "random weights", format_bytes(bytes)});
    });
  }
  const Artifact artifact = Artifact::open(options.output);
  fmt::print("{}: {}, linear layers {:.3f} bits per weight all-in, {:.1f} s\n", options.output,
             format_bytes(artifact.sizes().file()), artifact.sizes().linear_bpw(),
             std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
}

}  // namespace

void add_random(CLI::App& app) {
  auto options = std::make_shared<RandomOptions>();
  RandomArtifactOptions& artifact = options->artifact;
  CLI::App* const command = app.add_subcommand("random", "Write an artifact of random weights, to measure speed on");
  command->add_option("-o,--output", options->output, "The file to write")->required()->type_name("FILE");
  command
      ->add_option("--preset", options->preset,
                   "Architecture: 1.1b (16 layers of 2048/8192, vocabulary 32000) or 3b (28 of 3072/8192, 128256) "
                   "[1.1b]; sizes below go before it")
      ->type_name("NAME");
  using Size = std::int64_t RandomArtifactOptions::*;
  auto sizes = std::make_shared<std::vector<std::pair<CLI::Option*, Size>>>();
  const auto add_size = [&](const char* name, Size size, int most, const char* help) {
    CLI::Option* const option = command->add_option(name, artifact.*size, help)->check(CLI::Range(1, most));
    sizes->emplace_back(option->type_name("N"), size);
  };
  add_size("--layers", &RandomArtifactOptions::layers, 1 << 12, "Decoder layers");
  add_size("--hidden", &RandomArtifactOptions::hidden, 1 << 18, "Channels of the residual stream");
  add_size("--intermediate", &RandomArtifactOptions::intermediate, 1 << 20, "Channels inside the MLP");
  add_size("--heads", &RandomArtifactOptions::heads, 1 << 12, "Attention heads");
  add_size("--kv-heads", &RandomArtifactOptions::kv_heads, 1 << 12, "Heads of keys and values");
  add_size("--vocab", &RandomArtifactOptions::vocab, 1 << 22, "Tokens of the vocabulary");
  add_size("--positions", &RandomArtifactOptions::max_positions, 1 << 24, "Longest context [32768]");
  CLI::Option* const tied = command->add_flag("--tied,!--untied", artifact.tied_head, "The head is the embedding");
  command
      ->add_option_function<std::string>(
          "--widths", [options](const std::string& text) { options->artifact.widths = WidthMix::parse(text); },
          "Widths of the linear layers: one, or shares of blocks [2:0.66,3:0.22,4:0.11,8:0.01]")
      ->type_name("WIDTH:SHARE,…");
  command->add_option("--head", artifact.head_bits, "Width of embedding and head [6]; 16: F16")
      ->check(CLI::IsMember({1, 2, 3, 4, 5, 6, 7, 8, 16}))
      ->type_name("BITS");
  command
      ->add_option("--permute", artifact.orders,
                   "Channel orders [site]: none, one gather per input site and free rows, or each matrix its own")
      ->transform(CLI::CheckedTransformer(std::map<std::string, RandomOrders>{
          {"none", RandomOrders::none}, {"site", RandomOrders::site}, {"free", RandomOrders::free}}))
      ->type_name("none|site|free");
  command->add_option("--block-rows", artifact.block_rows, "Rows of a block [16]: 16, 32, 64, 128")->type_name("N");
  command->add_option("--block-cols", artifact.block_cols, "Columns of a block [64]: 64, 128")->type_name("N");
  command->add_option("--group", artifact.group_cols, "Weights under one scale [64]: 32, 64, 128")->type_name("N");
  command->add_option("--seed", artifact.seed, "Other codes, orders and places of widths [0]")
      ->type_name("N")
      ->check(CLI::Range(std::int64_t{0}, std::numeric_limits<std::int64_t>::max()));
  command->add_option("--threads", options->threads, "Threads to use [all]")
      ->check(CLI::Range(1, 4096))
      ->type_name("N");
  command->add_flag("--quiet", options->quiet, "No progress");
  command->callback([options, sizes, tied] {
    if (!options->preset.empty()) {
      RandomArtifactOptions preset;
      apply_preset(options->preset, preset);
      for (const auto& [option, size] : *sizes)
        if (option->count() == 0) options->artifact.*size = preset.*size;
      if (tied->count() == 0) options->artifact.tied_head = preset.tied_head;
    }
    write_random(*options);
  });
}

}  // namespace scalebits::cli
