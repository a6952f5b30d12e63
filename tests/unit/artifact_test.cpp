// artifact: the description tells the exact size before anything is packed; what is written reads back exactly, in the
// original channel order; verify finds any flipped byte; whatever a file says, reading it is an Error or stays in
// bounds.
#include "artifact/artifact.h"
#include "artifact/verify_artifact.h"
#include "artifact/write_artifact.h"
#include "core/hash.h"
#include "core/random.h"
#include "tiny_models.h"
#include "tokenizer/definition.h"
#include "tokenizer/tokenizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <numeric>

namespace scalebits {
namespace {

namespace fs = std::filesystem;
using testing_models::read_text;
using testing_models::TemporaryFolder;
using testing_models::write_text;

Tokenizer small_tokenizer() {
  TokenizerDefinition definition;
  definition.byte_level = true;
  for (int i = 0; i < 256; ++i) definition.pieces.push_back(std::string(1, static_cast<char>(i)));
  definition.pieces.push_back("ab");
  definition.kinds.assign(definition.pieces.size(), TokenKind::normal);
  definition.merges = {{'a', 'b', 256}};
  return Tokenizer(definition, "test");
}

/// Dimensions that nothing divides; every kind of optional tensor.
ModelSpec odd_spec() {
  ModelSpec spec;
  spec.family = Family::qwen3;
  spec.layers = 2, spec.hidden = 76, spec.intermediate = 150, spec.heads = 5, spec.kv_heads = 1, spec.head_dim = 18;
  spec.vocab = 257, spec.max_positions = 64, spec.eos_ids = {2};
  spec.qkv_bias = true, spec.qk_norm = true;
  return spec;
}

/// An artifact to be written, with what it must read back as.
struct Sample {
  ArtifactDescription description;
  std::map<std::string, std::vector<std::uint32_t>> orders;
  std::map<std::string, HostTensor> dense;
  std::map<std::string, std::vector<std::byte>> blobs;
  std::string tokenizer;

