#include "distributed/process_group.h"

#include "core/error.h"
#include "core/hash.h"
#include "distributed/heartbeat.h"

#include <ATen/ops/from_blob.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <future>
#include <memory>
#include <numeric>
#include <thread>
#include <unistd.h>
#include <utility>
#include <vector>

namespace scalebits {
namespace {

constexpr std::chrono::seconds kMeeting{60}, kConnecting = kMeeting / 2;  // TCPStore tries twice
/// Of gloo, whose processes have all come by then: it waits five times as long as it is told to.
constexpr std::chrono::seconds kGlooMeeting = kMeeting / 5;
constexpr std::chrono::milliseconds kBetweenLooks{200};
/// For which the first process keeps the store when it refuses to go on, so that the others learn why.
constexpr std::chrono::seconds kFarewell{1};  // less than the heartbeat waits for that
/// Of one collective: whoever waits may wait for hours of another's work; the heartbeat tells who is gone.
constexpr std::chrono::hours kPatience{24 * 7};

std::string text_variable(const char* name) {
  const char* const value = std::getenv(name);
  if (value == nullptr || *value == '\0')
    fail(ErrorKind::usage,
         "the environment variable {} is not set: a job of several processes needs RANK, WORLD_SIZE, MASTER_ADDR and "
         "MASTER_PORT, as torchrun sets them",
         name);
  return value;
}

int number_variable(const char* name, int least, int most) {
  const std::string text = text_variable(name);
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < least || value > most)
    fail(ErrorKind::usage, "the environment variable {} must be a number from {} to {}, found '{}'", name, least, most,
         text);
  return value;
}

bool is_set(const char* name) { return std::getenv(name) != nullptr; }

/// torchrun may keep the store itself, and start all processes anew after one has failed: then the keys of before must
/// not be read.
std::string key_prefix() {
  const char* const restarts = std::getenv("TORCHELASTIC_RESTART_COUNT");
  return std::string("scalebits/") + (restarts != nullptr ? restarts : "0");
}

bool agent_keeps_store() {
  const char* const value = std::getenv("TORCHELASTIC_USE_AGENT_STORE");
  return value != nullptr && std::string(value) == "True";
}

struct Connections {
  c10::intrusive_ptr<c10d::Store> own, heartbeat;
};

/// On a thread that is left to itself when it takes longer than a meeting may: whoever keeps the store may be frozen,
/// and is waited for without end.
Connections connections_to(const std::string& master, int port, bool opens_store) {
  const auto task = std::make_shared<std::packaged_task<Connections()>>([=] {
    c10d::TCPStoreOptions options;
    options.port = static_cast<std::uint16_t>(port);
    options.timeout = kConnecting;
    options.waitWorkers = false;
    const auto connect = [&](bool opens) -> c10::intrusive_ptr<c10d::Store> {
      options.isServer = opens;
      return c10::make_intrusive<c10d::PrefixStore>(key_prefix(), c10::make_intrusive<c10d::TCPStore>(master, options));
    };
    const auto own = connect(opens_store);
    return Connections{own, connect(false)};
  });
  std::future<Connections> made = task->get_future();
  std::thread([task] { (*task)(); }).detach();
  if (made.wait_for(kMeeting) != std::future_status::ready)
    fail(ErrorKind::lost_process, "process 0, which the others find each other by, does not answer");
  return made.get();
}

std::shared_ptr<::gloo::transport::Device> device_for(const std::string& master) {
  using Gloo = c10d::ProcessGroupGloo;
  if (const char* const interface = std::getenv("GLOO_SOCKET_IFNAME")) return Gloo::createDeviceForInterface(interface);
  if (master == "localhost" || master.starts_with("127.")) return Gloo::createDeviceForHostname("127.0.0.1");
  return Gloo::createDefaultDevice();
}

/// Containers of one machine have names of their own, machines may have the same one.
std::string host_name() {
  char name[256] = "";
  ::gethostname(name, sizeof name - 1);
  std::string boot;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  return fmt::format("{} {}", boot, name);
}

/// The first line: c10d appends its own stack.
std::string first_line(const std::exception& error) {
  const std::string text = error.what();
  return text.substr(0, text.find('\n'));
}

}  // namespace

struct ProcessGroup::State {
  int rank = 0, size = 1, on_this_host = 0;
  std::shared_ptr<::gloo::transport::Device> device;
  c10::intrusive_ptr<c10d::Store> store;
  c10::intrusive_ptr<c10d::ProcessGroupGloo> gloo;
  std::unique_ptr<Heartbeat> heartbeat;  // of the whole group alone
  Heartbeat* watch = nullptr;            // that one

