// A GGUF file (version 2 or 3, little-endian) mapped read-only and validated whole when it is opened: keys, tensor
// table, and byte ranges that tile the data with nothing but alignment padding between them.
#pragma once

#include "checkpoint/gguf_blocks.h"
#include "core/mapped_file.h"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace scalebits {

/// An array as it is stored; strings also as views.
struct GgufArray {
  std::uint32_t element_type = 0;
  std::uint64_t count = 0;
  std::span<const std::byte> bytes;       // of the numbers; unaligned, little-endian
  std::vector<std::string_view> strings;  // of an array of strings
};

using GgufValue = std::variant<std::uint64_t, std::int64_t, float, double, bool, std::string_view, GgufArray>;

struct GgufTensor {
  std::string name;
  const GgufFormat* format = nullptr;
  std::vector<std::int64_t> shape;  // row-major: the file's order of dimensions reversed
  std::span<const std::byte> bytes;
};

class GgufFile {
 public:
  /// Throws Error(bad_input) naming the path, the key or tensor, what was wanted and what was found.
  static GgufFile open(const std::filesystem::path& path);

  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  /// Null when there is none.
  const GgufTensor* find_tensor(std::string_view name) const;

  bool has(std::string_view key) const { return values_.contains(key); }
  /// Typed look-ups; empty when the key is absent, Error(bad_input) naming the file and key for another type.
  std::optional<std::int64_t> integer(std::string_view key) const;
  /// An f32 comes back as the double with the same shortest decimal text, 1e-05 rather than 9.999999747378752e-06.
  std::optional<double> number(std::string_view key) const;
  std::optional<bool> flag(std::string_view key) const;
  std::optional<std::string> text(std::string_view key) const;
  std::optional<std::vector<std::string>> texts(std::string_view key) const;
  std::optional<std::vector<float>> floats(std::string_view key) const;
  std::optional<std::vector<std::int32_t>> integers(std::string_view key) const;

  const std::filesystem::path& path() const { return file_->path(); }
  /// Keeps every span alive.
  const std::shared_ptr<const MappedFile>& file() const { return file_; }

 private:
  GgufFile() = default;
  const GgufValue* find_value(std::string_view key) const;
  [[noreturn]] void fail_type(std::string_view key, const char* wanted) const;

  std::shared_ptr<const MappedFile> file_;
  std::map<std::string, GgufValue, std::less<>> values_;
  std::vector<GgufTensor> tensors_;
  std::map<std::string, std::size_t, std::less<>> index_;
};

}  // namespace scalebits
