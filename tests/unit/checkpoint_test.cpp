// checkpoint: what is in the file is in memory, bit for bit, under Hugging Face names and row order, whatever the file
// is; the configuration says what transformers would make of it; what does not fit is an error that names it.
#include "checkpoint/gguf_blocks.h"
#include "checkpoint/gguf_model.h"
#include "checkpoint/hf_config.h"
#include "checkpoint/read_checkpoint.h"
#include "checkpoint/write_hf_folder.h"
#include "core/units.h"
#include "mentions.h"
#include "safetensors/safetensors.h"
#include "tiny_models.h"
#include "tokenizer/tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <numbers>
#include <numeric>
#include <tuple>

namespace scalebits {
namespace {

using namespace testing_models;
namespace fs = std::filesystem;

constexpr Family kGgufFamilies[] = {Family::llama, Family::mistral, Family::qwen2, Family::qwen3};
constexpr Family kFamilies[] = {Family::llama, Family::mistral, Family::qwen2, Family::qwen3, Family::opt};

/// The message of the Error that reading must throw; empty and a failure when it loads.
std::string error_of(const fs::path& path) {
  try {
    read_checkpoint(path);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::bad_input);
    return error.what();
  }
  ADD_FAILURE() << path << " was read without an error";
  return "";
}

void expect_model(const Checkpoint& checkpoint, const TinyModel& model) {
  EXPECT_EQ(to_json(checkpoint.spec), to_json(model.spec));
  EXPECT_EQ(checkpoint.tensors.size(), model.weights.size());
  for (const TensorShape& wanted : required_tensors(model.spec)) {
    const HostTensor& tensor = checkpoint.tensor(wanted.name);
    EXPECT_EQ(tensor.shape, wanted.shape) << wanted.name;
    EXPECT_EQ(tensor.to_f32(), model.weights.at(wanted.name)) << wanted.name;
  }
}

void expect_same_bits(const Checkpoint& a, const Checkpoint& b) {
  ASSERT_EQ(a.tensors.size(), b.tensors.size());
  for (const auto& [name, tensor] : a.tensors) {
    const HostTensor& other = b.tensor(name);
    EXPECT_EQ(tensor.shape, other.shape) << name;
    EXPECT_EQ(tensor.dtype, other.dtype) << name;
    EXPECT_TRUE(std::equal(tensor.bytes.begin(), tensor.bytes.end(), other.bytes.begin(), other.bytes.end())) << name;
  }
}

// --- blocks ---------------------------------------------------------------------------------------------------------

TEST(GgufBlocks, DecodeAsTheReferenceBitForBit) {
  const auto golden = SafetensorsFile::open(SCALEBITS_SOURCE_DIR "/tests/data/checkpoint/gguf_blocks.safetensors");
  int formats = 0;
  for (std::uint32_t id = 0; id < 64; ++id) {
    const GgufFormat* format = find_gguf_format(id);
    if (format == nullptr || format->plain) continue;
    ++formats;
    const auto& values = golden.entry(std::string(format->name) + ".values");
    std::vector<float> decoded(values.bytes.size() / 4), wanted(decoded.size());
    std::memcpy(wanted.data(), values.bytes.data(), values.bytes.size());
    decode_gguf_blocks(*format, golden.entry(std::string(format->name) + ".bytes").bytes, decoded);
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < wanted.size(); ++i)
      wrong += std::bit_cast<std::uint32_t>(decoded[i]) != std::bit_cast<std::uint32_t>(wanted[i]);
    EXPECT_EQ(wrong, 0u) << format->name;
  }
  EXPECT_EQ(formats, 11);
}

// --- Hugging Face folders -------------------------------------------------------------------------------------------

TEST(HfFolder, ReadsEachFamilyAndType) {
  for (const Family family : kFamilies)
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
      const TemporaryFolder folder;
      const TinyModel model = random_model(tiny_spec(family), 1);
      write_hf(model, folder.path(), dtype);
      const Checkpoint checkpoint = read_checkpoint(folder.path());
      expect_model(checkpoint, model);
      EXPECT_EQ(checkpoint.tensor(kEmbeddingName).dtype, dtype);
      EXPECT_EQ(checkpoint.tokenizer, nullptr);
    }
}

