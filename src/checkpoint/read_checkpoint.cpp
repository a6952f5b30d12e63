#include "checkpoint/read_checkpoint.h"

#include "checkpoint/gguf_model.h"
#include "checkpoint/hf_folder.h"
#include "core/hash.h"
#include "core/machine_memory.h"
#include "core/mapped_file.h"
#include "core/parallel.h"
#include "tokenizer/tokenizer.h"

#include <algorithm>
#include <cstring>

namespace scalebits {
namespace {

namespace fs = std::filesystem;

/// Hash of the files' names and bytes. Cut into pieces of fixed size, so that all threads help and the result does not
/// depend on how many there are.
std::string hash_files(const std::vector<fs::path>& paths) {
  constexpr std::size_t kPieceBytes = std::size_t{16} << 20;
  struct Piece {
    std::span<const std::byte> bytes;
    std::string hash;
  };
  std::vector<std::shared_ptr<const MappedFile>> files;
  std::vector<Piece> pieces;
  Hasher hasher;
  for (const fs::path& path : paths) {
    files.push_back(MappedFile::open(path));
    const auto bytes = files.back()->bytes();
    if (paths.size() > 1) hasher.update(path.filename().string() + "\n");
    hasher.update(fmt::format("{}\n", bytes.size()));
    for (std::size_t begin = 0; begin < bytes.size(); begin += kPieceBytes)
      pieces.push_back({bytes.subspan(begin, std::min(kPieceBytes, bytes.size() - begin)), ""});
  }
  parallel_for(static_cast<std::int64_t>(pieces.size()), [&](std::int64_t i) {
    Piece& piece = pieces[static_cast<std::size_t>(i)];
    piece.hash = hash_hex(piece.bytes);
  });
  for (const Piece& piece : pieces) hasher.update(piece.hash);
  return hasher.hex();
}

/// A tokenizer may know fewer ids than the embedding has rows, never more.
void check_tokenizer(const Checkpoint& checkpoint) {
  if (checkpoint.tokenizer && checkpoint.tokenizer->vocab_size() > checkpoint.spec.vocab)
    fail_input("{}: the tokenizer has ids up to {}, the embedding has {} rows", checkpoint.source,
               checkpoint.tokenizer->vocab_size() - 1, checkpoint.spec.vocab);
}

bool is_gguf(const fs::path& path) {
  const auto file = MappedFile::open(path);
  return file->bytes().size() >= 4 && std::memcmp(file->bytes().data(), "GGUF", 4) == 0;
}

}  // namespace

bool is_checkpoint(const fs::path& path) { return fs::is_directory(path) || is_gguf(path); }

Checkpoint read_checkpoint(const fs::path& path, const ReadOptions& options) {
  Checkpoint checkpoint;
  std::vector<fs::path> files;
  if (fs::is_directory(path)) {
    HfFolder folder = read_hf_folder(path, options.check_values);
    checkpoint = std::move(folder.checkpoint);
    files = std::move(folder.files);
  } else {
    if (!is_gguf(path))
      fail_input(
          "{}: not a model: wanted a folder (not a file in it) with config.json and model.safetensors, or a GGUF "
          "file; what scalebits has written is quantised already",
          path.string());
    checkpoint = read_gguf_model(path, options.check_values, machine_memory_bytes());
    files = {path};
  }
  check_tokenizer(checkpoint);
  if (options.hash) checkpoint.hash = hash_files(files);
  return checkpoint;
}

}  // namespace scalebits
