// Contract of include/scalebits/scalebits.h: it gives what the runtime gives; a wrong call is a status and a sentence,
// and changes nothing; buffers that are too small are never written beyond.
#include <scalebits/scalebits.h>

#include "runtime/session.h"
#include "tiny_models.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sys/resource.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace scalebits {
namespace {

using testing_models::TemporaryFolder;

/// A tiny model in a folder, with the tokenizer of tests/data/tokenizer that has this name, or none.
void write_model(const std::filesystem::path& folder, const std::string& tokenizer) {
  ModelSpec spec = testing_models::tiny_spec(Family::llama);
  if (!tokenizer.empty()) {
    const std::filesystem::path known = SCALEBITS_SOURCE_DIR "/tests/data/tokenizer";
    std::filesystem::create_directories(folder);
    std::filesystem::copy_file(known / tokenizer, folder / "tokenizer.json");
    spec.vocab = 512;
  }
  testing_models::write_hf(testing_models::random_model(spec, 3), folder);
}

class CApi : public testing::Test {
 protected:
  void SetUp() override {
    write_model(folder_ / "model", "llama3.json");
    ASSERT_EQ(scalebits_model_open((folder_ / "model").c_str(), nullptr, &model_), SCALEBITS_OK)
        << scalebits_last_error();
    ASSERT_EQ(scalebits_session_open(model_, nullptr, &session_), SCALEBITS_OK);
  }
  void TearDown() override {
    scalebits_session_close(session_);
    scalebits_model_close(model_);
  }