TEST(HfFolder, AllBiases) {
  ModelSpec spec = tiny_spec(Family::llama);
  spec.qkv_bias = spec.o_bias = spec.mlp_bias = true;
  const TinyModel model = random_model(spec, 2);
  const TemporaryFolder folder;
  write_hf(model, folder / "hf");
  expect_model(read_checkpoint(folder / "hf"), model);
  write_text(folder / "m.gguf", gguf_bytes(model));
  expect_model(read_checkpoint(folder / "m.gguf"), model);
}

TEST(HfFolder, ShardsEqualTheSingleFile) {
  const TemporaryFolder folder;
  const TinyModel model = random_model(tiny_spec(Family::llama), 3);
  write_sharded_hf(model, folder.path(), 3);
  expect_model(read_checkpoint(folder.path()), model);
  fs::rename(folder / "model-00002-of-00003.safetensors", folder / "gone");
  EXPECT_MENTIONS(error_of(folder.path()), "model-00002-of-00003.safetensors");
}

TEST(HfFolder, TensorsAreViewsOfTheMapping) {
  const TemporaryFolder folder;
  write_hf(random_model(tiny_spec(Family::llama), 4), folder.path());
  const Checkpoint checkpoint = read_checkpoint(folder.path());
  const HostTensor& a = checkpoint.tensor(kEmbeddingName);
  for (const auto& [name, tensor] : checkpoint.tensors) EXPECT_EQ(tensor.owner, a.owner) << name;
}

TEST(HfFolder, StoredCopyOfATiedHeadIsDropped) {
  ModelSpec spec = tiny_spec(Family::llama);
  spec.tied_head = true;
  const TinyModel model = random_model(spec, 5);
  const TemporaryFolder folder;
  write_hf(model, folder.path());
  RawTensors tensors = raw_tensors(model, DType::f32);
  tensors.push_back({{"lm_head.weight", {spec.vocab, spec.hidden}}, tensors[0].second});
  tensors.push_back({{"model.layers.0.self_attn.rotary_emb.inv_freq", {4}}, std::string(16, 'x')});
  write_safetensors(folder / "model.safetensors", tensors, "F32");
  expect_model(read_checkpoint(folder.path()), model);
  tensors[tensors.size() - 2].second[5] ^= 1;
  write_safetensors(folder / "model.safetensors", tensors, "F32");
  EXPECT_MENTIONS(error_of(folder.path()), "lm_head.weight", "tie_word_embeddings");
}

TEST(HfFolder, OptWithoutTheFirstPartOfItsNames) {
  ModelSpec spec = tiny_spec(Family::opt);
  spec.tied_head = true;
  const TinyModel model = random_model(spec, 18);
  const TemporaryFolder folder;
  write_hf(model, folder.path());
  const RawTensors good = raw_tensors(model, DType::f32);
  const std::string file = (folder / "model.safetensors").string();
  RawTensors tensors = good;
  for (auto& [tensor, bytes] : tensors) tensor.name = tensor.name.substr(std::string("model.").size());
  tensors.push_back({{"decoder.version", {1}}, "abcd"});
  write_safetensors(file, tensors, "F32");
  expect_model(read_checkpoint(folder.path()), model);

  tensors = good;
  tensors[1].first.shape = {64, 32};
  tensors[1].second.resize(64 * 32 * 4);
  write_safetensors(file, tensors, "F32");
  EXPECT_MENTIONS(error_of(folder.path()), file, "model.decoder.embed_positions.weight", "[66, 32]", "[64, 32]");
  tensors = good;
  std::erase_if(tensors, [](const auto& tensor) { return tensor.first.name == "model.decoder.layers.1.fc2.bias"; });
  write_safetensors(file, tensors, "F32");
  EXPECT_MENTIONS(error_of(folder.path()), file, "model.decoder.layers.1.fc2.bias", "[32]", "missing");
}

TEST(Gguf, OptIsRefused) {
  GgufBuilder gguf;
  gguf.text("general.architecture", "opt");
  const TemporaryFolder folder;
  write_text(folder / "m.gguf", gguf.file());
  EXPECT_MENTIONS(error_of(folder / "m.gguf"), "m.gguf", "opt", "Hugging Face");
}

