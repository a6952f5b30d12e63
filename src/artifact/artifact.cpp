#include "artifact/artifact.h"

#include "artifact/stored_tensors.h"
#include "artifact/write_artifact.h"
#include "core/parallel.h"
#include "tokenizer/tokenizer.h"

#include <algorithm>
#include <cstring>

namespace scalebits {
namespace {

std::vector<std::uint32_t> read_table(const SafetensorsEntry& entry) {
  std::vector<std::uint32_t> order(static_cast<std::size_t>(entry.shape[0]));
  const std::size_t width = entry.dtype == "U16" ? 2 : 4;
  for (std::size_t i = 0; i < order.size(); ++i) {
    order[i] = 0;  // little-endian, as the host
    std::memcpy(&order[i], entry.bytes.data() + i * width, width);
  }
  return order;
}

}  // namespace

Artifact Artifact::open(const std::filesystem::path& path) {
  Artifact artifact(SafetensorsFile::open(path));
  const SafetensorsFile& file = artifact.file_;
  const std::string where = path.string();
  ArtifactDescription& description = artifact.description_;
  description = description_from_file(file);
  if (stored_checksum(checksums_entry(file).bytes, 0) != header_checksum(file.header_text()))
    fail_input("{}: the header does not match its checksum", where);

  for (MatrixDeclaration& matrix : description.matrices) {
    const SafetensorsEntry& entry = file.entry(matrix.name);
    const std::string where_matrix = fmt::format("{}: tensor '{}'", where, matrix.name);
    const auto offset = static_cast<std::uint64_t>(entry.bytes.data() - file.file()->bytes().data());
    if (offset % kAlignment != 0)
      fail_input("{}: must start at a multiple of {} bytes, found byte {}", where_matrix, kAlignment, offset);
    PackedMatrix packed(matrix.format, entry.bytes, where_matrix);
    matrix.widths.assign(packed.widths().begin(), packed.widths().end());
    artifact.matrix_index_[matrix.name] = artifact.matrices_.size();
    artifact.matrices_.push_back({.name = matrix.name, .packed = std::move(packed)});
  }
  validate(description, where);

  for (const TableDeclaration& table : description.tables) {
    auto order = read_table(file.entry(table.name));
    require_permutation(order, fmt::format("{}: table '{}'", where, table.name));
    artifact.tables_[table.name] = std::move(order);
  }
  for (std::size_t i = 0; i < artifact.matrices_.size(); ++i) {
    const MatrixDeclaration& matrix = description.matrices[i];
    if (!matrix.row_order.empty()) artifact.matrices_[i].row_order = artifact.tables_.at(matrix.row_order);
    if (!matrix.input_order.empty()) artifact.matrices_[i].input_order = artifact.tables_.at(matrix.input_order);
  }
  for (const DenseDeclaration& dense : description.dense)
    artifact.dense_[dense.name] = {dense.dtype, dense.shape, file.entry(dense.name).bytes, file.file()};
  if (description.tokenizer_bytes > 0)
    artifact.tokenizer_ = std::make_shared<const Tokenizer>(Tokenizer::deserialize(
        file.entry(kTokenizerTensor).bytes, fmt::format("{}: tensor '{}'", where, kTokenizerTensor)));
  return artifact;
}

const ArtifactMatrix* Artifact::find_matrix(std::string_view name) const {
  const auto found = matrix_index_.find(name);
  return found == matrix_index_.end() ? nullptr : &matrices_[found->second];
}

std::vector<float> Artifact::dequantize(std::string_view name) const {
  std::int64_t elements = 0;
  if (const ArtifactMatrix* matrix = find_matrix(name))
    elements = matrix->packed.format().rows * matrix->packed.format().cols;
  else if (const auto found = dense_.find(name); found != dense_.end())
    elements = found->second.elements();
  std::vector<float> values(static_cast<std::size_t>(elements));
  dequantize(name, values);
  return values;
}

void Artifact::dequantize(std::string_view name, std::span<float> out) const {
  const ArtifactMatrix* matrix = find_matrix(name);
  if (matrix == nullptr) {
    const auto found = dense_.find(name);
    if (found == dense_.end()) throw InternalError(fmt::format("{}: no tensor '{}'", path().string(), name));
    SCALEBITS_ASSERT(static_cast<std::int64_t>(out.size()) == found->second.elements());
    return found->second.copy_f32(0, out);
  }
  if (matrix->row_order.empty() && matrix->input_order.empty()) return matrix->packed.dequantize(out);
  const auto rows = static_cast<std::size_t>(matrix->packed.format().rows);
  const auto cols = static_cast<std::size_t>(matrix->packed.format().cols);
  SCALEBITS_ASSERT(out.size() == rows * cols);
  parallel_for(matrix->packed.format().tile_row_count(), [&](std::int64_t tile_row) {
    const std::size_t first = static_cast<std::size_t>(tile_row) * kTileRows;
    const std::size_t count = std::min<std::size_t>(kTileRows, rows - first);
    std::vector<float> stored(count * cols);
    matrix->packed.dequantize_rows(static_cast<std::int64_t>(first), static_cast<std::int64_t>(count), stored);
    for (std::size_t i = 0; i < count; ++i) {
      const std::span<const float> from(stored.data() + i * cols, cols);
      float* to = out.data() + (matrix->row_order.empty() ? first + i : matrix->row_order[first + i]) * cols;
      if (matrix->input_order.empty())
        std::copy(from.begin(), from.end(), to);
      else
        for (std::size_t j = 0; j < cols; ++j) to[matrix->input_order[j]] = from[j];
    }
  });
}

void Artifact::dequantize_row(std::string_view name, std::int64_t row, std::span<float> out) const {
  const ArtifactMatrix* matrix = find_matrix(name);
  if (matrix == nullptr) {
    const auto found = dense_.find(name);
    if (found == dense_.end()) throw InternalError(fmt::format("{}: no tensor '{}'", path().string(), name));
    SCALEBITS_ASSERT(found->second.shape.size() == 2 &&
                     static_cast<std::int64_t>(out.size()) == found->second.shape[1]);
    return found->second.copy_f32(row * found->second.shape[1], out);
  }
  SCALEBITS_ASSERT(row >= 0 && row < matrix->packed.format().rows);
  if (!matrix->row_order.empty())
    row = std::find(matrix->row_order.begin(), matrix->row_order.end(), static_cast<std::uint32_t>(row)) -
          matrix->row_order.begin();
  if (matrix->input_order.empty()) return matrix->packed.dequantize_rows(row, 1, out);
  std::vector<float> stored(out.size());
  matrix->packed.dequantize_rows(row, 1, stored);
  for (std::size_t j = 0; j < out.size(); ++j) out[matrix->input_order[j]] = stored[j];
}

}  // namespace scalebits
