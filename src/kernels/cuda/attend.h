// softmax(q · K / sqrt(head_dim)) · V over the cache, keys and values of f16 or 8 bits, sums in f32. A block works on
// up to 8 rows, a row being a query head of a token, that read the same kv head of one sequence: the heads of a group
// when tokens are of several sequences or there is one token, else heads and tokens that follow each other (a prompt's
// chunk). It goes over the positions in stretches of 64 (32 for heads of more than 128), rescaling when a larger score
// comes. Where rows are few, `splits` blocks share the positions; the one that arrives last joins their results, in the
// order of the positions, so that two runs give the same bits. The number of splits is fixed at launch and what each
// takes is found from the token's position on the device, so a recorded step serves every position.
#pragma once

#include "kernels/cuda/block.h"
#include "kernels/cuda/half.h"
#include "kernels/cuda/token_state.h"

#include <cfloat>
#include <cmath>

namespace scalebits::cuda {

struct Attend {
  static constexpr int kThreads = 256, kRows = 8, kMostStretch = 64, kMostDim = 256;
  static constexpr int kKeptWords = 64 * 65;  // of two values; a position's words are one apart more than they are many
  static constexpr int kMostMine = 4;         // rows that a thread sums up values for
  static constexpr int kMostChunks = 4;       // of 8 channels, that a thread takes of a stretch
  static constexpr int kMostSplits = kMostStretch;
  struct Shared {
    float q[kRows * kMostDim];  // multiplied by 1 / sqrt(head_dim)
    std::uint32_t keys[kKeptWords], values[kKeptWords];
    float key_scales[kMostStretch], value_scales[kMostStretch];
    float scores[kRows][kMostStretch], weights[kRows][kMostStretch];
    float largest[kRows], next_largest[kRows], factor[kRows];
  };

  const TokenState* states = nullptr;  // [tokens]
  CacheShape shape;
  int layer = 0;
  int tokens = 0;
  bool one_sequence = false;  // all tokens, at positions that follow each other
  int heads = 0;
  int window = 0;            // positions that a token sees, its own included; 0: all
  const float* q = nullptr;  // [tokens, heads, head_dim]
  int splits = 1;
  float* parts = nullptr;             // part_floats()
  std::uint32_t* arrivals = nullptr;  // one for each block with z = 0; zero between launches
  std::uint16_t* out = nullptr;       // [tokens, heads, head_dim], f16

  SCALEBITS_HD int group() const { return heads / shape.kv_heads; }
  /// Blocks with z = 0 of a kv head.
  SCALEBITS_HD int tiles() const {
    return static_cast<int>(one_sequence ? divide_up(std::int64_t{tokens} * group(), kRows)
                                         : tokens * divide_up(group(), kRows));
  }
  Grid grid() const {
    return {.x = static_cast<unsigned>(shape.kv_heads),
            .y = static_cast<unsigned>(tiles()),
            .z = static_cast<unsigned>(splits)};
  }
  std::int64_t part_floats() const { return std::int64_t{tokens} * heads * splits * (shape.head_dim + 2); }
  /// So many that there are about two blocks for each multiprocessor.
  int splits_for(int multiprocessors) const {
    const std::int64_t wanted = 2 * multiprocessors / (std::int64_t{shape.kv_heads} * tiles());
    return static_cast<int>(wanted < 1 ? 1 : wanted > kMostSplits ? kMostSplits : wanted);
  }

  SCALEBITS_HD int first_seen(int position) const {
    return window == 0 || position < window ? 0 : position + 1 - window;
  }

  struct Row {
    int token, head;
    bool there;
  };
  SCALEBITS_HD Row row_of(int x, int y, int r) const {
    if (one_sequence) {
      const int flat = y * kRows + r, token = flat / group();
      return {token, x * group() + flat % group(), token < tokens};
    }
    const int each = (group() + kRows - 1) / kRows, of_group = y % each * kRows + r;
    return {y / each, x * group() + of_group, of_group < group()};
  }
  SCALEBITS_HD float* part(const Row& row, int split) const {
    return parts + ((std::int64_t{row.token} * heads + row.head) * splits + split) * (shape.head_dim + 2);
  }

