// UTF-8 at the level of single characters.
#pragma once

#include <cstddef>
#include <string_view>

namespace scalebits {

/// Bytes of the valid UTF-8 character that starts at text[at]; 0 when there is none (overlong forms, surrogates and
/// values above U+10FFFF are invalid).
inline std::size_t utf8_length(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const auto continues = [&](std::size_t i, unsigned low = 0x80, unsigned high = 0xbf) {
    return byte(i) >= low && byte(i) <= high;
  };
  const unsigned lead = byte(at);
  if (at >= text.size()) return 0;
  if (lead < 0x80) return 1;
  if (lead < 0xc2 || lead > 0xf4) return 0;
  if (lead < 0xe0) return continues(at + 1) ? 2 : 0;
  if (lead < 0xf0) {
    const bool second = continues(at + 1, lead == 0xe0 ? 0xa0 : 0x80, lead == 0xed ? 0x9f : 0xbf);
    return second && continues(at + 2) ? 3 : 0;
  }
  const bool second = continues(at + 1, lead == 0xf0 ? 0x90 : 0x80, lead == 0xf4 ? 0x8f : 0xbf);
  return second && continues(at + 2) && continues(at + 3) ? 4 : 0;
}

/// Calls body(part, valid) for the longest runs of valid UTF-8 and of bytes that are not, in order.
template <typename Body>
void for_each_utf8_run(std::string_view text, const Body& body) {
  std::size_t begin = 0;
  bool valid = true;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = utf8_length(text, at);
    if ((length > 0) != valid) {
      if (at > begin) body(text.substr(begin, at - begin), valid);
      begin = at;
      valid = length > 0;
    }
    at += length > 0 ? length : 1;
  }
  if (begin < text.size()) body(text.substr(begin), valid);
}

}  // namespace scalebits
