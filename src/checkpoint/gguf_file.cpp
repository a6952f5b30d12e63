#include "checkpoint/gguf_file.h"

#include "core/error.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <type_traits>
#include <utility>

namespace scalebits {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF values are read as they lie");

enum ValueType : std::uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64,
};

constexpr std::uint64_t kDefaultAlignment = 32;
constexpr std::uint64_t kMaxAlignment = 1 << 20;
constexpr std::uint32_t kMaxDimensions = 4;
constexpr std::uint64_t kMaxNameBytes = 65535;  // the specification's bound for keys

/// Bytes of one number; 0 for strings, arrays and unknown types.
std::uint64_t value_bytes(std::uint32_t type) {
  switch (type) {
    case kU8:
    case kI8:
    case kBool: return 1;
    case kU16:
    case kI16: return 2;
    case kU32:
    case kI32:
    case kF32: return 4;
    case kU64:
    case kI64:
    case kF64: return 8;
    default: return 0;
  }
}

template <typename T>
T load(const std::byte* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(T));
  return value;
}

/// Reads forward through the file and never past its end.
class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, std::string where) : bytes_(bytes), where_(std::move(where)) {}
  const std::string& where() const { return where_; }
  std::uint64_t position() const { return position_; }

  std::span<const std::byte> take(std::uint64_t count, const char* what) {
    if (count > bytes_.size() - position_)
      fail_input("{}: truncated or corrupt: {} takes {} bytes at byte {}, the file has {} left", where_, what, count,
                 position_, bytes_.size() - position_);
    const auto taken = bytes_.subspan(position_, count);
    position_ += count;
    return taken;
  }
  template <typename T>
  T number(const char* what) {
    return load<T>(take(sizeof(T), what).data());
  }
  std::string_view text(const char* what, std::uint64_t longest = UINT64_MAX) {
    const auto length = number<std::uint64_t>(what);
    if (length > longest) fail_input("{}: {} of {} bytes, at most {} are allowed", where_, what, length, longest);
    const auto bytes = take(length, what);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

 private:
  std::span<const std::byte> bytes_;
  std::uint64_t position_ = 0;
  std::string where_;
};

bool read_bool(Cursor& cursor, const std::string& key) {
  const auto value = cursor.number<std::uint8_t>("a boolean");
  if (value > 1) fail_input("{}: key '{}': a boolean must be 0 or 1, found {}", cursor.where(), key, value);
  return value == 1;
}

GgufArray read_array(Cursor& cursor, const std::string& key) {
  GgufArray array;
  array.element_type = cursor.number<std::uint32_t>("an array's type");
  array.count = cursor.number<std::uint64_t>("an array's length");
  if (array.element_type == kString) {
    for (std::uint64_t i = 0; i < array.count; ++i) array.strings.push_back(cursor.text("a string of an array"));
    return array;
  }
  const std::uint64_t each = value_bytes(array.element_type);
  if (each == 0) fail_input("{}: key '{}': arrays of type {} are unknown", cursor.where(), key, array.element_type);
  std::uint64_t total = 0;
  if (__builtin_mul_overflow(array.count, each, &total))
    fail_input("{}: key '{}': array of {} values overflows", cursor.where(), key, array.count);
  array.bytes = cursor.take(total, "an array");
  return array;
}

GgufValue read_value(Cursor& cursor, const std::string& key) {
  const auto type = cursor.number<std::uint32_t>("the type of a value");
  const auto natural = [&]<typename T>(T) { return GgufValue(std::uint64_t{cursor.number<T>("a number")}); };
  const auto integer = [&]<typename T>(T) { return GgufValue(std::int64_t{cursor.number<T>("a number")}); };
  switch (type) {
    case kU8: return natural(std::uint8_t{});
    case kU16: return natural(std::uint16_t{});
    case kU32: return natural(std::uint32_t{});
    case kU64: return natural(std::uint64_t{});
    case kI8: return integer(std::int8_t{});
    case kI16: return integer(std::int16_t{});
    case kI32: return integer(std::int32_t{});
    case kI64: return integer(std::int64_t{});
    case kF32: return cursor.number<float>("a number");
    case kF64: return cursor.number<double>("a number");
    case kBool: return read_bool(cursor, key);
    case kString: return cursor.text("a string");
    case kArray: return read_array(cursor, key);
  }
  fail_input("{}: key '{}' has the unknown type {}", cursor.where(), key, type);
}

struct TensorEntry {
  GgufTensor tensor;
  std::uint64_t offset, size;
};

