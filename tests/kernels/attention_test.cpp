// The contract of attention: the softmax of the stored keys and values up to derived roundings; the same bits on every
// instruction set, for any number of threads, and whether a token is evaluated alone or among others; keys and values
// are stored as the header says, the same bits on every set.
#include "../unit/resident_bytes.h"
#include "random_packed.h"

#include "core/float_types.h"
#include "kernels/attention.h"
#include "kernels/cpu/attention_calls.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>

namespace scalebits {
namespace {

std::vector<float> random_floats(Dice& dice, std::int64_t count, float scale = 1) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = dice.real() * scale;
  return values;
}

KvLayer random_cache(Dice& dice, KvType type, std::int64_t kv_heads, std::int64_t positions, std::int64_t head_dim) {
  KvLayer cache(type, kv_heads, positions + 10, head_dim);
  for (std::int64_t p = 0; p < positions; ++p) {
    const float scale = dice.below(10) == 0 ? 6.0f : 2.0f;
    cache.store(p, random_floats(dice, kv_heads * head_dim, scale).data(),
                random_floats(dice, kv_heads * head_dim).data());
  }
  return cache;
}

double stored_value(const KvLayer& cache, const std::byte* rows, const float* scales, std::int64_t position,
                    std::int64_t d) {
  const auto at = static_cast<std::size_t>(position * cache.head_dim() + d);
  if (cache.type() == KvType::i8) return double(static_cast<std::int8_t>(rows[at])) * double(scales[position]);
  std::uint16_t bits;
  std::memcpy(&bits, rows + 2 * at, 2);
  return f16_to_f32(bits);
}

/// One head by the definition, in f64. `error`: what f32 may lose of each output (see below).
struct Reference {
  std::vector<double> out, error;
};

Reference reference(const KvLayer& cache, std::int64_t kv_head, const float* q, std::int64_t first, std::int64_t last) {
  const bool i8 = cache.type() == KvType::i8;
  const std::int64_t dim = cache.head_dim();
  const float* key_scales = i8 ? cache.key_scales(kv_head) : nullptr;
  const float* value_scales = i8 ? cache.value_scales(kv_head) : nullptr;
  std::vector<double> scores;
  double largest = -1e300, score_error = 0;
  const double roundings = double(dim) / 16 + 4 + 4;  // of a score: its sum, 1/sqrt(dim), q · that, the key's scale
  for (std::int64_t p = first; p < last; ++p) {
    double score = 0, magnitude = 0;
    for (std::int64_t d = 0; d < dim; ++d) {
      const double term = double(q[d]) * stored_value(cache, cache.keys(kv_head), key_scales, p, d);
      score += term;
      magnitude += std::abs(term);
    }
    scores.push_back(score / std::sqrt(double(dim)));
    largest = std::max(largest, scores.back());
    score_error = std::max(score_error, 1.01 * roundings * 0x1p-24 * magnitude / std::sqrt(double(dim)));
  }
  // A weight's relative error: twice the scores' (its own and the largest's), the difference's rounding, exp's 2 units
  // of the last place, and one rounding for each of the additions, of the rescalings (one per block and split) and of
  // the division; the same again for the sum that it is divided by. Weights below e^-87 are left out.
  const double blocks = double(last - first) / 64 + 2;
  double span = 0;
  for (const double score : scores) span = std::max(span, largest - score);
  const double weight_error =
      2 * score_error + (std::min(span, 87.0) + 4) * 0x1p-24 + (double(last - first) + 4 * blocks + 8) * 0x1p-24;
  Reference result{std::vector<double>(static_cast<std::size_t>(dim)),
                   std::vector<double>(static_cast<std::size_t>(dim))};
  double total = 0;
  for (double& score : scores) total += score = std::exp(score - largest);
  for (std::int64_t d = 0; d < dim; ++d)
    for (std::int64_t p = first; p < last; ++p) {
      const double value = stored_value(cache, cache.values(kv_head), value_scales, p, d);
      const double weight = scores[static_cast<std::size_t>(p - first)] / total;
      result.out[static_cast<std::size_t>(d)] += weight * value;
      result.error[static_cast<std::size_t>(d)] += (2 * weight_error * weight + std::exp(-87.0)) * std::abs(value);
    }
  return result;
}

std::vector<Isa> own_isas() {
  std::vector<Isa> result;
  for (const Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512_vnni})
    if (machine_has(isa)) result.push_back(isa);
  return result;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

struct Seen {
  std::int64_t first, last;
};

std::vector<float> attend_all(ThreadPool& threads, Isa isa, const KvLayer& cache, std::int64_t heads,
                              const std::vector<float>& q, const std::vector<Seen>& seen) {
  const std::int64_t size = heads * cache.head_dim();
  std::vector<float> out(q.size(), std::nanf(""));
  std::vector<AttentionQuery> queries;
  for (std::size_t i = 0; i < seen.size(); ++i)
    queries.push_back({&cache, q.data() + static_cast<std::int64_t>(i) * size,
                       out.data() + static_cast<std::int64_t>(i) * size, seen[i].first, seen[i].last});
  attend(threads, isa, heads, queries);
  return out;
}

/// Everything the contract promises of one problem.
void check(Dice& dice, const KvLayer& cache, std::int64_t heads, const std::vector<Seen>& seen) {
  static ThreadPool one(1), two(2), five(5);
  const std::int64_t dim = cache.head_dim(), size = heads * dim;
  const std::vector<float> q = random_floats(dice, static_cast<std::int64_t>(seen.size()) * size, 2);
  const std::vector<float> out = attend_all(one, Isa::scalar, cache, heads, q, seen);
  for (std::size_t i = 0; i < seen.size(); ++i)
    for (std::int64_t head = 0; head < heads; ++head) {
      const std::int64_t at = static_cast<std::int64_t>(i) * size + head * dim;
      const Reference wanted =
          reference(cache, head / (heads / cache.kv_heads()), q.data() + at, seen[i].first, seen[i].last);
      for (std::int64_t d = 0; d < dim; ++d)
        ASSERT_NEAR(out[static_cast<std::size_t>(at + d)], wanted.out[static_cast<std::size_t>(d)],
                    wanted.error[static_cast<std::size_t>(d)])
            << "query " << i << ", head " << head << ", " << d << ", positions " << seen[i].first << " to "
            << seen[i].last;
    }
  static const std::vector<Isa> isas = own_isas();
  for (const Isa isa : isas)
    for (ThreadPool* threads : {&one, &two, &five})
      ASSERT_TRUE(same_bits(out, attend_all(*threads, isa, cache, heads, q, seen)))
          << name_of(isa) << ", " << threads->size() << " threads";
  for (std::size_t i = 0; i < seen.size(); ++i) {  // alone
    const auto from = static_cast<std::ptrdiff_t>(i) * size;
    const std::vector<float> own(q.begin() + from, q.begin() + from + size);
    ASSERT_TRUE(same_bits({out.begin() + from, out.begin() + from + size},
                          attend_all(two, isas.back(), cache, heads, own, {seen[i]})))
        << "query " << i;
  }
}

std::vector<Seen> chunk(std::int64_t first, std::int64_t count) {
  std::vector<Seen> seen;
  for (std::int64_t i = 0; i < count; ++i) seen.push_back({0, first + i + 1});
  return seen;
}

class Attention : public testing::TestWithParam<KvType> {};
INSTANTIATE_TEST_SUITE_P(Cache, Attention, testing::Values(KvType::f16, KvType::i8),
                         [](const auto& cache) { return cache.param == KvType::f16 ? "f16" : "i8"; });

TEST_P(Attention, ATokenAfterAnyNumberOfOthers) {
  Dice dice(61);
  const KvLayer cache = random_cache(dice, GetParam(), 3, 700, 64);
  for (const std::int64_t position : {0, 1, 15, 62, 63, 64, 65, 255, 256, 257, 511, 512, 699})
    check(dice, cache, 9, chunk(position, 1));
}

TEST_P(Attention, AChunkOfAPrompt) {
  Dice dice(62);
  const KvLayer cache = random_cache(dice, GetParam(), 2, 420, 64);
  check(dice, cache, 6, chunk(0, 40));
  check(dice, cache, 6, chunk(230, 100));  // over the border of a split
}

TEST_P(Attention, HeadsOfAnySizeAndGrouping) {
  Dice dice(63);
  for (const std::int64_t dim : {1, 5, 16, 40, 80, 96, 128, 256}) {
    const KvLayer cache = random_cache(dice, GetParam(), 2, 150, dim);
    check(dice, cache, 2, chunk(140, 3));
    check(dice, cache, 14, chunk(90, 8));
  }
}

TEST_P(Attention, WindowsThatBeginAnywhere) {
  Dice dice(64);
  const KvLayer cache = random_cache(dice, GetParam(), 1, 800, 32);
  std::vector<Seen> seen;
  for (std::int64_t last = 300; last < 340; ++last) seen.push_back({last - 70, last});
  check(dice, cache, 4, seen);
  seen.clear();
  for (int i = 0; i < 20; ++i) {
    const std::int64_t first = dice.below(800);
    seen.push_back({first, first + 1 + dice.below(800 - first)});
  }
  check(dice, cache, 4, seen);
}

TEST_P(Attention, SeveralCachesAtOnce) {
  Dice dice(65);
  ThreadPool two(2);
  std::vector<KvLayer> caches;
  for (const std::int64_t positions : {30, 400, 77}) caches.push_back(random_cache(dice, GetParam(), 2, positions, 64));
  const std::vector<float> q = random_floats(dice, 3 * 4 * 64);
  std::vector<float> out(q.size());
  std::vector<AttentionQuery> queries;
  const std::int64_t lasts[] = {30, 400, 77};
  for (std::size_t i = 0; i < 3; ++i)
    queries.push_back({&caches[i], q.data() + i * 256, out.data() + i * 256, 0, lasts[i]});
  const Isa isa = own_isas().back();
  attend(two, isa, 4, queries);
  for (std::size_t i = 0; i < 3; ++i) {
    const auto from = static_cast<std::ptrdiff_t>(i * 256);
    EXPECT_TRUE(
        same_bits({out.begin() + from, out.begin() + from + 256},
                  attend_all(two, isa, caches[i], 4, {q.begin() + from, q.begin() + from + 256}, {{0, lasts[i]}})));
  }
}

// 20 tiles of 64 rows over 150 splits, whose sums are 48 floats a row: 37 MB if all were kept.
TEST_P(Attention, SumsOfALongContextAreJoinedInRounds) {
  constexpr std::int64_t kPositions = 150 * 256 - 100, kHeads = 64, kDim = 4, kQueries = 20;
  Dice dice(67);
  ThreadPool one(1), four(4);
  const KvLayer cache = random_cache(dice, GetParam(), 1, kPositions, kDim);
  const std::vector<float> q = random_floats(dice, kQueries * kHeads * kDim, 2);
  std::vector<Seen> seen = chunk(kPositions - kQueries, kQueries);
  seen[3] = {70, 700};  // rows that later rounds do not concern
  seen[11] = {20000, 20001};
  const Isa isa = own_isas().back();
  const std::vector<float> wanted = attend_all(one, isa, cache, kHeads, q, seen);
  const std::int64_t before = resident_bytes();
  EXPECT_TRUE(same_bits(wanted, attend_all(four, isa, cache, kHeads, q, seen)));
#if defined(__SANITIZE_ADDRESS__)
  std::printf("NOT TESTED: the sanitizer holds freed memory back\n");
#else
  EXPECT_LE(resident_bytes() - before, 20 << 20) << "16 MiB of sums, and what threads work with";
#endif
}

TEST_P(Attention, HugeScoresLeaveOnlyTheLargest) {
  ThreadPool one(1);
  KvLayer cache(GetParam(), 1, 300, 16);
  std::vector<float> k(16, 0), v(16, 0);
  for (std::int64_t p = 0; p < 300; ++p) {
    k[0] = p == 17 ? 1000.0f : static_cast<float>(p) - 150;
    v[0] = p == 17 ? 3.0f : -1.0f;
    cache.store(p, k.data(), v.data());
  }
  std::vector<float> q(16, 0);
  q[0] = 50;
  for (const Isa isa : own_isas()) {
    EXPECT_FLOAT_EQ(attend_all(one, isa, cache, 1, q, {{0, 300}})[0], 3.0f);
    EXPECT_FLOAT_EQ(attend_all(one, isa, cache, 1, q, {{18, 300}})[0], -1.0f);
  }
}

TEST(Attention, ExpIsWithinTwoUnitsOfTheLastPlace) {
  std::vector<float> x;
  for (int i = 0; i < 1'000'000; ++i) x.push_back(-87.0f * static_cast<float>(i) / 999'999.0f);
  for (int i = 0; i < 64; ++i) x.push_back(i < 32 ? -std::ldexp(1.0f, -i) : -87.5f * static_cast<float>(1 << (i % 16)));
  std::vector<float> scalar(x.size()), other(x.size());
  attention_exp_scalar(x.data(), static_cast<std::int64_t>(x.size()), scalar.data());
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double exact = x[i] < -87 ? 0 : std::exp(double(x[i]));
    ASSERT_NEAR(scalar[i], exact, 2 * std::ldexp(1.0, std::max(std::ilogb(exact), -126) - 23)) << x[i];
  }
  EXPECT_EQ(scalar[0], 1.0f);
  const auto count = static_cast<std::int64_t>(x.size());
  if (machine_has(Isa::avx2)) {
    attention_exp_avx2(x.data(), count, other.data());
    EXPECT_TRUE(same_bits(scalar, other));
  }
  if (machine_has(Isa::avx512_vnni)) {
    attention_exp_avx512(x.data(), count, other.data());
    EXPECT_TRUE(same_bits(scalar, other));
  }
}

TEST(KvLayer, RoundsAsTheHeaderSaysOnEverySet) {
  Dice dice(66);
  for (const std::int64_t dim : {1, 7, 8, 64, 100}) {
    for (const float size : {1.0f, 1e-7f, 60000.0f, 1e-39f, 0.0f}) {
      const std::vector<float> values = random_floats(dice, dim, size);
      const auto count = static_cast<std::size_t>(dim);
      std::vector<std::byte> f16(2 * count), i8(count), other(2 * count);
      float scale = -1, other_scale = -1, largest = 0;
      store_f16_scalar(values.data(), dim, f16.data());
      store_i8_scalar(values.data(), dim, i8.data(), &scale);
      for (const float value : values) largest = std::max(largest, std::abs(value));
      EXPECT_EQ(scale, largest / 127);
      for (std::size_t i = 0; i < count; ++i) {
        const double wanted = largest > 1e-30f ? double(values[i]) / double(largest) * 127 : 0;
        const int found = static_cast<std::int8_t>(i8[i]);
        EXPECT_LE(std::abs(found), 127);
        if (largest > 1e-30f || largest == 0) {
          EXPECT_NEAR(found, wanted, 0.5 + 1e-4);
        }
        std::uint16_t bits;
        std::memcpy(&bits, f16.data() + 2 * i, 2);
        EXPECT_EQ(bits, f32_to_f16(values[i]));
      }
      if (!machine_has(Isa::avx2)) continue;
      store_f16_avx2(values.data(), dim, other.data());
      EXPECT_EQ(f16, other);
      store_i8_avx2(values.data(), dim, other.data(), &other_scale);
      EXPECT_EQ(std::memcmp(i8.data(), other.data(), count), 0);
      EXPECT_EQ(scale, other_scale);
    }
  }
}

TEST(KvLayer, EveryPositionOfEveryHeadHasItsPlace) {
  for (const KvType type : {KvType::f16, KvType::i8}) {
    KvLayer cache(type, 3, 7, 5);
    EXPECT_EQ(cache.bytes(), type == KvType::f16 ? 2u * 3 * 7 * 5 * 2 : 2u * 3 * 7 * (5 + 4));
    for (std::int64_t p = 0; p < 7; ++p) {
      std::vector<float> k(15), v(15);
      for (std::size_t i = 0; i < 15; ++i) {
        k[i] = static_cast<float>(p * 15 + static_cast<std::int64_t>(i) + 1);
        v[i] = -k[i];
      }
      cache.store(p, k.data(), v.data());
    }
    for (std::int64_t head = 0; head < 3; ++head)
      for (std::int64_t p = 0; p < 7; ++p)
        for (std::int64_t d = 0; d < 5; ++d) {
          const double wanted = double(p * 15 + head * 5 + d + 1);
          const bool i8 = type == KvType::i8;
          EXPECT_NEAR(stored_value(cache, cache.keys(head), i8 ? cache.key_scales(head) : nullptr, p, d), wanted,
                      wanted * 0.05);
          EXPECT_NEAR(stored_value(cache, cache.values(head), i8 ? cache.value_scales(head) : nullptr, p, d), -wanted,
                      wanted * 0.05);
        }
    KvLayer moved = std::move(cache);
    EXPECT_NEAR(stored_value(moved, moved.keys(0), type == KvType::i8 ? moved.key_scales(0) : nullptr, 0, 0), 1, 0.05);
    EXPECT_THROW(moved.store(7, nullptr, nullptr), InternalError);
  }
}

TEST(Attention, AQueryThatSeesNothingIsRefused) {
  ThreadPool one(1);
  KvLayer cache(KvType::f16, 1, 4, 4);
  EXPECT_THROW(attend_all(one, Isa::scalar, cache, 1, std::vector<float>(4), {{2, 2}}), InternalError);
  EXPECT_THROW(attend_all(one, Isa::scalar, cache, 1, std::vector<float>(4), {{0, 5}}), InternalError);
}

}  // namespace
}  // namespace scalebits
