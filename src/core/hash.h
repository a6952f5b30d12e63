// Content hashes (XXH3, 128 bits): they tie a product to the inputs that made it and find flipped bytes. They are
// not cryptographic.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace scalebits {

class Hasher {
 public:
  Hasher();
  ~Hasher();
  Hasher(const Hasher&) = delete;
  Hasher& operator=(const Hasher&) = delete;
  void update(std::span<const std::byte> bytes);
  void update(std::string_view text);
  /// 32 lower-case hexadecimal digits of everything seen so far.
  std::string hex() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string hash_hex(std::span<const std::byte> bytes);
std::string hash_hex(std::string_view text);

/// XXH3 of 64 bits, seed 0: the checksum of artifacts.
std::uint64_t hash_u64(std::span<const std::byte> bytes);

}  // namespace scalebits
