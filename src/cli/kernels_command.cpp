// `scalebits kernels`: every kernel in this program, what it needs, and which ones would run on this machine.
#include "cli/commands.h"

#include "core/error.h"
#include "core/json.h"
#include "kernels/cuda/packed_matrix.h"
#include "kernels/isa.h"
#include "kernels/kernel.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace scalebits::cli {
namespace {

struct KernelsOptions {
  std::string isa;
  bool json = false;
};

struct Row {
  std::string_view name;
  std::string_view operation;
  Isa isa;
  std::string chosen;  // for what; empty: not
};

constexpr std::string_view operation_of(ActivationFormat format, bool gather) {
  if (gather) return format == ActivationFormat::i8 ? "gather to 8-bit" : "gather to f32";
  return format == ActivationFormat::i8 ? "packed x 8-bit" : "packed x f32";
}

/// "rows 1-15", "rows 16-": the numbers of activation rows for which `kernel` is taken; empty: none.
std::string rows_of(const PackedKernel& kernel, const KernelChoice& choice) {
  std::set<std::int64_t> starts = {1};  // the choice changes only where some kernel begins
  for (const PackedKernel& other : packed_kernels()) starts.insert(other.least_rows);
  std::string text;
  bool taken = false;
  for (const std::int64_t start : starts) {
    const bool here = &choice.packed(kernel.format, start) == &kernel;
    if (here && !taken) text += fmt::format("{}{}-", text.empty() ? "rows " : ", ", start);
    if (!here && taken) text += std::to_string(start - 1);
    taken = here;
  }
  return text;
}

std::vector<Row> all_rows(const KernelChoice& choice) {
  std::vector<Row> rows;
  for (const PackedKernel& kernel : packed_kernels())
    rows.push_back({kernel.name, operation_of(kernel.format, false), kernel.isa, rows_of(kernel, choice)});
  for (const GatherKernel& kernel : gather_kernels())
    rows.push_back({kernel.name, operation_of(kernel.format, true), kernel.isa,
                    &choice.gather(kernel.format) == &kernel ? "yes" : ""});
  for (const DenseKernel& kernel : dense_kernels())
    rows.push_back({kernel.name, "16- and 32-bit weights", kernel.isa, choice.dense == &kernel ? "yes" : ""});
  return rows;
}

struct CudaCards {
  std::vector<std::string> found;
  std::string why_none;
};

CudaCards cuda_cards() {
  CudaCards cards;
  try {
    for (const cuda::Card& card : require_cards())
      cards.found.push_back(fmt::format("{} ({}.{}, {:.0f} GiB)", card.name, card.major, card.minor,
                                        static_cast<double>(card.bytes) / (1 << 30)));
  } catch (const Error& error) {
    cards.why_none = error.what();
  }
  return cards;
}

void list(const KernelsOptions& options) {
  const Isa highest = highest_isa(options.isa.empty() ? std::nullopt : std::optional(isa_from_name(options.isa)));
  const std::vector<Row> rows = all_rows(KernelChoice(highest));
  const CudaCards cards = cuda_cards();
  if (options.json) {
    Json report = {{"highest", name_of(highest)}, {"sets", Json::object()}, {"kernels", Json::array()}};
    for (const Isa isa : kIsas) report["sets"][std::string(name_of(isa))] = machine_has(isa);
    for (const Row& row : rows)
      report["kernels"].push_back({{"name", row.name},
                                   {"operation", row.operation},
                                   {"isa", name_of(row.isa)},
                                   {"present", machine_has(row.isa)},
                                   {"chosen", row.chosen}});
    report["cuda"] = {{"cards", cards.found}, {"why_none", cards.why_none}};
    return fmt::print("{}\n", report.dump(2));
  }
  fmt::print("instruction sets:");
  for (const Isa isa : kIsas)
    fmt::print(" {}{}", name_of(isa), !machine_has(isa) ? " (not here)" : isa > highest ? " (not allowed)" : "");
  fmt::print("\n\n{:<28} {:<24} {:<12} {:<8} {}\n", "kernel", "operation", "needs", "here", "chosen");
  for (const Row& row : rows)
    fmt::print("{:<28} {:<24} {:<12} {:<8} {}\n", row.name, row.operation, name_of(row.isa),
               machine_has(row.isa) ? "yes" : "no", row.chosen.empty() ? "-" : row.chosen);
  for (const std::string& card : cards.found) fmt::print("\ncuda: {}", card);
  fmt::print("{}\n", cards.why_none.empty() ? "" : "\ncuda: not here: " + cards.why_none);
}

}  // namespace

void add_kernels(CLI::App& app) {
  auto options = std::make_shared<KernelsOptions>();
  CLI::App* const command = app.add_subcommand("kernels", "List all kernels, and which ones run on this machine");
  command
      ->add_option(
          "--isa", options->isa,
          "Highest instruction set to use: scalar, avx2, avx-vnni, avx512-vnni, amx [all that the machine has]")
      ->type_name("SET");
  command->add_flag("--json", options->json, "Print as JSON");
  command->callback([options] { list(*options); });
}

}  // namespace scalebits::cli
