#include "safetensors/safetensors.h"

#include "core/error.h"
#include "core/hash.h"
#include "core/json.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace scalebits {
namespace {

/// The reference implementation's bound; a longer header is an attack or not a safetensors file.
constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;

constexpr std::pair<std::string_view, int> kDtypeBits[] = {
    {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"BOOL", 8}, {"U8", 8},   {"I8", 8},    {"F8_E4M3", 8},
    {"F8_E5M2", 8}, {"F8_E8M0", 8}, {"U16", 16},    {"I16", 16}, {"F16", 16}, {"BF16", 16}, {"U32", 32},
    {"I32", 32},    {"F32", 32},    {"U64", 64},    {"I64", 64}, {"F64", 64}, {"C64", 64}};

std::uint64_t little_endian_u64(std::span<const std::byte> bytes) {
  std::uint64_t value = 0;
  for (int i = 7; i >= 0; --i) value = value << 8 | std::to_integer<std::uint64_t>(bytes[static_cast<std::size_t>(i)]);
  return value;
}

/// A JSON integer in [0, 2^63); nlohmann would silently convert floats, booleans and negatives.
std::int64_t natural(const Json& json, const std::string& where, const char* what) {
  if (!json.is_number_unsigned() || json.get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX))
    fail_input("{}: {} must be a non-negative integer, found {}", where, what, json.dump().substr(0, 40));
  return json.get<std::int64_t>();
}

struct Range {
  std::uint64_t begin, end;
};

std::pair<SafetensorsEntry, Range> parse_entry(const std::string& name, const Json& json, const std::string& file) {
  const std::string where = fmt::format("{}: tensor '{}'", file, name);
  SafetensorsEntry entry{.name = name, .dtype = json_value<std::string>(json, "dtype", where)};
  const Json shape = json_value<Json>(json, "shape", where);
  const Json offsets = json_value<Json>(json, "data_offsets", where);
  if (json.size() != 3) fail_input("{}: wanted the keys dtype, shape and data_offsets only", where);
  if (!shape.is_array()) fail_input("{}: shape must be an array, found {}", where, shape.type_name());
  for (const Json& extent : shape) entry.shape.push_back(natural(extent, where, "shape"));
  if (!offsets.is_array() || offsets.size() != 2) fail_input("{}: data_offsets must be an array of two", where);
  const Range range{static_cast<std::uint64_t>(natural(offsets[0], where, "data_offsets")),
                    static_cast<std::uint64_t>(natural(offsets[1], where, "data_offsets"))};
  const std::uint64_t wanted = safetensors_size_bytes(entry.dtype, entry.shape, where);
  if (range.begin > range.end || range.end - range.begin != wanted)
    fail_input("{}: {} of shape [{}] takes {} bytes, data_offsets are [{}, {}]", where, entry.dtype,
               fmt::join(entry.shape, ", "), wanted, range.begin, range.end);
  return {std::move(entry), range};
}

}  // namespace

int safetensors_dtype_bits(std::string_view dtype) {
  for (const auto& [name, bits] : kDtypeBits)
    if (name == dtype) return bits;
  return 0;
}

std::uint64_t safetensors_size_bytes(std::string_view dtype, std::span<const std::int64_t> shape,
                                     const std::string& where) {
  const int element_bits = safetensors_dtype_bits(dtype);
  if (element_bits == 0) fail_input("{}: unknown dtype '{}'", where, dtype);
  bool overflow = false;
  auto total_bits = static_cast<std::int64_t>(element_bits);
  for (const std::int64_t extent : shape) {
    if (extent < 0) fail_input("{}: shape [{}] has a negative extent", where, fmt::join(shape, ", "));
    overflow |= __builtin_mul_overflow(total_bits, extent, &total_bits);
  }
  if (overflow) fail_input("{}: shape [{}] overflows", where, fmt::join(shape, ", "));
  if (total_bits % 8 != 0)
    fail_input("{}: {} of shape [{}] does not fill its last byte", where, dtype, fmt::join(shape, ", "));
  return static_cast<std::uint64_t>(total_bits) / 8;
}

