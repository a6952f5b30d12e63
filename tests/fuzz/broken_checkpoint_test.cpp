// Malformed checkpoints: every way to break a file that is listed here gives an Error naming the file, and whatever
// random bytes are flipped the reader loads or throws Error; it never crashes, hangs or throws anything else.
#include "checkpoint/read_checkpoint.h"
#include "core/parallel.h"
#include "tiny_models.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <iterator>

namespace scalebits {
namespace {

using namespace testing_models;
namespace fs = std::filesystem;

/// Thousands of tiny reads: waking threads would take longer than the reads.
const bool kOneThread = (set_thread_count(1), true);

TinyModel tiny_model() { return random_model(tiny_spec(Family::llama), 1); }

/// Replaces the first `from`, which must be there: a case that changes nothing would test nothing.
std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << "nothing to break: " << from;
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

/// Expects an Error about bad input that names `file`.
void expect_refused(const fs::path& model, const std::string& file, const std::string& what) {
  try {
    read_checkpoint(model);
    ADD_FAILURE() << what << ": was read without an error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::bad_input) << what;
    EXPECT_NE(std::string(error.what()).find(file), std::string::npos) << what << ": " << error.what();
    EXPECT_LT(std::string(error.what()).size(), 2000u) << what << ": the message quotes the whole file";
  }
}

struct Case {
  std::string what;
  std::function<std::string(const std::string&)> break_it;  // good content → broken content
  std::string names = "";                                   // the file to be named, when it is another one
};

Case swap(const std::string& what, const std::string& from, const std::string& to, const std::string& names = "") {
  return {what, [=](const std::string& text) { return replaced(text, from, to); }, names};
}
Case whole(const std::string& what, const std::string& content) {
  return {what, [=](const std::string&) { return content; }};
}
Case cut(const std::string& what, std::function<std::size_t(std::size_t)> length) {
  return {what, [=](const std::string& text) { return text.substr(0, length(text.size())); }};
}

void expect_all_refused(const fs::path& model, const fs::path& file, const std::vector<Case>& cases) {
  const std::string good = read_text(file);
  ASSERT_NO_THROW(read_checkpoint(model));
  for (const Case& one : cases) {
    const std::string broken = one.break_it(good);
    EXPECT_NE(broken, good) << one.what;
    write_text(file, broken);
    expect_refused(model, one.names.empty() ? file.filename().string() : one.names, one.what);
  }
  write_text(file, good);
}

TEST(BrokenCheckpoint, Config) {
  const TemporaryFolder folder;
  write_hf(tiny_model(), folder.path());
  expect_all_refused(
      folder.path(), folder / "config.json",
      {whole("empty", ""),
       whole("not JSON", "hello"),
       whole("an array", "[1,2]"),
       whole("null", "null"),
       cut("truncated", [](std::size_t size) { return size / 2; }),
       whole("deep nesting", std::string(100000, '[') + std::string(100000, ']')),
       whole("deep objects",
             [] {
               std::string text;
               for (int i = 0; i < 5000; ++i) text += "{\"a\":";
               return text;
             }()),
       swap("duplicate key", "{", R"({"hidden_size":64,)"),
       swap("bad UTF-8", "llama", "ll\xff\xfe"),
       swap("unknown architecture", "llama", "bloom"),
       swap("negative layers", R"("num_hidden_layers":2)", R"("num_hidden_layers":-2)"),
       swap("zero heads", R"("num_attention_heads":4)", R"("num_attention_heads":0)"),
       swap("huge layers", R"("num_hidden_layers":2)", R"("num_hidden_layers":200000000)"),
       swap("layers beyond 64 bits", R"("num_hidden_layers":2)", R"("num_hidden_layers":99999999999999999999999)"),
       swap("more layers than stored", R"("num_hidden_layers":2)", R"("num_hidden_layers":3)", "model.safetensors"),
       swap("fewer layers than stored", R"("num_hidden_layers":2)", R"("num_hidden_layers":1)", "model.safetensors"),
       swap("string for a number", R"("hidden_size":32)", R"("hidden_size":"32")"),
       swap("list for a number", R"("hidden_size":32)", R"("hidden_size":[32])"),
       swap("fraction", R"("hidden_size":32)", R"("hidden_size":32.5)"),
       swap("heads do not divide", R"("num_key_value_heads":2)", R"("num_key_value_heads":3)"),
       swap("odd head size", R"("head_dim":8)", R"("head_dim":7)"),
       swap("infinite theta", "10000.0", "1e999"),
       swap("negative eps", "1e-05", "-1e-05"),
       swap("stop token out of range", R"("eos_token_id":2)", R"("eos_token_id":48)"),
       swap("stop token is text", R"("eos_token_id":2)", R"("eos_token_id":"</s>")"),
       swap("missing key", R"("vocab_size":48,)", ""),
       swap("number for a flag", R"("tie_word_embeddings":false)", R"("tie_word_embeddings":0)"),
       swap("rope scaling is a number", R"("hidden_act")", R"("rope_scaling":3,"hidden_act")"),
       swap("rope scaling without factor", R"("hidden_act")",
            R"("rope_scaling":{"rope_type":"linear"},"hidden_act")")});
}

/// Rewrites the header and its length, keeping the data.
Case header(const std::string& what, const std::string& from, const std::string& to) {
  return {what, [=](const std::string& file) {
            std::uint64_t length;
            std::memcpy(&length, file.data(), 8);
            std::string text = replaced(file.substr(8, length), from, to);
            return GgufBuilder::little(std::uint64_t{text.size()}) + text + file.substr(8 + length);
          }};
}
Case header_length(const std::string& what, std::uint64_t length) {
  return {what, [=](const std::string& file) { return GgufBuilder::little(length) + file.substr(8); }};
}

TEST(BrokenCheckpoint, Safetensors) {
  const TemporaryFolder folder;
  write_hf(tiny_model(), folder.path());
  const std::string first = R"("dtype":"F32","shape":[48,32],"data_offsets":[0,6144])";
  const std::string norm = R"("model.norm.weight":{"dtype":"F32","shape":[32])";
  expect_all_refused(
      folder.path(), folder / "model.safetensors",
      {whole("empty", ""),
       whole("four bytes", "abcd"),
       whole("header length only", std::string(8, '\0')),
       cut("truncated in the header", [](std::size_t) { return std::size_t{40}; }),
       cut("truncated in the data", [](std::size_t size) { return size - 1; }),
       {"trailing byte", [](const std::string& file) { return file + '\0'; }},
       header_length("header longer than the file", 1u << 26),
       header_length("header of 2^63 bytes", std::uint64_t{1} << 63),
       header_length("header of 2^64 - 1 bytes", UINT64_MAX),
       header_length("header cut short", 100),
       header("not an object", "{", "["),
       header("wrong dtype name", "F32", "F33"),
       header("dtype of another size", first, R"("dtype":"F16","shape":[48,32],"data_offsets":[0,6144])"),
       header("integers", first, R"("dtype":"I32","shape":[48,32],"data_offsets":[0,6144])"),
       header("dtype is a number", first, R"("dtype":32,"shape":[48,32],"data_offsets":[0,6144])"),
       header("negative shape", "[48,32]", "[-48,32]"),
       header("huge shape", "[48,32]", "[9223372036854775807,32]"),
       header("shape beyond 64 bits", "[48,32]", "[99999999999999999999,32]"),
       header("shape is text", "[48,32]", "\"48\""),
       header("transposed", "[48,32]", "[32,48]"),
       header("overlapping", "[0,6144]", "[0,6148]"),
       header("gap", "[0,6144]", "[4,6148]"),
       header("reversed offsets", "[0,6144]", "[6144,0]"),
       header("negative offsets", "[0,6144]", "[-6144,0]"),
       header("offsets beyond 64 bits", "[0,6144]", "[0,18446744073709551617]"),
       header("offset out of the file", "[0,6144]", "[0,1099511627776]"),
       header("one offset", "[0,6144]", "[6144]"),
       header("missing tensor", "model.norm.weight", "model.norm.wright"),
       header("duplicate tensor", "model.norm.weight", "model.embed_tokens.weight"),
       header("extra key", first, first + R"(,"x":1)"),
       header("missing shape", R"("shape":[48,32],)", ""),
       header("metadata is a number", "{", R"({"__metadata__":1,)"),
       header("metadata of numbers", "{", R"({"__metadata__":{"a":1},)"),
       header("bad UTF-8", "model.norm.weight", "model.norm.\xc0\xaf"),
       header("deep nesting", first, std::string("\"a\":") + std::string(1000, '[') + std::string(1000, ']')),
       header("vector as matrix", norm, R"("model.norm.weight":{"dtype":"F32","shape":[1,32])"),
       {"NaN",
        [](const std::string& file) { return file.substr(0, file.size() - 4) + std::string("\x00\x00\xc0\x7f", 4); }},
       {"Inf",
        [](const std::string& file) { return file.substr(0, file.size() - 4) + std::string("\x00\x00\x80\xff", 4); }}});
}

TEST(BrokenCheckpoint, Index) {
  const TemporaryFolder folder;
  write_sharded_hf(tiny_model(), folder.path(), 2);
  const std::string shard = "model-00001-of-00002.safetensors";
  const fs::path index = folder / "model.safetensors.index.json";
  expect_all_refused(
      folder.path(), index,
      {whole("empty", ""), whole("no map", "{}"), whole("map is a list", R"({"weight_map":[]})"),
       whole("empty map", R"({"weight_map":{}})"), swap("shard is a number", "\"" + shard + "\"", "1"),
       swap("shard outside", shard, "../" + shard), swap("absolute shard", shard, "/" + shard),
       swap("shard is the folder", shard, "."), swap("wrong shard", shard, "model-00002-of-00002.safetensors"),
       swap("tensor not listed", R"("model.embed_tokens.weight":")" + shard + "\",", ""),
       swap("duplicate tensor", "{\"model.embed", R"({"model.embed_tokens.weight":")" + shard + "\",\"model.embed")});
  write_text(index, replaced(read_text(index), "{\"model.embed", R"({"ghost.weight":")" + shard + "\",\"model.embed"));
  expect_refused(folder.path(), shard, "listed tensor is missing");
}

