// Sizes and durations as people write them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace scalebits {

/// "60MiB", "1.5GB", "123456" → bytes. KiB/MiB/GiB are powers of 1024, kB/MB/GB of 1000. Throws Error(usage).
std::uint64_t parse_bytes(std::string_view text);
/// "90", "90s", "30min", "1.5h" → seconds. Throws Error(usage).
double parse_seconds(std::string_view text);
/// 62914560 → "60.0 MiB".
std::string format_bytes(std::uint64_t bytes);
/// 75.2 → "1:15", 3675 → "1:01:15".
std::string format_seconds(double seconds);

}  // namespace scalebits
