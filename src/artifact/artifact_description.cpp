#include "artifact/artifact_description.h"

#include "artifact/stored_tensors.h"
#include "format/matrix_layout.h"

#include <algorithm>
#include <map>
#include <set>
#include <unordered_map>

namespace scalebits {
namespace {

bool is_decoder_linear(const std::string& name) { return name != kEmbeddingName && name != kHeadName; }

StoredTensor stored_table(const TableDeclaration& table, std::size_t index) {
  const bool narrow = table.length <= 65536;
  const std::uint64_t bytes = static_cast<std::uint64_t>(table.length) * (narrow ? 2 : 4);
  return {StoredTensor::Kind::table, index, table.name, narrow ? "U16" : "U32", {table.length}, bytes};
}

StoredTensor stored_bytes(StoredTensor::Kind kind, std::size_t index, std::string_view name, std::uint64_t bytes) {
  return {kind, index, std::string(name), "U8", {static_cast<std::int64_t>(bytes)}, bytes};
}

/// Where in the file a tensor goes: see stored_tensors.h.
int file_section(const StoredTensor& tensor) {
  if (tensor.bytes % kAlignment == 0) return 0;
  switch (safetensors_dtype_bits(tensor.dtype)) {
    case 32: return 1;
    case 16: return 2;
    default: return 3;
  }
}

void validate_table_use(const MatrixDeclaration& matrix, const std::string& table, std::int64_t wanted,
                        const std::map<std::string, std::int64_t>& lengths, const std::string& where) {
  if (table.empty()) return;
  const auto found = lengths.find(table);
  if (found == lengths.end()) fail_input("{}: tensor '{}': its table '{}' is missing", where, matrix.name, table);
  if (found->second != wanted)
    fail_input("{}: tensor '{}': wanted {} entries in its table '{}', found {}", where, matrix.name, wanted, table,
               found->second);
}

}  // namespace

void validate(const ArtifactDescription& description, const std::string& where) {
  validate(description.spec, where);
  // Before anything is made of that many layers: a file must hold at least one tensor for each.
  if (description.spec.layers > static_cast<std::int64_t>(description.matrices.size() + description.dense.size()))
    fail_input("{}: {} layers, but only {} tensors", where, description.spec.layers,
               description.matrices.size() + description.dense.size());

  if (!description.sensitivity.empty() && description.sensitivity.size() != description.matrices.size())
    fail_input("{}: wanted {} sensitivities, found {}", where, description.matrices.size(),
               description.sensitivity.size());

  std::map<std::string, std::int64_t> table_lengths;
  for (const TableDeclaration& table : description.tables) {
    if (table.length < 1) fail_input("{}: table '{}' is empty", where, table.name);
    if (!table_lengths.emplace(table.name, table.length).second)
      fail_input("{}: two tables named '{}'", where, table.name);
  }
  std::map<std::string, std::vector<std::int64_t>> held;
  std::set<std::string> used_tables;
  for (const MatrixDeclaration& matrix : description.matrices) {
    const std::string where_matrix = fmt::format("{}: tensor '{}'", where, matrix.name);
    validate(matrix.format, where_matrix);
    if (static_cast<std::int64_t>(matrix.widths.size()) != matrix.format.block_count())
      fail_input("{}: wanted {} block widths, found {}", where_matrix, matrix.format.block_count(),
                 matrix.widths.size());
    for (const std::uint8_t width : matrix.widths)
      if (width > kMaxWidth) fail_input("{}: block widths must be 0 to {}, found {}", where_matrix, kMaxWidth, width);
    validate_table_use(matrix, matrix.row_order, matrix.format.rows, table_lengths, where);
    validate_table_use(matrix, matrix.input_order, matrix.format.cols, table_lengths, where);
    used_tables.insert({matrix.row_order, matrix.input_order});
    if (!held.emplace(matrix.name, std::vector{matrix.format.rows, matrix.format.cols}).second)
      fail_input("{}: there twice", where_matrix);
  }
  for (const DenseDeclaration& dense : description.dense)
    if (!held.emplace(dense.name, dense.shape).second) fail_input("{}: tensor '{}': there twice", where, dense.name);
  for (const TableDeclaration& table : description.tables) {
    if (!used_tables.contains(table.name)) fail_input("{}: no matrix uses the table '{}'", where, table.name);
    if (held.contains(table.name) || table.name == kTokenizerTensor || table.name == kChecksumsTensor)
      fail_input("{}: a table may not be named '{}'", where, table.name);
  }

  const auto required = required_tensors(description.spec);
  for (const TensorShape& tensor : required) {
    const auto found = held.find(tensor.name);
    if (found == held.end()) fail_input("{}: tensor '{}' is missing", where, tensor.name);
    if (found->second != tensor.shape)
      fail_input("{}: tensor '{}': wanted shape [{}], found [{}]", where, tensor.name, fmt::join(tensor.shape, ", "),
                 fmt::join(found->second, ", "));
    held.erase(found);
  }
  if (!held.empty()) fail_input("{}: tensor '{}' does not belong to this model", where, held.begin()->first);
}

std::vector<StoredTensor> stored_tensors(const ArtifactDescription& description) {
  std::unordered_map<std::string, StoredTensor> by_name;
  for (std::size_t i = 0; i < description.matrices.size(); ++i) {
    const MatrixDeclaration& matrix = description.matrices[i];
    const std::uint64_t bytes = packed_bytes(matrix.format, matrix.widths);
    by_name[matrix.name] = stored_bytes(StoredTensor::Kind::matrix, i, matrix.name, bytes);
  }
  for (std::size_t i = 0; i < description.dense.size(); ++i) {
    const DenseDeclaration& dense = description.dense[i];
    std::uint64_t bytes = size_bytes(dense.dtype);
    for (const std::int64_t extent : dense.shape) bytes *= static_cast<std::uint64_t>(extent);
    const std::string dtype(name_of(dense.dtype));
    by_name[dense.name] = {StoredTensor::Kind::dense, i, dense.name, dtype, dense.shape, bytes};
  }
  std::vector<StoredTensor> tensors;
  for (const TensorShape& tensor : required_tensors(description.spec)) tensors.push_back(by_name.at(tensor.name));
  for (std::size_t i = 0; i < description.tables.size(); ++i) tensors.push_back(stored_table(description.tables[i], i));
  if (description.tokenizer_bytes > 0)
    tensors.push_back(stored_bytes(StoredTensor::Kind::tokenizer, 0, kTokenizerTensor, description.tokenizer_bytes));
  std::stable_sort(tensors.begin(), tensors.end(),
                   [](const StoredTensor& a, const StoredTensor& b) { return file_section(a) < file_section(b); });
  tensors.push_back(stored_bytes(StoredTensor::Kind::checksums, 0, kChecksumsTensor, 8 * (tensors.size() + 1)));
  return tensors;
}

SafetensorsWriter declare_file(const ArtifactDescription& description, const std::vector<StoredTensor>& tensors) {
  SafetensorsWriter writer;
  writer.set_metadata(kMetadataKey, metadata_text(description, tensors));
  for (const StoredTensor& tensor : tensors) writer.add(tensor.name, tensor.dtype, tensor.shape, tensor.bytes);
  return writer;
}

ArtifactSizes artifact_sizes(const ArtifactDescription& description) {
  validate(description, "artifact");
  const auto tensors = stored_tensors(description);
  ArtifactSizes sizes{.header = declare_file(description, tensors).data_offset()};
  std::set<std::string> linear_tables;
  for (const MatrixDeclaration& matrix : description.matrices) {
    const PackedBytes bytes = packed_bytes_by_kind(matrix.format, matrix.widths);
    sizes.codes += bytes.codes;
    sizes.side += bytes.side;
    sizes.tags += bytes.tags;
    if (!is_decoder_linear(matrix.name)) continue;
    sizes.linear_bytes += bytes.total();
    sizes.linear_weights += static_cast<std::uint64_t>(matrix.format.rows * matrix.format.cols);
    for (std::int64_t row = 0; row < matrix.format.block_row_count(); ++row)
      for (std::int64_t col = 0; col < matrix.format.block_col_count(); ++col)
        sizes.linear_code_bits += matrix.widths[static_cast<std::size_t>(matrix.format.block_index(row, col))] *
                                  static_cast<std::uint64_t>(matrix.format.block_weights(row, col));
    linear_tables.insert({matrix.row_order, matrix.input_order});
  }
  for (const StoredTensor& tensor : tensors) {
    switch (tensor.kind) {
      case StoredTensor::Kind::matrix: break;  // counted above
      case StoredTensor::Kind::dense: sizes.dense += tensor.bytes; break;
      case StoredTensor::Kind::table:
        sizes.tables += tensor.bytes;
        if (linear_tables.contains(tensor.name)) sizes.linear_bytes += tensor.bytes;
        break;
      case StoredTensor::Kind::tokenizer: sizes.tokenizer += tensor.bytes; break;
      case StoredTensor::Kind::checksums: sizes.checksums += tensor.bytes; break;
    }
  }
  return sizes;
}

std::uint64_t artifact_file_bytes(const ArtifactDescription& description) { return artifact_sizes(description).file(); }

Json to_json(const ArtifactSizes& sizes) {
  return {{"file_bytes", sizes.file()},         {"codes_bytes", sizes.codes},
          {"side_bytes", sizes.side},           {"tags_bytes", sizes.tags},
          {"tables_bytes", sizes.tables},       {"dense_bytes", sizes.dense},
          {"tokenizer_bytes", sizes.tokenizer}, {"header_bytes", sizes.header},
          {"checksums_bytes", sizes.checksums}, {"linear_weights", sizes.linear_weights},
          {"linear_bytes", sizes.linear_bytes}, {"linear_bpw", sizes.linear_bpw()},
          {"code_bits", sizes.code_bits()}};
}

}  // namespace scalebits