TensorEntry read_tensor_entry(Cursor& cursor) {
  TensorEntry entry;
  entry.tensor.name = cursor.text("a tensor's name", kMaxNameBytes);
  const std::string where = fmt::format("{}: tensor '{}'", cursor.where(), entry.tensor.name);
  const auto dimensions = cursor.number<std::uint32_t>("a tensor's number of dimensions");
  if (dimensions < 1 || dimensions > kMaxDimensions)
    fail_input("{}: wanted 1 to {} dimensions, found {}", where, kMaxDimensions, dimensions);
  std::int64_t elements = 1;
  for (std::uint32_t i = 0; i < dimensions; ++i) {
    const auto extent = cursor.number<std::uint64_t>("a tensor's dimension");
    if (extent == 0 || extent > static_cast<std::uint64_t>(INT64_MAX) ||
        __builtin_mul_overflow(elements, static_cast<std::int64_t>(extent), &elements))
      fail_input("{}: dimension {} of size {} is zero or overflows", where, i, extent);
    entry.tensor.shape.insert(entry.tensor.shape.begin(), static_cast<std::int64_t>(extent));
  }
  const auto type = cursor.number<std::uint32_t>("a tensor's type");
  entry.tensor.format = find_gguf_format(type);
  if (entry.tensor.format == nullptr)
    fail_input("{}: unknown ggml type {}; known are {}", where, type, known_gguf_formats());
  const GgufFormat& format = *entry.tensor.format;
  if (entry.tensor.shape.back() % format.block_elements != 0)
    fail_input("{}: rows of {} elements do not divide into {} blocks of {}", where, entry.tensor.shape.back(),
               format.name, format.block_elements);
  if (__builtin_mul_overflow(static_cast<std::uint64_t>(elements / format.block_elements),
                             static_cast<std::uint64_t>(format.block_bytes), &entry.size))
    fail_input("{}: shape [{}] overflows", where, fmt::join(entry.tensor.shape, ", "));
  entry.offset = cursor.number<std::uint64_t>("a tensor's offset");
  return entry;
}

std::uint64_t padded(std::uint64_t size, std::uint64_t alignment) {
  return (size + alignment - 1) / alignment * alignment;
}

/// Cuts the data into tensors; they must follow each other in some order with only alignment padding between them.
void place_tensors(std::vector<TensorEntry>& entries, std::span<const std::byte> data, std::uint64_t alignment,
                   const std::string& where) {
  std::vector<TensorEntry*> order;
  for (TensorEntry& entry : entries) order.push_back(&entry);
  std::stable_sort(order.begin(), order.end(), [](const auto* a, const auto* b) { return a->offset < b->offset; });
  std::uint64_t end = 0;
  for (TensorEntry* entry : order) {
    if (entry->offset != padded(end, alignment))
      fail_input("{}: tensor '{}' starts at data byte {}, wanted {} (tensors must neither overlap nor leave a gap)",
                 where, entry->tensor.name, entry->offset, padded(end, alignment));
    if (entry->offset > data.size() || entry->size > data.size() - entry->offset)
      fail_input("{}: truncated: tensor '{}' takes {} bytes at data byte {}, the file has {}", where,
                 entry->tensor.name, entry->size, entry->offset, data.size());
    entry->tensor.bytes = data.subspan(entry->offset, entry->size);
    end = entry->offset + entry->size;
  }
  if (data.size() > padded(end, alignment))
    fail_input("{}: {} bytes of data, the tensors cover {}", where, data.size(), end);
}

}  // namespace