  TemporaryFolder folder_;
  scalebits_model* model_ = nullptr;
  scalebits_session* session_ = nullptr;
};

TEST_F(CApi, GivesTheLogitsOfTheRuntime) {
  EXPECT_EQ(scalebits_api_version(), SCALEBITS_API_VERSION);
  EXPECT_EQ(scalebits_vocab_size(model_), 512);
  EXPECT_EQ(scalebits_max_positions(model_), 64);
  EXPECT_EQ(scalebits_is_end(model_, 2), 1);
  EXPECT_EQ(scalebits_is_end(model_, 3), 0);
  EXPECT_EQ(scalebits_logits(session_), nullptr);

  const std::vector<std::int32_t> tokens = {3, 70, 11, 500};
  const auto model = RuntimeModel::open(folder_ / "model");
  Session session(*model);
  const auto wanted = session.evaluate(tokens);
  ASSERT_EQ(scalebits_evaluate(session_, tokens.data(), 3), SCALEBITS_OK);
  ASSERT_EQ(scalebits_evaluate(session_, tokens.data() + 3, 1), SCALEBITS_OK);
  EXPECT_EQ(scalebits_length(session_), 4);
  EXPECT_EQ(std::memcmp(scalebits_logits(session_), wanted.data(), wanted.size_bytes()), 0);

  std::int32_t token = -1;
  ASSERT_EQ(scalebits_sample(session_, nullptr, &token), SCALEBITS_OK);
  EXPECT_EQ(token, std::max_element(wanted.begin(), wanted.end()) - wanted.begin());
  scalebits_sampling sampling = scalebits_sampling_default();
  sampling.temperature = 1.5;
  std::vector<std::int32_t> drawn;
  for (sampling.seed = 0; sampling.seed < 50; ++sampling.seed) {
    ASSERT_EQ(scalebits_sample(session_, &sampling, &token), SCALEBITS_OK);
    std::int32_t again = -1;
    ASSERT_EQ(scalebits_sample(session_, &sampling, &again), SCALEBITS_OK);
    EXPECT_EQ(token, again) << "a pure function";
    drawn.push_back(token);
  }
  EXPECT_NE(std::count(drawn.begin(), drawn.end(), drawn[0]), 50) << "the seed decides";

  ASSERT_EQ(scalebits_keep(session_, 3), SCALEBITS_OK);
  EXPECT_EQ(scalebits_logits(session_), nullptr);
  ASSERT_EQ(scalebits_evaluate(session_, tokens.data() + 3, 1), SCALEBITS_OK);
  EXPECT_EQ(std::memcmp(scalebits_logits(session_), wanted.data(), wanted.size_bytes()), 0);
}

TEST_F(CApi, TurnsTextIntoTokensAndBack) {
  const std::string text = "the quick brown föx";
  std::vector<std::int32_t> tokens(64);
  std::size_t count = 0;
  ASSERT_EQ(scalebits_tokenize(model_, text.data(), text.size(), 1, tokens.data(), tokens.size(), &count),
            SCALEBITS_OK);
  ASSERT_GT(count, 3u);
  std::size_t plain = 0;
  ASSERT_EQ(scalebits_tokenize(model_, text.data(), text.size(), 0, nullptr, 0, &plain), SCALEBITS_TOO_SMALL);
  EXPECT_EQ(plain + 1, count) << "a text's start has a token of its own";

  std::vector<std::int32_t> few(count, -1);
  EXPECT_EQ(scalebits_tokenize(model_, text.data(), text.size(), 1, few.data(), 2, &count), SCALEBITS_TOO_SMALL);
  EXPECT_EQ(count, few.size());
  EXPECT_EQ(few[1], tokens[1]);
  EXPECT_EQ(few[2], -1) << "written beyond the buffer";
  EXPECT_NE(std::string(scalebits_last_error()).find("room for 2"), std::string::npos);

  std::string back(64, '\0');
  std::size_t length = 0;
  ASSERT_EQ(scalebits_detokenize(model_, tokens.data(), count, 1, back.data(), back.size(), &length), SCALEBITS_OK);
  EXPECT_EQ(back.substr(0, length), text) << "the special token gives nothing";
  EXPECT_EQ(scalebits_tokenize(model_, nullptr, 0, 0, nullptr, 0, &count), SCALEBITS_OK);
  EXPECT_EQ(count, 0u);
}

TEST_F(CApi, TellsWhatAnEmptyTextBeginsWith) {
  std::int32_t token = -1;
  std::size_t count = 0;
  ASSERT_EQ(scalebits_tokenize(model_, nullptr, 0, 1, &token, 1, &count), SCALEBITS_OK);
  ASSERT_EQ(count, 1u) << "the beginning-of-text token";
  EXPECT_EQ(scalebits_start_token(model_), token);

  // A tokenizer that puts nothing before a text: what stands between documents, where that is named.
  for (const bool named : {false, true}) {
    const std::filesystem::path folder = folder_ / (named ? "named" : "unnamed");
    write_model(folder, "qwen2.json");
    if (named)
      testing_models::write_text(folder / "tokenizer_config.json", R"({"bos_token":null,"eos_token":"<|endoftext|>"})");
    scalebits_model* model = nullptr;
    scalebits_session* session = nullptr;
    ASSERT_EQ(scalebits_model_open(folder.c_str(), nullptr, &model), SCALEBITS_OK) << scalebits_last_error();
    EXPECT_EQ(scalebits_tokenize(model, nullptr, 0, 1, nullptr, 0, &count), SCALEBITS_OK);
    EXPECT_EQ(count, 0u);
    const std::int32_t start = scalebits_start_token(model);
    EXPECT_EQ(start, named ? 0 : -1);
    ASSERT_EQ(scalebits_session_open(model, nullptr, &session), SCALEBITS_OK);
    EXPECT_EQ(scalebits_evaluate(session, &start, 1), named ? SCALEBITS_OK : SCALEBITS_BAD_INPUT);
    scalebits_session_close(session);
    scalebits_model_close(model);
  }
}

TEST_F(CApi, RefusesWrongCallsAndStaysAsItWas) {
  const std::int32_t good = 5, bad = 512;
  std::int32_t token = 0;
  EXPECT_EQ(scalebits_sample(session_, nullptr, &token), SCALEBITS_USAGE);
  ASSERT_EQ(scalebits_evaluate(session_, &good, 1), SCALEBITS_OK);
  const float first = scalebits_logits(session_)[0];
  EXPECT_EQ(scalebits_evaluate(session_, &bad, 1), SCALEBITS_BAD_INPUT);
  EXPECT_NE(std::string(scalebits_last_error()).find("512"), std::string::npos);
  EXPECT_EQ(scalebits_evaluate(session_, nullptr, 0), SCALEBITS_USAGE);
  EXPECT_EQ(scalebits_evaluate(session_, std::vector<std::int32_t>(64, 1).data(), 64), SCALEBITS_BAD_INPUT);
  EXPECT_EQ(scalebits_keep(session_, 2), SCALEBITS_USAGE);
  EXPECT_EQ(scalebits_keep(session_, -1), SCALEBITS_USAGE);
  EXPECT_EQ(scalebits_length(session_), 1);
  EXPECT_EQ(scalebits_logits(session_)[0], first);
  scalebits_sampling sampling = scalebits_sampling_default();
  sampling.top_p = 7;
  EXPECT_EQ(scalebits_sample(session_, &sampling, &token), SCALEBITS_USAGE);

  std::size_t count = 0;
  scalebits_model* other = nullptr;
  EXPECT_EQ(scalebits_model_open(nullptr, nullptr, &other), SCALEBITS_USAGE);
  EXPECT_EQ(scalebits_model_open("/nonexistent", nullptr, &other), SCALEBITS_BAD_INPUT);
  EXPECT_NE(std::string(scalebits_last_error()).find("/nonexistent"), std::string::npos);
  scalebits_model_options options = scalebits_model_options_default();
  options.isa = "sse5";
  EXPECT_EQ(scalebits_model_open((folder_ / "model").c_str(), &options, &other), SCALEBITS_USAGE);
  options = scalebits_model_options_default();
  options.threads = -1;
  EXPECT_EQ(scalebits_model_open((folder_ / "model").c_str(), &options, &other), SCALEBITS_USAGE);
  EXPECT_EQ(other, nullptr);
  EXPECT_EQ(scalebits_tokenize(model_, "x", 1, 0, nullptr, 4, &count), SCALEBITS_USAGE);
  EXPECT_EQ(scalebits_session_open(nullptr, nullptr, nullptr), SCALEBITS_USAGE);
  scalebits_session_options narrow = scalebits_session_options_default();
  narrow.kv_bits = 4;
  scalebits_session* session = nullptr;
  EXPECT_EQ(scalebits_session_open(model_, &narrow, &session), SCALEBITS_USAGE);
  EXPECT_EQ(session, nullptr);
  EXPECT_EQ(scalebits_vocab_size(nullptr), 0);
  EXPECT_EQ(scalebits_start_token(nullptr), -1);
  EXPECT_EQ(scalebits_length(nullptr), 0);
  scalebits_session_close(nullptr);
  scalebits_model_close(nullptr);

  std::string elsewhere = "?";
  std::thread([&] { elsewhere = scalebits_last_error(); }).join();
  EXPECT_EQ(elsewhere, "") << "each thread has its own";
}

TEST_F(CApi, PathsThatCannotBeFollowedAreBadInput) {
  std::filesystem::create_symlink("circle", folder_ / "circle");
  for (const std::string& path : {(folder_ / "circle").string(), std::string(5000, 'x')}) {
    scalebits_model* other = nullptr;
    EXPECT_EQ(scalebits_model_open(path.c_str(), nullptr, &other), SCALEBITS_BAD_INPUT) << scalebits_last_error();
    EXPECT_EQ(other, nullptr);
  }
}

/// Leaves this process, a forked one, little more memory than it has.
void leave_memory(std::uint64_t more) {
  std::uint64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  const rlimit limit{pages * 4096 + more, pages * 4096 + more};
  if (::setrlimit(RLIMIT_AS, &limit) != 0) std::_Exit(99);
}

/// What `call`, which returns a status, tells in a forked process, and the word that its sentence must have.
template <typename Call>
void expect_in_fork(const Call& call, int status, const char* word) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::alarm(20);  // ends what hangs
    const int found = call();
    if (std::strstr(scalebits_last_error(), word) == nullptr) std::fprintf(stderr, "%s\n", scalebits_last_error());
    std::_Exit(std::strstr(scalebits_last_error(), word) != nullptr ? found : 98);
  }
  int ended = 0;
  ASSERT_EQ(::waitpid(child, &ended, 0), child);
  ASSERT_TRUE(WIFEXITED(ended)) << "signal " << WTERMSIG(ended);
  EXPECT_EQ(WEXITSTATUS(ended), status);
}

