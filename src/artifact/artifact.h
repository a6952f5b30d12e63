// An artifact mapped read-only: one file that holds all a model needs to run. Everything but the tensors' checksums is
// validated when it is opened; after that no read leaves the file. Packed matrices are views into the mapping.
#pragma once

#include "artifact/artifact_description.h"
#include "format/packed_matrix.h"
#include "model/checkpoint.h"
#include "safetensors/safetensors.h"

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace scalebits {

struct ArtifactMatrix {
  std::string name;
  PackedMatrix packed;
  // Empty: identity.
  std::span<const std::uint32_t> row_order;    // stored row i is original row row_order[i]
  std::span<const std::uint32_t> input_order;  // stored column j is original column input_order[j]
};

class Artifact {
 public:
  /// Throws Error(bad_input) naming the path, the tensor, what was wanted and what was found.
  static Artifact open(const std::filesystem::path& path);
  Artifact(Artifact&&) = default;
  Artifact& operator=(Artifact&&) = default;

  const ArtifactDescription& description() const { return description_; }
  const ModelSpec& spec() const { return description_.spec; }
  const std::string& chat_template() const { return description_.chat_template; }
  const Json& recipe() const { return description_.recipe; }
  /// Null when the file carries none.
  const std::shared_ptr<const Tokenizer>& tokenizer() const { return tokenizer_; }
  const std::filesystem::path& path() const { return file_.path(); }
  /// Keeps every view alive.
  const std::shared_ptr<const MappedFile>& file() const { return file_.file(); }
  ArtifactSizes sizes() const { return artifact_sizes(description_); }

  /// In the order of the file.
  const std::vector<ArtifactMatrix>& matrices() const { return matrices_; }
  const std::map<std::string, HostTensor, std::less<>>& dense() const { return dense_; }
  /// Null when there is no matrix of that name.
  const ArtifactMatrix* find_matrix(std::string_view name) const;

  /// A required tensor as f32, row-major, channels in their original order; parallel. InternalError for other names.
  std::vector<float> dequantize(std::string_view name) const;
  void dequantize(std::string_view name, std::span<float> out) const;
  /// One row of a two-dimensional tensor in the original order; decodes that row only. `out` has its columns.
  void dequantize_row(std::string_view name, std::int64_t row, std::span<float> out) const;

 private:
  explicit Artifact(SafetensorsFile file) : file_(std::move(file)) {}
  SafetensorsFile file_;
  ArtifactDescription description_;
  std::vector<ArtifactMatrix> matrices_;
  std::map<std::string, std::size_t, std::less<>> matrix_index_;
  std::map<std::string, std::vector<std::uint32_t>, std::less<>> tables_;
  std::map<std::string, HostTensor, std::less<>> dense_;
  std::shared_ptr<const Tokenizer> tokenizer_;
};

}  // namespace scalebits