TEST(HfFolder, NamesTensorWantedAndFound) {
  const TinyModel model = random_model(tiny_spec(Family::llama), 6);
  const TemporaryFolder folder;
  write_hf(model, folder.path());
  const RawTensors good = raw_tensors(model, DType::f32);
  const std::string file = (folder / "model.safetensors").string();

  RawTensors tensors = good;
  tensors.pop_back();
  write_safetensors(file, tensors, "F32");
  EXPECT_MENTIONS(error_of(folder.path()), file, "lm_head.weight", "[48, 32]", "missing");

  tensors = good;
  tensors[2].first.shape = {16, 64};
  write_safetensors(file, tensors, "F32");
  EXPECT_MENTIONS(error_of(folder.path()), file, "model.layers.0.self_attn.q_proj.weight", "[32, 32]", "[16, 64]");

  tensors = good;
  tensors.push_back({{"model.layers.0.mlp.router.weight", {1}}, "abcd"});
  write_safetensors(file, tensors, "F32");
  EXPECT_MENTIONS(error_of(folder.path()), file, "model.layers.0.mlp.router.weight", "unknown");

  write_safetensors(file, good, "I32");
  EXPECT_MENTIONS(error_of(folder.path()), file, "model.embed_tokens.weight", "I32", "F32, F16 or BF16");
}

TEST(HfFolder, NanAndInfAreNamedWithTheirIndex) {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    TinyModel model = random_model(tiny_spec(Family::llama), 7);
    const TemporaryFolder folder;
    model.weights["model.layers.1.mlp.down_proj.weight"][5 * 64 + 7] = -std::numeric_limits<float>::infinity();
    write_hf(model, folder / "hf", dtype);
    EXPECT_MENTIONS(error_of(folder / "hf"), "hf", "model.layers.1.mlp.down_proj.weight", "[5, 7]", "Inf");
    EXPECT_NO_THROW(read_checkpoint(folder / "hf", {.check_values = false}));
    model.weights["model.layers.1.mlp.down_proj.weight"][5 * 64 + 7] = std::numeric_limits<float>::quiet_NaN();
    write_text(folder / "m.gguf", gguf_bytes(model, dtype));
    EXPECT_MENTIONS(error_of(folder / "m.gguf"), "m.gguf", "blk.1.ffn_down.weight", "[5, 7]", "NaN");
    EXPECT_NO_THROW(read_checkpoint(folder / "m.gguf", {.check_values = false}));
  }
}

TEST(Checkpoint, HashFollowsTheBytes) {
  const TemporaryFolder folder;
  write_hf(random_model(tiny_spec(Family::llama), 8), folder.path());
  const std::string hash = read_checkpoint(folder.path()).hash;
  EXPECT_EQ(hash.size(), 32u);
  EXPECT_EQ(read_checkpoint(folder.path()).hash, hash);
  EXPECT_EQ(read_checkpoint(folder.path(), {.hash = false}).hash, "");
  std::string bytes = read_text(folder / "model.safetensors");
  bytes[bytes.size() - 4] ^= 1;
  write_text(folder / "model.safetensors", bytes);
  EXPECT_NE(read_checkpoint(folder.path()).hash, hash);
}

// --- GGUF -----------------------------------------------------------------------------------------------------------

TEST(Gguf, EqualsTheModelInEachFamilyAndType) {
  for (const Family family : kGgufFamilies)
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
      const TemporaryFolder folder;
      const TinyModel model = random_model(tiny_spec(family), 9);
      write_text(folder / "m.gguf", gguf_bytes(model, dtype));
      const Checkpoint checkpoint = read_checkpoint(folder / "m.gguf");
      expect_model(checkpoint, model);
      EXPECT_EQ(checkpoint.tensor(kEmbeddingName).dtype, dtype);
    }
}

TEST(Gguf, AbsentOrEqualHeadIsTied) {
  ModelSpec spec = tiny_spec(Family::llama);
  spec.tied_head = true;
  TinyModel model = random_model(spec, 10);
  const TemporaryFolder folder;
  write_text(folder / "m.gguf", gguf_bytes(model));
  expect_model(read_checkpoint(folder / "m.gguf"), model);
  TinyModel with_copy = model;
  with_copy.spec.tied_head = false;
  with_copy.weights["lm_head.weight"] = model.weights[std::string(kEmbeddingName)];
  write_text(folder / "m.gguf", gguf_bytes(with_copy));
  expect_model(read_checkpoint(folder / "m.gguf"), model);
}

