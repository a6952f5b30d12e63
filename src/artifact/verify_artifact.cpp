#include "artifact/verify_artifact.h"

#include "artifact/artifact.h"
#include "artifact/stored_tensors.h"
#include "artifact/write_artifact.h"
#include "core/hash.h"
#include "core/parallel.h"

namespace scalebits {

VerifiedArtifact verify_artifact(const std::filesystem::path& path) {
  const std::string where = path.string();
  std::size_t count = 0;
  {
    const SafetensorsFile file = SafetensorsFile::open(path);
    const auto checksums = checksums_entry(file).bytes;
    if (stored_checksum(checksums, 0) != header_checksum(file.header_text()))
      fail_input("{}: damaged: the header does not match its checksum", where);
    count = file.entries().size() - 1;
    std::vector<char> broken(count);  // not vector<bool>: written concurrently
    parallel_for(static_cast<std::int64_t>(count), [&](std::int64_t i) {
      const auto at = static_cast<std::size_t>(i);
      broken[at] = hash_u64(file.entries()[at].bytes) != stored_checksum(checksums, at + 1);
    });
    std::string names;
    for (std::size_t i = 0; i < count; ++i)
      if (broken[i]) names += fmt::format("{}'{}'", names.empty() ? "" : ", ", file.entries()[i].name);
    if (!names.empty()) fail_input("{}: damaged: these tensors do not match their checksums: {}", where, names);
  }
  const Artifact artifact = Artifact::open(path);
  for (const auto& [name, tensor] : artifact.dense())
    require_finite(tensor, fmt::format("{}: tensor '{}'", where, name));
  return {.bytes = artifact.file()->bytes().size(), .tensors = count};
}

}  // namespace scalebits