TEST_F(CApi, MemoryThatIsRefusedIsAStatus) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "NOT TESTED: sanitizers need much memory of their own";
#endif
  const std::string path = folder_ / "model";
  const auto too_many_threads = [&] {
    leave_memory(std::uint64_t{64} << 20);
    scalebits_model_options options = scalebits_model_options_default();
    options.threads = 1024;
    scalebits_model* other = nullptr;
    return scalebits_model_open(path.c_str(), &options, &other);
  };
  expect_in_fork(too_many_threads, SCALEBITS_NO_MEMORY, "of 1024 threads");
  const auto too_many_positions = [&] {
    leave_memory(std::uint64_t{64} << 20);
    scalebits_session_options options = scalebits_session_options_default();
    options.max_positions = 1 << 24;
    scalebits_session* other = nullptr;
    return scalebits_session_open(model_, &options, &other);
  };
  expect_in_fork(too_many_positions, SCALEBITS_NO_MEMORY, "max_positions");
}

TEST_F(CApi, AForkedProcessHasNoThreads) {
  scalebits_model_options options = scalebits_model_options_default();
  options.threads = 2;
  scalebits_model* two = nullptr;
  scalebits_session* session = nullptr;
  ASSERT_EQ(scalebits_model_open((folder_ / "model").c_str(), &options, &two), SCALEBITS_OK);
  ASSERT_EQ(scalebits_session_open(two, nullptr, &session), SCALEBITS_OK);
  const std::vector<std::int32_t> tokens(20, 5);
  const auto use = [&] {
    const int status = scalebits_evaluate(session, tokens.data(), tokens.size());
    scalebits_session_close(session);
    scalebits_model_close(two);
    return status;
  };
  expect_in_fork(use, SCALEBITS_USAGE, "fork()");
  EXPECT_EQ(scalebits_evaluate(session, tokens.data(), tokens.size()), SCALEBITS_OK) << "this process has them still";
  scalebits_session_close(session);
  scalebits_model_close(two);
}

TEST_F(CApi, OpensModelsWithoutATokenizer) {
  write_model(folder_ / "bare", "");
  scalebits_model* bare = nullptr;
  ASSERT_EQ(scalebits_model_open((folder_ / "bare").c_str(), nullptr, &bare), SCALEBITS_OK) << scalebits_last_error();
  std::int32_t token;
  std::size_t count;
  EXPECT_EQ(scalebits_tokenize(bare, "x", 1, 0, &token, 1, &count), SCALEBITS_BAD_INPUT);
  EXPECT_EQ(scalebits_start_token(bare), -1);
  scalebits_model_close(bare);
}

}  // namespace
}  // namespace scalebits
