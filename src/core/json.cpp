#include "core/json.h"

#include "core/mapped_file.h"

#include <unordered_set>
#include <vector>

namespace scalebits {

namespace {

/// Depth of nesting; nlohmann's parser recurses on destruction, so a hostile file could otherwise exhaust the stack.
constexpr int kMaxDepth = 200;

/// Keys of one object: our ordered ones look through all of them for each, so that a file of many would take forever.
/// Models of thousands of tensors have as many.
constexpr std::size_t kMaxOrderedKeys = 20'000;
/// Of an error's text; nlohmann's holds the whole of the last token.
constexpr std::size_t kMaxErrorBytes = 300;

[[noreturn]] void fail_many_keys(const std::string& where) {
  fail_input("{}: a JSON object has more than {} keys", where, kMaxOrderedKeys);
}

template <typename AnyJson>
AnyJson parse(std::string_view text, const std::string& where) {
  // nlohmann takes it for the end of the text.
  if (text.find('\0') != std::string_view::npos) fail_input("{}: not valid JSON: it holds a zero byte", where);
  using Event = typename AnyJson::parse_event_t;
  std::vector<std::unordered_set<std::string>> keys(kMaxDepth + 2);  // of the object open at each depth
  try {
    return AnyJson::parse(text.begin(), text.end(), [&](int depth, Event event, AnyJson& parsed) {
      if (depth > kMaxDepth) fail_input("{}: JSON is nested deeper than {} levels", where, kMaxDepth);
      const auto level = static_cast<std::size_t>(depth);
      if (event == Event::object_start) keys[level + 1].clear();
      // nlohmann would keep one of the two and say nothing.
      if (event == Event::key && !keys[level].insert(parsed.template get<std::string>()).second)
        fail_input("{}: JSON key '{}' occurs twice in one object", where,
                   parsed.template get<std::string>().substr(0, kMaxErrorBytes));
      if (event == Event::key && std::is_same_v<AnyJson, Json> && keys[level].size() > kMaxOrderedKeys)
        fail_many_keys(where);
      return true;
    });
  } catch (const nlohmann::json::exception& error) {
    fail_input("{}: not valid JSON: {}", where, std::string_view(error.what()).substr(0, kMaxErrorBytes));
  }
}

void refuse_many_keys(const nlohmann::json& json, const std::string& where) {
  if (json.is_object() && json.size() > kMaxOrderedKeys) fail_many_keys(where);
  for (const auto& part : json)
    if (part.is_structured()) refuse_many_keys(part, where);
}

}  // namespace

Json parse_json(std::string_view text, const std::string& where) { return parse<Json>(text, where); }

nlohmann::json parse_json_sorted(std::string_view text, const std::string& where) {
  return parse<nlohmann::json>(text, where);
}

Json as_ordered(const nlohmann::json& json, const std::string& where) {
  if (json.is_structured()) refuse_many_keys(json, where);
  return json;
}

Json read_json_file(const std::filesystem::path& path) {
  const auto file = MappedFile::open(path);
  return parse_json({reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size()}, path.string());
}

}  // namespace scalebits
