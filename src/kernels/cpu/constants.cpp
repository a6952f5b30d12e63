// Constants of the packed_i8 kernels (packed_i8_body.h), apart from them on purpose.
#include "kernels/cpu/packed_i8.h"

namespace scalebits {
namespace {

constexpr ByteTable make_bytes() {
  ByteTable table{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) table.words[byte] = byte * 0x01010101u;
  return table;
}

}  // namespace

extern const ByteTable kBytes = make_bytes();

}  // namespace scalebits
