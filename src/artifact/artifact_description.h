// What an artifact holds, without its payload: declare it, ask its exact size, then write it (write_artifact.h); a file
// that is opened (artifact.h) gives the same description back. The one truth about the bytes of a whole file.
#pragma once

#include "core/float_types.h"
#include "core/json.h"
#include "format/matrix_format.h"
#include "model/model_spec.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace scalebits {

/// A quantised tensor. Tables are named; empty: identity. Several matrices may name the same table.
struct MatrixDeclaration {
  std::string name;  // one of required_tensors(spec) with two dimensions
  MatrixFormat format;
  std::vector<std::uint8_t> widths;  // 0 to 8, row-major by (block row, block column)
  std::string row_order;             // scatter: stored row i is row row_order[i] of the original
  std::string input_order;           // gather: stored column j is column input_order[j] of the original

  bool operator==(const MatrixDeclaration&) const = default;
};

/// A permutation of `length` channels; stored as U16 up to 65536 channels, else U32. By convention
/// "<matrix>.row_order" and, per input site, "model.layers.<n>.{attention,output,mlp,down}.input_order".
struct TableDeclaration {
  std::string name;
  std::int64_t length = 0;

  bool operator==(const TableDeclaration&) const = default;
};

/// An unquantised tensor.
struct DenseDeclaration {
  std::string name;
  DType dtype = DType::f16;
  std::vector<std::int64_t> shape;

  bool operator==(const DenseDeclaration&) const = default;
};

struct ArtifactDescription {
  ModelSpec spec;
  std::vector<MatrixDeclaration> matrices;  // matrices and dense tensors together: each of required_tensors(spec) once
  std::vector<DenseDeclaration> dense;
  std::vector<TableDeclaration> tables;  // each used by some matrix
  std::uint64_t tokenizer_bytes = 0;     // of Tokenizer::serialize(); 0: none
  std::string chat_template;             // Jinja text, empty when none
  Json recipe = Json::object();          // every option that made it
  std::vector<float> sensitivity;        // the search's score of each matrix's rounding, >= 0; empty: not measured
  std::string source_hash;               // of the checkpoint it was made from
  std::string program;                   // name and version of the program that made it
};

/// Throws Error(bad_input) naming `where` and the tensor unless specification, formats, widths, names, shapes and
/// tables fit.
void validate(const ArtifactDescription& description, const std::string& where);

/// Where the bytes of a file go, and the rates (METHOD §1.2).
struct ArtifactSizes {
  std::uint64_t codes = 0, side = 0, tags = 0;  // of all matrices; side with its padding
  std::uint64_t tables = 0;
  std::uint64_t dense = 0;
  std::uint64_t tokenizer = 0;
  std::uint64_t header = 0;  // with its length and padding
  std::uint64_t checksums = 0;
  std::uint64_t file() const { return codes + side + tags + tables + dense + tokenizer + header + checksums; }

  // Quantised linear layers of the decoder only (neither embedding nor head).
  std::uint64_t linear_weights = 0;
  std::uint64_t linear_bytes = 0;      // blobs whole, and the tables they name
  std::uint64_t linear_code_bits = 0;  // sum of the widths of their weights
  double linear_bpw() const {
    return linear_weights == 0 ? 0 : 8.0 * static_cast<double>(linear_bytes) / static_cast<double>(linear_weights);
  }
  double code_bits() const {
    return linear_weights == 0 ? 0 : static_cast<double>(linear_code_bits) / static_cast<double>(linear_weights);
  }
};

/// Validates, then counts; O(blocks) and the length of the header.
ArtifactSizes artifact_sizes(const ArtifactDescription& description);
/// Exactly the bytes of the file that write_artifact() writes.
std::uint64_t artifact_file_bytes(const ArtifactDescription& description);
Json to_json(const ArtifactSizes& sizes);

inline constexpr std::string_view kTokenizerTensor = "tokenizer";
inline constexpr std::string_view kChecksumsTensor = "checksums";

}  // namespace scalebits
