// Writing an artifact: the payload is asked for tensor by tensor, in the order of the file, and the file appears whole
// or not at all.
#pragma once

#include "artifact/artifact_description.h"
#include "model/checkpoint.h"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace scalebits {

struct ArtifactPayload {
  /// Fills the blob of a matrix (pack_matrix()), packed_bytes(declaration.format, declaration.widths) long.
  std::function<void(const MatrixDeclaration& declaration, std::span<std::byte> blob)> matrix;
  /// The permutation of a table.
  std::function<std::vector<std::uint32_t>(const TableDeclaration& declaration)> table;
  /// The tensor, of the declared dtype and shape.
  std::function<HostTensor(const DenseDeclaration& declaration)> dense;
  /// Tokenizer::serialize().
  std::string tokenizer;
};

/// Throws Error(bad_input) for an invalid description, a table that is no permutation, NaN or Inf in a dense tensor, a
/// disk that is full; InternalError when a payload is not of its declared size. The file has
/// artifact_file_bytes(description) bytes.
void write_artifact(const std::filesystem::path& path, const ArtifactDescription& description,
                    const ArtifactPayload& payload);

/// Throws Error(bad_input) naming `where` unless `order` holds each of 0 … order.size() − 1 once.
void require_permutation(std::span<const std::uint32_t> order, const std::string& where);
/// Throws Error(bad_input) naming `where` and the element that is NaN or Inf.
void require_finite(const HostTensor& tensor, const std::string& where);

}  // namespace scalebits
