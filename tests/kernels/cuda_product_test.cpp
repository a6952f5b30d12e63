// The contract of products on the card, on the CPU: cells are shared out by bytes, each to one warp; a warp's window
// never shows a byte that has not arrived or was overwritten; and the walk of src/kernels/cuda/small_batch.cu, done
// here warp after warp with the same schedule, window, fragments and partial sums, gives x · Wᵀ with all orders undone,
// for one or several matrices. What cannot be tested here is the card's part: the copies, the barriers, mma itself.
#include "cuda_packed.h"

#include "kernels/cuda/schedule.h"
#include "kernels/cuda/stream_window.h"

#include <cmath>
#include <deque>
#include <optional>

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
    for (std::uint32_t panel = 0; panel < panels; ++panel) {
      std::uint32_t sharers = 0;
      for (int block = 0; block < schedule.blocks; ++block) {
        const auto b = static_cast<std::size_t>(block);
        if (!cuda::has_part(schedule.block_cells[b], schedule.block_cells[b + 1], panel, panel_cells)) continue;
        if (sharers++ == 0) {
          ASSERT_EQ(schedule.first_block[panel], b);
        }
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
    for (std::uint32_t chunk = 0; chunk + 1 < Window::kAheadChunks; ++chunk) fetch(chunk);
  }
  void fetch(std::uint32_t chunk) {
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
      fetch(window.next_chunk());
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

/// Several matrices in one stream, as CardMatrices makes it.
struct Group {
  std::vector<RandomPacked> parts;
  std::vector<cuda::StoredShape> shapes;
  cuda::StreamPlan plan;
  std::vector<std::uint32_t> stream;
  std::vector<cuda::SideConstants> side;
};

Group random_group(Dice& dice, std::int64_t cols, const std::vector<std::int64_t>& rows, std::optional<int> width) {
  Group group;
  std::vector<cuda::StoredTiles> tiles;
  MatrixFormat format = random_packed_format(dice, rows[0], cols);
  for (const std::int64_t count : rows) {
    format.rows = count;
    format.side.scale_base *= 1.5f;  // parts differ in their side formats
    std::vector<std::uint8_t> widths = random_block_widths(dice, format);
    if (width) std::fill(widths.begin(), widths.end(), static_cast<std::uint8_t>(*width));
    group.parts.push_back(random_packed(dice, format, widths));
    group.shapes.push_back(stored_shape(format));
    tiles.push_back(cuda::find_stored_tiles(group.shapes.back(), widths));
    group.side.push_back(cuda::make_side_constants(group.shapes.back()));
  }
  group.plan = cuda::plan_stream(group.shapes, tiles);
  group.stream.resize(group.plan.bytes / 4);
  for (std::size_t part = 0; part < rows.size(); ++part)
    for (std::size_t i = 0; i < tiles[part].tiles.size(); ++i)
      for (int lane = 0; lane < cuda::kLanes; ++lane)
        cuda::repack_tile(group.shapes[part], bytes_of(group.parts[part]), tiles[part].tiles[i], lane,
                          group.stream.data() + group.plan.records[part][i] / 4);
  return group;
}

/// What prepare.cu makes of x [tokens, cols] with the first part's input order.
struct Prepared {
  std::vector<std::uint32_t> fragments;
  std::vector<float> sums;
};
Prepared prepare(const Group& group, const std::vector<float>& x, int tokens, int blocks) {
  const std::int64_t cols = group.shapes[0].cols;
  const std::vector<std::uint32_t>& order = group.parts[0].input_order;
  const int groups = group.plan.groups, padded = blocks * cuda::kTokenBlock;
  Prepared prepared{.fragments = std::vector<std::uint32_t>(std::size_t(group.plan.cells) * 32 * std::size_t(padded)),
                    .sums = std::vector<float>(std::size_t(group.plan.cells) * std::size_t(groups * padded))};
  for (std::int64_t cell = 0; cell < group.plan.cells; ++cell)
    for (int block = 0; block < blocks; ++block)
      for (int lane = 0; lane < cuda::kLanes; ++lane)
        for (int reg = 0; reg < cuda::kBlockRegisters; ++reg)
          for (int second = 0; second < 2; ++second) {
            const int token = block * cuda::kTokenBlock + cuda::activation_token(lane);
            const std::int64_t col = cell * 64 + cuda::activation_input(lane, reg) + second;
            if (token >= tokens || col >= cols) continue;
            const std::int64_t input = order.empty() ? col : order[static_cast<std::size_t>(col)];
            const float value = x[static_cast<std::size_t>(token * cols + input)];
            prepared.fragments[static_cast<std::size_t>(cuda::fragment_index(cell, block, blocks, lane, reg))] |=
                std::uint32_t{f32_to_f16(value)} << (16 * second);
            prepared.sums[static_cast<std::size_t>(
                cuda::sum_index(cell, groups == 2 ? reg / 4 : 0, groups, token, padded))] += value;
          }
  return prepared;
}

/// small_batch.cu's walk: y [part][tokens, rows] in original order.
std::vector<std::vector<double>> walk(const Group& group, const Prepared& x, int tokens, int blocks,
                                      const cuda::Schedule& schedule) {
  const std::uint32_t cells = group.plan.cells;
  const int padded = blocks * cuda::kTokenBlock, groups = group.plan.groups;
  using Panel = std::vector<double>;  // [64, padded]
  const auto empty = [&] { return Panel(static_cast<std::size_t>(64 * padded)); };
  std::vector<std::vector<double>> y;
  for (const auto& shape : group.shapes) y.emplace_back(static_cast<std::size_t>(shape.rows * tokens), NAN);
  const auto part_of = [&](std::uint32_t panel) {
    std::size_t part = 0;
    while (part + 1 < group.shapes.size() && panel >= group.plan.first_panels[part + 1]) ++part;
    return part;
  };
  const auto store = [&](std::uint32_t panel, const Panel& values) {
    const std::size_t part = part_of(panel);
    const auto& order = group.parts[part].row_order;
    for (int row = 0; row < 64; ++row) {
      const std::int64_t stored = std::int64_t{panel - group.plan.first_panels[part]} * 64 + row;
      if (stored >= group.shapes[part].rows) continue;
      const std::int64_t original = order.empty() ? stored : order[static_cast<std::size_t>(stored)];
      for (int token = 0; token < tokens; ++token) {
        double& to = y[part][static_cast<std::size_t>(token * group.shapes[part].rows + original)];
        EXPECT_TRUE(std::isnan(to)) << "stored twice";
        to = values[static_cast<std::size_t>(row * padded + token)];
      }
    }
  };
  std::vector<std::array<std::optional<Panel>, 2>> block_sums(static_cast<std::size_t>(schedule.blocks));
  std::vector<std::uint32_t> arrivals(group.plan.panels);
  for (int block = 0; block < schedule.blocks; ++block) {
    const auto b = static_cast<std::size_t>(block);
    std::vector<std::array<std::optional<Panel>, 2>> parts(static_cast<std::size_t>(schedule.warps));  // head, ring
    for (int warp = 0; warp < schedule.warps; ++warp) {
      const cuda::WarpRun& run =
          schedule.runs[b * static_cast<std::size_t>(schedule.warps) + static_cast<std::size_t>(warp)];
      if (run.first_cell == run.last_cell) continue;
      Ring ring(reinterpret_cast<const std::uint8_t*>(group.stream.data()) + run.first_byte,
                run.last_byte - run.first_byte);
      Panel sums = empty();
      for (std::uint32_t cell = run.first_cell; cell < run.last_cell; ++cell) {
        const std::uint32_t panel = cell / cells, column = cell % cells;
        const cuda::SideConstants& side = group.side[part_of(panel)];
        for (int t = 0; t < cuda::kPanelTiles; ++t) {
          const int width = cuda::cell_width(group.plan.widths[cell], t);
          if (width == 0) continue;
          ring.await(static_cast<std::uint32_t>(cuda::record_bytes(width, groups)));
          std::array<LaneRegisters, 32> weights;
          std::array<std::array<cuda::SideValues, 2>, 32> values;
          for (std::size_t lane = 0; lane < 32; ++lane) {
            cuda::expand_tile(ring, width, groups, static_cast<int>(lane), weights[lane].data());
            for (int g = 0; g < groups; ++g) {
              std::uint32_t word = 0;
              ring.words<1>(32 * g + static_cast<int>(lane) / 4 * 4, &word);
              values[lane][static_cast<std::size_t>(g)] = cuda::side_values(side, word, width);
            }
          }
          ring.window.consume(static_cast<std::uint32_t>(cuda::record_bytes(width, groups)));
          for (int token_block = 0; token_block < blocks; ++token_block) {
            std::array<LaneActivations, 32> b_registers;
            for (int lane = 0; lane < 32; ++lane)
              for (int reg = 0; reg < cuda::kBlockRegisters; ++reg)
                b_registers[static_cast<std::size_t>(lane)][static_cast<std::size_t>(reg)] =
                    x.fragments[static_cast<std::size_t>(cuda::fragment_index(column, token_block, blocks, lane, reg))];
            for (int g = 0; g < groups; ++g) {
              Accumulator c;
              for (int step = 4 / groups * g; step < 4 / groups * (g + 1); ++step)
                c.multiply_add(weights, step, b_registers);
              for (int row = 0; row < 16; ++row)
                for (int token = 0; token < 8; ++token) {
                  const cuda::SideValues& value =
                      values[static_cast<std::size_t>(row % 8 * 4)][static_cast<std::size_t>(g)];
                  const int all = token_block * 8 + token;
                  const double sum = x.sums[static_cast<std::size_t>(cuda::sum_index(column, g, groups, all, padded))];
                  sums[static_cast<std::size_t>((16 * t + row) * padded + all)] +=
                      double(value.scale[row / 8]) * (c.c[row][token] - double(value.zero[row / 8]) * sum);
                }
            }
          }
        }
        const bool at_end = cell + 1 == run.last_cell;
        if (column + 1 != cells && !at_end) continue;
        if (cuda::has_whole(run.first_cell, run.last_cell, panel, cells)) {
          store(panel, sums);
        } else {
          auto& slot = parts[static_cast<std::size_t>(warp)][at_end ? 1 : 0];
          EXPECT_FALSE(slot) << "a run shares more than its first and last panel";
          slot = sums;
        }
        sums = empty();
      }
    }
    const std::uint32_t first = schedule.block_cells[b], last = schedule.block_cells[b + 1];
    for (std::uint32_t panel = first / cells; cuda::has_part(first, last, panel, cells); ++panel) {
      bool whole = false;
      Panel sum = empty();
      for (int warp = 0; warp < schedule.warps; ++warp) {
        const cuda::WarpRun& run =
            schedule.runs[b * static_cast<std::size_t>(schedule.warps) + static_cast<std::size_t>(warp)];
        if (!cuda::has_part(run.first_cell, run.last_cell, panel, cells)) continue;
        if (cuda::has_whole(run.first_cell, run.last_cell, panel, cells)) {
          whole = true;
          continue;
        }
        const auto& slot = parts[static_cast<std::size_t>(warp)][panel == (run.last_cell - 1) / cells ? 1 : 0];
        if (!slot.has_value()) throw InternalError("a part of a panel is missing");
        for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += (*slot)[i];
      }
      if (whole) continue;
      if (cuda::has_whole(first, last, panel, cells)) {
        store(panel, sum);
        continue;
      }
      auto& slot = block_sums[b][cuda::part_slot(first, panel, cells)];
      EXPECT_FALSE(slot) << "a block shares more than two panels";
      slot = sum;
      if (++arrivals[panel] < schedule.sharers[panel]) continue;
      Panel total = empty();
      std::uint32_t left = schedule.sharers[panel];
      for (std::size_t other = schedule.first_block[panel]; left > 0; ++other) {
        if (!cuda::has_part(schedule.block_cells[other], schedule.block_cells[other + 1], panel, cells)) continue;
        const auto& theirs = block_sums[other][cuda::part_slot(schedule.block_cells[other], panel, cells)];
        for (std::size_t i = 0; i < total.size(); ++i) total[i] += theirs.value()[i];
        --left;
      }
      store(panel, total);
    }
  }
  return y;
}

void check(Dice& dice, std::int64_t cols, const std::vector<std::int64_t>& rows, int tokens, int most_blocks,
           std::optional<int> width = {}) {
  const Group group = random_group(dice, cols, rows, width);
  const int blocks = (tokens + 7) / 8;
  std::vector<float> x(static_cast<std::size_t>(tokens * cols));
  for (float& value : x) value = f16_to_f32(f32_to_f16(dice.real()));
  const cuda::Schedule schedule =
      cuda::make_schedule(group.plan.widths, group.plan.groups, group.plan.cells, most_blocks, 4);
  const auto y = walk(group, prepare(group, x, tokens, blocks), tokens, blocks, schedule);
  for (std::size_t part = 0; part < rows.size(); ++part) {
    const RandomPacked& packed = group.parts[part];
    const std::vector<float> w = packed.weights->matrix().dequantize();
    // What a weight is at most off by, with its zero point: as in cuda_layout_test.cpp.
    const double range = double(group.side[part].range[(1 << packed.weights->format().side.scale_bits) - 1]);
    for (int token = 0; token < tokens; ++token)
      for (std::int64_t row = 0; row < rows[part]; ++row) {
        double wanted = 0, size = 0;
        for (std::int64_t col = 0; col < cols; ++col) {
          const auto& order = group.parts[0].input_order;
          const std::int64_t input = order.empty() ? col : order[static_cast<std::size_t>(col)];
          const double value = double(x[static_cast<std::size_t>(token * cols + input)]);
          wanted += double(w[static_cast<std::size_t>(row * cols + col)]) * value;
          size += 40 * range * std::abs(value);
        }
        const std::int64_t original = packed.row_order.empty() ? row : packed.row_order[static_cast<std::size_t>(row)];
        ASSERT_NEAR(y[part][static_cast<std::size_t>(token * rows[part] + original)], wanted, 4 * 0x1p-24 * size)
            << rows[part] << 'x' << cols << ", part " << part << ", token " << token << ", row " << row;
      }
  }
}

TEST(CudaProduct, EveryWidthAlone) {
  Dice dice(73);
  for (int width = 0; width <= kMaxWidth; ++width) check(dice, 200, {70}, 3, 2, width);
}

TEST(CudaProduct, OddShapesRandomMixesAndOrders) {
  Dice dice(74);
  for (const std::int64_t rows : {1, 5, 64, 576})
    for (const std::int64_t cols : {1, 5, 65, 576})
      check(dice, cols, {rows}, 1 + int(dice.below(9)), 1 + int(dice.below(12)));
}

TEST(CudaProduct, MatricesThatShareTheirInputsAreOneStream) {
  Dice dice(75);
  for (int repeat = 0; repeat < 8; ++repeat)
    check(dice, 1 + dice.below(400), {1 + dice.below(200), 1 + dice.below(200), 1 + dice.below(90)},
          1 + int(dice.below(10)), 1 + int(dice.below(12)));
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
