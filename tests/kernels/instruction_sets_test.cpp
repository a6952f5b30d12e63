// Which kernels no test of this run has run: a case for each instruction set, skipped where the machine lacks it, so
// that the end of `make test` names them.
#include "kernels/kernel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

namespace scalebits {
namespace {

class InstructionSets : public testing::TestWithParam<Isa> {};

TEST_P(InstructionSets, ThisMachineHas) {
  std::string names;
  const auto add = [&](const auto& kernels) {
    for (const auto& kernel : kernels)
      if (kernel.isa == GetParam()) names += (names.empty() ? "" : ", ") + std::string(kernel.name);
  };
  add(packed_kernels()), add(dense_kernels()), add(gather_kernels());
  EXPECT_FALSE(names.empty()) << "no kernel is written for this set";
  if (!machine_has(GetParam())) GTEST_SKIP() << "this machine lacks " << name_of(GetParam()) << "; not run: " << names;
}

INSTANTIATE_TEST_SUITE_P(All, InstructionSets, testing::ValuesIn(kIsas), [](const auto& isa) {
  std::string name(name_of(isa.param));
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

}  // namespace
}  // namespace scalebits