/// The tiny model (q and k as they are, which only changes its function) with keys of one's own in front.
std::string gguf_with(const std::function<void(GgufBuilder&)>& add) {
  const TinyModel model = tiny_model();
  GgufBuilder gguf;
  add(gguf);
  add_gguf_keys(gguf, model.spec);
  for (const TensorShape& tensor : required_tensors(model.spec))
    gguf.tensor(gguf_tensor_name(tensor.name), tensor.shape, 0, bytes_as(model.weights.at(tensor.name), DType::f32));
  return gguf.file();
}
Case built(const std::string& what, const std::function<void(GgufBuilder&)>& add) {
  return whole(what, gguf_with(add));
}
/// Puts the bytes of `value` over those at `offset`.
template <typename T>
Case poke(const std::string& what, std::size_t offset, T value) {
  return {what, [=](const std::string& file) {
            return file.substr(0, offset) + GgufBuilder::little(value) + file.substr(offset + sizeof(T));
          }};
}
/// The same, `skip` bytes after the end of the first `name`.
template <typename T>
Case poke_after(const std::string& what, const std::string& name, std::size_t skip, T value) {
  return {what, [=](const std::string& file) {
            const std::size_t at = file.find(GgufBuilder::sized(name));
            EXPECT_NE(at, std::string::npos) << name;
            return poke("", at + 8 + name.size() + skip, value).break_it(file);
          }};
}

