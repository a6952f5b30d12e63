#include "safetensors/safetensors_writer.h"

#include "core/error.h"
#include "core/json.h"
#include "safetensors/safetensors.h"

#include <algorithm>

namespace scalebits {
namespace {

constexpr std::size_t kDataAlignment = 64;

std::string quoted(const std::string& text) {
  try {
    return Json(text).dump();
  } catch (const nlohmann::json::exception&) {
    fail_input("safetensors header: text is not valid UTF-8: '{}'", text.substr(0, 40));
  }
}

}  // namespace

void SafetensorsWriter::set_metadata(std::string_view key, std::string_view value) {
  const auto found =
      std::find_if(metadata_.begin(), metadata_.end(), [&](const auto& item) { return item.first == key; });
  if (found != metadata_.end())
    found->second = value;
  else
    metadata_.emplace_back(key, value);
}

void SafetensorsWriter::add(std::string name, std::string_view dtype, std::vector<std::int64_t> shape,
                            std::uint64_t size_bytes) {
  SCALEBITS_ASSERT(name != "__metadata__" && names_.insert(name).second);
  SCALEBITS_ASSERT(safetensors_size_bytes(dtype, shape, name) == size_bytes);
  entries_.push_back({std::move(name), std::string(dtype), std::move(shape), data_bytes_, data_bytes_ + size_bytes});
  data_bytes_ += size_bytes;
}

std::string SafetensorsWriter::header_text() const {
  // Put together by hand: an ordered JSON object looks every key up, quadratic in their number.
  std::string text = "{";
  if (!metadata_.empty()) {
    text += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata_) text += quoted(key) + ':' + quoted(value) + ',';
    text.back() = '}';
    text += ',';
  }
  for (const Entry& entry : entries_)
    text += fmt::format("{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}},", quoted(entry.name),
                        entry.dtype, fmt::join(entry.shape, ","), entry.begin, entry.end);
  if (text.back() == ',')
    text.back() = '}';
  else
    text += '}';
  const std::size_t used = 8 + text.size();
  text.append((kDataAlignment - used % kDataAlignment) % kDataAlignment, ' ');
  return text;
}

void SafetensorsWriter::write(const std::filesystem::path& path, const WritePayload& write_payload) const {
  const std::string header = header_text();
  std::string length(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) length[i] = static_cast<char>(std::uint64_t{header.size()} >> (8 * i) & 0xff);
  AtomicFile file(path);
  file.write(length);
  file.write(header);
  const std::uint64_t data_begin = file.bytes_written();
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    write_payload(i, file);
    if (file.bytes_written() - data_begin != entries_[i].end)
      throw InternalError(fmt::format("{}: payload of tensor '{}' ends at byte {}, declared {}", path.string(),
                                      entries_[i].name, file.bytes_written() - data_begin, entries_[i].end));
  }
  file.commit();
}

void SafetensorsWriter::write(const std::filesystem::path& path,
                              std::span<const std::span<const std::byte>> payloads) const {
  SCALEBITS_ASSERT(payloads.size() == entries_.size());
  write(path, [&](std::size_t entry, AtomicFile& file) { file.write(payloads[entry]); });
}

void SafetensorsWriter::write_sealed(const std::filesystem::path& path,
                                     std::span<const std::span<const std::byte>> payloads) const {
  SCALEBITS_ASSERT(payloads.size() == entries_.size());
  std::vector<SafetensorsEntry> entries;
  for (std::size_t i = 0; i < entries_.size(); ++i)
    entries.push_back({entries_[i].name, entries_[i].dtype, entries_[i].shape, payloads[i]});
  SafetensorsWriter sealed = *this;
  sealed.set_metadata(kSealKey, content_hash({metadata_.begin(), metadata_.end()}, std::move(entries)));
  sealed.write(path, payloads);
}

}  // namespace scalebits
