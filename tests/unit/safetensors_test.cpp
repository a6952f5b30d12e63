// safetensors: what the writer writes the reader reads, byte for byte and at the promised offsets, and every broken
// header is refused with an error that names the file.
#include "core/error.h"
#include "safetensors/safetensors.h"
#include "safetensors/safetensors_writer.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

namespace scalebits {
namespace {

class SafetensorsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = std::filesystem::temp_directory_path() / fmt::format("scalebits_{}_{}", info->name(), ::getpid());
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path raw_file(const std::string& header, const std::string& data) const {
    std::string content;
    for (int i = 0; i < 8; ++i) content += static_cast<char>(header.size() >> (8 * i) & 0xff);
    const auto path = folder_ / "raw.safetensors";
    std::ofstream(path, std::ios::binary) << content << header << data;
    return path;
  }
  std::filesystem::path folder_;
};

TEST_F(SafetensorsTest, WriterAndReaderAgree) {
  const std::vector<std::byte> a(24, std::byte{1}), b(6, std::byte{2});
  SafetensorsWriter writer;
  writer.set_metadata("note", "quote \" and ü");
  writer.add("z.weight", "F32", {2, 3}, 24);
  writer.add("a.codes", "U8", {6}, 6);
  writer.add("empty", "U16", {0, 4}, 0);
  const auto path = folder_ / "m.safetensors";
  const std::span<const std::byte> payloads[] = {a, b, {}};
  writer.write(path, payloads);

  EXPECT_EQ(std::filesystem::file_size(path), writer.file_bytes());
  EXPECT_EQ(writer.data_offset() % 64, 0u);
  const auto file = SafetensorsFile::open(path);
  EXPECT_EQ(file.header_text(), writer.header_text());
  EXPECT_EQ(file.data_offset(), writer.data_offset());
  EXPECT_EQ(file.metadata().at("note"), "quote \" and ü");
  ASSERT_EQ(file.entries().size(), 3u);
  EXPECT_EQ(file.entries()[0].name, "z.weight");
  EXPECT_EQ(file.entry("z.weight").shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_TRUE(std::equal(a.begin(), a.end(), file.entry("z.weight").bytes.begin(), file.entry("z.weight").bytes.end()));
  EXPECT_TRUE(std::equal(b.begin(), b.end(), file.entry("a.codes").bytes.begin(), file.entry("a.codes").bytes.end()));
  EXPECT_EQ(file.find("nothing"), nullptr);
  EXPECT_THROW(file.entry("nothing"), Error);
}

TEST_F(SafetensorsTest, SealsShowAFlippedByte) {
  SafetensorsWriter writer;
  writer.set_metadata("about", "a state");
  const std::vector<float> values = {1, 2, 3};
  const std::vector<std::span<const std::byte>> payloads = {{}, std::as_bytes(std::span(values))};
  writer.add("none", "F32", {0}, 0);
  writer.add("a", "F32", {3}, 12);
  const auto path = folder_ / "sealed.safetensors";
  writer.write_sealed(path, payloads);
  EXPECT_EQ(SafetensorsFile::open_sealed(path).entry("a").bytes.size(), 12u);
  std::stringstream written;
  written << std::ifstream(path, std::ios::binary).rdbuf();
  const std::string whole = written.str();
  for (const std::size_t at : {whole.find("a state"), whole.find("\"a\"") + 1, whole.size() - 1}) {
    std::string changed = whole;
    changed[at] = static_cast<char>(changed[at] ^ 2);
    std::ofstream(path, std::ios::binary) << changed;
    EXPECT_NO_THROW(SafetensorsFile::open(path)) << at;
    EXPECT_THROW(SafetensorsFile::open_sealed(path), Error) << at;
  }
  writer.write(path, payloads);
  EXPECT_THROW(SafetensorsFile::open_sealed(path), Error) << "no seal";
}

TEST_F(SafetensorsTest, SizeDoesNotDependOnPayload) {
  SafetensorsWriter writer;
  writer.add("a", "U8", {4}, 4);
  EXPECT_THROW(writer.add("a", "U8", {4}, 4), InternalError);
  EXPECT_THROW(writer.add("b", "U16", {4}, 4), InternalError);
  const auto path = folder_ / "m.safetensors";
  const std::span<const std::byte> nothing[] = {{}};
  EXPECT_THROW(writer.write(path, nothing), InternalError);
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST_F(SafetensorsTest, RefusesBrokenHeaders) {
  const auto entry = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return R"({"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
  };
  const std::string good = "{\"a\":" + entry("F32", "[2]", "[0,8]") + "}";
  EXPECT_NO_THROW(SafetensorsFile::open(raw_file(good + "   ", "12345678")));
  const std::pair<std::string, std::string> broken[] = {
      {good, "1234567"},
      {good, "123456789"},
      {"", "12345678"},
      {"[]", "12345678"},
      {" " + good, "12345678"},
      {good + "}", "12345678"},
      {good.substr(0, 20), "12345678"},
      {"{\"a\":1}", ""},
      {"{\"a\":" + entry("Q32", "[2]", "[0,8]") + "}", "12345678"},
      {"{\"a\":" + entry("F32", "[-2]", "[0,8]") + "}", "12345678"},
      {"{\"a\":" + entry("F32", "[2.0]", "[0,8]") + "}", "12345678"},
      {"{\"a\":" + entry("F32", "[4611686018427387904,4]", "[0,8]") + "}", "12345678"},
      {"{\"a\":" + entry("F32", "[2]", "[8,0]") + "}", "12345678"},
      {"{\"a\":" + entry("F32", "[2]", "[0,8,9]") + "}", "12345678"},
      {"{\"a\":" + entry("F32", "[2]", "[18446744073709551608,0]") + "}", "12345678"},
      {"{\"a\":" + entry("F32", "[1]", "[4,8]") + "}", "12345678"},
      {"{\"a\":" + entry("F32", "[2]", "[0,8]") + ",\"b\":" + entry("F32", "[1]", "[4,8]") + "}", "12345678"},
      {"{\"a\":" + entry("F32", "[1]", "[0,4]") + ",\"a\":" + entry("F32", "[1]", "[4,8]") + "}", "12345678"},
      {"{\"__metadata__\":{\"k\":1},\"a\":" + entry("F32", "[2]", "[0,8]") + "}", "12345678"},
      {"{\"a\xff\":" + entry("F32", "[2]", "[0,8]") + "}", "12345678"}};
  for (const auto& [header, data] : broken) {
    try {
      SafetensorsFile::open(raw_file(header, data));
      ADD_FAILURE() << "loaded: " << header;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("raw.safetensors"), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace scalebits