TEST(BrokenCheckpoint, Gguf) {
  const TemporaryFolder folder;
  const fs::path path = folder / "m.gguf";
  write_text(path, gguf_bytes(tiny_model()));
  const std::uint64_t huge = std::uint64_t{1} << 62;
  const std::string q = "blk.0.attn_q.weight";
  const std::string layers = "llama.block_count";
  // A tensor's entry after its name: u32 dimensions, u64 each, u32 type, u64 offset.
  expect_all_refused(
      path, path,
      {whole("empty", ""),
       whole("magic only", "GGUF"),
       whole("wrong magic", std::string("GGML") + std::string(60, '\0')),
       poke("version 1", 4, std::uint32_t{1}),
       poke("version 4", 4, std::uint32_t{4}),
       poke("big-endian", 4, std::uint32_t{0x03000000}),
       poke("huge tensor count", 8, huge),
       poke("huge key count", 16, huge),
       poke("no tensors", 8, std::uint64_t{0}),
       poke("no keys", 16, std::uint64_t{0}),
       poke("one key too many", 16, std::uint64_t{13}),
       poke("huge key length", 24, huge),
       poke("key length beyond 64 bits", 24, UINT64_MAX),
       cut("truncated header", [](std::size_t) { return std::size_t{20}; }),
       cut("truncated keys", [](std::size_t) { return std::size_t{100}; }),
       cut("truncated data", [](std::size_t size) { return size - 33; }),
       {"trailing data", [](const std::string& file) { return file + std::string(64, 'x'); }},
       swap("key renamed", "llama.context_length", "llama.context_lengtj"),
       swap("unknown architecture", GgufBuilder::sized("llama"), GgufBuilder::sized("bloom")),
       poke_after("unknown value type", layers, 0, std::uint32_t{99}),
       poke_after("float for an integer", layers, 0, std::uint32_t{6}),
       poke_after("zero layers", layers, 4, std::uint32_t{0}),
       poke_after("more layers than stored", layers, 4, std::uint32_t{3}),
       poke_after("fewer layers than stored", layers, 4, std::uint32_t{1}),
       poke_after("huge layers", layers, 4, std::uint32_t{0x0fffffff}),
       poke_after("zero heads", "llama.attention.head_count", 4, std::uint32_t{0}),
       poke_after("infinite theta", "llama.rope.freq_base", 4, std::uint32_t{0x7f800000}),
       poke_after("NaN eps", "llama.attention.layer_norm_rms_epsilon", 4, std::uint32_t{0x7fc00000}),
       poke_after("stop token out of range", "tokenizer.ggml.eos_token_id", 4, std::uint32_t{48}),
       poke_after("no dimensions", q, 0, std::uint32_t{0}),
       poke_after("five dimensions", q, 0, std::uint32_t{5}),
       poke_after("zero extent", q, 4, std::uint64_t{0}),
       poke_after("huge extent", q, 4, huge),
       poke_after("extent beyond 63 bits", q, 4, UINT64_MAX),
       poke_after("wrong extent", q, 12, std::uint64_t{31}),
       poke_after("unknown type", q, 20, std::uint32_t{99}),
       poke_after("unread type IQ2_XXS", q, 20, std::uint32_t{16}),
       poke_after("type of another size", q, 20, std::uint32_t{1}),
       poke_after("blocks do not fit", q, 20, std::uint32_t{12}),
       poke_after("overlapping", q, 24, std::uint64_t{0}),
       poke_after("offset not aligned", q, 24, std::uint64_t{1}),
       poke_after("offset out of the file", q, 24, std::uint64_t{1} << 40),
       poke_after("offset beyond 64 bits", q, 24, UINT64_MAX - 31),
       swap("tensor renamed", q, "blk.0.attn_z.weight"),
       swap("tensor twice", q, "blk.1.attn_q.weight"),
       swap("tensor of no layer", "blk.1.ffn_norm.weight", "blk.7.ffn_norm.weight"),
       built("key twice", [&](GgufBuilder& g) { g.u32("llama.block_count", 2); }),
       built("huge array",
             [&](GgufBuilder& g) {
               g.raw_value("a", 9, GgufBuilder::little(std::uint32_t{4}) + GgufBuilder::little(huge));
             }),
       built("huge strings",
             [&](GgufBuilder& g) {
               g.raw_value("a", 9, GgufBuilder::little(std::uint32_t{8}) + GgufBuilder::little(huge));
             }),
       built("nested array",
             [&](GgufBuilder& g) {
               g.raw_value("a", 9, GgufBuilder::little(std::uint32_t{9}) + GgufBuilder::little(std::uint64_t{1}));
             }),
       built("boolean of 2", [&](GgufBuilder& g) { g.raw_value("a", 7, "\x02"); }),
       built("long string", [&](GgufBuilder& g) { g.raw_value("a", 8, GgufBuilder::little(UINT64_MAX)); }),
       built("alignment 0", [&](GgufBuilder& g) { g.u32("general.alignment", 0); }),
       built("alignment 24", [&](GgufBuilder& g) { g.u32("general.alignment", 24); }),
       built("alignment is text", [&](GgufBuilder& g) { g.text("general.alignment", "32"); }),
       built("vocabulary without tokens", [&](GgufBuilder& g) { g.text("tokenizer.ggml.model", "gpt2"); }),
       {"NaN",
        [](const std::string& file) { return file.substr(0, file.size() - 4) + std::string("\x00\x00\xc0\x7f", 4); }},
       {"Inf",
        [](const std::string& file) { return file.substr(0, file.size() - 4) + std::string("\x00\x00\x80\x7f", 4); }}});
}