std::string content_hash(const SafetensorsMetadata& metadata, std::vector<SafetensorsEntry> entries) {
  std::ranges::sort(entries, {}, &SafetensorsEntry::name);
  Hasher hasher;
  for (const auto& [key, value] : metadata)
    if (key != kSealKey) hasher.update(fmt::format("{}:{}{}:{}", key.size(), key, value.size(), value));
  for (const SafetensorsEntry& entry : entries) {
    hasher.update(fmt::format("{}:{}{}[{}]", entry.name.size(), entry.name, entry.dtype, fmt::join(entry.shape, ",")));
    hasher.update(entry.bytes);
  }
  return hasher.hex();
}

SafetensorsFile SafetensorsFile::open_sealed(const std::filesystem::path& path) {
  SafetensorsFile file = open(path);
  const auto seal = file.metadata_.find(kSealKey);
  if (seal == file.metadata_.end())
    fail_input("{}: not a state that a job goes on from, or of an older version: its metadata has no '{}'",
               path.string(), kSealKey);
  if (seal->second != content_hash(file.metadata_, file.entries_))
    fail_input("{}: damaged: its bytes are not those that were written", path.string());
  return file;
}

SafetensorsFile SafetensorsFile::open(const std::filesystem::path& path) {
  SafetensorsFile result;
  result.file_ = MappedFile::open(path);
  const std::string where = path.string();
  const auto bytes = result.file_->bytes();
  if (bytes.size() < 8) fail_input("{}: not a safetensors file: {} bytes, wanted at least 8", where, bytes.size());
  if (std::memcmp(bytes.data(), "GGUF", 4) == 0) fail_input("{}: a GGUF file, not a safetensors file", where);
  const std::uint64_t header_bytes = little_endian_u64(bytes);
  if (header_bytes > kMaxHeaderBytes)
    fail_input("{}: not a safetensors file: header of {} bytes, at most {} are allowed", where, header_bytes,
               kMaxHeaderBytes);
  if (header_bytes > bytes.size() - 8)
    fail_input("{}: truncated: header of {} bytes, the file has {} left", where, header_bytes, bytes.size() - 8);
  result.data_offset_ = 8 + header_bytes;
  if (!result.header_text().starts_with('{'))
    fail_input("{}: not a safetensors file: the header must start with '{{'", where);

  const nlohmann::json header = parse_json_sorted(result.header_text(), where);
  std::vector<std::pair<SafetensorsEntry, Range>> found;
  for (const auto& [name, json] : header.items()) {
    if (name != "__metadata__") {
      found.push_back(parse_entry(name, Json(json), where));
      continue;
    }
    if (!json.is_object()) fail_input("{}: __metadata__ must be an object, found {}", where, json.type_name());
    for (const auto& [key, value] : json.items()) {
      if (!value.is_string())
        fail_input("{}: __metadata__ '{}' must be a string, found {}", where, key, value.type_name());
      result.metadata_[key] = value.get<std::string>();
    }
  }

  std::stable_sort(found.begin(), found.end(), [](const auto& a, const auto& b) {
    return std::pair(a.second.begin, a.second.end) < std::pair(b.second.begin, b.second.end);
  });
  const auto data = bytes.subspan(result.data_offset_);
  std::uint64_t expected = 0;
  for (auto& [entry, range] : found) {
    if (range.begin != expected)
      fail_input("{}: tensor '{}' starts at data byte {}, wanted {} (tensors must neither overlap nor leave a gap)",
                 where, entry.name, range.begin, expected);
    if (range.end > data.size())
      fail_input("{}: truncated: tensor '{}' ends at data byte {}, the file has {}", where, entry.name, range.end,
                 data.size());
    entry.bytes = data.subspan(range.begin, range.end - range.begin);
    expected = range.end;
    result.index_[entry.name] = result.entries_.size();
    result.entries_.push_back(std::move(entry));
  }
  if (expected != data.size()) fail_input("{}: {} bytes of data, the tensors cover {}", where, data.size(), expected);
  return result;
}

const SafetensorsEntry* SafetensorsFile::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &entries_[found->second];
}

const SafetensorsEntry& SafetensorsFile::entry(std::string_view name) const {
  const SafetensorsEntry* found = find(name);
  if (found == nullptr) fail_input("{}: tensor '{}' is missing", path().string(), name);
  return *found;
}

std::string_view SafetensorsFile::header_text() const {
  return {reinterpret_cast<const char*>(file_->bytes().data()) + 8, data_offset_ - 8};
}

}  // namespace scalebits