  ArtifactPayload payload() const {
    return {.matrix =
                [this](const MatrixDeclaration& matrix, std::span<std::byte> blob) {
                  ASSERT_EQ(blob.size(), blobs.at(matrix.name).size());
                  std::memcpy(blob.data(), blobs.at(matrix.name).data(), blob.size());
                },
            .table = [this](const TableDeclaration& table) { return orders.at(table.name); },
            .dense = [this](const DenseDeclaration& tensor) { return dense.at(tensor.name); },
            .tokenizer = tokenizer};
  }
  /// Stored order → original order, written down once more.
  std::vector<float> expected(const std::string& name) const {
    for (const MatrixDeclaration& matrix : description.matrices) {
      if (matrix.name != name) continue;
      const auto stored = PackedMatrix(matrix.format, blobs.at(name), "test").dequantize();
      const auto rows = static_cast<std::size_t>(matrix.format.rows),
                 cols = static_cast<std::size_t>(matrix.format.cols);
      std::vector<float> values(stored.size(), NAN);
      for (std::size_t i = 0; i < rows; ++i)
        for (std::size_t j = 0; j < cols; ++j) {
          const std::size_t row = matrix.row_order.empty() ? i : orders.at(matrix.row_order)[i];
          const std::size_t col = matrix.input_order.empty() ? j : orders.at(matrix.input_order)[j];
          values[row * cols + col] = stored[i * cols + j];
        }
      return values;
    }
    return dense.at(name).to_f32();
  }
};

std::vector<std::uint32_t> random_order(std::int64_t length, std::uint64_t seed) {
  std::vector<std::uint32_t> order(static_cast<std::size_t>(length));
  std::iota(order.begin(), order.end(), 0u);
  const CounterRng rng(seed);
  for (std::size_t i = order.size(); i-- > 1;) std::swap(order[i], order[rng.below(i, i + 1)]);
  return order;
}

HostTensor random_dense(const std::vector<std::int64_t>& shape, DType dtype, std::uint64_t seed) {
  std::int64_t count = 1;
  for (const std::int64_t extent : shape) count *= extent;
  const CounterRng rng(seed);
  auto bytes = std::make_shared<std::vector<std::byte>>();
  for (std::int64_t i = 0; i < count; ++i) {
    const auto value = static_cast<float>(rng.normal(static_cast<std::uint64_t>(i)));
    const std::uint32_t bits = dtype == DType::f32   ? std::bit_cast<std::uint32_t>(value)
                               : dtype == DType::f16 ? f32_to_f16(value)
                                                     : f32_to_bf16(value);
    for (std::size_t b = 0; b < size_bytes(dtype); ++b) bytes->push_back(static_cast<std::byte>(bits >> (8 * b)));
  }
  return {dtype, shape, *bytes, bytes};
}

Sample make_sample(std::uint64_t seed) {
  Sample sample;
  ArtifactDescription& description = sample.description;
  description.spec = odd_spec();
  description.recipe = {{"budget", "60MiB"}, {"seed", seed}, {"text", "Grüße"}};
  description.chat_template = "{% for m in messages %}\"\\\n{% endfor %}";
  description.source_hash = "0123456789abcdef";
  description.program = "test 1.0";
  sample.tokenizer = small_tokenizer().serialize();
  description.tokenizer_bytes = sample.tokenizer.size();
  const CounterRng rng(seed);
  std::uint64_t draw = 0;
  const auto use_table = [&](const std::string& name, std::int64_t length) {
    if (!sample.orders.contains(name)) {
      sample.orders[name] = random_order(length, seed + sample.orders.size());
      description.tables.push_back({name, length});
    }
    return name;
  };
  for (const TensorShape& tensor : required_tensors(description.spec)) {
    const bool linear = tensor.name.find("_proj.weight") != std::string::npos;
    if (!linear && tensor.name != kHeadName) {
      const DType dtype = std::array{DType::f32, DType::f16, DType::bf16}[rng.below(draw++, 3)];
      description.dense.push_back({tensor.name, dtype, tensor.shape});
      sample.dense[tensor.name] = random_dense(tensor.shape, dtype, draw++);
      continue;
    }
    MatrixDeclaration matrix{.name = tensor.name, .format = {.rows = tensor.shape[0], .cols = tensor.shape[1]}};
    MatrixFormat& format = matrix.format;
    format.block_rows = 16 << rng.below(draw++, 4);
    format.block_cols = 64 << rng.below(draw++, 2);
    format.group_cols = std::min<int>(format.block_cols, 32 << rng.below(draw++, 3));
    format.side = {.scale_bits = 4 + static_cast<int>(rng.below(draw++, 5)),
                   .zero_bits = static_cast<int>(rng.below(draw++, 9)),
                   .scale_base = static_cast<float>(0.001 + rng.uniform(draw++)),
                   .scale_step_log2 = 0.137f,
                   .zero_range = 0.6f};
    for (std::int64_t i = 0; i < format.block_count(); ++i)
      matrix.widths.push_back(static_cast<std::uint8_t>(rng.below(draw++, 9)));
    if (linear && rng.below(draw++, 3) > 0) matrix.row_order = use_table(tensor.name + ".row_order", format.rows);
    if (tensor.name.find("down_proj") != std::string::npos)
      matrix.input_order = use_table(tensor.name.substr(0, 14) + ".down.input_order", format.cols);
    if (linear && format.cols == description.spec.hidden && rng.below(draw++, 4) > 0)
      matrix.input_order = use_table(tensor.name.substr(0, 14) + ".attention.input_order", format.cols);
    auto& blob = sample.blobs[tensor.name];
    blob.resize(packed_bytes(format, matrix.widths));
    pack_matrix(
        format, matrix.widths,
        [&](std::int64_t tile_row, std::int64_t block_col, int width, Strip& strip) {
          const CounterRng codes(seed, static_cast<std::uint64_t>(tile_row * 100 + block_col));
          std::uint64_t i = 0;
          for (auto& row : strip.codes)
            for (std::uint8_t& code : row) code = static_cast<std::uint8_t>(codes.bits(i++) >> (64 - width));
          for (auto& group : strip.scale_codes)
            for (std::uint8_t& code : group)
              code = static_cast<std::uint8_t>(codes.below(i++, std::uint64_t{1} << format.side.scale_bits));
          for (auto& group : strip.zero_codes)
            for (std::uint8_t& code : group)
              code = static_cast<std::uint8_t>(codes.below(i++, std::uint64_t{1} << format.side.zero_bits));
        },
        blob);
    description.matrices.push_back(std::move(matrix));
  }
  return sample;
}

template <typename Call>
std::string error_of(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

std::string little_endian(std::uint64_t value) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(value >> (8 * i) & 0xff);
  return bytes;
}

std::uint64_t data_start(const std::string& file) {
  std::uint64_t length;
  std::memcpy(&length, file.data(), 8);
  return 8 + length;
}

/// Gives a file whose header was tampered with a right checksum, so that what lies behind that check is reached.
void reseal(std::string& file, std::size_t checksums_at) {
  const auto header = std::as_bytes(std::span(file.data(), data_start(file)));
  file.replace(checksums_at, 8, little_endian(hash_u64(header)));
}

TEST(Artifact, ReadsBackExactlyAndIsAsLongAsForetold) {
  const TemporaryFolder folder;
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    Sample sample = make_sample(seed);
    const fs::path path = folder / "a.safetensors";
    // Sensitivities come last: the budget has counted zeros in their place.
    std::vector<float>& sensitivity = sample.description.sensitivity;
    sensitivity.assign(sample.description.matrices.size(), 0.0f);
    const std::uint64_t foretold = artifact_file_bytes(sample.description);
    for (std::size_t i = 0; i < sensitivity.size(); ++i)
      sensitivity[i] = std::array{0.0f, 1.25e-7f, 0.75f, 2e-38f, 3.5e30f}[i % 5];
    write_artifact(path, sample.description, sample.payload());
    ASSERT_EQ(fs::file_size(path), foretold);
    ASSERT_EQ(artifact_file_bytes(sample.description), foretold);

    const Artifact artifact = Artifact::open(path);
    EXPECT_EQ(to_json(artifact.spec()), to_json(sample.description.spec));
    EXPECT_EQ(artifact.recipe(), sample.description.recipe);
    EXPECT_EQ(artifact.chat_template(), sample.description.chat_template);
    EXPECT_EQ(artifact.description().source_hash, sample.description.source_hash);
    EXPECT_EQ(artifact.description().program, sample.description.program);
    EXPECT_EQ(artifact.description().matrices, sample.description.matrices);
    ASSERT_EQ(artifact.description().sensitivity.size(), sensitivity.size());
    for (std::size_t i = 0; i < sensitivity.size(); ++i)
      EXPECT_NEAR(artifact.description().sensitivity[i], sensitivity[i], 0.005f * sensitivity[i] + 1e-30f);
    EXPECT_EQ(artifact.sizes().file(), fs::file_size(path));
    ASSERT_NE(artifact.tokenizer(), nullptr);
    EXPECT_EQ(artifact.tokenizer()->encode("abba"), (std::vector<std::int32_t>{256, 'b', 'a'}));
    for (const TensorShape& tensor : required_tensors(artifact.spec())) {
      const auto expected = sample.expected(tensor.name);
      ASSERT_EQ(artifact.dequantize(tensor.name), expected) << tensor.name;
      if (tensor.shape.size() != 2) continue;
      std::vector<float> row(static_cast<std::size_t>(tensor.shape[1]));
      for (std::int64_t i = 0; i < tensor.shape[0]; i += 7) {
        artifact.dequantize_row(tensor.name, i, row);
        ASSERT_TRUE(std::equal(row.begin(), row.end(), expected.begin() + i * tensor.shape[1])) << tensor.name;
      }
    }
    EXPECT_EQ(verify_artifact(path).bytes, fs::file_size(path));

    // The description that a file gives back makes that very file again.
    write_artifact(folder / "b.safetensors", artifact.description(), sample.payload());
    EXPECT_EQ(read_text(path), read_text(folder / "b.safetensors"));
  }
}

TEST(Artifact, TensorsAreAlignedAndTheHeaderIsSmall) {
  const TemporaryFolder folder;
  const Sample sample = make_sample(1);
  write_artifact(folder / "a", sample.description, sample.payload());
  const SafetensorsFile file = SafetensorsFile::open(folder / "a");
  for (const SafetensorsEntry& entry : file.entries()) {
    const auto at = static_cast<std::uint64_t>(entry.bytes.data() - file.file()->bytes().data());
    const std::uint64_t alignment =
        entry.bytes.size() % 64 == 0 ? 64 : static_cast<std::uint64_t>(safetensors_dtype_bits(entry.dtype) / 8);
    EXPECT_EQ(at % alignment, 0u) << entry.name;
  }
  EXPECT_EQ(file.entries().back().name, "checksums");
  const Json metadata = parse_json(file.metadata().at("scalebits"), "test");
  for (const Json& matrix : metadata["matrices"]) EXPECT_LE(matrix.dump().size() + 1, 60u) << matrix.dump();

  ArtifactDescription plain = sample.description;
  plain.tokenizer_bytes = 0;
  EXPECT_LT(artifact_file_bytes(plain), artifact_file_bytes(sample.description) - sample.tokenizer.size());
}

TEST(Artifact, SizesAndRatesCountEveryStoredByteOnce) {
  const Sample sample = make_sample(2);
  const ArtifactSizes sizes = artifact_sizes(sample.description);
  std::uint64_t blobs = 0, linear = 0, weights = 0, tables = 0, dense = 0;
  double bits = 0;
  for (const MatrixDeclaration& matrix : sample.description.matrices) {
    blobs += sample.blobs.at(matrix.name).size();
    if (matrix.name == kHeadName) continue;
    linear += sample.blobs.at(matrix.name).size();
    weights += static_cast<std::uint64_t>(matrix.format.rows * matrix.format.cols);
    for (std::int64_t row = 0; row < matrix.format.rows; ++row)
      for (std::int64_t col = 0; col < matrix.format.cols; ++col)
        bits += matrix.widths[static_cast<std::size_t>(
            matrix.format.block_index(row / matrix.format.block_rows, col / matrix.format.block_cols))];
  }
  for (const TableDeclaration& table : sample.description.tables)
    tables += 2 * static_cast<std::uint64_t>(table.length);
  for (const auto& [name, tensor] : sample.dense) dense += tensor.bytes.size();
  EXPECT_EQ(sizes.codes + sizes.side + sizes.tags, blobs);
  EXPECT_EQ(sizes.tables, tables);
  EXPECT_EQ(sizes.dense, dense);
  EXPECT_EQ(sizes.linear_weights, weights);
  EXPECT_EQ(sizes.linear_bytes, linear + tables);  // the head uses none
  EXPECT_DOUBLE_EQ(sizes.code_bits(), bits / static_cast<double>(weights));
  EXPECT_DOUBLE_EQ(sizes.linear_bpw(), 8.0 * static_cast<double>(linear + tables) / static_cast<double>(weights));
}

TEST(Artifact, DescriptionsThatDoNotFitAreRefused) {
  const TemporaryFolder folder;
  const std::pair<const char*, std::function<void(Sample&)>> lies[] = {
      {"is missing", [](Sample& s) { s.description.matrices.pop_back(); }},
      {"is missing", [](Sample& s) { s.description.tables.pop_back(); }},
      {"does not belong", [](Sample& s) { s.description.dense.push_back({"model.extra", DType::f32, {3}}); }},
      {"there twice", [](Sample& s) { s.description.matrices.push_back(s.description.matrices[0]); }},
      {"wanted shape", [](Sample& s) { s.description.dense[0].shape[0] += 1; }},
      {"wanted shape", [](Sample& s) { s.description.spec.vocab += 1; }},
      {"block widths", [](Sample& s) { s.description.matrices[0].widths.pop_back(); }},
      {"block widths", [](Sample& s) { s.description.matrices[0].widths[0] = 9; }},
      {"block_rows", [](Sample& s) { s.description.matrices[0].format.block_rows = 48; }},
      {"no matrix uses", [](Sample& s) { s.description.tables.push_back({"spare", 5}); }},
      {"entries in its table", [](Sample& s) { s.description.tables[0].length += 1; }},
      {"layers", [](Sample& s) { s.description.spec.layers = 1 << 28; }},
      {"twice", [](Sample& s) { s.orders.begin()->second[0] = s.orders.begin()->second[1]; }},
      {"names channel", [](Sample& s) { s.orders.begin()->second[0] = 1'000'000; }},
      {"is inf", [](Sample& s) {
         auto& tensor = s.dense.begin()->second;
         auto values = std::make_shared<std::vector<std::byte>>(tensor.bytes.begin(), tensor.bytes.end());
         const std::uint32_t inf = tensor.dtype == DType::f32   ? 0x7f800000
                                   : tensor.dtype == DType::f16 ? 0x7c00
                                                                : 0x7f80;
         std::memcpy(values->data(), &inf, size_bytes(tensor.dtype));
         tensor.bytes = *values, tensor.owner = values;
       }}};
  for (const auto& [message, spoil] : lies) {
    Sample sample = make_sample(1);
    spoil(sample);
    const std::string error = error_of([&] { write_artifact(folder / "a", sample.description, sample.payload()); });
    EXPECT_NE(error.find(message), std::string::npos) << "wanted '" << message << "', found '" << error << "'";
    EXPECT_TRUE(fs::is_empty(folder.path()));
  }
}

TEST(VerifyArtifact, FindsAnyFlippedByteAndNamesWhereItLies) {
  const TemporaryFolder folder;
  const Sample sample = make_sample(3);
  const fs::path path = folder / "a";
  write_artifact(path, sample.description, sample.payload());
  const std::string bytes = read_text(path);
  const SafetensorsFile file = SafetensorsFile::open(path);
  const auto begin_of = [&](const SafetensorsEntry& entry) {
    return static_cast<std::size_t>(entry.bytes.data() - file.file()->bytes().data());
  };
  const std::size_t data = data_start(bytes), checksums = begin_of(file.entries().back());
  std::vector<std::size_t> positions;
  for (std::size_t at = 0; at < bytes.size(); at += at < data ? 31 : at < checksums ? 251 : 7) positions.push_back(at);
  for (const SafetensorsEntry& entry : file.entries()) {  // the ends of each tensor
    positions.push_back(begin_of(entry));
    positions.push_back(begin_of(entry) + entry.bytes.size() - 1);
  }
  for (std::size_t at = data - 64; at < data; ++at) positions.push_back(at);  // the header's end and padding

  const fs::path broken = folder / "broken";  // changed in place
  write_text(broken, bytes);
  std::fstream stream(broken, std::ios::in | std::ios::out | std::ios::binary);
  const auto put = [&](std::size_t at, char value) {
    stream.seekp(static_cast<std::streamoff>(at));
    stream.put(value);
    stream.flush();
  };
  const CounterRng rng(9);
  for (const std::size_t at : positions) {
    put(at, static_cast<char>(bytes[at] ^ (1 << rng.below(at, 8))));
    const std::string error = error_of([&] { verify_artifact(broken); });
    ASSERT_NE(error, "") << "byte " << at;
    ASSERT_NE(error.find(broken.string()), std::string::npos) << error;
    for (const SafetensorsEntry& entry : file.entries()) {
      const bool inside = at >= begin_of(entry) && at < begin_of(entry) + entry.bytes.size();
      if (inside && entry.name != "checksums") {
        ASSERT_NE(error.find("'" + entry.name + "'"), std::string::npos) << error;
      }
    }
    put(at, bytes[at]);
  }
  EXPECT_EQ(error_of([&] { verify_artifact(broken); }), "");
}

TEST(HostileArtifact, EveryTruncationIsAnError) {
  const TemporaryFolder folder;
  const Sample sample = make_sample(1);
  write_artifact(folder / "a", sample.description, sample.payload());
  const std::string bytes = read_text(folder / "a");
  for (std::size_t size = 0; size < bytes.size(); size += size < 64 ? 1 : 4999) {
    write_text(folder / "cut", bytes.substr(0, size));
    EXPECT_NE(error_of([&] { Artifact::open(folder / "cut"); }), "") << size;
  }
  write_text(folder / "cut", bytes + '\0');
  EXPECT_NE(error_of([&] { Artifact::open(folder / "cut"); }), "");
}

TEST(HostileArtifact, LyingMetadataIsAnError) {
  const TemporaryFolder folder;
  const Sample sample = make_sample(1);
  write_artifact(folder / "a", sample.description, sample.payload());
  const SafetensorsFile file = SafetensorsFile::open(folder / "a");
  const Json honest = parse_json(file.metadata().at("scalebits"), "test");
  const auto open_with = [&](const Json& metadata) {
    SafetensorsWriter writer;
    writer.set_metadata("scalebits", metadata.dump());
    std::vector<std::span<const std::byte>> payloads;
    for (const SafetensorsEntry& entry : file.entries()) {
      writer.add(entry.name, entry.dtype, entry.shape, entry.bytes.size());
      payloads.push_back(entry.bytes);
    }
    writer.write(folder / "lie", payloads);
    std::string bytes = read_text(folder / "lie");
    reseal(bytes, bytes.size() - file.entries().back().bytes.size());
    write_text(folder / "lie", bytes);
    return error_of([&] { Artifact::open(folder / "lie"); });
  };
  ASSERT_EQ(open_with(honest), "");

  const auto entry_count = static_cast<std::int64_t>(file.entries().size());
  std::int64_t table = -1, dense = -1;
  for (std::int64_t i = 0; i < entry_count; ++i) {
    if (file.entries()[static_cast<std::size_t>(i)].dtype == "U16") table = i;
    if (file.entries()[static_cast<std::size_t>(i)].dtype == "F32") dense = i;
  }
  ASSERT_GE(std::min(table, dense), 0);
  using Edit = std::function<void(Json&)>;
  const std::vector<Edit> edits = {
      [](Json& m) { m = Json::array(); }, [](Json& m) { m.erase("version"); }, [](Json& m) { m["version"] = 2; },
      [](Json& m) { m["version"] = 1.9; }, [](Json& m) { m["spec"]["eos_ids"] = {-5}; },
      [](Json& m) { m["sensitivity"] = "1.00e+00"; }, [](Json& m) { m["sensitivity"] = "1.00e+00 nan"; },
      [](Json& m) { m["sensitivity"] = 3; }, [](Json& m) { m.erase("spec"); }, [](Json& m) { m.erase("recipe"); },
      [](Json& m) { m["spec"]["layers"] = 1; }, [](Json& m) { m["spec"]["layers"] = 1 << 28; },
      [](Json& m) { m["spec"]["vocab"] = 1 << 27; }, [](Json& m) { m["spec"]["family"] = "bloom"; },
      [](Json& m) { m["formats"] = 3; }, [](Json& m) { m["formats"][0] = Json::array({1, 2}); },
      [](Json& m) { m["formats"][0][0] = 1 << 28; }, [](Json& m) { m["formats"][0][1] = 0; },
      [](Json& m) { m["formats"][0][2] = 4294967360; }, [](Json& m) { m["formats"][0][4] = "64"; },
      [](Json& m) { m["formats"][0][5] = 3; }, [](Json& m) { m["formats"][0][6] = 9; },
      [](Json& m) { m["formats"][0][7] = 1e30; }, [](Json& m) { m["formats"][0][8] = -1; },
      [](Json& m) { m["matrices"] = nullptr; }, [](Json& m) { m["matrices"].erase(0); },
      [](Json& m) { m["matrices"].push_back(m["matrices"][0]); }, [](Json& m) { m["matrices"][0] = 7; },
      [](Json& m) { m["matrices"][0].push_back(-1), m["matrices"][0].push_back(-1), m["matrices"][0].push_back(-1); },
      [](Json& m) { m["matrices"][0][0] = -1; }, [&](Json& m) { m["matrices"][0][0] = entry_count; },
      [&](Json& m) { m["matrices"][0][0] = dense; }, [&](Json& m) { m["matrices"][0][0] = entry_count - 1; },
      [](Json& m) { m["matrices"][0][0] = m["matrices"][1][0]; }, [](Json& m) { m["matrices"][0][1] = 1000; },
      [](Json& m) { m["matrices"][0][1] = -2; }, [](Json& m) { m["matrices"][0][2] = 0; },
      [](Json& m) { m["matrices"][0][2] = "x"; },
      [&](Json& m) { m["matrices"][0] = {m["matrices"][0][0], m["matrices"][0][1], 1, entry_count}; },
      [&](Json& m) { m["matrices"][0] = {m["matrices"][0][0], m["matrices"][0][1], 1, dense}; },
      // The head has 257 rows, no table that many entries.
      [&](Json& m) { m["matrices"].back() = {m["matrices"].back()[0], m["matrices"].back()[1], 1, table}; },
      [](Json& m) { m["matrices"][0] = {m["matrices"][0][0], m["matrices"][0][1], 1, 18446744073709551615u}; }};
  for (std::size_t i = 0; i < edits.size(); ++i) {
    Json metadata = honest;
    edits[i](metadata);
    EXPECT_NE(open_with(metadata), "") << "edit " << i;
  }

  // Told from the entries alone, before a matrix is made of each: a short file has room for millions of them.
  Json repeated = honest;
  repeated["matrices"].push_back(honest["matrices"][0]);
  const std::string& name = file.entries()[honest["matrices"][0][0].get<std::size_t>()].name;
  EXPECT_EQ(open_with(repeated), fmt::format("{}: tensor '{}' is there twice", (folder / "lie").string(), name));
}

TEST(HostileArtifact, AnyDamageIsAnErrorOrReadsWithinBounds) {
  const TemporaryFolder folder;
  const Sample sample = make_sample(4);
  write_artifact(folder / "a", sample.description, sample.payload());
  const std::string bytes = read_text(folder / "a");
  const std::size_t data = data_start(bytes),
                    checksums = bytes.size() - 8 * SafetensorsFile::open(folder / "a").entries().size();
  const CounterRng rng(11);
  std::uint64_t draw = 0;
  int opened = 0, refused = 0;
  for (int trial = 0; trial < 300; ++trial) {
    std::string damaged = bytes;
    const bool in_header = trial % 2 == 0;
    for (std::uint64_t i = 0; i <= rng.below(draw, 3); ++i) {
      const std::size_t at =
          in_header ? 8 + rng.below(draw + 1 + 2 * i, data - 8) : data + rng.below(draw + 1 + 2 * i, checksums - data);
      // In the header mostly digits, which keep it JSON and change what it says.
      damaged[at] = in_header && std::isdigit(static_cast<unsigned char>(damaged[at]))
                        ? static_cast<char>('0' + rng.below(draw + 2 + 2 * i, 10))
                        : static_cast<char>(rng.bits(draw + 2 + 2 * i));
    }
    draw += 7;
    reseal(damaged, checksums);
    write_text(folder / "damaged", damaged);
    try {
      const Artifact artifact = Artifact::open(folder / "damaged");
      for (const TensorShape& tensor : required_tensors(artifact.spec())) artifact.dequantize(tensor.name);
      ++opened;
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(opened, 30);  // both ways were taken
  EXPECT_GT(refused, 30);
}

TEST(ReadArtifactPy, AgreesBitForBit) {
  const std::string source = SCALEBITS_SOURCE_DIR;
  std::string python;
  for (const std::string& candidate : {source + "/.cache/venv-oracle/bin/python", std::string("python3")})
    if (python.empty() && std::system(("'" + candidate + "' -c 'import numpy' >/dev/null 2>&1").c_str()) == 0)
      python = candidate;
  if (python.empty()) GTEST_SKIP() << "SKIPPED: no python3 with numpy; run tools/oracle_venv";
  const TemporaryFolder folder;
  const Sample sample = make_sample(5);
  write_artifact(folder / "a", sample.description, sample.payload());
  const Artifact artifact = Artifact::open(folder / "a");
  const std::vector<std::string> names = {linear_name(0, LinearKind::q), linear_name(1, LinearKind::down),
                                          std::string(kHeadName), std::string(kEmbeddingName)};
  std::string script;  // one shell, so that the processes run one after the other without our waiting on each
  for (const std::string& name : names)
    script += fmt::format("'{}' '{}/tools/read_artifact.py' '{}' '{}' '{}' && ", python, source,
                          (folder / "a").string(), name, (folder / (name + ".npy")).string());
  ASSERT_EQ(std::system((script + "true").c_str()), 0);
  for (const std::string& name : names) {
    const std::string npy = read_text(folder / (name + ".npy"));
    const std::vector<float> ours = artifact.dequantize(name);
    ASSERT_GT(npy.size(), ours.size() * 4) << name;
    // C order: the data are the last bytes; -0 may stand for 0 where a code equals its zero.
    std::vector<float> theirs(ours.size());
    std::memcpy(theirs.data(), npy.data() + npy.size() - ours.size() * 4, ours.size() * 4);
    EXPECT_NE(npy.find("'fortran_order': False"), std::string::npos);
    EXPECT_EQ(theirs, ours) << name;
  }
}

}  // namespace
}  // namespace scalebits
