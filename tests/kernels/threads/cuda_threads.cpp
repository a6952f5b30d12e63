#include "cuda_threads.h"

#include <algorithm>
#include <cstdio>
#include <deque>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

// Puts away what a function must keep, and goes on where another stack was left. The C library's swapcontext() asks the
// system for its signals each time, and the compiler's longjmp upsets the address sanitizer.
extern "C" void switch_stacks(void** left, void* entered);
asm(R"(
  .text
  .type switch_stacks, @function
switch_stacks:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size switch_stacks, .-switch_stacks
)");

namespace threads {
namespace {

constexpr std::size_t kStackBytes = 256 << 10, kBlocksAtOnce = 3;
constexpr unsigned kLanes = 32;

struct Copy {
  void* to;
  const void* from;
};
struct Thread {
  std::unique_ptr<char[]> stack;         // none: it has not begun
  void* top = nullptr;                   // of the stack, while others run
  std::deque<std::vector<Copy>> groups;  // the last one is open
  bool waits_for_block = false;
};
struct Warp {
  const char* what = "";  // those who wait, wait at
  unsigned waiting = 0, left = 0;
  unsigned turn = 0;               // how many instructions of all lanes there have been
  std::uint32_t words[2][kLanes];  // exchanged, by turn: a lane may be one ahead
  const void* operands[kLanes];
};
struct Block {
  dim3 index;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<unsigned> ready;
  std::unique_ptr<void, void (*)(void*)> shared{nullptr, std::free};
  std::size_t alive = 0, at_barrier = 0;
  bool any = false, any_before = false;  // of what threads bring to the barrier
  unsigned order = 0;      // of those that are ready the newest goes on, the oldest, one of a warp, or a drawn one
  unsigned favourite = 0;  // warp
};

// What runs.
const char* kernel_name = "";
const std::function<void()>* kernel = nullptr;
Block* block = nullptr;
unsigned now = 0;
void* scheduler = nullptr;
std::mt19937 dice{1};

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "kernel %s, block (%u, %u, %u), thread %u: %s\n", kernel_name, block_index.x, block_index.y,
               block_index.z, now, what.c_str());
  std::abort();
}

Thread& current() { return block->threads[now]; }
Warp& warp() { return block->warps[now / kLanes]; }

void yield() { switch_stacks(&current().top, scheduler); }

void release_block() {
  for (unsigned i = 0; i < block->threads.size(); ++i)
    if (std::exchange(block->threads[i].waits_for_block, false)) block->ready.push_back(i);
  block->at_barrier = 0;
  block->any_before = std::exchange(block->any, false);
}

void arrive(std::vector<Copy>& group) {
  for (const Copy& copy : group) std::memcpy(copy.to, copy.from, 16);
}

/// A thread of one block after the other.
void run_thread() {
  for (;; yield()) {
    (*kernel)();
    for (std::vector<Copy>& group : current().groups) arrive(group);
    if (warp().waiting > 0) fail(std::string("has left while other lanes of its warp are at ") + warp().what);
    ++warp().left;
    if (--block->alive > 0 && block->at_barrier == block->alive) release_block();
  }
}

void resume(Thread& thread) {
  if (thread.stack == nullptr) {
    thread.stack.reset(new char[kStackBytes]);
    auto* const end = reinterpret_cast<void**>(thread.stack.get() + kStackBytes - 64);  // aligned to 16
    end[-2] = reinterpret_cast<void*>(run_thread);  // where the first switch returns to, as if it had been called
    thread.top = end - 8;                           // below it six registers
  }
  switch_stacks(&scheduler, thread.top);
}

void start_block(Block& fresh, dim3 index, unsigned threads, std::size_t shared) {
  fresh.index = index;
  if (fresh.threads.size() != threads) fresh.threads = std::vector<Thread>(threads);
  fresh.warps.assign(threads / kLanes, {});
  void* memory = nullptr;
  if (posix_memalign(&memory, 128, std::max<std::size_t>(shared, 1)) != 0) std::abort();
  std::memset(memory, 0xff, shared);  // NaN: nobody may read what nobody has written
  fresh.shared.reset(memory);
  fresh.alive = threads;
  fresh.order = dice() % 5;
  fresh.favourite = dice() % (threads / kLanes);
  fresh.ready.clear();
  for (unsigned i = 0; i < threads; ++i) {
    fresh.threads[i].groups.assign(1, {});
    fresh.ready.push_back(i);
  }
}