  /// Two 8-bit integers as two f16, exactly.
  SCALEBITS_HD static std::uint32_t widened(std::uint32_t two) {
    const auto half = [](int byte) {
      return std::uint32_t{float_to_half(static_cast<float>(static_cast<std::int8_t>(byte)))};
    };
    return half(two & 255) | half(two >> 8 & 255) << 16;
  }
  SCALEBITS_HD static float low_of(std::uint32_t word) { return half_to_float(static_cast<std::uint16_t>(word)); }
  SCALEBITS_HD static float high_of(std::uint32_t word) {
    return half_to_float(static_cast<std::uint16_t>(word >> 16));
  }

  struct Sums {
    float total[kMostMine] = {};
    float out[kMostMine][2] = {};
  };

  template <typename Block>
  SCALEBITS_HD void run(Block& block, Shared& shared) const {
    const int dim = shape.head_dim, words = dim / 2, stride = words + 1;
    const int stretch = words <= 64 ? 64 : 32;
    const int left =
        one_sequence ? tokens * group() - block.y * kRows : group() - block.y % ((group() + kRows - 1) / kRows) * kRows;
    const int rows = left < kRows ? left : kRows;
    const TokenState state = states[row_of(block.x, block.y, 0).token];
    const int last_position = states[row_of(block.x, block.y, rows - 1).token].position;
    const bool eight_bits = state.eight_bits != 0;
    const CachePlane keys(state, shape, layer, 0), values(state, shape, layer, 1);
    const std::int64_t first_slot = std::int64_t{block.x} * state.capacity;
    const int begin = first_seen(state.position), end = last_position + 1;
    const int stretches = (end - begin + stretch - 1) / stretch, each = (stretches + splits - 1) / splits * stretch;
    const int from = begin + block.z * each, to = end < from + each ? end : from + each;
    const float scale = 1 / sqrtf(static_cast<float>(dim));
    // Of the thread's sums: word w, rows first_mine, first_mine + step …
    const int step = kThreads / words < kRows ? kThreads / words : kRows;

    block.each([&](int thread) {
      SCALEBITS_UNROLL_BY(4) for (int i = thread; i < kRows * dim; i += kThreads) {
        const Row row = row_of(block.x, block.y, i / dim);
        shared.q[i] = row.there ? q[(std::int64_t{row.token} * heads + row.head) * dim + i % dim] * scale : 0;
      }
      if (thread < kRows) shared.largest[thread] = -FLT_MAX;
    });
    typename Block::template PerThread<Sums> sums;
    for (int first = from; first < to; first += stretch) {
      const int count = to - first < stretch ? to - first : stretch;
      block.each(
          [&](int thread) { keep_stretch(shared, keys, values, eight_bits, first_slot + first, count, thread); });
      block.each([&](int thread) {
        const int p = thread % stretch;
        SCALEBITS_KEEP_LOOP for (int r = thread / stretch; r < kRows; r += kThreads / stretch) {
          const bool seen = p < count && sees(row_of(block.x, block.y, r), first + p);
          shared.scores[r][p] = seen ? score(shared, r, p) : -FLT_MAX;
        }
      });
      block.each([&](int thread) {
        const int r = thread / kLanes, lane = thread % kLanes;
        float largest = shared.largest[r];
        for (int p = 0; p < stretch; ++p) largest = fmaxf(largest, shared.scores[r][p]);
        for (int p = lane; p < stretch; p += kLanes) {
          const float now = shared.scores[r][p];
          shared.weights[r][p] = now == -FLT_MAX ? 0 : expf(now - largest);
        }
        if (lane != 0) return;
        shared.factor[r] = largest == -FLT_MAX ? 1 : expf(shared.largest[r] - largest);
        shared.next_largest[r] = largest;
      });
      block.each([&](int thread) {
        if (thread < kRows) shared.largest[thread] = shared.next_largest[thread];
        Sums& mine = sums[thread];
        const int w = thread % words;
        const int first_mine = thread / words,
                  mine_count = thread < step * words ? divide_rows(rows, first_mine, step) : 0;
        SCALEBITS_UNROLL for (int j = 0; j < kMostMine; ++j) {
          if (j >= mine_count) continue;
          const float factor = shared.factor[first_mine + j * step];
          mine.total[j] *= factor, mine.out[j][0] *= factor, mine.out[j][1] *= factor;
        }
        for (int p = 0; p < count; ++p) {
          const std::uint32_t word = shared.values[p * stride + w];
          const float low = low_of(word), high = high_of(word), value_scale = shared.value_scales[p];
          SCALEBITS_UNROLL for (int j = 0; j < kMostMine; ++j) {
            if (j >= mine_count) continue;
            const float weight = shared.weights[first_mine + j * step][p], scaled = weight * value_scale;
            mine.total[j] += weight;
            mine.out[j][0] += scaled * low;
            mine.out[j][1] += scaled * high;
          }
        }
      });
    }
    block.each([&](int thread) {
      const int w = thread % words, first_mine = thread / words,
                mine_count = thread < step * words ? divide_rows(rows, first_mine, step) : 0;
      SCALEBITS_UNROLL for (int j = 0; j < kMostMine; ++j) {
        if (j >= mine_count) continue;
        const int r = first_mine + j * step;
        float* const to_part = part(row_of(block.x, block.y, r), block.z);
        if (w == 0) to_part[0] = shared.largest[r], to_part[1] = sums[thread].total[j];
        to_part[2 + 2 * w] = sums[thread].out[j][0];
        to_part[3 + 2 * w] = sums[thread].out[j][1];
      }
    });
    if (!block.arrives_last(arrivals + block.y * shape.kv_heads + block.x, static_cast<std::uint32_t>(splits))) return;
    join(block, shared, rows);
  }

