// What a log sees of long work: no terminal here, so every line must end and none may come oftener than asked.
#include "cli/progress_line.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <thread>

using scalebits::cli::ProgressLine;

namespace {

std::string told(bool quiet, ProgressLine::Clock::duration interval) {
  testing::internal::CaptureStderr();
  {
    ProgressLine line(quiet, interval);
    line({0.01, "packing", "layer 1"});
    line({-1, "note", "kept"});
    line({0.5, "packing", "layer 2"});
  }
  return testing::internal::GetCapturedStderr();
}

TEST(ProgressLine, TellsALogHowFarItIs) {
  EXPECT_EQ(told(false, ProgressLine::Clock::duration::zero()),
            "[  0:00]   1% packing layer 1\n[  0:00] note: kept\n[  0:00, 0:00 left]  50% packing layer 2\n");
}

TEST(ProgressLine, TellsALogNoOftenerThanAsked) {
  EXPECT_EQ(told(false, std::chrono::hours(1)), "[  0:00] note: kept\n");
}

TEST(ProgressLine, EstimatesByThePaceOfTheStage) {
  testing::internal::CaptureStderr();
  {
    ProgressLine line(false, ProgressLine::Clock::duration::zero());
    line({0.5, "packing", "goes on in the middle"});
    std::this_thread::sleep_for(std::chrono::milliseconds(1100));
    line({0.6, "packing", "a tenth in a second"});
  }
  const std::string told = testing::internal::GetCapturedStderr();
  // A tenth took 1.1 s or, on a busy machine, longer: four more take 4.4 at least. By the whole's pace it would be 0.7.
  const auto at = told.rfind(", "), end = told.find(" left]  60%");
  ASSERT_TRUE(at != std::string::npos && end != std::string::npos) << told;
  const std::string left = told.substr(at + 2, end - at - 2);
  const auto colon = left.find(':');
  EXPECT_GE(60 * std::stoi(left.substr(0, colon)) + std::stoi(left.substr(colon + 1)), 4) << told;
}

TEST(ProgressLine, SaysNothingWhenQuiet) { EXPECT_EQ(told(true, ProgressLine::Clock::duration::zero()), ""); }

}  // namespace