  /// Meets the others who come by that name.
  void connect(const std::string& name) {
    const auto meeting = c10::make_intrusive<c10d::PrefixStore>(name, store);
    call_roll(*meeting);
    auto options = c10d::ProcessGroupGloo::Options::create(kGlooMeeting);
    options->devices.push_back(device);
    try {
      gloo = c10::make_intrusive<c10d::ProcessGroupGloo>(meeting, rank, size, options);
    } catch (const std::exception& error) {
      const std::string silent = watch->wait_for_silence();
      fail(ErrorKind::lost_process, "{}", silent.empty() ? first_line(error) : silent);
    }
    gloo->setTimeout(kPatience);
  }

  void broadcast(const at::Tensor& tensor, int root) const {
    collective(
        [&](std::vector<at::Tensor>& tensors) {
          c10d::BroadcastOptions options;
          options.rootRank = root;
          return gloo->broadcast(tensors, options);
        },
        tensor);
  }

  void send(const at::Tensor& tensor, int to) const {
    collective([&](std::vector<at::Tensor>& tensors) { return gloo->send(tensors, to, 0); }, tensor);
  }

  void receive(const at::Tensor& tensor, int from) const {
    collective([&](std::vector<at::Tensor>& tensors) { return gloo->recv(tensors, from, 0); }, tensor);
  }

  void largest(const at::Tensor& tensor) const {
    collective(
        [&](std::vector<at::Tensor>& tensors) {
          c10d::AllreduceOptions options;
          options.reduceOp = c10d::ReduceOp::MAX;
          return gloo->allreduce(tensors, options);
        },
        tensor);
  }

 private:
  /// Before gloo, which would wait minutes for who never comes, or for ever for who counts on another number of
  /// processes. Each says that number and where it runs.
  void call_roll(c10d::Store& meeting) {
    const auto key = [](int of) { return fmt::format("roll/{}", of); };
    const std::string host = host_name();
    meeting.set(key(rank), fmt::format("{} {}", size, host));
    const auto deadline = std::chrono::steady_clock::now() + kMeeting;
    std::vector<int> awaited(static_cast<std::size_t>(size));
    std::iota(awaited.begin(), awaited.end(), 0);
    for (;; std::this_thread::sleep_for(kBetweenLooks)) {
      std::erase_if(awaited, [&](int other) {
        if (!meeting.check({key(other)})) return false;
        const std::string said = meeting.get_to_str(key(other));
        const std::size_t space = said.find(' ');
        require_same_size(other, said.substr(0, space));
        on_this_host += said.substr(space + 1) == host ? 1 : 0;
        return true;
      });
      if (awaited.empty()) return;
      if (std::chrono::steady_clock::now() > deadline)
        fail(ErrorKind::lost_process, "number {} not within {} seconds", fmt::join(awaited, ", "), kMeeting.count());
    }
  }

  void require_same_size(int other, const std::string& found) const {
    if (found == std::to_string(size)) return;
    if (rank == 0) std::this_thread::sleep_for(kFarewell);
    fail(ErrorKind::usage,
         "the environment variable WORLD_SIZE must be the same in all processes: process {} has {}, process {} {}",
         rank, size, other, found);
  }

  template <typename Start>
  void collective(const Start& start, const at::Tensor& tensor) const {
    std::vector<at::Tensor> tensors{tensor};
    try {
      // Named here, too: what is sent and received has the time of the meeting otherwise, whatever setTimeout() says.
      start(tensors)->wait(kPatience);
    } catch (const std::exception&) {  // of gloo's, which names an address at best
      const std::string silent = watch->wait_for_silence();
      if (!silent.empty()) fail(ErrorKind::lost_process, "{}", silent);
      fail(ErrorKind::lost_process, "another of the {} processes has ended; its own message says why", size);
    }
  }
};

ProcessGroup::ProcessGroup() = default;
ProcessGroup::ProcessGroup(ProcessGroup&&) noexcept = default;
ProcessGroup& ProcessGroup::operator=(ProcessGroup&&) noexcept = default;

ProcessGroup::~ProcessGroup() {
  if (state_ && state_->heartbeat) state_->heartbeat->end(false);
}

