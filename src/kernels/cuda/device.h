// What a decoder needs of a device: memory, products, the operations between them, and steps that are recorded once and
// replayed. There are two: the card (card_device.h), and the emulated one (emulated_device.h), on which the CPU runs
// the very same code of the operations, so that all but the launches is tested where there is no card. Everything is
// done in the order in which it is asked for.
#pragma once

#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/matrices_plan.h"
#include "kernels/cuda/operations.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>

namespace scalebits::cuda {

/// The card, its driver or this program cannot do what was asked; packed_matrix.h turns it into
/// Error(unsupported_hardware).
class CardError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// x [tokens, x_stride] in the device's memory, original order of inputs.
struct CardInput {
  const void* x = nullptr;
  std::int64_t x_stride = 0;
  ElementType type = ElementType::f16;
  int tokens = 0;
  /// [tokens, maxima_count] the largest |x| of each piece of a token, when someone has found them; NaN or infinity
  /// where one is not finite. Null: products look at all inputs for their scale.
  const float* maxima = nullptr;
  int maxima_count = 0;
  /// Of one token, for products that make their inputs (Device::makes_inputs): at most one of them is set.
  NormView norm = {};
  MlpView mlp = {};
};
/// y [tokens, y_stride] in the device's memory, original order of rows.
struct CardOutput {
  void* y = nullptr;
  std::int64_t y_stride = 0;
};

/// Matrices that read the same inputs, on the device.
class DeviceMatrices {
 public:
  virtual ~DeviceMatrices() = default;
  virtual MatrixView view() const = 0;
};

/// A step as it was recorded, with all its arguments.
class Recording {
 public:
  virtual ~Recording() = default;
  virtual void replay() = 0;
};

class Device {
 public:
  virtual ~Device() = default;
  virtual std::string name() const = 0;
  virtual int multiprocessors() const = 0;
  virtual std::uint64_t free_bytes() const = 0;

  /// Zeros. Throws CardError when there is not so much.
  virtual DeviceMemory allocate(std::uint64_t bytes) = 0;
  /// May return before it is done; `from` can be changed then.
  virtual void upload(void* to, const void* from, std::uint64_t bytes) = 0;
  /// Returns when all that was asked for before is done, too.
  virtual void download(void* to, const void* from, std::uint64_t bytes) = 0;

  virtual MatricesPlan plan(std::span<const StoredMatrix> parts) const = 0;
  /// Takes plan.bytes, and for a while plan.staging_bytes more.
  virtual std::unique_ptr<DeviceMatrices> load(std::span<const StoredMatrix> parts, MatricesPlan plan) = 0;
  /// Room for the inputs of products, and what it takes in all.
  virtual void reserve(int tokens, std::int64_t cols) = 0;
  virtual std::uint64_t reserve_bytes(int tokens, std::int64_t cols) const = 0;

  /// Whether a product of one token norms or activates its inputs by itself (CardInput::norm, mlp).
  virtual bool makes_inputs(const DeviceMatrices& matrices) const = 0;
  /// y = x · Wᵀ of each part, in f32.
  virtual void product(const CardInput& input, const DeviceMatrices& matrices, std::span<const CardOutput> outputs) = 0;
  virtual void run(const Operation& operation) = 0;
  /// Records what `work` asks for instead of doing it; products and operations alone, none of a size that was not met
  /// before.
  virtual std::unique_ptr<Recording> record(const std::function<void()>& work) = 0;
};

}  // namespace scalebits::cuda