/// A Llama whose matrices are Q8_0.
GgufBuilder quantised_gguf(const TinyModel& model) {
  GgufBuilder gguf;
  add_gguf_keys(gguf, model.spec);
  for (const TensorShape& tensor : required_tensors(model.spec)) {
    const auto& values = model.weights.at(tensor.name);
    if (tensor.shape.size() == 1) {
      gguf.tensor(gguf_tensor_name(tensor.name), tensor.shape, 0, bytes_as(values, DType::f32));
      continue;
    }
    // Q8_0 with scale 1/64 holds these values exactly.
    const auto stored = is_q_or_k(tensor.name) ? interleave_rows(values, tensor.shape[0], model.spec.head_dim) : values;
    std::string blocks;
    for (std::size_t i = 0; i < stored.size(); ++i) {
      if (i % 32 == 0) blocks += GgufBuilder::little(f32_to_f16(1.0f / 64));
      blocks += static_cast<char>(static_cast<std::int8_t>(stored[i] * 64));
    }
    gguf.tensor(gguf_tensor_name(tensor.name), tensor.shape, 8, blocks);
  }
  return gguf;
}

TEST(Gguf, QuantisedRowsAreDecodedAndPutBack) {
  const TinyModel model = random_model(tiny_spec(Family::llama), 11);
  const TemporaryFolder folder;
  write_text(folder / "m.gguf", quantised_gguf(model).file(2));  // version 2 has the same layout
  expect_model(read_checkpoint(folder / "m.gguf"), model);
}

/// Reads it with just `bytes` of memory, and with one byte less, which must be refused.
void expect_to_take(const fs::path& path, std::uint64_t bytes, const TinyModel& model) {
  expect_model(read_gguf_model(path, true, bytes), model);
  try {
    read_gguf_model(path, true, bytes - 1);
    ADD_FAILURE() << "was read into less memory than it takes";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::unsupported_hardware);
    EXPECT_MENTIONS(std::string(error.what()), path.string(), "take " + format_bytes(bytes),
                    "this machine has " + format_bytes(bytes - 1));
  }
}

TEST(Gguf, MustFitIntoTheMemoryAsFarAsItIsNoView) {
  const TemporaryFolder folder;
  const TinyModel llama = random_model(tiny_spec(Family::llama), 19), qwen = random_model(tiny_spec(Family::qwen3), 20);
  std::uint64_t matrices = 0, moved = 0;  // weights
  for (const auto& [name, shape] : required_tensors(llama.spec)) {
    if (shape.size() == 1) continue;
    matrices += static_cast<std::uint64_t>(shape[0] * shape[1]);
    if (is_q_or_k(name)) moved += static_cast<std::uint64_t>(shape[0] * shape[1]);
  }
  write_text(folder / "m.gguf", quantised_gguf(llama).file());
  expect_to_take(folder / "m.gguf", 4 * matrices, llama);
  write_text(folder / "m.gguf", gguf_bytes(llama, DType::bf16));
  expect_to_take(folder / "m.gguf", 2 * moved, llama);
  write_text(folder / "m.gguf", gguf_bytes(qwen, DType::f16));
  expect_model(read_gguf_model(folder / "m.gguf", true, 0), qwen);
}

/// A Llama in F32, with what `add` puts behind its keys.
std::string gguf_with(const TinyModel& model, const std::function<void(GgufBuilder&)>& add) {
  GgufBuilder gguf;
  add_gguf_keys(gguf, model.spec);
  add(gguf);
  for (const TensorShape& tensor : required_tensors(model.spec)) {
    std::vector<float> values = model.weights.at(tensor.name);
    if (is_q_or_k(tensor.name)) values = interleave_rows(values, tensor.shape[0], model.spec.head_dim);
    gguf.tensor(gguf_tensor_name(tensor.name), tensor.shape, 0, bytes_as(values, DType::f32));
  }
  return gguf.file();
}

std::string gguf_with_rope_factors(const TinyModel& model, const std::vector<float>& factors) {
  return gguf_with(model, [&](GgufBuilder& gguf) {
    gguf.tensor("rope_freqs.weight", {static_cast<std::int64_t>(factors.size())}, 0, bytes_as(factors, DType::f32));
  });
}

