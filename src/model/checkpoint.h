// A model in memory: its specification, its tensors, its tokenizer. Readers make one, transforms map one to another,
// the decoder and the packer consume one. Tensors are views into mapped files or into owned buffers.
#pragma once

#include "core/float_types.h"
#include "model/model_spec.h"

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace scalebits {

class Tokenizer;

/// A dense tensor, row-major. Immutable; copies share the bytes.
struct HostTensor {
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> bytes;
  std::shared_ptr<const void> owner;  // keeps `bytes` alive

  std::int64_t elements() const;
  /// Converts elements [first, first + out.size()) to f32.
  void copy_f32(std::int64_t first, std::span<float> out) const;
  std::vector<float> to_f32() const;
  static HostTensor from_f32(std::vector<std::int64_t> shape, std::vector<float> values);
};

struct Checkpoint {
  ModelSpec spec;
  std::map<std::string, HostTensor> tensors;   // keys: exactly those of required_tensors()
  std::shared_ptr<const Tokenizer> tokenizer;  // null when the source carries none
  std::string chat_template;                   // Jinja text, empty when none
  std::string source;                          // the path it was read from, for messages
  std::string hash;                            // of the source's bytes and of every transform since

  /// Throws InternalError when there is no such tensor (readers guarantee all of required_tensors()).
  const HostTensor& tensor(std::string_view name) const;
};

}  // namespace scalebits
