// `scalebits bench`: what this machine can do, and how near our products, or a whole model, come to it.
#include "cli/commands.h"

#include "bench/bench_report.h"
#include "cli/progress_line.h"
#include "cli/repeated_option.h"
#include "cli/runtime_arguments.h"
#include "core/atomic_file.h"
#include "core/cores.h"
#include "core/error.h"
#include "core/json_text.h"
#include "core/progress.h"
#include "core/units.h"

#include <fmt/format.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace scalebits::cli {
namespace {

constexpr int kMostTokens = 1 << 24;  // more than any model's positions

struct BenchOptions {
  std::string model, json, scratch;
  std::vector<std::string> shapes = {"4096x14336", "14336x4096", "576x1536"};
  std::vector<std::int64_t> batches = {1, 2, 4, 8, 16, 256};
  std::vector<std::string> widths;
  std::uint64_t pool_bytes = 0;
  int rounds = 21, block_rows = 16;
  bool quick = false, huge_pages = false, quiet = false;
  RuntimeArguments arguments;
  ModelBenchOptions for_model;
};

struct BenchResult {
  MachineRates machine;
  std::vector<ProductGroup> products;
  ModelBenchResult model;
};

std::pair<std::int64_t, std::int64_t> parse_shape(const std::string& text) {
  std::int64_t rows = 0, cols = 0;
  int used = 0;
  if (std::sscanf(text.c_str(), "%ldx%ld%n", &rows, &cols, &used) != 2 || used != int(text.size()) || rows < 1 ||
      cols < 1)
    fail(ErrorKind::usage, "a shape is OUTPUTSxINPUTS, found '{}'", text);
  return {rows, cols};
}

std::vector<ProductCase> cases_of(const BenchOptions& options) {
  if (options.widths.empty()) return options.quick ? few_product_cases() : all_product_cases();
  std::vector<ProductCase> cases;
  for (const std::string& text : options.widths) {
    const WidthMix mix = WidthMix::parse(text);
    cases.push_back({(text.find(':') == std::string::npos ? "uniform " : "mixed ") + mix.text(), mix});
  }
  return cases;
}

void stop_if_interrupted() {
  if (interrupt_requested) fail(ErrorKind::interrupted, "bench: interrupted, nothing was written");
}

/// All shapes and batches on this pool; `done` of `all` pools are behind us.
void measure_products(const BenchOptions& options, Isa isa, WeightPool& pool, ThreadPool& threads, double done,
                      double all, ProgressLine& line, BenchResult& result) {
  LinearRunner runner(threads, isa, options.arguments.runtime.activations);
  const bool huge = pool.pages() == WeightPool::Pages::huge;
  for (std::size_t i = 0; i < options.shapes.size(); ++i) {
    const auto [rows, cols] = parse_shape(options.shapes[i]);
    ProductGroup group{.rows = rows, .cols = cols, .pages = pool.pages(), .cases = cases_of(options)};
    line({(done + static_cast<double>(i) / static_cast<double>(options.shapes.size())) / all, options.shapes[i],
          huge ? "huge pages" : "mapped file"});
    const ProductSetting setting{
        .rows = rows, .cols = cols, .block_rows = options.block_rows, .rounds = options.rounds};
    ProductBench bench(setting, group.cases, pool, threads);
    for (const std::int64_t batch : options.batches) {
      stop_if_interrupted();
      const int rounds = batch > 64 ? std::min(options.rounds, 5) : options.rounds;  // long ones vary little
      for (ProductTimes& times : bench.run(runner, isa, batch, rounds)) group.times.push_back(std::move(times));
    }
    result.products.push_back(std::move(group));
  }
}

BenchResult measure(const BenchOptions& options, Isa isa, ProgressLine& line) {
  BenchResult result;
  ThreadPool threads(options.arguments.runtime.threads);
  const double parts = options.huge_pages ? 2 : 1;
  line({0, "writing", format_bytes(options.pool_bytes) + " of random weights"});
  WeightPool file(WeightPool::Pages::ordinary, options.scratch, options.pool_bytes, threads);
  file.settle(threads);
  const int repeats = options.quick ? 5 : 11;
  result.machine = measure_machine(threads, isa, file, repeats);
  if (options.model.empty()) {
    measure_products(options, isa, file, threads, 0, parts, line, result);
    if (options.huge_pages) {
      WeightPool huge(WeightPool::Pages::huge, options.scratch, options.pool_bytes, threads);
      for (Rate rate : measure_machine(threads, isa, huge, repeats).reading) {
        rate.name += ", huge pages";
        result.machine.reading.push_back(std::move(rate));
      }
      measure_products(options, isa, huge, threads, 1, parts, line, result);
    }
  } else {
    result.model = bench_model(options.model, options.for_model, [&](const std::string& work) {
      stop_if_interrupted();
      line({0.5, options.model, work});
    });
  }
  // Other programs come and go: a limit counts as the best that was seen before and after.
  MachineRates after = measure_machine(threads, isa, file, repeats);
  for (std::size_t i = after.reading.size(); i < result.machine.reading.size(); ++i)
    after.reading.push_back(result.machine.reading[i]);
  result.machine = better_of(std::move(result.machine), after);
  return result;
}

void print_products(const std::vector<ProductRow>& rows) {
  const ProductRow* above = nullptr;
  for (const ProductRow& row : rows) {
    if (above == nullptr || above->shape != row.shape || above->batch != row.batch || above->pages != row.pages)
      fmt::print("\n{}, {} row{}, {} pages, {}\n{:<26} {:>6} {:>10} {:>10} {:>7} {:>8} {:>9} {:>8} {:>8}\n", row.shape,
                 row.batch, row.batch == 1 ? "" : "s", row.pages, row.kernel, "weights", "bpw", "median us", "best us",
                 "GB/s", "/ read", "roofline", "GFLOPS", "of peak");
    fmt::print("{:<26} {:>6.3f} {:>10.1f} {:>10.1f} {:>7.2f} {:>8.3f} {:>7.1f} % {:>8.1f} {:>6.1f} %\n", row.name,
               row.bits_per_weight, row.microseconds, row.best_microseconds, row.gigabytes_per_second, row.over_read,
               100 * row.roofline_share, row.gigaflops, 100 * row.peak_share);
    above = &row;
  }
}

void report(const BenchOptions& options, Isa isa, const BenchResult& result) {
  Json json = {{"isa", name_of(isa)},
               {"threads", options.arguments.runtime.threads},
               {"activations", options.arguments.runtime.activations == ActivationFormat::i8 ? "i8" : "f32"},
               {"pool_bytes", options.pool_bytes},
               {"rounds", options.rounds},
               {"reading_bytes_per_second", to_json(result.machine.reading)},
               {"operations_per_second", to_json(result.machine.operations)}};
  fmt::print("{} threads, up to {}\n", options.arguments.runtime.threads, name_of(isa));
  for (const Rate& rate : result.machine.reading)
    fmt::print("reading, {:<30} {:>7.2f} GB/s at best, median {:.2f}\n", rate.name, rate.best / 1e9, rate.median / 1e9);
  for (const Rate& rate : result.machine.operations)
    fmt::print("8-bit integers, {:<23} {:>7.0f} GOPS at best, median {:.0f}\n", rate.name, rate.best / 1e9,
               rate.median / 1e9);
  std::vector<ProductRow> rows;
  std::vector<RatioRow> ratios;
  for (const ProductGroup& group : result.products) {
    for (ProductRow& row : product_rows(group, result.machine)) rows.push_back(std::move(row));
    for (RatioRow& row : product_ratios(group)) ratios.push_back(std::move(row));
  }
  print_products(rows);
  if (!ratios.empty()) fmt::print("\n");
  for (const RatioRow& row : ratios)
    fmt::print("{:<12} {:<9} {:<60} {:.3f}\n", row.shape, row.pages, row.what, row.value);
  json["products"] = Json::array();
  for (const ProductRow& row : rows) json["products"].push_back(to_json(row));
  json["ratios"] = Json::array();
  for (const RatioRow& row : ratios) json["ratios"].push_back(to_json(row));
  if (!options.model.empty()) {
    json["model"] = {{"path", options.model}, {"bytes_per_token", result.model.bytes_per_token}};
    if (!result.model.placement.empty()) json["model"]["placement"] = result.model.placement;
    fmt::print("\n{}: {} of weights for each step of decoding\n{}", options.model,
               format_bytes(result.model.bytes_per_token),
               result.model.placement.empty() ? "" : result.model.placement + "\n");
    for (const ModelRow& row : model_rows(result.model, result.machine)) {
      fmt::print("{:<20} {:>5} tokens, context {:>5}, batch {:>2}: {:>9.2f} ms, {:>9.2f} tokens/s", row.work,
                 row.tokens, row.context, row.batch, 1e3 * row.seconds, row.tokens_per_second);
      if (row.roofline_share > 0) fmt::print(", {:.1f} % of the roofline", 100 * row.roofline_share);
      fmt::print("\n");
      if (row.profile.passes > 0) print_profile(row.profile);
      json["model"]["times"].push_back(to_json(row));
    }
  }
  if (!options.json.empty()) write_file_atomically(options.json, json_text(json, 1) + "\n");
}

/// What the longest measurement reads and writes.
std::int64_t positions_of(const ModelBenchOptions& options) {
  std::int64_t most = options.tokens;
  for (const std::int64_t prompt : options.prompts) most = std::max(most, prompt);
  for (const std::int64_t context : options.contexts) most = std::max(most, context + options.tokens);
  return most;
}

/// Single products and a whole model each have options of their own.
void require_own_options(const CLI::App& command, bool model) {
  const std::pair<const char*, const char*> of_products[] = {
      {"--shapes", ""},     {"--batches", "; --sequences says how many are written together"},
      {"--widths", ""},     {"--rounds", "; --repeats says how often each is measured"},
      {"--block-rows", ""}, {"--huge-pages", ""}};
  for (const auto& [flag, instead] : of_products)
    if (model && command.count(flag) > 0)
      fail(ErrorKind::usage, "bench: {} is for single products, not for a MODEL{}", flag, instead);
  for (const char* const flag :
       {"--prompts", "--contexts", "--sequences", "--tokens", "--repeats", "--kv", "--profile"})
    if (!model && command.count(flag) > 0) fail(ErrorKind::usage, "bench: {} needs a MODEL", flag);
}

void bench(BenchOptions options, const std::string& pool) {
  require_card_for_positions(options.arguments, "bench");
  if (!options.json.empty()) check_output(options.json, {options.model});
  options.pool_bytes = parse_bytes(pool);
  if (options.scratch.empty()) options.scratch = std::filesystem::temp_directory_path();
  if (options.arguments.runtime.threads == 0) options.arguments.runtime.threads = available_cores();
  const Isa isa = highest_isa(options.arguments.runtime.isa);
  RuntimeOptions& runtime = options.for_model.runtime;
  runtime = options.arguments.runtime;
  options.for_model.kv = runtime.card.kv = options.arguments.kv;
  if (!options.model.empty()) options.for_model = cut_to_positions(options.model, std::move(options.for_model));
  if (runtime.device == RuntimeDevice::cuda) {
    if (options.model.empty())
      fail(ErrorKind::usage, "bench: --device cuda needs a MODEL; tools/gpu_check measures single products on a card");
    runtime.card.positions =
        options.arguments.positions > 0 ? options.arguments.positions : positions_of(options.for_model);
  }
  BenchResult result;
  {
    ProgressLine line(options.quiet);
    result = measure(options, isa, line);
  }
  report(options, isa, result);
}

}  // namespace