/// Flips one to four bits per round, most of them in the first `head` bytes, and reads: loaded or Error.
void flip_and_read(const fs::path& model, const fs::path& file, std::size_t head, std::uint64_t rounds,
                   std::uint64_t seed) {
  const std::string good = read_text(file);
  const CounterRng random(seed);
  std::uint64_t draw = 0, refused = 0;
  for (std::uint64_t round = 0; round < rounds; ++round) {
    std::string bad = good;
    for (std::uint64_t flips = 1 + random.below(draw++, 4); flips > 0; --flips) {
      const std::size_t span = random.below(draw++, 8) == 0 ? bad.size() : std::min(head, bad.size());
      const std::size_t at = random.below(draw++, span);
      bad[at] ^= static_cast<char>(1 << random.below(draw++, 8));
    }
    write_text(file, bad);
    try {
      read_checkpoint(model, {.hash = false});
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::bad_input);
      ++refused;
    } catch (const std::exception& error) {
      ADD_FAILURE() << "round " << round << " of seed " << seed << ": not an Error: " << error.what();
    }
  }
  write_text(file, good);
  EXPECT_GT(refused, rounds / 10) << "the flips hit nothing";
}

TEST(FlippedCheckpoint, Config) {
  const TemporaryFolder folder;
  write_hf(tiny_model(), folder.path());
  flip_and_read(folder.path(), folder / "config.json", SIZE_MAX, 1000, 1);
}

