// In place of src/kernels/cuda/hopper.cuh where kernels run on the CPU (cuda_threads.h). Products of a warpgroup go on
// by themselves here, too: what they read is read when they are asked for or when they are waited for, and their sums
// are spoilt until then.
#pragma once

#include "kernels/cuda/instructions.cuh"

#include <deque>
#include <limits>
#include <map>
#include <vector>

namespace scalebits::cuda {

template <int registers>
void give_registers() {
  threads::wait_for_warp("setmaxnreg.dec");
}
template <int registers>
void take_registers() {
  threads::wait_for_warp("setmaxnreg.inc");
}

struct Barrier {
  std::uint64_t word;

  void init(unsigned arrivals) { threads::init_barrier(&word, arrivals); }
  void arrive() { threads::arrive(&word); }
  void arrive_expecting(std::uint32_t bytes) { threads::arrive(&word, bytes); }
  void wait(unsigned parity) const { threads::wait_for_phase(&word, parity); }
};
inline void publish_barriers() {}
inline void copy_bulk(void* shared, const void* global, std::uint32_t bytes, Barrier& barrier) {
  threads::copy_bulk(shared, global, bytes, &barrier.word);
}

inline std::uint64_t describe_tokens(const void* tokens) {
  constexpr std::uint64_t kSwizzled128 = std::uint64_t{1} << 62, kEightTokens = std::uint64_t{64} << 32;
  return kSwizzled128 | kEightTokens | std::uint64_t{1} << 16 | threads::shared_address(tokens) >> 4;
}

inline std::uint64_t further_inputs(std::uint64_t tokens, int steps) {
  return tokens + static_cast<std::uint64_t>(2 * steps);
}

/// wgmma.mma_async.m64nNk16 as one of the four warps sees it: its 16 rows, all tokens.
struct WarpProduct {
  float* c[kLanes];
  const std::uint32_t* a[kLanes];
  std::uint64_t b;
  int tokens;
  std::vector<double> rows, inputs;  // [row][input], [token][input], once they are read

  void read() {
    const auto half = [](std::uint32_t bits) {
      return static_cast<double>(half_to_float(static_cast<std::uint16_t>(bits)));
    };
    rows.resize(16 * 16);
    for (int lane = 0; lane < kLanes; ++lane)
      for (int r = 0; r < 4; ++r)
        for (int second = 0; second < 2; ++second)
          rows[static_cast<std::size_t>((lane / 4 + 8 * (r % 2)) * 16 + lane % 4 * 2 + 8 * (r / 2) + second)] =
              half(a[lane][r] >> (16 * second));
    if (b >> 62 != 1 || (b >> 49 & 7) != 0) threads::fail("a descriptor that this test does not know");
    const auto start = static_cast<std::uint32_t>(b & 0x3fff) << 4, eight = static_cast<std::uint32_t>(b >> 32 & 0x3fff)
                                                                            << 4;
    inputs.resize(static_cast<std::size_t>(tokens) * 16);
    for (int token = 0; token < tokens; ++token)
      for (int piece = 0; piece < 2; ++piece) {
        std::uint32_t address = start + static_cast<std::uint32_t>(token / 8) * eight +
                                static_cast<std::uint32_t>(token % 8) * 128 + static_cast<std::uint32_t>(piece) * 16;
        address ^= (address >> 7 & 7) << 4;  // of the address, wherever the tile begins
        const std::uint8_t* from = threads::shared_at(address, 16);
        for (int i = 0; i < 8; ++i)
          inputs[static_cast<std::size_t>(token * 16 + piece * 8 + i)] =
              half(from[2 * i] | std::uint32_t{from[2 * i + 1]} << 8);
      }
  }
  void add_to(std::vector<float>& sums) {
    if (rows.empty()) read();
    for (int lane = 0; lane < kLanes; ++lane)
      for (int i = 0; i < tokens / 2; ++i) {
        const int row = lane / 4 + i % 4 / 2 * 8, token = i / 4 * 8 + lane % 4 * 2 + i % 2;
        float& to = sums[static_cast<std::size_t>(lane * tokens / 2 + i)];
        double sum = to;
        for (int input = 0; input < 16; ++input)
          sum +=
              rows[static_cast<std::size_t>(row * 16 + input)] * inputs[static_cast<std::size_t>(token * 16 + input)];
        to = static_cast<float>(sum);
      }
  }
};

/// The warp's products under way.
struct WarpProducts : threads::WarpState {
  std::deque<std::vector<WarpProduct>> groups{{}};  // the last one is open
  /// Sums [lane][register] while the threads' own are spoilt, by where those of lane 0 lie.
  std::map<float*, std::vector<float>> sums;
  bool fenced = false;

  bool under_way() const override { return !sums.empty(); }
  void begin(WarpProduct product) {
    if (!fenced) threads::fail("multiplies what no fence follows the making of");
    const auto count = static_cast<std::size_t>(product.tokens / 2);
    std::vector<float>& own_sums = sums[product.c[0]];
    if (own_sums.empty())
      for (float* c : product.c) own_sums.insert(own_sums.end(), c, c + count);
    for (float* c : product.c) std::fill(c, c + count, std::numeric_limits<float>::quiet_NaN());
    if (threads::toss()) product.read();
    groups.back().push_back(std::move(product));
  }
  void close() {
    groups.emplace_back();
    fenced = false;
  }
  void wait(std::size_t newest) {
    std::map<float*, WarpProduct> done;  // the last one of each sums
    for (; groups.size() > newest + 1; groups.pop_front())
      for (WarpProduct& product : groups.front()) {
        product.add_to(sums.at(product.c[0]));
        done.insert_or_assign(product.c[0], std::move(product));
      }
    for (const std::vector<WarpProduct>& group : groups)
      for (const WarpProduct& product : group) done.erase(product.c[0]);
    for (const auto& [first, product] : done) {
      const std::vector<float>& found = sums.at(first);
      const std::size_t count = found.size() / kLanes;
      for (std::size_t lane = 0; lane < kLanes; ++lane)
        std::copy_n(found.begin() + static_cast<std::ptrdiff_t>(lane * count), count, product.c[lane]);
      sums.erase(first);
    }
  }

  static WarpProducts& own() {
    if (threads::warp_state() == nullptr) threads::warp_state() = std::make_unique<WarpProducts>();
    return static_cast<WarpProducts&>(*threads::warp_state());
  }
};

inline void fence_products() {
  threads::wait_for_warp("wgmma.fence", [] { WarpProducts::own().fenced = true; });
}
inline void close_products() {
  threads::wait_for_warp("wgmma.commit_group", [] { WarpProducts::own().close(); });
}
template <int newest>
void wait_products() {
  threads::wait_for_warp("wgmma.wait_group", [] { WarpProducts::own().wait(newest); });
}

struct WarpProductOperands {
  float* c;
  const std::uint32_t* a;
  std::uint64_t b;
};
template <std::size_t registers>
void multiply_add_async(float (&c)[registers], const std::uint32_t* a, std::uint64_t b) {
  const WarpProductOperands mine{c, a, b};
  threads::operands()[threads::lane()] = &mine;
  threads::wait_for_warp("wgmma.mma_async", [] {
    WarpProduct product{};
    product.tokens = static_cast<int>(registers) * 2;
    for (int lane = 0; lane < kLanes; ++lane) {
      const auto& operands = *static_cast<const WarpProductOperands*>(threads::operands()[lane]);
      product.c[lane] = operands.c, product.a[lane] = operands.a, product.b = operands.b;
    }
    WarpProducts::own().begin(std::move(product));
  });
}

}  // namespace scalebits::cuda
