// What of the distributed room needs no second process; tests/e2e/distributed_test has the rest.
#include "core/error.h"
#include "distributed/ordered_sums.h"
#include "distributed/process_group.h"

#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <vector>

namespace scalebits {
namespace {

TEST(PartRange, CutsEvenlyAndLeavesNothingOut) {
  for (const std::int64_t count : {1, 7, 16, 100})
    for (std::int64_t parts = 1; parts <= count; ++parts) {
      std::int64_t next = 0;
      for (std::int64_t part = 0; part < parts; ++part) {
        const auto [first, number] = part_range(count, parts, part);
        EXPECT_EQ(first, next);
        EXPECT_TRUE(number == count / parts || number == (count + parts - 1) / parts) << count << " in " << parts;
        next = first + number;
      }
      EXPECT_EQ(next, count);
    }
}

TEST(SumOverParts, AddsTheTablesInOrder) {
  ProcessGroup alone;
  std::vector<at::Tensor> sums{at::zeros({2}, at::kFloat), at::zeros({0}, at::kFloat), at::zeros({1}, at::kDouble)};
  std::vector<std::int64_t> order;
  // In float, (1e8 + 3) - 1e8 is 0: another order would give another sum.
  const float terms[] = {1e8f, 3, -1e8f, 5};
  sum_over_parts(alone, 4, sums, [&](std::int64_t part, std::vector<at::Tensor>& own) {
    order.push_back(part);
    EXPECT_EQ(own[0].data_ptr<float>()[0], 0.0f) << "tables begin at zero";
    own[0].data_ptr<float>()[0] += terms[part];
    *own[2].data_ptr<double>() += 1;
  });
  EXPECT_EQ(order, (std::vector<std::int64_t>{0, 1, 2, 3}));
  EXPECT_EQ(sums[0].data_ptr<float>()[0], ((1e8f + 3) - 1e8f) + 5);
  EXPECT_EQ(*sums[2].data_ptr<double>(), 4.0);
}

/// The message of from_environment() with these variables, empty for none.
std::string message_with(const char* rank, const char* size) {
  rank != nullptr ? setenv("RANK", rank, 1) : unsetenv("RANK");
  size != nullptr ? setenv("WORLD_SIZE", size, 1) : unsetenv("WORLD_SIZE");
  for (const char* name : {"MASTER_ADDR", "MASTER_PORT"}) unsetenv(name);
  try {
    const ProcessGroup group = ProcessGroup::from_environment({});
    EXPECT_EQ(group.size(), 1);
    EXPECT_TRUE(group.is_first());
    return "";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::usage);
    return error.what();
  }
}

TEST(ProcessGroup, ReadsTheEnvironment) {
  EXPECT_EQ(message_with(nullptr, nullptr), "");
  EXPECT_EQ(message_with("0", "1"), "");
  EXPECT_NE(message_with("0", nullptr).find("WORLD_SIZE"), std::string::npos);
  EXPECT_NE(message_with(nullptr, "2").find("RANK"), std::string::npos);
  EXPECT_NE(message_with("2", "2").find("'2'"), std::string::npos);
  EXPECT_NE(message_with("0", "two").find("'two'"), std::string::npos);
  EXPECT_NE(message_with("0", "2").find("MASTER_ADDR"), std::string::npos);
}

TEST(ProcessGroup, AloneItAgreesWithItself) {
  ProcessGroup alone;
  EXPECT_FALSE(alone.any(false));
  EXPECT_TRUE(alone.any(true));
  EXPECT_EQ(alone.from_first(2.5), 2.5);
  alone.require_same("plan", "x");
  alone.leave();
}

}  // namespace
}  // namespace scalebits
