// Products on a card, for the rest of the program: no CUDA types, and nothing but the standard library, so that
// tools/gpu_check can build it alone. Linked either to engine.cpp or, without a CUDA toolkit, to engine_stub.cpp, which
// says at the first use that there is no card.
#pragma once

#include "kernels/cuda/device.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace scalebits::cuda {

struct Card {
  std::string name;
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
  std::uint64_t bytes = 0, cache_bytes = 0;  // its memory and second cache
  double clock_ghz = 0, memory_clock_ghz = 0;
};
/// Those that kernels of this program run on. Throws CardError saying why there is none.
std::vector<Card> cards();

/// Memory of the card.
class CardBuffer : public DeviceMemory {
 public:
  CardBuffer() = default;
  /// Zeros. Throws CardError when there is not so much.
  explicit CardBuffer(std::uint64_t bytes);
  void* data() const { return as<void>(); }
};

class CardMatrices;

struct KernelName {
  const char* name;
  bool rounds_weights;  // to f16
};

/// One card: a stream, on which all is done in order, and scratch. Not for two threads at once.
class Engine {
 public:
  explicit Engine(int card = 0);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  const Card& card() const;
  /// Copies within the stream; return when done.
  void upload(const CardBuffer& to, const void* from, std::uint64_t bytes);
  void download(void* to, const CardBuffer& from, std::uint64_t bytes);
  void wait();
  /// cudaStream_t, for programs that capture or time what is done.
  void* stream() const;

  /// Makes room for the inputs of products with up to `tokens` tokens and `cols` columns, so that none is asked for
  /// later.
  void reserve(int tokens, std::int64_t cols);
  /// That reserve() asks for, with what the engine took when it was made.
  std::uint64_t reserve_bytes(int tokens, std::int64_t cols) const;
  /// Of the kernels, as MatricesPlan needs them.
  std::vector<KernelShape> kernel_shapes() const;

  /// The kernel that multiplies so many tokens, prepared.
  KernelName kernel_for(const CardMatrices& matrices, int tokens) const;
  /// For measurements: from now on only kernels that every card has.
  void leave_own_kernels();
  /// Gathers and rounds the inputs for `matrices` and others with the same input order, groups and columns; kept until
  /// the next call.
  void prepare(const CardInput& input, const CardMatrices& matrices);
  /// y = x · Wᵀ of each part of `matrices`, from the inputs last prepared.
  void multiply(const CardMatrices& matrices, std::span<const CardOutput> outputs, ElementType output);
  /// Whether a product of one token gathers by itself, and norms or activates what it gathers: its inputs are few
  /// enough.
  bool gathers(const CardMatrices& matrices) const;
  /// Both. One token is gathered by the product itself if it can: one launch, and nothing is left prepared.
  void product(const CardInput& input, const CardMatrices& matrices, std::span<const CardOutput> outputs,
               ElementType output);
  /// The slow and obvious product of one matrix in its stored form. y, magnitude, half_error [tokens, rows] f32: what
  /// it is, what its rounding errors are in proportion to, and what rounding weights to f16 may add.
  void reference(const StoredMatrix& matrix, const CardInput& input, const CardBuffer& y, const CardBuffer& magnitude,
                 const CardBuffer& half_error);

 private:
  friend class CardMatrices;
  struct State;
  void launch(int kernel, const CardMatrices& matrices, ProductArgs& args, int gathered_cells);

  std::unique_ptr<State> state_;
};

/// One to kMostParts matrices that read the same inputs in the same order, repacked in the card's memory.
class CardMatrices {
 public:
  /// Copies and repacks; the host's bytes are not needed afterwards. The parts must agree in columns, groups and input
  /// order. Throws CardError when the card has not enough memory.
  CardMatrices(Engine& engine, std::span<const StoredMatrix> parts);
  /// The same with what plan_matrices() has made of them and the engine's kernels.
  CardMatrices(Engine& engine, std::span<const StoredMatrix> parts, MatricesPlan plan);
  ~CardMatrices();
  CardMatrices(CardMatrices&&) noexcept;

  std::int64_t cols() const;
  std::int64_t rows(int part) const;
  /// That one product of one token reads: records and widths.
  std::uint64_t bytes() const;
  /// On the card.
  MatrixView view() const;

 private:
  friend class Engine;
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace scalebits::cuda
