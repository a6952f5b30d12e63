// The portable half of attention: cuts queries into tiles that share a cache, and positions into splits of 256, each
// with sums of its own, which are then joined from left to right. So few queries still keep all threads busy, and the
// same operations are done however the work is cut. What waits to be joined does not grow with the positions.
#include "kernels/attention.h"

#include "core/aligned_buffer.h"
#include "core/error.h"
#include "kernels/cpu/attention_calls.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <vector>

namespace scalebits {
namespace {

/// Rows (a query and a head each) that share what is converted of keys and values.
constexpr std::int64_t kTileRows = 64;
/// Sums, in floats, that are made before they are joined: 16 MiB, or two of each tile and kv head where those are more.
constexpr std::int64_t kRoundFloats = std::int64_t{4} << 20;
/// More than these are joined on all threads.
constexpr std::int64_t kJoinFloats = std::int64_t{1} << 16;

using Body = void (*)(const AttentionCall&);

Body body_for(Isa highest) {
  if (highest >= Isa::avx512_vnni) return &attention_avx512;
  if (highest >= Isa::avx2) return &attention_avx2;
  return &attention_scalar;
}

/// Queries that follow each other and share a cache.
struct QueryTile {
  std::span<const AttentionQuery> queries;
  std::int64_t begin = 0;  // positions that any of them sees
  std::int64_t end = 0;

  const KvLayer& cache() const { return *queries.front().cache; }
  std::int64_t rows(std::int64_t heads) const {
    return static_cast<std::int64_t>(queries.size()) * (heads / cache().kv_heads());
  }
  std::int64_t padded_dim() const { return (cache().head_dim() + 15) / 16 * 16; }
  std::int64_t first_split() const { return begin / kAttentionSplit; }
  std::int64_t splits() const { return (end + kAttentionSplit - 1) / kAttentionSplit - first_split(); }
};

std::vector<QueryTile> make_tiles(std::int64_t heads, std::span<const AttentionQuery> queries) {
  std::vector<QueryTile> tiles;
  for (const AttentionQuery& query : queries) {
    const KvLayer& cache = *query.cache;
    SCALEBITS_ASSERT(heads % cache.kv_heads() == 0);
    SCALEBITS_ASSERT(query.first >= 0 && query.first < query.last && query.last <= cache.capacity());
    const auto most = static_cast<std::size_t>(std::max<std::int64_t>(1, kTileRows / (heads / cache.kv_heads())));
    if (tiles.empty() || &tiles.back().cache() != &cache || tiles.back().queries.size() == most)
      tiles.push_back({.queries = {&query, 0}, .begin = query.first, .end = query.last});
    QueryTile& tile = tiles.back();
    tile.queries = {tile.queries.data(), tile.queries.size() + 1};
    tile.begin = std::min(tile.begin, query.first);
    tile.end = std::max(tile.end, query.last);
  }
  return tiles;
}

/// Sums of some rows over some positions.
struct Sums {
  float* largest;  // [rows]
  float* total;    // [rows, 16], of which the first counts
  float* out;      // [rows, padded]

  static std::int64_t floats(std::int64_t rows, std::int64_t padded) { return rows * (16 + 16 + padded); }
  Sums(float* memory, std::int64_t rows) : largest(memory), total(memory + 16 * rows), out(memory + 32 * rows) {}
};

/// What one thread works with for one tile and one kv head.
class Worker {
 public:
  Worker(const QueryTile& tile, std::int64_t heads, std::int64_t kv_head) : tile_(tile), kv_head_(kv_head) {
    const KvLayer& cache = tile.cache();
    group_ = heads / cache.kv_heads();
    rows_ = tile.rows(heads);
    dim_ = cache.head_dim();
    padded_ = tile.padded_dim();
    thread_local AlignedBuffer<float> floats;
    thread_local std::vector<std::int64_t> positions;
    floats.reserve(static_cast<std::size_t>(rows_ * (padded_ + kAttentionBlock) + 2 * kAttentionBlock * padded_ +
                                            2 * Sums::floats(rows_, padded_)));
    positions.resize(static_cast<std::size_t>(2 * rows_));
    first_ = positions.data();
    last_ = positions.data() + rows_;
    q_ = floats.data();
    scratch_ = q_ + rows_ * padded_;
    sums_ = scratch_ + rows_ * kAttentionBlock + 2 * kAttentionBlock * padded_;
    take_queries();
  }

