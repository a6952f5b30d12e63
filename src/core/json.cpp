#include "core/json.h"

#include "core/mapped_file.h"

namespace scalebits {

namespace {

/// Depth of nesting; nlohmann's parser recurses on destruction, so a hostile file could otherwise exhaust the stack.
constexpr int kMaxDepth = 200;

}  // namespace

Json parse_json(std::string_view text, const std::string& where) {
  try {
    return Json::parse(text.begin(), text.end(), [&](int depth, Json::parse_event_t, Json&) {
      if (depth > kMaxDepth) fail_input("{}: JSON is nested deeper than {} levels", where, kMaxDepth);
      return true;
    });
  } catch (const nlohmann::json::exception& error) {
    fail_input("{}: not valid JSON: {}", where, error.what());
  }
}

Json read_json_file(const std::filesystem::path& path) {
  const auto file = MappedFile::open(path);
  return parse_json({reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size()}, path.string());
}

}  // namespace scalebits
