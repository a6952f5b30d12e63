#include "bench/random_artifact.h"

#include "artifact/write_artifact.h"
#include "core/error.h"
#include "core/parallel.h"
#include "core/random.h"
#include "format/packed_matrix.h"

#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <string>

namespace scalebits {
namespace {

/// Streams of random numbers: one per tensor name and purpose.
std::uint64_t stream_of(const std::string& name) {
  std::uint64_t stream = 0xcbf29ce484222325ull;  // FNV-1a
  for (const char c : name) stream = (stream ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  return stream;
}

ModelSpec spec_of(const RandomArtifactOptions& options) {
  ModelSpec spec;
  spec.family = Family::llama;
  spec.layers = options.layers, spec.hidden = options.hidden, spec.intermediate = options.intermediate;
  spec.heads = options.heads, spec.kv_heads = options.kv_heads, spec.vocab = options.vocab;
  if (options.heads > 0 && options.hidden % options.heads != 0)
    fail_input("random artifact: hidden ({}) must be a multiple of heads ({})", options.hidden, options.heads);
  spec.head_dim = options.heads > 0 ? options.hidden / options.heads : 0;
  spec.max_positions = options.max_positions;
  spec.tied_head = options.tied_head;
  validate(spec, "random artifact");
  return spec;
}

/// Tables of a layer's matrix, and their declarations.
void add_orders(const RandomArtifactOptions& options, std::int64_t layer, LinearKind kind, MatrixDeclaration& matrix,
                std::map<std::string, std::int64_t>& tables) {
  if (options.orders == RandomOrders::none) return;
  const bool site = options.orders == RandomOrders::site;
  const bool mlp_channels_out = kind == LinearKind::gate || kind == LinearKind::up;
  if (!site) {
    matrix.input_order = matrix.name + ".input_order";
  } else if (kind != LinearKind::down) {
    const char* const name = mlp_channels_out ? "mlp" : kind == LinearKind::o ? "output" : "attention";
    matrix.input_order = layer_tensor(layer, fmt::format("{}.input_order", name));
  }
  if (!site || !mlp_channels_out) matrix.row_order = matrix.name + ".row_order";
  if (!matrix.input_order.empty()) tables[matrix.input_order] = matrix.format.cols;
  if (!matrix.row_order.empty()) tables[matrix.row_order] = matrix.format.rows;
}

/// Fills `bytes` from the random words first_word, first_word + 1, …
void fill_random(const CounterRng& random, std::uint64_t first_word, int bits, std::span<std::uint8_t> bytes) {
  const std::uint64_t mask = 0x0101010101010101ull * ((1u << bits) - 1);
  for (std::size_t i = 0; i < bytes.size(); i += 8) {
    const std::uint64_t word = random.bits(first_word + i / 8) & mask;
    std::memcpy(bytes.data() + i, &word, std::min<std::size_t>(8, bytes.size() - i));
  }
}

void pack_random(const MatrixDeclaration& matrix, std::uint64_t seed, std::span<std::byte> blob) {
  const CounterRng random(seed, stream_of(matrix.name));
  const MatrixFormat& format = matrix.format;
  const auto fill = [&](std::int64_t tile_row, std::int64_t block_col, int width, Strip& strip) {
    // 2^12 words for each strip: more than its codes (16 · 128 bytes) and side codes (2 · 4 · 16 bytes) take.
    const auto first = static_cast<std::uint64_t>(tile_row * format.block_col_count() + block_col) << 12;
    for (std::size_t row = 0; row < kTileRows; ++row)
      fill_random(random, first + row * kMaxBlockCols / 8, width,
                  std::span(strip.codes[row]).first(static_cast<std::size_t>(format.block_cols)));
    for (std::size_t group = 0; group < static_cast<std::size_t>(format.strip_groups(block_col)); ++group) {
      fill_random(random, first + 1024 + 2 * group, format.side.scale_bits, strip.scale_codes[group]);
      if (format.side.zero_bits > 0)
        fill_random(random, first + 2048 + 2 * group, format.side.zero_bits, strip.zero_codes[group]);
    }
  };
  pack_matrix(format, matrix.widths, fill, blob);
}

/// Norms are 1; matrices even in ± sqrt(3 / cols), so that their variance is 1 / cols.
HostTensor random_f16(const DenseDeclaration& declaration, std::uint64_t seed) {
  const std::int64_t cols = declaration.shape.back();
  std::int64_t rows = 1;
  for (std::size_t i = 0; i + 1 < declaration.shape.size(); ++i) rows *= declaration.shape[i];
  const auto values = std::make_shared<std::vector<std::uint16_t>>(static_cast<std::size_t>(rows * cols));
  const CounterRng random(seed, stream_of(declaration.name));
  const bool is_norm = declaration.shape.size() == 1;
  const double reach = std::sqrt(3.0 / static_cast<double>(cols));
  parallel_for(rows, [&](std::int64_t row) {
    for (std::int64_t i = row * cols; i < (row + 1) * cols; ++i) {
      const double value = is_norm ? 1.0 : reach * (2 * random.uniform(static_cast<std::uint64_t>(i)) - 1);
      (*values)[static_cast<std::size_t>(i)] = f32_to_f16(static_cast<float>(value));
    }
  });
  return {DType::f16, declaration.shape, std::as_bytes(std::span(*values)), values};
}

}  // namespace

void apply_preset(std::string_view name, RandomArtifactOptions& options) {
  if (name == "1.1b") {
    options.layers = 16, options.hidden = 2048, options.intermediate = 8192, options.heads = 32, options.kv_heads = 8;
    options.vocab = 32000, options.tied_head = false;
  } else if (name == "3b") {
    options.layers = 28, options.hidden = 3072, options.intermediate = 8192, options.heads = 24, options.kv_heads = 8;
    options.vocab = 128256, options.tied_head = true;
  } else {
    fail(ErrorKind::usage, "unknown preset '{}'; known: 1.1b, 3b", name);
  }
}

ArtifactDescription describe_random_artifact(const RandomArtifactOptions& options) {
  ArtifactDescription description;
  description.spec = spec_of(options);
  std::map<std::string, std::int64_t> tables;
  const auto add_matrix = [&](const std::string& name, std::int64_t rows, std::int64_t cols,
                              const WidthMix& widths) -> MatrixDeclaration& {
    MatrixDeclaration matrix{.name = name,
                             .format = {.rows = rows,
                                        .cols = cols,
                                        .block_rows = options.block_rows,
                                        .block_cols = options.block_cols,
                                        .group_cols = options.group_cols,
                                        .side = random_side_format(cols)}};
    validate(matrix.format, "random artifact: " + name);
    matrix.widths = random_widths(matrix.format, widths, options.seed, stream_of(name + ".widths"));
    return description.matrices.emplace_back(std::move(matrix));
  };

  std::map<std::string, std::pair<std::int64_t, LinearKind>> linears;
  for (std::int64_t layer = 0; layer < options.layers; ++layer)
    for (const LinearKind kind : linear_kinds(description.spec)) linears[linear_name(layer, kind)] = {layer, kind};
  for (const TensorShape& tensor : required_tensors(description.spec)) {
    const auto linear = linears.find(tensor.name);
    if (linear != linears.end()) {
      MatrixDeclaration& matrix = add_matrix(tensor.name, tensor.shape[0], tensor.shape[1], options.widths);
      add_orders(options, linear->second.first, linear->second.second, matrix, tables);
    } else if (tensor.shape.size() == 2 && options.head_bits <= kMaxWidth) {
      add_matrix(tensor.name, tensor.shape[0], tensor.shape[1], WidthMix::uniform(options.head_bits));
    } else {
      description.dense.push_back({tensor.name, DType::f16, tensor.shape});
    }
  }
  for (const auto& [name, length] : tables) description.tables.push_back({name, length});
  description.recipe = {{"random", true}, {"widths", options.widths.text()}, {"seed", options.seed}};
  description.program = "scalebits random";
  return description;
}

void write_random_artifact(const std::filesystem::path& path, const RandomArtifactOptions& options,
                           const std::function<void(std::uint64_t bytes)>& on_tensor) {
  std::uint64_t done = 0;
  ArtifactPayload payload;
  payload.matrix = [&](const MatrixDeclaration& matrix, std::span<std::byte> blob) {
    pack_random(matrix, options.seed, blob);
    on_tensor(done += blob.size());
  };
  payload.table = [&](const TableDeclaration& table) {
    return random_order(table.length, options.seed, stream_of(table.name));
  };
  payload.dense = [&](const DenseDeclaration& declaration) {
    const HostTensor tensor = random_f16(declaration, options.seed);
    on_tensor(done += tensor.bytes.size());
    return tensor;
  };
  write_artifact(path, describe_random_artifact(options), payload);
}

}  // namespace scalebits