  std::int64_t rows() const { return rows_; }
  Sums own_sums(std::int64_t which) const { return {sums_ + which * Sums::floats(rows_, padded_), rows_}; }

  void run_split(Body body, std::int64_t split, const Sums& sums) const {
    const KvLayer& cache = tile_.cache();
    const bool i8 = cache.type() == KvType::i8;
    const std::int64_t start = (tile_.first_split() + split) * kAttentionSplit;
    body({.i8 = i8,
          .keys = cache.keys(kv_head_),
          .values = cache.values(kv_head_),
          .key_scales = i8 ? cache.key_scales(kv_head_) : nullptr,
          .value_scales = i8 ? cache.value_scales(kv_head_) : nullptr,
          .head_dim = dim_,
          .padded_dim = padded_,
          .rows = rows_,
          .q = q_,
          .first = first_,
          .last = last_,
          .begin = std::max(tile_.begin, start),
          .end = std::min(tile_.end, start + kAttentionSplit),
          .key_block = scratch_,
          .value_block = scratch_ + kAttentionBlock * padded_,
          .scores = scratch_ + 2 * kAttentionBlock * padded_,
          .largest = sums.largest,
          .total = sums.total,
          .out = sums.out});
  }

  /// Adds the sums of the next positions to `sums`.
  void join(const Sums& sums, const Sums& next) const {
    for (std::int64_t row = 0; row < rows_; ++row) {
      if (next.largest[row] == -FLT_MAX) continue;  // it sees none of them
      const float largest = std::max(sums.largest[row], next.largest[row]);
      const float keep = std::exp(sums.largest[row] - largest), add = std::exp(next.largest[row] - largest);
      sums.largest[row] = largest;
      sums.total[row * 16] = sums.total[row * 16] * keep + next.total[row * 16] * add;
      float* out = sums.out + row * padded_;
      const float* more = next.out + row * padded_;
      for (std::int64_t d = 0; d < padded_; ++d) out[d] = out[d] * keep + more[d] * add;
    }
  }

  void write(const Sums& sums) const {
    for (std::int64_t row = 0; row < rows_; ++row) {
      float* out = query_of(row).out + head_of(row) * dim_;
      for (std::int64_t d = 0; d < dim_; ++d) out[d] = sums.out[row * padded_ + d] / sums.total[row * 16];
    }
  }

 private:
  const AttentionQuery& query_of(std::int64_t row) const {
    return tile_.queries[static_cast<std::size_t>(row / group_)];
  }
  std::int64_t head_of(std::int64_t row) const { return kv_head_ * group_ + row % group_; }

  void take_queries() const {
    const float scale = 1 / std::sqrt(static_cast<float>(dim_));
    for (std::int64_t row = 0; row < rows_; ++row) {
      const AttentionQuery& query = query_of(row);
      first_[row] = query.first;
      last_[row] = query.last;
      const float* from = query.q + head_of(row) * dim_;
      float* to = q_ + row * padded_;
      for (std::int64_t d = 0; d < padded_; ++d) to[d] = d < dim_ ? from[d] * scale : 0;
    }
  }