 private:
  /// Rows first, first + step … of all.
  SCALEBITS_HD static int divide_rows(int rows, int first, int step) {
    return first < rows ? (rows - first + step - 1) / step : 0;
  }
  SCALEBITS_HD bool sees(const Row& row, int position) const {
    if (!row.there) return false;
    const int own = states[row.token].position;
    return position <= own && position >= first_seen(own);
  }
  SCALEBITS_HD float score(const Shared& shared, int r, int p) const {
    const int words = shape.head_dim / 2;
    const float* const query = shared.q + r * shape.head_dim;
    const std::uint32_t* const key = shared.keys + p * (words + 1);
    float sum = 0;
    for (int w = 0; w < words; ++w) {
      sum += query[2 * w] * low_of(key[w]);
      sum += query[2 * w + 1] * high_of(key[w]);
    }
    return sum * shared.key_scales[p];
  }
  /// Of 8 neighbouring channels: as they lie in the cache, and as two f16 a word.
  SCALEBITS_HD static FourWords load_chunk(const CachePlane& plane, bool eight_bits, std::int64_t chunk) {
    if (!eight_bits) return reinterpret_cast<const FourWords*>(plane.elements)[chunk];
    const TwoWords loaded = reinterpret_cast<const TwoWords*>(plane.elements)[chunk];
    return {{loaded.word[0], loaded.word[1]}};
  }
  SCALEBITS_HD static void keep_chunk(const FourWords& loaded, bool eight_bits, std::uint32_t* to) {
    SCALEBITS_UNROLL for (int i = 0; i < 4; ++i) {
      to[i] = eight_bits ? widened(loaded.word[i / 2] >> (16 * (i % 2))) : loaded.word[i];
    }
  }
  /// Keys and values of the `count` slots from `slot` on → shared memory: all that a thread takes is on its way before
  /// it waits for any.
  SCALEBITS_HD void keep_stretch(Shared& shared, const CachePlane& keys, const CachePlane& values, bool eight_bits,
                                 std::int64_t slot, int count, int thread) const {
    const int words = shape.head_dim / 2, stride = words + 1;
    if (thread < count) {
      shared.key_scales[thread] = eight_bits ? keys.scales[slot + thread] : 1;
      shared.value_scales[thread] = eight_bits ? values.scales[slot + thread] : 1;
    }
    if (words % 4 != 0) return keep_odd_stretch(shared, keys, values, eight_bits, slot, count, thread);
    const int chunks = words / 4;
    FourWords key[kMostChunks], value[kMostChunks];
    SCALEBITS_UNROLL for (int j = 0; j < kMostChunks; ++j) {
      const int i = thread + j * kThreads;
      if (i >= count * chunks) continue;
      key[j] = load_chunk(keys, eight_bits, slot * chunks + i);
      value[j] = load_chunk(values, eight_bits, slot * chunks + i);
    }
    SCALEBITS_UNROLL for (int j = 0; j < kMostChunks; ++j) {
      const int i = thread + j * kThreads;
      if (i >= count * chunks) continue;
      const int at = i / chunks * stride + i % chunks * 4;
      keep_chunk(key[j], eight_bits, shared.keys + at);
      keep_chunk(value[j], eight_bits, shared.values + at);
    }
  }
  /// For heads whose channels are no multiple of 8.
  SCALEBITS_HD void keep_odd_stretch(Shared& shared, const CachePlane& keys, const CachePlane& values, bool eight_bits,
                                     std::int64_t slot, int count, int thread) const {
    const int words = shape.head_dim / 2;
    const auto word_of = [&](const CachePlane& plane, std::int64_t word) {
      return eight_bits ? widened(reinterpret_cast<const std::uint16_t*>(plane.elements)[word])
                        : reinterpret_cast<const std::uint32_t*>(plane.elements)[word];
    };
    SCALEBITS_KEEP_LOOP for (int i = thread; i < count * words; i += kThreads) {
      const int at = i / words * (words + 1) + i % words;
      shared.keys[at] = word_of(keys, slot * words + i);
      shared.values[at] = word_of(values, slot * words + i);
    }
  }

