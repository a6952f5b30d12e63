// Weights of a decoder on their way to a device, and there: what they need is known before they are loaded. The host's
// matrices must stay where they are until then.
#pragma once

#include "kernels/cuda/decoder_weights.h"
#include "kernels/cuda/device.h"

#include <memory>
#include <span>
#include <vector>

namespace scalebits::cuda {

/// What a thing takes of the device's memory, and beside that while it is loaded.
struct Need {
  std::uint64_t bytes = 0, staging = 0, read = 0;  // read: by a step
  void add(std::uint64_t more) { bytes += more, read += more; }
  void add(const Need& other);
};

/// One or several matrices that read the same inputs: a launch for all packed ones with the same order of inputs, one
/// for each dense one.
class Site {
 public:
  struct Output {
    float* y;
    std::int64_t rows;
  };
  Site() = default;
  Site(const Device& device, std::vector<const HostMatrix*> matrices);

  Need need() const;
  void load(Device& device);
  /// Of a matrix that is alone.
  TableView table() const;
  /// Whether it is one product that makes one token's inputs by itself.
  bool makes_inputs(const Device& device) const;
  /// `outputs`: of each matrix, in order.
  void multiply(Device& device, const CardInput& input, std::span<const Output> outputs) const;

 private:
  struct Group {
    std::vector<std::size_t> outputs;
    std::vector<StoredMatrix> parts;  // until they are loaded
    MatricesPlan plan;
    Need need;
    std::unique_ptr<DeviceMatrices> packed;  // or else:
    DenseMatrix dense;
    DeviceMemory memory;
  };
  std::vector<const HostMatrix*> matrices_;
  std::vector<Group> groups_;
};

std::uint64_t bytes_of(const NormWeights& norm);
struct DeviceNorm {
  DeviceNorm() = default;
  DeviceNorm(Device& device, const NormWeights& from);
  DeviceMemory weight, bias;
};

struct DeviceLayer {
  Site qkv, o, gate_up, down;
  DeviceMemory biases[kRoles];
  DeviceNorm attention_norm, mlp_norm;
  DeviceMemory q_norm, k_norm;

  DeviceLayer(const Device& device, const LayerWeights& from, bool gated);
  Need need(const LayerWeights& from) const;
  void load(Device& device, const LayerWeights& from);
};

/// A table of an embedding and what finds its rows.
struct DeviceTable {
  Site own;  // empty: another site's
  TableView view;
  DeviceMemory stored_row, input_order;

  static Need orders(const HostMatrix& matrix);
  void load(Device& device, const HostMatrix& matrix, const TableView& from);
};

}  // namespace scalebits::cuda
