// SIGTERM, as schedulers and torchrun send it: commands that keep what they have done save and stop, as at Ctrl-C.
#pragma once

#include "core/progress.h"

#include <csignal>
#include <cstdlib>

namespace scalebits::cli {

/// A second SIGTERM ends the process at once; one that follows Ctrl-C, which torchrun sends as well, does not.
inline void save_at_termination() {
  std::signal(SIGTERM, [](int) {
    static std::atomic<bool> asked{false};
    interrupt_requested = true;
    if (asked.exchange(true)) std::_Exit(130);
  });
}

}  // namespace scalebits::cli