GgufFile GgufFile::open(const std::filesystem::path& path) {
  GgufFile result;
  result.file_ = MappedFile::open(path);
  const auto bytes = result.file_->bytes();
  Cursor cursor(bytes, path.string());
  const std::string& where = cursor.where();
  const auto magic = cursor.take(4, "the magic");
  if (std::memcmp(magic.data(), "GGUF", 4) != 0)
    fail_input("{}: not a GGUF file: it does not start with 'GGUF'", where);
  const auto version = cursor.number<std::uint32_t>("the version");
  if (version != 2 && version != 3)
    fail_input("{}: GGUF version {} is unknown; wanted 2 or 3{}", where, version,
               version != 0 && (version & 0xffff) == 0 ? " (big-endian files are not read)" : "");
  const auto tensor_count = cursor.number<std::uint64_t>("the number of tensors");
  const auto value_count = cursor.number<std::uint64_t>("the number of keys");

  for (std::uint64_t i = 0; i < value_count; ++i) {
    std::string key(cursor.text("a key", kMaxNameBytes));
    GgufValue value = read_value(cursor, key);
    if (result.has(key)) fail_input("{}: key '{}' occurs twice", where, key);
    result.values_.emplace(std::move(key), std::move(value));
  }
  // Sound, but no model: the other parts hold the tensors that would be missing.
  if (const std::int64_t parts = result.integer("split.count").value_or(0); parts > 1)
    fail_input("{}: is part {} of {} of a split GGUF; join the parts first (llama-gguf-split --merge)", where,
               static_cast<std::uint64_t>(result.integer("split.no").value_or(0)) + 1, parts);
  std::vector<TensorEntry> entries;
  for (std::uint64_t i = 0; i < tensor_count; ++i) {
    entries.push_back(read_tensor_entry(cursor));
    const std::string& name = entries.back().tensor.name;
    if (!result.index_.emplace(name, entries.size() - 1).second)
      fail_input("{}: tensor '{}' occurs twice", where, name);
  }

  const auto alignment = static_cast<std::uint64_t>(result.integer("general.alignment").value_or(kDefaultAlignment));
  if (alignment > kMaxAlignment || !std::has_single_bit(alignment))
    fail_input("{}: general.alignment must be a power of two up to {}, found {}", where, kMaxAlignment, alignment);
  // A file without tensors may end before the padding.
  const std::uint64_t data_begin = std::min<std::uint64_t>(padded(cursor.position(), alignment), bytes.size());
  place_tensors(entries, bytes.subspan(data_begin), alignment, where);
  for (TensorEntry& entry : entries) result.tensors_.push_back(std::move(entry.tensor));
  return result;
}

const GgufTensor* GgufFile::find_tensor(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

const GgufValue* GgufFile::find_value(std::string_view key) const {
  const auto found = values_.find(key);
  return found == values_.end() ? nullptr : &found->second;
}

void GgufFile::fail_type(std::string_view key, const char* wanted) const {
  fail_input("{}: key '{}' must be {}", path().string(), key, wanted);
}

std::optional<std::int64_t> GgufFile::integer(std::string_view key) const {
  const GgufValue* value = find_value(key);
  if (value == nullptr) return std::nullopt;
  if (const auto* number = std::get_if<std::int64_t>(value)) return *number;
  const auto* number = std::get_if<std::uint64_t>(value);
  if (number == nullptr || *number > static_cast<std::uint64_t>(INT64_MAX)) fail_type(key, "an integer below 2^63");
  return static_cast<std::int64_t>(*number);
}

std::optional<double> GgufFile::number(std::string_view key) const {
  const GgufValue* value = find_value(key);
  if (value == nullptr) return std::nullopt;
  if (const auto* number = std::get_if<double>(value)) return *number;
  const auto* number = std::get_if<float>(value);
  if (number == nullptr) fail_type(key, "a floating-point number");
  return std::stod(fmt::format("{}", *number));
}

std::optional<bool> GgufFile::flag(std::string_view key) const {
  const GgufValue* value = find_value(key);
  if (value == nullptr) return std::nullopt;
  const auto* flag = std::get_if<bool>(value);
  if (flag == nullptr) fail_type(key, "a boolean");
  return *flag;
}

std::optional<std::string> GgufFile::text(std::string_view key) const {
  const GgufValue* value = find_value(key);
  if (value == nullptr) return std::nullopt;
  const auto* text = std::get_if<std::string_view>(value);
  if (text == nullptr) fail_type(key, "a string");
  return std::string(*text);
}

std::optional<std::vector<std::string>> GgufFile::texts(std::string_view key) const {
  const GgufValue* value = find_value(key);
  if (value == nullptr) return std::nullopt;
  const auto* array = std::get_if<GgufArray>(value);
  if (array == nullptr || array->element_type != kString) fail_type(key, "an array of strings");
  return std::vector<std::string>(array->strings.begin(), array->strings.end());
}

std::optional<std::vector<float>> GgufFile::floats(std::string_view key) const {
  const GgufValue* value = find_value(key);
  if (value == nullptr) return std::nullopt;
  const auto* array = std::get_if<GgufArray>(value);
  if (array == nullptr || array->element_type != kF32) fail_type(key, "an array of f32");
  std::vector<float> numbers(array->count);
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = load<float>(array->bytes.data() + 4 * i);
  return numbers;
}

std::optional<std::vector<std::int32_t>> GgufFile::integers(std::string_view key) const {
  const GgufValue* value = find_value(key);
  if (value == nullptr) return std::nullopt;
  const auto* array = std::get_if<GgufArray>(value);
  if (array == nullptr || (array->element_type != kI32 && array->element_type != kU32))
    fail_type(key, "an array of i32 or u32");
  std::vector<std::int32_t> numbers(array->count);
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = load<std::int32_t>(array->bytes.data() + 4 * i);
  return numbers;
}

}  // namespace scalebits
