// Where the time of a model's passes goes, operation by operation.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <string_view>

namespace scalebits {

/// card: waiting for one, whatever it does.
enum class Operation {
  embedding,
  norm,
  qkv,
  rotate_and_store,
  attention,
  output,
  gate_up,
  activation,
  down,
  head,
  card
};
inline constexpr std::size_t kOperations = 11;
std::string_view name_of(Operation operation);

struct Profile {
  std::array<double, kOperations> seconds{};
  std::int64_t passes = 0;  // runs through all layers: one per decoded token or per chunk of a prompt
  std::int64_t tokens = 0;

  double seconds_of(Operation operation) const { return seconds[static_cast<std::size_t>(operation)]; }
  double total_seconds() const;
};

/// Charges the time since the last call, or since it was made, to an operation. Does nothing without a profile.
class ProfileClock {
 public:
  explicit ProfileClock(Profile* profile) : profile_(profile) {
    if (profile_ != nullptr) last_ = Clock::now();
  }
  void spent_on(Operation operation) {
    if (profile_ == nullptr) return;
    const Clock::time_point now = Clock::now();
    profile_->seconds[static_cast<std::size_t>(operation)] += std::chrono::duration<double>(now - last_).count();
    last_ = now;
  }

 private:
  using Clock = std::chrono::steady_clock;
  Profile* profile_;
  Clock::time_point last_;
};

}  // namespace scalebits