ProcessGroup ProcessGroup::from_environment(OnLost on_lost) {
  ProcessGroup group;
  if (!is_set("RANK") && !is_set("WORLD_SIZE")) return group;
  const int size = number_variable("WORLD_SIZE", 1, 1 << 20);
  const int rank = number_variable("RANK", 0, size - 1);
  if (size == 1) return group;
  const std::string master = text_variable("MASTER_ADDR");
  const int port = number_variable("MASTER_PORT", 1, 65535);
  auto state = std::make_unique<State>();
  state->rank = rank;
  state->size = size;
  try {
    state->device = device_for(master);  // which may take its time to look names up
    const Connections store = connections_to(master, port, rank == 0 && !agent_keeps_store());
    state->store = store.own;
    state->heartbeat = std::make_unique<Heartbeat>(store.heartbeat, rank, size, std::move(on_lost));
    state->watch = state->heartbeat.get();
    state->connect("gloo");
  } catch (const std::exception& error) {
    if (state->heartbeat) state->heartbeat->end(false);
    if (const auto* const own = dynamic_cast<const Error*>(&error); own && own->kind() == ErrorKind::usage) throw;
    fail(ErrorKind::lost_process, "not all of the {} processes have met at {}:{} ({})", size, master, port,
         first_line(error));
  }
  group.state_ = std::move(state);
  return group;
}

int ProcessGroup::rank() const { return state_ ? state_->rank : 0; }
int ProcessGroup::size() const { return state_ ? state_->size : 1; }
int ProcessGroup::on_this_host() const { return state_ ? state_->on_this_host : 1; }

void ProcessGroup::broadcast(const at::Tensor& tensor, int root) {
  if (state_) state_->broadcast(tensor, root);
}

void ProcessGroup::send(const at::Tensor& tensor, int to) {
  SCALEBITS_ASSERT(state_ && to != state_->rank);
  state_->send(tensor, to);
}

void ProcessGroup::receive(const at::Tensor& tensor, int from) {
  SCALEBITS_ASSERT(state_ && from != state_->rank);
  state_->receive(tensor, from);
}

ProcessGroup ProcessGroup::part(const std::string& name, int rank, int size) const {
  ProcessGroup part;
  if (size == 1) return part;
  SCALEBITS_ASSERT(state_ && rank < size && size <= state_->size);
  part.state_ = std::make_unique<State>();
  part.state_->rank = rank;
  part.state_->size = size;
  part.state_->device = state_->device;
  part.state_->store = state_->store;
  part.state_->watch = state_->watch;
  try {
    part.state_->connect(name);
  } catch (const std::exception& error) {
    fail(ErrorKind::lost_process, "the {} processes of {} have not met ({})", size, name, first_line(error));
  }
  return part;
}

double ProcessGroup::from_first(double mine) {
  broadcast(at::from_blob(&mine, {1}, at::kDouble));
  return mine;
}

bool ProcessGroup::any(bool mine) {
  if (!state_) return mine;
  double result = mine ? 1 : 0;
  state_->largest(at::from_blob(&result, {1}, at::kDouble));
  return result != 0;
}

void ProcessGroup::require_same(const std::string& what, const std::string& value) {
  if (first_unlike({{what, value}}) == 0)
    fail_input("the {} processes of this job do not have the same {}", size(), what);
}

void ProcessGroup::require_same(const std::vector<Shared>& all) {
  const std::size_t unlike = first_unlike(all);
  if (unlike == all.size()) return;
  fail_input("the {} processes of this job do not have the same {} (process {}: {})", size(), all[unlike].what, rank(),
             all[unlike].value);
}

std::size_t ProcessGroup::first_unlike(const std::vector<Shared>& all) {
  if (!state_) return all.size();
  const auto count = static_cast<std::int64_t>(all.size());
  std::vector<std::uint64_t> mine;
  for (const Shared& shared : all) mine.push_back(hash_u64(std::as_bytes(std::span(shared.value))));
  std::vector<std::uint64_t> first = mine;
  broadcast(at::from_blob(first.data(), {count}, at::kLong));
  std::vector<double> differs;
  for (std::size_t i = 0; i < mine.size(); ++i) differs.push_back(first[i] != mine[i] ? 1 : 0);
  state_->largest(at::from_blob(differs.data(), {count}, at::kDouble));
  return static_cast<std::size_t>(std::ranges::find(differs, 1.0) - differs.begin());
}

void ProcessGroup::leave() {
  if (state_ && state_->heartbeat) state_->heartbeat->end(true);
  state_.reset();
}

}  // namespace scalebits