TEST(Gguf, LinearScalingMustNotBeNegative) {
  const TinyModel model = random_model(tiny_spec(Family::llama), 21);
  const TemporaryFolder folder;
  const fs::path path = folder / "m.gguf";
  const auto write = [&](const char* type, const std::string& key, float factor) {
    write_text(path, gguf_with(model, [&](GgufBuilder& gguf) {
                 if (type != nullptr) gguf.text("llama.rope.scaling.type", type);
                 gguf.f32(key, factor);
               }));
  };
  const std::string factor_key = "llama.rope.scaling.factor", old_key = "llama.rope.scale_linear";
  for (const char* const type : {"linear", static_cast<const char*>(nullptr)})
    for (const std::string& key : {factor_key, old_key}) {
      write(type, key, 2.5f);
      const RopeScaling scaling = read_checkpoint(path).spec.rope_scaling;
      EXPECT_EQ(std::pair(scaling.kind, scaling.factor), std::pair(RopeScaling::Kind::linear, 2.5));
      write(type, key, 0);  // as llama.cpp reads it
      expect_model(read_checkpoint(path), model);
      write(type, key, -2);
      EXPECT_MENTIONS(error_of(path), path.string(), "'" + key + "'", "-2");
    }
  write("none", factor_key, -2);
  expect_model(read_checkpoint(path), model);
}

TEST(Gguf, PartsOfASplitFileAreNamedSo) {
  const TinyModel model = random_model(tiny_spec(Family::llama), 22);
  const TemporaryFolder folder;
  const fs::path path = folder / "m.gguf";
  const auto write = [&](std::uint16_t part, std::uint16_t parts) {
    write_text(path, gguf_with(model, [&](GgufBuilder& gguf) {
                 gguf.raw_value("split.no", 2, GgufBuilder::little(part));
                 gguf.raw_value("split.count", 2, GgufBuilder::little(parts));
               }));
  };
  write(4, 6);
  EXPECT_MENTIONS(error_of(path), path.string() + ": is part 5 of 6 of a split GGUF", "llama-gguf-split --merge");
  for (const std::uint16_t parts : {std::uint16_t{0}, std::uint16_t{1}}) {  // 0: joined again
    write(0, parts);
    expect_model(read_checkpoint(path), model);
  }
}

TEST(Gguf, RopeFactorsBecomeLlama3Scaling) {
  ModelSpec spec = tiny_spec(Family::llama);
  spec.head_dim = 16;  // so that the longest wavelength is beyond the original length, as in every real model
  TinyModel model = random_model(spec, 12);
  // As llama.cpp's converter computes them, in f32.
  std::vector<float> factors;
  const float low = 1, high = 4, factor = 8, original = 8192;
  for (int i = 0; i < 8; ++i) {
    const float wavelength = 2 * std::numbers::pi_v<float> * std::pow(10000.0f, 2.0f * static_cast<float>(i) / 16.0f);
    const float smooth = (original / wavelength - low) / (high - low);
    factors.push_back(wavelength < original / high  ? 1
                      : wavelength > original / low ? factor
                                                    : 1 / ((1 - smooth) / factor + smooth));
  }
  EXPECT_EQ(factors.back(), factor);
  EXPECT_EQ(std::count_if(factors.begin(), factors.end(), [&](float f) { return f != 1 && f != factor; }), 1);
  const TemporaryFolder folder;
  write_text(folder / "m.gguf", gguf_with_rope_factors(model, factors));
  model.spec.rope_scaling = {RopeScaling::Kind::llama3, 8, 1, 4, 8192};
  expect_model(read_checkpoint(folder / "m.gguf"), model);
  write_text(folder / "m.gguf", gguf_with_rope_factors(model, {1, 1.5f, 1.1f, 3, 1, 1, 1, 8}));
  EXPECT_MENTIONS(error_of(folder / "m.gguf"), "rope_freqs.weight", "llama3");
  write_text(folder / "m.gguf", gguf_with_rope_factors(model, std::vector<float>(8, 1.0f)));
  EXPECT_EQ(read_checkpoint(folder / "m.gguf").spec.rope_scaling.kind, RopeScaling::Kind::none);
}

