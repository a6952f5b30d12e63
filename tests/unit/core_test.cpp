// core: conversions are exact, units parse, files appear whole or not at all, the random stream is fixed.
#include "core/atomic_file.h"
#include "core/control_groups.h"
#include "core/cores.h"
#include "core/error.h"
#include "core/float_types.h"
#include "core/hash.h"
#include "core/json.h"
#include "core/json_text.h"
#include "core/largest.h"
#include "core/machine_memory.h"
#include "core/mapped_file.h"
#include "core/parallel.h"
#include "core/random.h"
#include "core/thread_pool.h"
#include "core/units.h"
#include "core/work_shares.h"

#include <gtest/gtest.h>

#include <atomic>
#include <climits>
#include <cmath>
#include <filesystem>
#include <numeric>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

namespace scalebits {
namespace {

namespace fs = std::filesystem;

TEST(FloatTypes, EveryF16RoundTrips) {
  for (std::uint32_t bits = 0; bits <= 0xffff; ++bits) {
    const float value = f16_to_f32(static_cast<std::uint16_t>(bits));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(f16_to_f32(f32_to_f16(value))));
    } else {
      ASSERT_EQ(f32_to_f16(value), bits);
    }
  }
}

TEST(FloatTypes, MatchesTheCompilersF16Conversion) {
  const CounterRng rng(7);
  for (int i = 0; i < 2'000'000; ++i) {
    const auto value = std::bit_cast<float>(static_cast<std::uint32_t>(rng.bits(i)));
    if (std::isnan(value)) continue;
    ASSERT_EQ(f32_to_f16(value), std::bit_cast<std::uint16_t>(static_cast<_Float16>(value))) << value;
  }
}

TEST(FloatTypes, Bf16RoundsToNearestEven) {
  EXPECT_EQ(f32_to_bf16(1.0f), 0x3f80);
  EXPECT_EQ(f32_to_bf16(std::bit_cast<float>(0x3f808000u)), 0x3f80);  // tie to even
  EXPECT_EQ(f32_to_bf16(std::bit_cast<float>(0x3f818000u)), 0x3f82);
  EXPECT_EQ(f32_to_bf16(std::bit_cast<float>(0x3f808001u)), 0x3f81);
  EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(NAN))));
}