void add_bench(CLI::App& app) {
  auto options = std::make_shared<BenchOptions>();
  auto pool = std::make_shared<std::string>("1280MiB");
  CLI::App* const command =
      app.add_subcommand("bench", "Measure the machine, then our products, or a whole model, beside it");
  command->add_option("MODEL", options->model, "Measure tokens per second of this model instead of single products");
  add_runtime_options(*command, options->arguments);
  CLI::Option* const shapes =
      command->add_option("--shapes", options->shapes, "Products: outputs x inputs of the weights")
          ->delimiter(',')
          ->type_name("RxC,…")
          ->capture_default_str();
  CLI::Option* const batches = command->add_option("--batches", options->batches, "Products: rows of activations")
                                   ->check(CLI::Range(1, 1 << 16))
                                   ->delimiter(',')
                                   ->type_name("N,…")
                                   ->capture_default_str();
  one_value_each_time(command->add_option("--widths", options->widths,
                                          "Products: a width or a mix such as 2:0.5,3:0.5; may be given several times"))
      ->type_name("MIX");
  CLI::Option* const rounds = command->add_option("--rounds", options->rounds, "Products: times that each is measured")
                                  ->check(CLI::Range(1, 10000))
                                  ->type_name("N")
                                  ->capture_default_str();
  command->add_option("--block-rows", options->block_rows, "Products: rows of a block")
      ->check(CLI::IsMember({16, 32, 64, 128}))
      ->type_name("N")
      ->capture_default_str();
  command->add_option("--pool", *pool, "Memory that weights are spread over: more than any cache holds")
      ->type_name("SIZE")
      ->capture_default_str();
  command->add_flag("--huge-pages", options->huge_pages, "Products: measure them on a copy in huge pages, too");
  CLI::Option* const prompts = command->add_option("--prompts", options->for_model.prompts, "Model: lengths of prompts")
                                   ->check(CLI::Range(1, kMostTokens))
                                   ->delimiter(',')
                                   ->type_name("N,…")
                                   ->capture_default_str();
  CLI::Option* const contexts =
      command->add_option("--contexts", options->for_model.contexts, "Model: tokens read before writing starts")
          ->check(CLI::Range(0, kMostTokens))
          ->delimiter(',')
          ->type_name("N,…")
          ->capture_default_str();
  command->add_option("--sequences", options->for_model.batches, "Model: sequences written together")
      ->check(CLI::Range(1, 1024))
      ->delimiter(',')
      ->type_name("N,…")
      ->capture_default_str();
  CLI::Option* const tokens =
      command->add_option("--tokens", options->for_model.tokens, "Model: tokens written each time")
          ->check(CLI::Range(1, kMostTokens))
          ->type_name("N")
          ->capture_default_str();
  command->add_option("--repeats", options->for_model.repeats, "Model: times that each is measured")
      ->check(CLI::Range(1, 10000))
      ->type_name("N")
      ->capture_default_str();
  command->add_option("--scratch", options->scratch, "Folder for the file that weights are mapped from [the system's]")
      ->check(CLI::ExistingDirectory)
      ->type_name("FOLDER");
  command->add_option("--json", options->json, "Write all figures as JSON")->type_name("FILE");
  command->add_flag("--quick", options->quick, "Fewer cases, rounds and contexts, unless named");
  command->add_flag("--quiet", options->quiet, "No progress");
  command->callback([=] {
    require_own_options(*command, !options->model.empty());
    if (options->quick) {
      if (shapes->count() == 0) options->shapes = {"4096x14336"};
      if (batches->count() == 0) options->batches = {1, 4, 16, 256};
      if (rounds->count() == 0) options->rounds = 7;
      if (contexts->count() == 0) options->for_model.contexts = {0};
    }
    options->for_model.prompts_asked = prompts->count() > 0;
    options->for_model.contexts_asked = contexts->count() > 0;
    options->for_model.tokens_asked = tokens->count() > 0;
    bench(*options, *pool);
  });
}

}  // namespace scalebits::cli