TEST(FlippedCheckpoint, Safetensors) {
  const TemporaryFolder folder;
  write_hf(tiny_model(), folder.path());
  flip_and_read(folder.path(), folder / "model.safetensors", 2500, 1000, 2);
}

TEST(FlippedCheckpoint, Index) {
  const TemporaryFolder folder;
  write_sharded_hf(tiny_model(), folder.path(), 2);
  flip_and_read(folder.path(), folder / "model.safetensors.index.json", SIZE_MAX, 300, 3);
}

/// So that the tokenizer meets damaged tokens too.
void add_vocabulary(GgufBuilder& gguf) {
  gguf.text("tokenizer.ggml.model", "llama");
  std::string tokens, scores, types;
  for (std::int32_t id = 0; id < 48; ++id) {
    const std::string letter(1, static_cast<char>('a' + id - 3));
    tokens += GgufBuilder::sized(id == 0 ? "<unk>" : id == 1 ? "<s>" : id == 2 ? "</s>" : letter);
    scores += GgufBuilder::little(-static_cast<float>(id));
    types += GgufBuilder::little(std::int32_t{id == 0 ? 2 : id < 3 ? 3 : 1});
  }
  const std::string count = GgufBuilder::little(std::uint64_t{48});
  gguf.raw_value("tokenizer.ggml.tokens", 9, GgufBuilder::little(std::uint32_t{8}) + count + tokens);
  gguf.raw_value("tokenizer.ggml.scores", 9, GgufBuilder::little(std::uint32_t{6}) + count + scores);
  gguf.raw_value("tokenizer.ggml.token_type", 9, GgufBuilder::little(std::uint32_t{5}) + count + types);
}

TEST(FlippedCheckpoint, Gguf) {
  const TemporaryFolder folder;
  write_text(folder / "m.gguf", gguf_with(add_vocabulary));
  ASSERT_NO_THROW(read_checkpoint(folder / "m.gguf"));
  flip_and_read(folder / "m.gguf", folder / "m.gguf", 3500, 2000, 4);
}

}  // namespace
}  // namespace scalebits