/// Which of the threads that are ready goes on.
std::size_t choose() {
  const std::vector<unsigned>& ready = block->ready;
  if (block->order == 0) return ready.size() - 1;
  if (block->order == 1) return 0;
  for (std::size_t i = 0; block->order == 2 && i < ready.size(); ++i)
    if (ready[i] / kLanes == block->favourite) return i;
  return dice() % ready.size();
}

/// One thread of it, until it waits.
void run_some(Block& chosen) {
  block = &chosen;
  std::vector<unsigned>& ready = block->ready;
  const std::size_t at = choose();
  now = ready[at];
  std::swap(ready[at], ready.back());
  ready.pop_back();
  block_index = block->index;
  thread_index = dim3(now, 0, 0);
  resume(current());
  if (ready.empty() && block->alive > 0) fail(std::to_string(block->alive) + " threads of the block wait for ever");
}

}  // namespace

int lane() { return static_cast<int>(now % kLanes); }
std::uint8_t* shared_memory() { return static_cast<std::uint8_t*>(block->shared.get()); }
std::uint32_t* exchange() { return warp().words[warp().turn % 2]; }
const void** operands() { return warp().operands; }

bool wait_for_block(bool any) {
  current().waits_for_block = true;
  block->any |= any;
  if (++block->at_barrier == block->alive) release_block();
  yield();
  return block->any_before;
}

void wait_for_warp(const char* what, const std::function<void()>& work) {
  Warp& lanes = warp();
  if (lanes.left > 0) fail(std::string("is at ") + what + " after other lanes of its warp have left");
  if (lanes.waiting > 0 && std::strcmp(lanes.what, what) != 0)
    fail(std::string("is at ") + what + " where other lanes of its warp are at " + lanes.what);
  lanes.what = what;
  if (++lanes.waiting == kLanes) {
    if (work) work();
    lanes.waiting = 0;
    ++lanes.turn;
    for (unsigned i = 0; i < kLanes; ++i) block->ready.push_back(now / kLanes * kLanes + i);
  }
  yield();
}

void require_aligned(const void* at, std::size_t bytes) {
  if (reinterpret_cast<std::uintptr_t>(at) % bytes != 0)
    fail("takes what is not aligned to " + std::to_string(bytes) + " bytes");
}
void copy_async(void* to, const void* from) {
  require_aligned(to, 16);
  require_aligned(from, 16);
  std::memset(to, 0xff, 16);
  current().groups.back().push_back({to, from});
}
void close_group() { current().groups.emplace_back(); }
void wait_groups(std::size_t newest) {
  auto& groups = current().groups;
  for (; groups.size() > newest + 1; groups.pop_front()) arrive(groups.front());  // the open one is not among them
}

void run_grid(const char* name, dim3 grid, unsigned threads, std::size_t shared, const std::function<void()>& run) {
  kernel_name = name;
  kernel = &run;
  grid_size = grid;
  if (threads == 0 || threads > 1024 || threads % kLanes != 0) fail("has " + std::to_string(threads) + " threads");
  std::vector<dim3> to_come;
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) to_come.emplace_back(x, y, z);
  std::shuffle(to_come.begin(), to_come.end(), dice);
  static Block blocks[kBlocksAtOnce];  // with the stacks of their threads
  std::vector<Block*> resident;
  for (Block& free : blocks) resident.push_back(&free);
  while (!resident.empty()) {
    const std::size_t chosen = dice() % resident.size();
    Block& next = *resident[chosen];
    if (next.alive > 0) {
      for (unsigned steps = 1 + dice() % 2000; steps > 0 && next.alive > 0; --steps) run_some(next);
    } else if (!to_come.empty()) {
      start_block(next, to_come.back(), threads, shared);
      to_come.pop_back();
    } else {
      resident.erase(resident.begin() + static_cast<std::ptrdiff_t>(chosen));
    }
  }
}

}  // namespace threads
