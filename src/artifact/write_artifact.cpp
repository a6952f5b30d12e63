#include "artifact/write_artifact.h"

#include "artifact/stored_tensors.h"
#include "core/hash.h"

#include <cmath>
#include <cstring>

namespace scalebits {
namespace {

void append_little_endian(std::vector<std::byte>& to, std::uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) to.push_back(static_cast<std::byte>(value >> (8 * i)));
}

std::vector<std::byte> table_bytes(const std::vector<std::uint32_t>& order, const StoredTensor& tensor) {
  SCALEBITS_ASSERT(static_cast<std::int64_t>(order.size()) == tensor.shape[0]);
  require_permutation(order, "table '" + tensor.name + "'");
  std::vector<std::byte> bytes;
  bytes.reserve(tensor.bytes);
  for (const std::uint32_t entry : order) append_little_endian(bytes, entry, tensor.dtype == "U16" ? 2 : 4);
  return bytes;
}

}  // namespace

void require_permutation(std::span<const std::uint32_t> order, const std::string& where) {
  std::vector<bool> seen(order.size());
  for (const std::uint32_t entry : order) {
    if (entry >= order.size())
      fail_input("{}: no permutation of {} channels: it names channel {}", where, order.size(), entry);
    if (seen[entry])
      fail_input("{}: no permutation of {} channels: it names channel {} twice", where, order.size(), entry);
    seen[entry] = true;
  }
}

void require_finite(const HostTensor& tensor, const std::string& where) {
  constexpr std::int64_t kChunk = 1 << 16;
  std::vector<float> values;
  for (std::int64_t first = 0; first < tensor.elements(); first += kChunk) {
    values.resize(static_cast<std::size_t>(std::min(kChunk, tensor.elements() - first)));
    tensor.copy_f32(first, values);
    for (std::size_t i = 0; i < values.size(); ++i)
      if (!std::isfinite(values[i]))
        fail_input("{}: element {} is {}", where, first + static_cast<std::int64_t>(i), values[i]);
  }
}

void write_artifact(const std::filesystem::path& path, const ArtifactDescription& description,
                    const ArtifactPayload& payload) {
  validate(description, path.string());
  SCALEBITS_ASSERT(payload.tokenizer.size() == description.tokenizer_bytes);
  const auto tensors = stored_tensors(description);
  const SafetensorsWriter writer = declare_file(description, tensors);
  std::vector<std::byte> checksums;
  append_little_endian(checksums, header_checksum(writer.header_text()), 8);
  writer.write(path, [&](std::size_t entry, AtomicFile& file) {
    const StoredTensor& tensor = tensors[entry];
    const auto write = [&](std::span<const std::byte> bytes) {
      append_little_endian(checksums, hash_u64(bytes), 8);
      file.write(bytes);
    };
    switch (tensor.kind) {
      case StoredTensor::Kind::matrix: {
        std::vector<std::byte> blob(tensor.bytes);
        payload.matrix(description.matrices[tensor.index], blob);
        return write(blob);
      }
      case StoredTensor::Kind::dense: {
        const DenseDeclaration& declaration = description.dense[tensor.index];
        const HostTensor dense = payload.dense(declaration);
        SCALEBITS_ASSERT(dense.dtype == declaration.dtype && dense.shape == declaration.shape);
        require_finite(dense, "tensor '" + tensor.name + "'");
        return write(dense.bytes);
      }
      case StoredTensor::Kind::table:
        return write(table_bytes(payload.table(description.tables[tensor.index]), tensor));
      case StoredTensor::Kind::tokenizer: return write(std::as_bytes(std::span(payload.tokenizer)));
      case StoredTensor::Kind::checksums: return file.write(checksums);
    }
  });
}

}  // namespace scalebits
