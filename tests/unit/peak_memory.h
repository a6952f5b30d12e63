// What torch's operations allocate on the calling thread while one of these lives: to hold temporaries against what is
// counted for them beforehand.
#pragma once

#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <algorithm>
#include <cstdint>
#include <memory>

namespace scalebits::testing_graph {

class PeakMemory {
 public:
  PeakMemory() : watch_(std::make_shared<Watch>()), guard_(c10::DebugInfoKind::PROFILER_STATE, watch_) {}
  /// The most that was allocated at one time, beyond what there was at the start.
  std::uint64_t bytes() const { return static_cast<std::uint64_t>(watch_->peak); }

 private:
  struct Watch : c10::MemoryReportingInfoBase {
    void reportMemoryUsage(void*, std::int64_t allocated, std::size_t, std::size_t, c10::Device) override {
      now += allocated;  // below 0 when memory is given back
      peak = std::max(peak, now);
    }
    bool memoryProfilingEnabled() const override { return true; }
    std::int64_t now = 0, peak = 0;
  };
  std::shared_ptr<Watch> watch_;
  c10::DebugInfoGuard guard_;
};

}  // namespace scalebits::testing_graph
