#include "core/json.h"

#include "core/mapped_file.h"

#include <unordered_set>
#include <vector>

namespace scalebits {

namespace {

/// Depth of nesting; nlohmann's parser recurses on destruction, so a hostile file could otherwise exhaust the stack.
constexpr int kMaxDepth = 200;

template <typename AnyJson>
AnyJson parse(std::string_view text, const std::string& where) {
  using Event = typename AnyJson::parse_event_t;
  std::vector<std::unordered_set<std::string>> keys(kMaxDepth + 2);  // of the object open at each depth
  try {
    return AnyJson::parse(text.begin(), text.end(), [&](int depth, Event event, AnyJson& parsed) {
      if (depth > kMaxDepth) fail_input("{}: JSON is nested deeper than {} levels", where, kMaxDepth);
      const auto level = static_cast<std::size_t>(depth);
      if (event == Event::object_start) keys[level + 1].clear();
      // nlohmann would keep one of the two and say nothing.
      if (event == Event::key && !keys[level].insert(parsed.template get<std::string>()).second)
        fail_input("{}: JSON key '{}' occurs twice in one object", where, parsed.template get<std::string>());
      return true;
    });
  } catch (const nlohmann::json::exception& error) {
    fail_input("{}: not valid JSON: {}", where, error.what());
  }
}

}  // namespace

Json parse_json(std::string_view text, const std::string& where) { return parse<Json>(text, where); }

nlohmann::json parse_json_sorted(std::string_view text, const std::string& where) {
  return parse<nlohmann::json>(text, where);
}

Json read_json_file(const std::filesystem::path& path) {
  const auto file = MappedFile::open(path);
  return parse_json({reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size()}, path.string());
}

}  // namespace scalebits