  /// Splits in order; those that saw nothing have a total of 0.
  template <typename Block>
  SCALEBITS_HD void join(Block& block, Shared& shared, int rows) const {
    const auto row = [&](int r) { return row_of(block.x, block.y, r); };
    block.each([&](int thread) {
      SCALEBITS_KEEP_LOOP for (int i = thread; i < rows * splits; i += kThreads) {
        const float* const from = part(row(i / splits), i % splits);
        shared.scores[i / splits][i % splits] = from[0];
        shared.weights[i / splits][i % splits] = from[1];
      }
    });
    block.each([&](int thread) {
      if (thread >= rows) return;
      float largest = -FLT_MAX;
      for (int split = 0; split < splits; ++split) largest = fmaxf(largest, shared.scores[thread][split]);
      shared.largest[thread] = largest;
    });
    block.each([&](int thread) {
      SCALEBITS_KEEP_LOOP for (int i = thread; i < rows * splits; i += kThreads) {
        const int r = i / splits, split = i % splits;
        shared.scores[r][split] = shared.weights[r][split] == 0 ? 0 : expf(shared.scores[r][split] - shared.largest[r]);
      }
    });
    block.each([&](int thread) {
      const int dim = shape.head_dim;
      SCALEBITS_KEEP_LOOP for (int i = thread; i < rows * dim; i += kThreads) {
        const int r = i / dim, d = i % dim;
        const Row to = row(r);
        const float* from = part(to, 0) + 2 + d;
        float total = 0, sum = 0;
        SCALEBITS_UNROLL_BY(8) for (int split = 0; split < splits; ++split, from += dim + 2) {
          const float value = *from;  // of a split that saw nothing, too: zeros
          total += shared.scores[r][split] * shared.weights[r][split];
          sum += shared.scores[r][split] * value;
        }
        out[(std::int64_t{to.token} * heads + to.head) * dim + d] = float_to_half(sum / total);
      }
    });
  }
};

}  // namespace scalebits::cuda