  const QueryTile& tile_;
  std::int64_t kv_head_, group_, rows_, dim_, padded_;
  std::int64_t *first_, *last_;
  float *q_, *scratch_, *sums_;
};

/// A tile and a kv head.
struct Unit {
  const QueryTile* tile;
  std::int64_t kv_head;
};

/// Each thread takes a whole unit.
void attend_units(ThreadPool& threads, Body body, std::int64_t heads, std::span<const Unit> units) {
  threads.for_each(static_cast<std::int64_t>(units.size()), [&](std::int64_t i) {
    const Unit& unit = units[units.size() - 1 - static_cast<std::size_t>(i)];  // a prompt's last tiles take longest
    const Worker worker(*unit.tile, heads, unit.kv_head);
    const Sums sums = worker.own_sums(0), next = worker.own_sums(1);
    worker.run_split(body, 0, sums);
    for (std::int64_t split = 1; split < unit.tile->splits(); ++split) {
      worker.run_split(body, split, next);
      worker.join(sums, next);
    }
    worker.write(sums);
  });
}

/// Units too few for all threads: these share out the splits of all units, some of each in a round, which are then
/// joined to those of the rounds before.
void attend_splits(ThreadPool& threads, Body body, std::int64_t heads, std::span<const Unit> units) {
  const auto count = static_cast<std::int64_t>(units.size());
  std::int64_t floats = 0, most_splits = 0;  // of any unit
  for (const Unit& unit : units) {
    floats = std::max(floats, Sums::floats(unit.tile->rows(heads), unit.tile->padded_dim()));
    most_splits = std::max(most_splits, unit.tile->splits());
  }
  // Each unit has a slot for what is joined, where split 0 is put, and slots for the other splits of a round.
  const std::int64_t slots = std::min(most_splits, std::max<std::int64_t>(2, kRoundFloats / (count * floats)));
  thread_local AlignedBuffer<float> memory;
  memory.reserve(static_cast<std::size_t>(count * slots * floats));
  float* const all_sums = memory.data();  // a thread_local of its own in each worker
  const auto splits_of = [&](std::int64_t unit) { return units[static_cast<std::size_t>(unit)].tile->splits(); };
  const auto worker_of = [&](std::int64_t unit) {
    const Unit& of = units[static_cast<std::size_t>(unit)];
    return Worker(*of.tile, heads, of.kv_head);
  };
  const auto sums_in = [&](std::int64_t unit, std::int64_t slot, const Worker& worker) {
    return Sums(all_sums + (unit * slots + slot) * floats, worker.rows());
  };

  struct Part {
    std::int64_t unit, split;
  };
  std::vector<Part> parts;
  for (std::int64_t begin = 0, end = 0; begin < most_splits; begin = end) {
    const std::int64_t first_slot = begin == 0 ? 0 : 1;
    end = std::min(most_splits, begin + slots - first_slot);
    parts.clear();
    for (std::int64_t unit = 0; unit < count; ++unit)
      for (std::int64_t split = begin; split < std::min(end, splits_of(unit)); ++split) parts.push_back({unit, split});
    threads.for_each(static_cast<std::int64_t>(parts.size()), [&](std::int64_t i) {
      const auto [unit, split] = parts[static_cast<std::size_t>(i)];
      const Worker worker = worker_of(unit);
      worker.run_split(body, split, sums_in(unit, split - begin + first_slot, worker));
    });
    const auto join = [&](std::int64_t unit) {
      const std::int64_t splits = splits_of(unit);
      if (splits <= begin) return;  // written in a round before
      const Worker worker = worker_of(unit);
      const Sums sums = sums_in(unit, 0, worker);
      for (std::int64_t split = std::max<std::int64_t>(1, begin); split < std::min(end, splits); ++split)
        worker.join(sums, sums_in(unit, split - begin + first_slot, worker));
      if (splits <= end) worker.write(sums);
    };
    const auto joined = static_cast<std::int64_t>(parts.size());
    if (joined > 8 * count || joined * floats > kJoinFloats)
      threads.for_each(count, join);
    else  // less work than waking threads
      for (std::int64_t unit = 0; unit < count; ++unit) join(unit);
  }
}

}  // namespace

void attend(ThreadPool& threads, Isa highest, std::int64_t heads, std::span<const AttentionQuery> queries) {
  if (queries.empty()) return;
  const std::vector<QueryTile> tiles = make_tiles(heads, queries);
  std::vector<Unit> units;
  for (const QueryTile& tile : tiles)
    for (std::int64_t head = 0; head < tile.cache().kv_heads(); ++head) units.push_back({&tile, head});
  const bool enough = threads.size() == 1 || static_cast<std::int64_t>(units.size()) >= 8 * threads.size();
  (enough ? attend_units : attend_splits)(threads, body_for(highest), heads, units);
}

}  // namespace scalebits
