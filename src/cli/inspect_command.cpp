// `scalebits inspect`: what was decided for each layer and matrix, and where the bytes of the file go.
#include "cli/commands.h"

#include "artifact/artifact.h"
#include "core/json_text.h"
#include "core/units.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace scalebits::cli {
namespace {

struct InspectOptions {
  std::string artifact;
  bool json = false;
};

/// Of one matrix, or of several added up.
struct Summary {
  std::uint64_t weights = 0;
  double sensitivity = 0;                               // the search's score; NaN: none
  std::uint64_t bytes = 0;                              // of the blobs; tables are counted in the totals of the file
  std::array<std::uint64_t, kMaxWidth + 1> at_width{};  // weights

  double bpw() const { return 8.0 * static_cast<double>(bytes) / static_cast<double>(weights); }
  double code_bits() const {
    double bits = 0;
    for (std::size_t width = 0; width < at_width.size(); ++width) bits += static_cast<double>(width * at_width[width]);
    return bits / static_cast<double>(weights);
  }
  void add(const Summary& other) {
    weights += other.weights;
    sensitivity += other.sensitivity;
    bytes += other.bytes;
    for (std::size_t width = 0; width < at_width.size(); ++width) at_width[width] += other.at_width[width];
  }
};

Summary summarize(const ArtifactDescription& description, std::size_t index) {
  const MatrixDeclaration& matrix = description.matrices[index];
  const MatrixFormat& format = matrix.format;
  Summary summary{.weights = static_cast<std::uint64_t>(format.rows * format.cols),
                  .sensitivity = description.sensitivity.empty() ? NAN : description.sensitivity[index],
                  .bytes = packed_bytes(format, matrix.widths)};
  for (std::int64_t row = 0; row < format.block_row_count(); ++row)
    for (std::int64_t col = 0; col < format.block_col_count(); ++col)
      summary.at_width[matrix.widths[static_cast<std::size_t>(format.block_index(row, col))]] +=
          static_cast<std::uint64_t>(format.block_weights(row, col));
  return summary;
}

/// One cell per width: the share of the weights as a bar, a dot for none.
std::string histogram(const Summary& summary) {
  static constexpr std::array<std::string_view, 8> kBars = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  std::string text;
  for (const std::uint64_t weights : summary.at_width) {
    const auto level =
        static_cast<std::size_t>(8.0 * static_cast<double>(weights) / static_cast<double>(summary.weights));
    text += ' ';
    text += weights == 0 ? "·" : kBars[std::min<std::size_t>(level, 7)];
  }
  return text;
}

/// "model.layers.3.self_attn.q_proj.weight" → {3, "self_attn.q_proj"}; {-1, name} outside the layers.
std::pair<std::int64_t, std::string> split_name(const std::string& name) {
  constexpr std::string_view kPrefix = "model.layers.", kSuffix = ".weight";
  std::string rest = name.ends_with(kSuffix) ? name.substr(0, name.size() - kSuffix.size()) : name;
  if (!rest.starts_with(kPrefix)) return {-1, rest};
  const std::size_t dot = rest.find('.', kPrefix.size());
  return {std::stoll(rest.substr(kPrefix.size(), dot - kPrefix.size())), rest.substr(dot + 1)};
}

void print_line(const std::string& name, const std::string& shape, const Summary& summary) {
  const std::string score = std::isnan(summary.sensitivity) ? "-" : fmt::format("{:.2e}", summary.sensitivity);
  fmt::print("{:<24} {:>12} {:>10} {:>6.3f} {:>6.3f} {:>8} {}\n", name, shape, format_bytes(summary.bytes),
             summary.bpw(), summary.code_bits(), score, histogram(summary));
}

void print_matrices(const ArtifactDescription& description) {
  fmt::print("{:<24} {:>12} {:>10} {:>6} {:>6} {:>8}  0 1 2 3 4 5 6 7 8\n", "matrix", "shape", "bytes", "bpw", "bits",
             "score");
  std::int64_t layer = -1;
  Summary in_layer;
  const auto end_layer = [&] {
    if (in_layer.weights > 0) print_line(fmt::format("layer {}", layer), "", in_layer);
    in_layer = {};
  };
  for (std::size_t i = 0; i < description.matrices.size(); ++i) {
    const MatrixDeclaration& matrix = description.matrices[i];
    const auto [index, name] = split_name(matrix.name);
    if (index != layer) end_layer();
    layer = index;
    const Summary summary = summarize(description, i);
    print_line(index < 0 ? name : fmt::format("  {}", name),
               fmt::format("{}x{}", matrix.format.rows, matrix.format.cols), summary);
    if (index >= 0) in_layer.add(summary);
  }
  end_layer();
}

void print_text(const Artifact& artifact) {
  const ArtifactDescription& description = artifact.description();
  const ModelSpec& spec = artifact.spec();
  fmt::print("{}: {}, {} layers of {}, vocabulary of {}{}\n", artifact.path().string(), name_of(spec.family),
             spec.layers, spec.hidden, spec.vocab, spec.tied_head ? ", tied head" : "");
  fmt::print("made by {} from a checkpoint with hash {}\n\n", description.program, description.source_hash);
  print_matrices(description);
  const ArtifactSizes sizes = artifact.sizes();
  fmt::print(
      "\n(bpw: codes, scales, zeros and tags of the matrix; bits: mean width; score: what the search's last "
      "gradients\nsay the rounding costs, nats per token under the default statistic; bars: share of the weights "
      "at each width)\n\n");
  for (const auto& [name, bytes] :
       {std::pair{"codes", sizes.codes}, std::pair{"scales and zeros", sizes.side}, std::pair{"tags", sizes.tags},
        std::pair{"channel orders", sizes.tables}, std::pair{"unquantised tensors", sizes.dense},
        std::pair{"tokenizer", sizes.tokenizer}, std::pair{"header", sizes.header},
        std::pair{"checksums", sizes.checksums}})
    fmt::print("{:<24} {:>14} bytes {:>6.2f} %\n", name, bytes,
               100.0 * static_cast<double>(bytes) / static_cast<double>(sizes.file()));
  fmt::print("{:<24} {:>14} bytes\n", "file", sizes.file());
  fmt::print("{:<24} {:>14.4f} bits per weight, everything counted; mean width {:.4f}\n\n", "decoder linear layers",
             sizes.linear_bpw(), sizes.code_bits());
  fmt::print("recipe\n");
  if (!artifact.recipe().is_object()) return fmt::print("  {}\n", artifact.recipe().dump());
  for (const auto& [key, value] : artifact.recipe().items()) fmt::print("  {:<22} {}\n", key, value.dump());
}

void print_json(const Artifact& artifact) {
  const ArtifactDescription& description = artifact.description();
  Json matrices = Json::array();
  for (std::size_t i = 0; i < description.matrices.size(); ++i) {
    const MatrixDeclaration& matrix = description.matrices[i];
    const Summary summary = summarize(description, i);
    matrices.push_back({{"name", matrix.name},
                        {"format", to_json(matrix.format)},
                        {"row_order", matrix.row_order},
                        {"input_order", matrix.input_order},
                        {"bytes", summary.bytes},
                        {"bpw", summary.bpw()},
                        {"code_bits", summary.code_bits()},
                        {"sensitivity", summary.sensitivity},
                        {"weights_at_width", summary.at_width}});
  }
  const Json report = {{"path", artifact.path().string()},   {"program", description.program},
                       {"source", description.source_hash},  {"spec", to_json(artifact.spec())},
                       {"sizes", to_json(artifact.sizes())}, {"matrices", std::move(matrices)},
                       {"recipe", artifact.recipe()}};
  fmt::print("{}\n", json_text(report, 2));
}

}  // namespace

void add_inspect(CLI::App& app) {
  auto options = std::make_shared<InspectOptions>();
  CLI::App* const command = app.add_subcommand("inspect", "Show what was decided per layer, and where the bytes go");
  command->add_option("ARTIFACT", options->artifact, "A file that `scalebits quantize` wrote")->required();
  command->add_flag("--json", options->json, "Print everything as JSON, the recipe included");
  command->callback([options] {
    const Artifact artifact = Artifact::open(options->artifact);
    options->json ? print_json(artifact) : print_text(artifact);
  });
}

}  // namespace scalebits::cli
