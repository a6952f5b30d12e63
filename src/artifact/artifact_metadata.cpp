// The metadata text: one JSON object. Tensors are referred to by their position in the file, which costs a few bytes
// where names would cost fifty; formats that differ only in scale_base are stored once. Layout: docs/format.md.
#include "artifact/stored_tensors.h"

#include "core/hash.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <sstream>
#include <unordered_map>

namespace scalebits {
namespace {

MatrixFormat without_base(MatrixFormat format) {
  format.side.scale_base = 1;
  return format;
}

Json format_to_array(const MatrixFormat& format) {
  return Json::array({format.rows, format.cols, format.block_rows, format.block_cols, format.group_cols,
                      format.side.scale_bits, format.side.zero_bits, shortest_decimal(format.side.scale_step_log2),
                      shortest_decimal(format.side.zero_range)});
}

std::int64_t integer(const Json& json, const std::string& where, const char* what) {
  if (!json.is_number_integer() || (json.is_number_unsigned() && json.get<std::uint64_t>() > INT64_MAX))
    fail_input("{}: {} must be an integer, found {}", where, what, json.dump().substr(0, 40));
  return json.get<std::int64_t>();
}

int small_integer(const Json& json, const std::string& where, const char* what) {
  const std::int64_t value = integer(json, where, what);
  if (value < 0 || value > 65535) fail_input("{}: {} must be 0 to 65535, found {}", where, what, value);
  return static_cast<int>(value);
}

float real(const Json& json, const std::string& where, const char* what) {
  if (!json.is_number()) fail_input("{}: {} must be a number, found {}", where, what, json.dump().substr(0, 40));
  return static_cast<float>(json.get<double>());
}

MatrixFormat format_from_array(const Json& json, const std::string& where) {
  if (!json.is_array() || json.size() != 9)
    fail_input("{}: wanted a format of 9 numbers, found {}", where, json.dump().substr(0, 120));
  MatrixFormat format;
  format.rows = integer(json[0], where, "rows");
  format.cols = integer(json[1], where, "cols");
  format.block_rows = small_integer(json[2], where, "block_rows");
  format.block_cols = small_integer(json[3], where, "block_cols");
  format.group_cols = small_integer(json[4], where, "group_cols");
  format.side.scale_bits = small_integer(json[5], where, "scale_bits");
  format.side.zero_bits = small_integer(json[6], where, "zero_bits");
  format.side.scale_step_log2 = real(json[7], where, "scale_step_log2");
  format.side.zero_range = real(json[8], where, "zero_range");
  return format;
}

/// Numbers of one length each, so that the header's length is known before they are.
std::string sensitivity_text(const std::vector<float>& values) {
  std::string text;
  for (const float value : values) {
    if (!(value >= 0) || std::isinf(value)) throw InternalError("a sensitivity must be finite and not negative");
    text += fmt::format("{}{:.2e}", text.empty() ? "" : " ", value < 1e-30f ? 0.0f : value);
  }
  return text;
}

std::vector<float> sensitivity_from_text(const std::string& text, const std::string& where) {
  std::vector<float> values;
  std::istringstream stream(text);
  for (float value; stream >> value;) {
    if (!(value >= 0)) break;
    values.push_back(value);
  }
  if (!stream.eof()) fail_input("{}: sensitivities must be numbers, not negative, with a space between", where);
  return values;
}

const Json& array_member(const Json& object, const char* key, const std::string& where) {
  if (!object.is_object() || !object.contains(key) || !object[key].is_array())
    fail_input("{}: key '{}' must be an array", where, key);
  return object[key];
}

}  // namespace

std::string metadata_text(const ArtifactDescription& description, const std::vector<StoredTensor>& tensors) {
  std::unordered_map<std::string, std::int64_t> positions;
  for (std::size_t i = 0; i < tensors.size(); ++i) positions[tensors[i].name] = static_cast<std::int64_t>(i);
  const auto position = [&](const std::string& name) { return name.empty() ? -1 : positions.at(name); };

  std::vector<MatrixFormat> known;
  Json formats = Json::array(), matrices = Json::array();
  for (const MatrixDeclaration& matrix : description.matrices) {
    const MatrixFormat shared = without_base(matrix.format);
    auto found = std::find(known.begin(), known.end(), shared);
    if (found == known.end()) {
      formats.push_back(format_to_array(shared));
      found = known.insert(known.end(), shared);
    }
    Json entry =
        Json::array({position(matrix.name), found - known.begin(), shortest_decimal(matrix.format.side.scale_base)});
    if (!matrix.row_order.empty() || !matrix.input_order.empty()) entry.push_back(position(matrix.row_order));
    if (!matrix.input_order.empty()) entry.push_back(position(matrix.input_order));
    matrices.push_back(std::move(entry));
  }
  Json metadata = {{"version", kFormatVersion}};
  if (!description.program.empty()) metadata["program"] = description.program;
  if (!description.source_hash.empty()) metadata["source"] = description.source_hash;
  metadata["spec"] = to_json(description.spec);
  metadata["formats"] = std::move(formats);
  metadata["matrices"] = std::move(matrices);
  metadata["recipe"] = description.recipe;
  if (!description.sensitivity.empty()) metadata["sensitivity"] = sensitivity_text(description.sensitivity);
  if (!description.chat_template.empty()) metadata["chat_template"] = description.chat_template;
  try {
    return metadata.dump();
  } catch (const nlohmann::json::exception& error) {
    fail_input("artifact metadata: {}", error.what());
  }
}

ArtifactDescription description_from_file(const SafetensorsFile& file) {
  const std::string where = file.path().string();
  const auto text = file.metadata().find(std::string(kMetadataKey));
  if (text == file.metadata().end())
    fail_input("{}: no scalebits artifact: its metadata has no key '{}'", where, kMetadataKey);
  const std::string where_metadata = where + ": metadata";
  const Json metadata = parse_json(text->second, where_metadata);
  const auto version = json_value<std::int64_t>(metadata, "version", where_metadata);
  if (version != kFormatVersion)
    fail_input("{}: format version {}, this program reads {}", where, version, kFormatVersion);

  ArtifactDescription description;
  description.spec = model_spec_from_json(json_value<Json>(metadata, "spec", where_metadata), where_metadata);
  description.program = json_value_or<std::string>(metadata, "program", "", where_metadata);
  description.source_hash = json_value_or<std::string>(metadata, "source", "", where_metadata);
  description.chat_template = json_value_or<std::string>(metadata, "chat_template", "", where_metadata);
  description.recipe = json_value<Json>(metadata, "recipe", where_metadata);
  description.sensitivity =
      sensitivity_from_text(json_value_or<std::string>(metadata, "sensitivity", "", where_metadata), where_metadata);

  std::vector<MatrixFormat> formats;
  for (const Json& format : array_member(metadata, "formats", where_metadata))
    formats.push_back(format_from_array(format, fmt::format("{}: format {}", where_metadata, formats.size())));

  const auto& entries = file.entries();
  std::vector<StoredTensor::Kind> kinds(entries.size(), StoredTensor::Kind::dense);
  const auto table_name = [&](const Json& json, const std::string& where_matrix) -> std::string {
    const std::int64_t position = integer(json, where_matrix, "a table's position");
    if (position == -1) return "";
    if (position < 0 || position >= static_cast<std::int64_t>(entries.size()))
      fail_input("{}: there is no tensor at position {}", where_matrix, position);
    const auto at = static_cast<std::size_t>(position);
    if ((entries[at].dtype != "U16" && entries[at].dtype != "U32") || entries[at].shape.size() != 1)
      fail_input("{}: its table '{}' must be U16 or U32 of one dimension, found {}", where_matrix, entries[at].name,
                 entries[at].dtype);
    kinds[at] = StoredTensor::Kind::table;
    return entries[at].name;
  };
  for (const Json& json : array_member(metadata, "matrices", where_metadata)) {
    const std::string where_matrix = fmt::format("{}: matrix {}", where_metadata, description.matrices.size());
    if (!json.is_array() || json.size() < 3 || json.size() > 5)
      fail_input("{}: wanted [tensor, format, scale_base, row table, input table], found {}", where_matrix,
                 json.dump().substr(0, 120));
    const std::int64_t position = integer(json[0], where_matrix, "its position");
    const std::int64_t format = integer(json[1], where_matrix, "its format");
    if (position < 0 || position >= static_cast<std::int64_t>(entries.size()))
      fail_input("{}: there is no tensor at position {}", where_matrix, position);
    if (format < 0 || format >= static_cast<std::int64_t>(formats.size()))
      fail_input("{}: there is no format {}", where_matrix, format);
    const SafetensorsEntry& entry = entries[static_cast<std::size_t>(position)];
    if (entry.dtype != "U8" || entry.shape.size() != 1)
      fail_input("{}: tensor '{}' must be U8 of one dimension, found {}", where_matrix, entry.name, entry.dtype);
    // Here, and not with the rest of the description: what is made of each entry may be far larger than its text.
    if (kinds[static_cast<std::size_t>(position)] == StoredTensor::Kind::matrix)
      fail_input("{}: tensor '{}' is there twice", where, entry.name);
    kinds[static_cast<std::size_t>(position)] = StoredTensor::Kind::matrix;
    MatrixDeclaration matrix{.name = entry.name, .format = formats[static_cast<std::size_t>(format)]};
    matrix.format.side.scale_base = real(json[2], where_matrix, "scale_base");
    if (json.size() > 3) matrix.row_order = table_name(json[3], where_matrix);
    if (json.size() > 4) matrix.input_order = table_name(json[4], where_matrix);
    description.matrices.push_back(std::move(matrix));
  }

  for (std::size_t i = 0; i < entries.size(); ++i) {
    const SafetensorsEntry& entry = entries[i];
    if (kinds[i] == StoredTensor::Kind::table) {
      description.tables.push_back({entry.name, entry.shape[0]});
    } else if (kinds[i] == StoredTensor::Kind::dense && entry.name == kTokenizerTensor) {
      description.tokenizer_bytes = entry.bytes.size();
    } else if (kinds[i] == StoredTensor::Kind::dense && entry.name != kChecksumsTensor) {
      std::optional<DType> dtype;
      for (const DType candidate : {DType::f32, DType::f16, DType::bf16})
        if (name_of(candidate) == entry.dtype) dtype = candidate;
      if (!dtype) fail_input("{}: tensor '{}': wanted F32, F16 or BF16, found {}", where, entry.name, entry.dtype);
      description.dense.push_back({entry.name, *dtype, entry.shape});
    }
  }
  return description;
}

std::uint64_t header_checksum(std::string_view header_text) {
  std::string bytes(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(std::uint64_t{header_text.size()} >> (8 * i) & 0xff);
  bytes += header_text;
  return hash_u64(std::as_bytes(std::span(bytes)));
}

std::uint64_t stored_checksum(std::span<const std::byte> checksums, std::size_t slot) {
  std::uint64_t value = 0;
  for (std::size_t i = 8; i-- > 0;) value = value << 8 | std::to_integer<std::uint64_t>(checksums[8 * slot + i]);
  return value;
}

const SafetensorsEntry& checksums_entry(const SafetensorsFile& file) {
  const SafetensorsEntry& entry = file.entry(kChecksumsTensor);
  if (&entry != &file.entries().back())
    fail_input("{}: tensor '{}' must be the last one", file.path().string(), kChecksumsTensor);
  if (entry.dtype != "U8" || entry.bytes.size() != 8 * file.entries().size())
    fail_input("{}: tensor '{}': wanted {} bytes of U8, found {} bytes of {}", file.path().string(), kChecksumsTensor,
               8 * file.entries().size(), entry.bytes.size(), entry.dtype);
  return entry;
}

}  // namespace scalebits
