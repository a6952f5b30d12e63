// Contract of a process group: whoever waits for another's tensor waits as long as that one works, however long the
// meeting may take (60 s), and all know how many of them share a host. Four processes; half of them let the others wait
// for 65 s, to receive and to send.
#include "distributed/process_group.h"

#include <ATen/ops/full.h>

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <string>
#include <thread>

namespace scalebits {
namespace {

constexpr int kProcesses = 4;

/// 0: the others' numbers have come.
int work_of(int rank) {
  ::setenv("RANK", std::to_string(rank).c_str(), 1);
  ProcessGroup all = ProcessGroup::from_environment({});
  ProcessGroup pair = all.part("pair " + std::to_string(rank / 2), rank % 2, 2);
  const bool late = rank == 1 || rank == 3, receives = rank == 0 || rank == 3;
  if (late) std::this_thread::sleep_for(std::chrono::seconds(65));
  const at::Tensor number = at::full({1}, rank, at::kFloat);
  receives ? pair.receive(number, 1 - rank % 2) : pair.send(number, 1 - rank % 2);
  const bool right = *number.const_data_ptr<float>() == static_cast<float>(rank == 0 ? 1 : rank == 3 ? 2 : rank);
  const bool counted = all.on_this_host() == kProcesses && pair.on_this_host() == 2;
  const bool all_right = !all.any(!right || !counted);
  all.leave();
  return all_right ? 0 : 1;
}

TEST(ProcessGroup, WaitsForAsLongAsAnotherWorks) {
  ::setenv("WORLD_SIZE", std::to_string(kProcesses).c_str(), 1);
  ::setenv("MASTER_ADDR", "127.0.0.1", 1);
  ::setenv("MASTER_PORT", std::to_string(20000 + ::getpid() % 12000).c_str(), 1);
  pid_t processes[kProcesses];
  for (int rank = 0; rank < kProcesses; ++rank) {
    processes[rank] = ::fork();
    ASSERT_GE(processes[rank], 0);
    if (processes[rank] != 0) continue;
    int status = 2;
    try {
      status = work_of(rank);
    } catch (const std::exception& error) {
      std::cerr << "process " << rank << ": " << error.what() << std::endl;
    }
    ::_exit(status);
  }
  for (int rank = 0; rank < kProcesses; ++rank) {
    int status = 0;
    ::waitpid(processes[rank], &status, 0);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "process " << rank;
  }
}

}  // namespace
}  // namespace scalebits