TEST(Gguf, Stories260kEqualsItsHuggingFaceFolder) {
  const fs::path shared = SCALEBITS_SOURCE_DIR "/../shared/models/stories260K";
  if (!fs::exists(shared)) GTEST_SKIP() << "NOT TESTED: " << shared << " is not there";
  const Checkpoint gguf = read_checkpoint(shared / "stories260Ktok512.f32.gguf");
  const Checkpoint hf = read_checkpoint(shared / "hf");
  expect_same_bits(gguf, hf);
  EXPECT_EQ(gguf.spec.tied_head, hf.spec.tied_head);
  ASSERT_NE(gguf.tokenizer, nullptr);
  EXPECT_EQ(gguf.tokenizer->vocab_size(), 512);
}

// --- writing --------------------------------------------------------------------------------------------------------

TEST(WriteHfFolder, ReadsBackTheSame) {
  for (const Family family : kFamilies)
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
      const TemporaryFolder folder;
      const TinyModel model = random_model(tiny_spec(family), 13);
      write_hf(model, folder / "in", dtype);
      Checkpoint first = read_checkpoint(folder / "in");
      first.chat_template = "{{ messages }}";
      write_hf_folder(first, folder / "out", dtype);
      const Checkpoint second = read_checkpoint(folder / "out");
      expect_model(second, model);
      expect_same_bits(first, second);
      EXPECT_EQ(second.chat_template, first.chat_template);
      EXPECT_FALSE(fs::exists(folder / "out.partial"));
    }
}

TEST(WriteHfFolder, ConvertsAndShards) {
  const TemporaryFolder folder;
  const TinyModel model = random_model(tiny_spec(Family::qwen2), 14);
  write_hf(model, folder / "in");
  const Checkpoint first = read_checkpoint(folder / "in");
  write_hf_folder(first, folder / "out/", DType::bf16, 4096);
  EXPECT_TRUE(fs::exists(folder / "out/model.safetensors.index.json"));
  const Checkpoint second = read_checkpoint(folder / "out");
  expect_model(second, model);
  EXPECT_EQ(second.tensor(kEmbeddingName).dtype, DType::bf16);
}

TEST(WriteHfFolder, RefusesForeignFoldersAndReplacesItsOwn) {
  const TemporaryFolder folder;
  const TinyModel model = random_model(tiny_spec(Family::llama), 15),
                  other = random_model(tiny_spec(Family::llama), 16);
  write_hf(model, folder / "in");
  write_hf(other, folder / "other");
  EXPECT_THROW(write_hf_folder(read_checkpoint(folder / "in"), folder / "other", DType::f32), Error);
  expect_model(read_checkpoint(folder / "other"), other);
  write_hf_folder(read_checkpoint(folder / "other"), folder / "out", DType::f32);
  write_hf_folder(read_checkpoint(folder / "in"), folder / "out", DType::f32);
  expect_model(read_checkpoint(folder / "out"), model);
  write_hf_folder(read_checkpoint(folder / "out"), folder / "out", DType::f32);  // onto its own source
  expect_model(read_checkpoint(folder / "out"), model);
}

TEST(WriteHfFolder, RefusesValuesOutOfRange) {
  TinyModel model = random_model(tiny_spec(Family::llama), 17);
  model.weights["model.norm.weight"][3] = 1e6f;
  const TemporaryFolder folder;
  write_hf(model, folder / "in");
  try {
    write_hf_folder(read_checkpoint(folder / "in"), folder / "out", DType::f16);
    ADD_FAILURE() << "1e6 fits no F16";
  } catch (const Error& error) {
    EXPECT_MENTIONS(std::string(error.what()), "model.norm.weight", "[3]", "F16");
  }
  EXPECT_FALSE(fs::exists(folder / "out"));
}

TEST(WriteHfFolder, KeepsTheTokenizer) {
  const fs::path shared = SCALEBITS_SOURCE_DIR "/../shared/models/stories260K/stories260Ktok512.f32.gguf";
  if (!fs::exists(shared)) GTEST_SKIP() << "NOT TESTED: " << shared << " is not there";
  const Checkpoint first = read_checkpoint(shared);
  const TemporaryFolder folder;
  write_hf_folder(first, folder / "out", DType::f32);
  const Checkpoint second = read_checkpoint(folder / "out");
  expect_same_bits(first, second);
  ASSERT_NE(second.tokenizer, nullptr);
  EXPECT_EQ(second.tokenizer->encode("Once upon a time"), first.tokenizer->encode("Once upon a time"));
}

}  // namespace
}  // namespace scalebits
