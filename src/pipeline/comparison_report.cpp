#include "pipeline/comparison_report.h"

#include "evaluate/perplexity.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace scalebits {
namespace {

bool is_ours(const Json& row) { return row.contains("rate"); }

/// Differences of two rows' values for each window, in nats per token; no windows when a row lacks them.
WindowMeans paired(const Json& row, const Json& base, const char* key) {
  WindowMeans differences;
  if (!row.contains(key) || !base.contains(key)) return differences;
  const std::vector<double> ours = row[key], theirs = base[key];
  if (ours.size() != theirs.size()) return differences;
  for (std::size_t i = 0; i < ours.size(); ++i) differences.windows.push_back(ours[i] - theirs[i]);
  return differences;
}

std::string text_of(const WindowMeans& differences) {
  if (differences.windows.empty()) return "";
  return fmt::format("{:+.3f} ± {:.3f}", differences.mean(), differences.standard_error());
}

std::string zero_shot_of(const Json& row) {
  if (!row.contains("zero_shot")) return "";
  const Json& error = row["zero_shot"]["mean_standard_error"];  // null where a task had one question
  return fmt::format("{:.1f}", 100 * row["zero_shot"]["mean"].get<double>()) +
         (error.is_null() ? "" : fmt::format(" ± {:.1f}", 100 * error.get<double>())) + " %";
}

std::vector<Json> by_rate(const Json& rows) {
  std::vector<Json> sorted(rows.begin(), rows.end());
  const auto key = [](const Json& row) {
    return std::pair(row.value("rate", row["linear_bpw"].get<double>()), row["perplexity"].get<double>());
  };
  std::stable_sort(sorted.begin(), sorted.end(), [&](const Json& a, const Json& b) { return key(a) < key(b); });
  return sorted;
}

}  // namespace

std::string comparison_table(const Json& all) {
  const std::vector<Json> rows = by_rate(all);
  std::string table =
      "| linear bpw | allocator | rounding | perplexity | nats above `scalebits`, same rounding and rate | KL | KL 99% "
      "| same top token | zero-shot | file | time | memory |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n";
  for (const Json& row : rows) {
    std::string above;
    for (const Json& other : rows)
      if (is_ours(row) && is_ours(other) && other["allocator"] == "scalebits" && row["allocator"] != "scalebits" &&
          other["rounding"] == row["rounding"] && other["rate"] == row["rate"])
        above = text_of(paired(row, other, "window_nll"));
    const auto megabytes = [&](const char* key) {
      return row.contains(key) ? fmt::format("{:.1f} MB", row[key].get<double>() / 1e6) : "";
    };
    table += fmt::format(
        "| {:.3f} | {} | {} | {:.2f} ± {:.2f} | {} | {:.4f} | {:.2f} | {:.1f} % | {} | {} | {} | {} |\n",
        row["linear_bpw"].get<double>(), row["allocator"].get<std::string>(), row["rounding"].get<std::string>(),
        row["perplexity"].get<double>(), row["perplexity_error"].get<double>(), above, row["kl"].get<double>(),
        row["kl_p99"].get<double>(), 100 * row["top1"].get<double>(), zero_shot_of(row), megabytes("file_bytes"),
        row.contains("seconds") ? fmt::format("{:.0f} s", row["seconds"].get<double>()) : "", megabytes("peak_bytes"));
  }
  return table;
}

std::string peer_table(const Json& all) {
  std::string lines;
  for (const Json& peer : by_rate(all)) {
    if (is_ours(peer)) continue;
    const Json* best = nullptr;
    for (const Json& row : all)
      if (is_ours(row) && row["linear_bpw"] <= peer["linear_bpw"] &&
          (best == nullptr || row["held_out_loss"] < (*best)["held_out_loss"]))
        best = &row;
    if (best == nullptr) continue;
    lines += fmt::format("| {} {}, {:.3f} | {} {}, {:.3f} | {:.2f} | {:.2f} | {} | {} | {} | {} |\n",
                         peer["allocator"].get<std::string>(), peer["rounding"].get<std::string>(),
                         peer["linear_bpw"].get<double>(), (*best)["allocator"].get<std::string>(),
                         (*best)["rounding"].get<std::string>(), (*best)["linear_bpw"].get<double>(),
                         peer["perplexity"].get<double>(), (*best)["perplexity"].get<double>(),
                         text_of(paired(*best, peer, "window_nll")), text_of(paired(*best, peer, "window_kl")),
                         zero_shot_of(peer), zero_shot_of(*best));
  }
  if (lines.empty()) return "";
  return "| peer, linear bpw | best of ours at no more | perplexity | ours | nats, paired | KL, paired | zero-shot | "
         "ours "
         "|\n|---|---|---|---|---|---|---|---|\n" +
         lines;
}

Plot comparison_plot(const Json& all) {
  Plot plot{.title = "Perplexity by size",
            .x_label = "bits per weight of the linear layers, everything counted",
            .y_label = "perplexity",
            .log_y = true};
  for (const Json& row : by_rate(all)) {
    const bool ours = is_ours(row);
    const auto allocator = row["allocator"].get<std::string>(), rounding = row["rounding"].get<std::string>();
    const std::string name = ours ? allocator + ", " + rounding : allocator;
    auto found = std::find_if(plot.series.begin(), plot.series.end(), [&](const Series& s) { return s.name == name; });
    if (found == plot.series.end())
      found = plot.series.insert(found, {.name = name, .joined = ours, .family = allocator});
    found->points.emplace_back(row["linear_bpw"].get<double>(), row["perplexity"].get<double>());
    if (!ours) found->labels.push_back(rounding);
  }
  return plot;
}

}  // namespace scalebits