TEST(Units, ParsesAndRefuses) {
  EXPECT_EQ(parse_bytes("60MiB"), 60u << 20);
  EXPECT_EQ(parse_bytes("1.5GB"), 1'500'000'000u);
  EXPECT_EQ(parse_bytes("123"), 123u);
  EXPECT_DOUBLE_EQ(parse_seconds("30min"), 1800);
  EXPECT_DOUBLE_EQ(parse_seconds("1.5h"), 5400);
  for (const char* bad : {"", "MiB", "-1", "1e400", "nan", "12parsecs", "1 2"})
    EXPECT_THROW(parse_bytes(bad), Error) << bad;
  EXPECT_EQ(format_bytes(60u << 20), "60.0 MiB");
  EXPECT_EQ(format_seconds(3675), "1:01:15");
}

TEST(AtomicFile, NothingIsVisibleBeforeCommit) {
  const fs::path path = fs::path(testing::TempDir()) / "atomic";
  fs::remove(path);
  {
    AtomicFile file(path);
    file.write("half");
  }
  EXPECT_FALSE(fs::exists(path));
  EXPECT_FALSE(fs::exists(path.string() + ".partial"));
  write_file_atomically(path, "whole");
  EXPECT_EQ(MappedFile::open(path)->bytes().size(), 5u);
  {
    AtomicFile file(path);
    file.write("all of it");
    check_output(path, {});  // of another program that wants the same place: leaves this one's work alone
    file.commit();
  }
  EXPECT_EQ(MappedFile::open(path)->bytes().size(), 9u);
  EXPECT_THROW(check_output(testing::TempDir(), {}), Error);
  EXPECT_THROW(check_output("/no/such/folder/file", {}), Error);
  EXPECT_THROW(AtomicFile("/no/such/folder/file"), Error);
  EXPECT_THROW(AtomicFile("/dev/null"), Error);
  EXPECT_THROW(AtomicFile(testing::TempDir()), Error);
}

TEST(MappedFile, RefusesWhatIsNoFile) {
  EXPECT_THROW(MappedFile::open("/no/such/file"), Error);
  EXPECT_THROW(MappedFile::open(testing::TempDir()), Error);
  // A pipe that nobody writes to is not waited for.
  const std::string pipe = testing::TempDir() + "core_test_pipe." + std::to_string(::getpid());
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_THROW(MappedFile::open(pipe), Error);
  std::filesystem::remove(pipe);
}

TEST(Json, ErrorsNameFileAndKey) {
  const Json json = parse_json(R"({"a": 1})", "x.json");
  EXPECT_EQ(json_value<int>(json, "a", "x.json"), 1);
  try {
    json_value<int>(json, "b", "x.json");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("x.json"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("'b'"), std::string::npos);
  }
  EXPECT_THROW(parse_json("{", "x"), Error);
  EXPECT_THROW(parse_json(std::string(100'000, '['), "x"), Error);
}

std::string json_error(const std::string& text) {
  try {
    parse_json(text, "x.json");
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Json, RefusesZeroBytesAndIsBriefAboutIt) {
  EXPECT_NE(json_error(std::string("{\"a\": 1}\0{", 11)).find("x.json: not valid JSON: it holds a zero byte"),
            std::string::npos);
  EXPECT_THROW(parse_json_sorted(std::string("1\0", 2), "x"), Error);
  EXPECT_LT(json_error("[\"" + std::string(1'000'000, 'a')).size(), 400u);
  const std::string key = "\"" + std::string(1'000'000, 'a') + "\":1";
  EXPECT_LT(json_error("{" + key + "," + key + "}").size(), 400u);
}

TEST(Json, RefusesMoreKeysThanItsOrderedObjectsBear) {
  const auto object_of = [](int keys) {
    std::string text = "{\"a\":{";
    for (int i = 0; i < keys; ++i) text += fmt::format("{}\"{}\":0", i > 0 ? "," : "", i);
    return text + "}}";
  };
  EXPECT_EQ(json_error(object_of(5'000)), "no error");
  EXPECT_NE(json_error(object_of(20'001)).find("x.json: a JSON object has more than 20000 keys"), std::string::npos);
  const auto sorted = parse_json_sorted(object_of(20'001), "x");
  EXPECT_EQ(sorted["a"].size(), 20'001u);
  EXPECT_THROW(as_ordered(sorted, "x"), Error);
}

TEST(Json, TextReplacesWhatIsNotUtf8) {
  const Json json = {{"path", "a\xff/\xc3\xbc.gguf"}};
  EXPECT_EQ(json_text(json, 1), "{\n \"path\": \"a\xef\xbf\xbd/\xc3\xbc.gguf\"\n}");
}

TEST(Json, ConvertsNoNumbersSilently) {
  const Json json =
      parse_json(R"({"half": 5.7, "large": 1099511627776, "yes": true, "most": 18446744073709551615})", "x");
  EXPECT_THROW(json_value<std::int64_t>(json, "half", "x"), Error);
  EXPECT_THROW(json_value<std::int32_t>(json, "large", "x"), Error);
  EXPECT_THROW(json_value<std::int64_t>(json, "most", "x"), Error);
  EXPECT_THROW(json_value<int>(json, "yes", "x"), Error);
  EXPECT_THROW(json_value<double>(json, "yes", "x"), Error);
  EXPECT_EQ(json_value<std::int64_t>(json, "large", "x"), std::int64_t{1} << 40);
  EXPECT_EQ(json_value<double>(json, "half", "x"), 5.7);
}

TEST(Parallel, RunsEachIndexOnceAndPassesErrorsOn) {
  std::vector<std::atomic<int>> seen(1000);
  parallel_for(1000, [&](std::int64_t i) { ++seen[i]; });
  for (const auto& count : seen) EXPECT_EQ(count, 1);
  EXPECT_THROW(parallel_for(100,
                            [](std::int64_t i) {
                              if (i == 50) fail_input("stop");
                            }),
               Error);
  std::atomic<int> total = 0;
  parallel_for(10, [&](std::int64_t) { parallel_for(10, [&](std::int64_t) { ++total; }); });
  EXPECT_EQ(total, 100);
}

TEST(Random, IsAPureFunctionWithTheRightMoments) {
  const CounterRng rng(42, 3), same(42, 3), other(42, 4);
  EXPECT_EQ(rng.bits(17), same.bits(17));
  EXPECT_NE(rng.bits(17), other.bits(17));
  double sum = 0, squares = 0;
  const int n = 100'000;
  for (int i = 0; i < n; ++i) {
    const double x = rng.normal(i);
    sum += x, squares += x * x;
    ASSERT_LT(rng.below(i, 10), 10u);
  }
  EXPECT_NEAR(sum / n, 0, 5 / std::sqrt(n));  // five standard errors
  EXPECT_NEAR(squares / n, 1, 5 * std::sqrt(2.0 / n));
}

TEST(Cores, QuotasOfControlGroupsAreWholeCores) {
  EXPECT_EQ(cores_of_quota("200000 100000"), 2);
  EXPECT_EQ(cores_of_quota("350000 100000"), 3);
  EXPECT_EQ(cores_of_quota("50000 100000"), 1);
  for (const char* none : {"max 100000", "-1 100000", "", "-1 "}) EXPECT_EQ(cores_of_quota(none), INT_MAX) << none;
  EXPECT_GE(available_cores(), 1);
  EXPECT_LE(available_cores(), static_cast<int>(allowed_cores().size()));
}

TEST(MachineMemory, IsWhatControlGroupsLeave) {
  EXPECT_EQ(bytes_of_limit("17179869184\n"), std::uint64_t{16} << 30);
  for (const char* none : {"max", "", "99999999999999999999999"}) EXPECT_EQ(bytes_of_limit(none), UINT64_MAX) << none;
  EXPECT_GT(machine_memory_bytes(), 0u);
  each_control_group("memory", [&](const std::filesystem::path& folder) {  // none on some machines
    for (const char* const file : {"memory.max", "memory.limit_in_bytes"})
      EXPECT_LE(machine_memory_bytes(), bytes_of_limit(line_of(folder / file).c_str())) << folder;
  });
}

TEST(ThreadPool, MeetingShowsWhatAllWroteBefore) {
  for (const int count : {1, 2, 5}) {  // more threads than cores, too
    ThreadPool threads(count);
    for (int trial = 0; trial < 20; ++trial) {
      std::vector<int> written(static_cast<std::size_t>(count));  // not atomic: the meeting orders them
      std::atomic<int> wrong = 0;
      threads.run([&](int thread) {
        for (int round = 1; round <= 10; ++round) {
          written[static_cast<std::size_t>(thread)] = round;
          threads.meet();
          for (const int other : written)
            if (other != round) ++wrong;
          threads.meet();
        }
      });
      ASSERT_EQ(wrong, 0) << count << " threads";
    }
  }
}

TEST(WorkShares, HandOutEveryIndexOnce) {
  ThreadPool threads(4);
  for (const bool own_shares_only : {false, true})
    for (int trial = 0; trial < 200; ++trial) {
      const std::vector<std::int64_t> bounds = {0, trial % 7, 40, 40, 40 + 13 * (trial % 5)};
      WorkShares shares(4);
      for (int t = 0; t < 4; ++t) shares.set(t, {bounds[std::size_t(t)], bounds[std::size_t(t) + 1]});
      std::vector<std::atomic<int>> taken(100);
      const auto count = [&](std::optional<WorkRange> range) {
        for (std::int64_t i = range->first; i < range->last; ++i) ++taken[std::size_t(i)];
      };
      threads.run([&](int t) {
        if (own_shares_only)
          if (const auto all = shares.take_all(t)) return count(all);
        if (t == trial % 4) std::this_thread::yield();
        while (const auto range = shares.take(t)) count(range);
      });
      for (std::int64_t i = 0; i < 100; ++i) ASSERT_EQ(taken[std::size_t(i)], i < bounds.back() ? 1 : 0) << i;
    }
}

TEST(LargestOf, IsTheFirstOfTheLargestAndSeesEveryValue) {
  const CounterRng rng(8);
  for (const std::size_t count : {1, 2, 7, 8, 9, 16, 31, 511, 512, 513, 1024, 1500, 5000}) {
    std::vector<float> values(count);
    for (std::size_t i = 0; i < count; ++i) values[i] = -1.0f - static_cast<float>(rng.below(i, count));
    const auto size = static_cast<std::int64_t>(count);
    const auto wanted = std::max_element(values.begin(), values.end());  // the first of equals
    const Largest found = largest_of(values.data(), size);
    EXPECT_EQ(found.index, wanted - values.begin()) << count;
    EXPECT_EQ(found.value, *wanted);
    EXPECT_TRUE(found.finite);
    for (std::size_t at = 0; at < count; at += 1 + count / 40) {
      const float before = values[at];
      values[at] = 3;
      EXPECT_EQ(largest_of(values.data(), size).index, static_cast<std::int64_t>(at)) << count;
      for (const float broken : {NAN, INFINITY, -INFINITY}) {
        values[at] = broken;
        EXPECT_FALSE(largest_of(values.data(), size).finite) << count << " values, " << broken << " at " << at;
      }
      values[at] = before;
    }
  }
}

TEST(Hash, SeesEveryByte) { EXPECT_NE(hash_hex("abc"), hash_hex("abd")); }

}  // namespace
}  // namespace scalebits
