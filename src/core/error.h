// How this library reports failure. Bad input, budgets and hardware throw Error; a broken invariant throws
// InternalError. The library never prints, exits or falls back; the command line maps kinds to exit statuses.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace scalebits {

enum class ErrorKind {
  usage = 2,                 // the call itself is wrong: unknown flag, contradictory options
  bad_input = 3,             // a file, tensor or text is not what it must be
  infeasible_budget = 4,     // no plan fits the requested size
  unsupported_hardware = 5,  // the machine lacks what was asked for
  lost_process = 6,          // another process of the same job has ended
  interrupted = 130,         // stopped by the user; the work so far is saved
};

/// A failure the user can act on. The message names the file, the tensor, what was wanted and what was found.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }
  int exit_status() const { return static_cast<int>(kind_); }

 private:
  ErrorKind kind_;
};

/// A bug in this program.
class InternalError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

template <typename... Args>
[[noreturn]] void fail(ErrorKind kind, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(kind, fmt::format(format, std::forward<Args>(args)...));
}

template <typename... Args>
[[noreturn]] void fail_input(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(ErrorKind::bad_input, fmt::format(format, std::forward<Args>(args)...));
}

#define SCALEBITS_ASSERT(condition)                                                                                 \
  do {                                                                                                              \
    if (!(condition))                                                                                               \
      throw ::scalebits::InternalError(std::string(__FILE__) + ":" + std::to_string(__LINE__) + ": " + #condition); \
  } while (false)

}  // namespace scalebits
