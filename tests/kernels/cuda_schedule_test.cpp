// The contract of who computes what in products on a card: cells are shared out by bytes, each to one warp, parts of
// shared panels have numbers of their own, one after the other; and a warp's window never shows a byte that has not
// arrived or was overwritten. What the kernels make of it is cuda_check's.
#include "cuda_packed.h"

#include "kernels/cuda/schedule.h"
#include "kernels/cuda/stream_window.h"

#include <deque>
#include <set>

namespace scalebits {
namespace {

std::vector<std::uint16_t> random_cells(Dice& dice, std::int64_t count, bool dropped) {
  std::vector<std::uint16_t> widths(static_cast<std::size_t>(count));
  for (std::uint16_t& cell : widths) {
    cell = static_cast<std::uint16_t>(dice.below(1 << 16));
    for (int t = 0; t < 4; ++t)
      if (cuda::cell_width(cell, t) > 8 || (dropped && dice.below(3) > 0))
        cell &= static_cast<std::uint16_t>(~(15 << (4 * t)));
  }
  return widths;
}

TEST(CudaSchedule, EveryCellHasOneRunAndRunsAreEvenInBytes) {
  Dice dice(71);
  for (int repeat = 0; repeat < 200; ++repeat) {
    const auto panel_cells = static_cast<std::uint32_t>(1 + dice.below(40)),
               panels = static_cast<std::uint32_t>(1 + dice.below(40));
    const int groups = 1 + static_cast<int>(dice.below(2)), warps = dice.below(2) == 0 ? 4 : 8;
    const auto widths = random_cells(dice, panel_cells * panels, repeat % 3 == 0);
    const int most_blocks = 1 + static_cast<int>(dice.below(60));
    const cuda::Schedule schedule = cuda::make_schedule(widths, groups, panel_cells, most_blocks, warps);
    ASSERT_LE(schedule.blocks, most_blocks);
    ASSERT_EQ(static_cast<int>(schedule.runs.size()), schedule.blocks * warps);
    std::uint32_t cell = 0;
    std::uint64_t byte = 0, total = 0;
    for (const std::uint16_t c : widths)
      total += static_cast<std::uint64_t>(cuda::cell_bytes(c, groups)) + cuda::kCellCost;
    for (const cuda::WarpRun& run : schedule.runs) {
      ASSERT_EQ(run.first_cell, cell);
      ASSERT_EQ(run.first_byte, byte);
      std::uint64_t cost = 0;
      for (; cell < run.last_cell; ++cell) {
        cost += static_cast<std::uint64_t>(cuda::cell_bytes(widths[cell], groups)) + cuda::kCellCost;
        byte += static_cast<std::uint64_t>(cuda::cell_bytes(widths[cell], groups));
      }
      ASSERT_EQ(run.last_byte, byte);
      // Both ends are rounded to a cell, to its nearer side.
      ASSERT_LE(double(cost), double(total) / double(schedule.runs.size()) + 4 * cuda::kMostRecordBytes +
                                  double(cuda::kCellCost) + 1);
    }
    ASSERT_EQ(cell, widths.size());
    std::set<std::size_t> block_has_part;
    std::set<std::uint32_t> taken;
    for (std::uint32_t panel = 0; panel < panels; ++panel) {
      std::uint32_t sharers = 0, part = schedule.first_part[panel];
      for (std::size_t b = 0; b < static_cast<std::size_t>(schedule.blocks); ++b) {
        const std::uint32_t first = schedule.block_cells[b], last = schedule.block_cells[b + 1];
        if (!cuda::has_part(first, last, panel, panel_cells)) continue;
        ++sharers;
        if (cuda::has_whole(first, last, panel, panel_cells)) continue;
        // The block's own first part, or of its later panel, which it is the first to have.
        const bool own = block_has_part.insert(b).second;
        ASSERT_EQ(own ? schedule.block_part[b] : schedule.first_part[panel], part++);
        ASSERT_LT(part, 2 * static_cast<std::uint32_t>(schedule.blocks) + 1);
        ASSERT_TRUE(taken.insert(part).second);
      }
      ASSERT_EQ(schedule.sharers[panel], sharers);
      ASSERT_GE(sharers, 1u);
    }
  }
}

using Window = cuda::StreamWindow<16>;

/// A window with its ring, copies arriving as late as waiting allows; what is overwritten is poisoned when it is asked
/// for.
struct Ring {
  Ring(const std::uint8_t* bytes, std::uint64_t count) : run(bytes), size(count), memory(Window::kRingBytes, 0xee) {
    while (window.asked + 1 < Window::kAheadChunks) fetch();
  }
  void fetch() {
    const std::uint32_t chunk = window.ask();
    for (std::uint32_t i = 0; i < cuda::kChunkBytes; ++i)
      if (chunk * std::uint64_t{cuda::kChunkBytes} + i < size)
        memory[Window::place(chunk * cuda::kChunkBytes + i)] = 0xee;
    groups.push_back(chunk);
  }
  void wait(std::size_t newest) {
    for (; groups.size() > newest; groups.pop_front())
      for (std::uint32_t i = 0; i < cuda::kChunkBytes; ++i)
        if (const std::uint64_t at = groups.front() * std::uint64_t{cuda::kChunkBytes} + i; at < size)
          memory[Window::place(static_cast<std::uint32_t>(at))] = run[at];
  }
  void await(std::uint32_t bytes) {
    const std::uint32_t wanted = window.chunks_for(bytes);
    if (window.arrived >= wanted) return;
    while (window.arrived < wanted) {
      fetch();
      window.advance();
    }
    wait(Window::kAheadChunks - 1);
  }
  template <int n>
  void words(int byte, std::uint32_t* out) const {
    std::memcpy(out, memory.data() + Window::place(window.position + static_cast<std::uint32_t>(byte)), 4 * n);
  }
  const std::uint8_t* run;
  std::uint64_t size;
  std::vector<std::uint8_t> memory;
  Window window;
  std::deque<std::uint32_t> groups;
};

TEST(CudaWindow, ShowsTheStreamWhateverTheLengthsOfRecords) {
  Dice dice(72);
  for (int repeat = 0; repeat < 50; ++repeat) {
    std::vector<int> records(static_cast<std::size_t>(1 + dice.below(60)));
    std::uint64_t size = 0;
    for (int& bytes : records) {
      bytes = repeat % 2 == 0 ? cuda::record_bytes(static_cast<int>(dice.below(9)), 1 + static_cast<int>(dice.below(2)))
                              : cuda::kMostRecordBytes;
      size += static_cast<std::uint64_t>(bytes);
    }
    std::vector<std::uint8_t> stream(size);
    for (std::uint8_t& byte : stream) byte = static_cast<std::uint8_t>(dice.below(256));
    Ring ring(stream.data(), size);
    for (const int bytes : records) {
      if (bytes == 0) continue;
      ring.await(static_cast<std::uint32_t>(bytes));
      for (int i = 0; i < bytes; i += 4) {
        std::uint32_t word = 0, wanted = 0;
        ring.words<1>(i, &word);
        std::memcpy(&wanted, stream.data() + ring.window.position + i, 4);
        ASSERT_EQ(word, wanted) << "byte " << i << " of a record of " << bytes;
      }
      ring.window.consume(static_cast<std::uint32_t>(bytes));
    }
  }
}

TEST(CudaEngine, WithoutACardOrAToolkitSaysSo) {
  try {
    require_cards();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::unsupported_hardware);
    EXPECT_NE(std::string(error.what()).find("CUDA"), std::string::npos) << error.what();
    EXPECT_THROW(cuda::Engine(), cuda::CardError);
    return;
  }
  GTEST_SKIP() << "there is a card here";
}

TEST(CudaEngine, SeesAPackedMatrixAsItIs) {
  Dice dice(76);
  const MatrixFormat format = random_packed_format(dice, 100, 200);
  const RandomPacked packed = random_packed(dice, format, random_block_widths(dice, format));
  const cuda::StoredMatrix stored = stored_matrix(*packed.weights);
  EXPECT_EQ(stored.blob.data(), packed.blob.data());
  EXPECT_EQ(stored.blob.size(), cuda::find_stored_tiles(stored.shape, stored.widths).blob_bytes);
  EXPECT_TRUE(std::ranges::equal(stored.row_order, packed.row_order));
  EXPECT_TRUE(std::ranges::equal(stored.input_order, packed.input_order));
}

}  // namespace
}  // namespace scalebits
