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

constexpr std::size_t kStackBytes = 96 << 10, kBlocksAtOnce = 3;
constexpr unsigned kLanes = 32;

struct Copy {
  void* to;
  const void* from;  // null: read already
  unsigned char bytes[16];
};
struct Thread {
  std::unique_ptr<char[]> stack;         // none: it has not begun
  void* top = nullptr;                   // of the stack, while others run
  std::deque<std::vector<Copy>> groups;  // the last one is open
  bool waits_for_block = false, has_waited_for_earlier = false;
};
/// A copy on its way to a barrier.
struct BulkCopy {
  void* to;
  const void* from;  // null: read already
  std::vector<unsigned char> bytes;
  std::uint64_t* barrier;
};
/// As it lies in shared memory.
struct Barrier {
  std::uint16_t count, missing;
  std::int32_t bytes_and_phase;  // 2 * bytes on their way + parity of the phase that runs
};
static_assert(sizeof(Barrier) == 8);
struct Warp {
  const char* what = "";  // those who wait, wait at
  unsigned waiting = 0, left = 0;
  unsigned turn = 0;               // how many instructions of all lanes there have been
  std::uint32_t words[2][kLanes];  // exchanged, by turn: a lane may be one ahead
  const void* operands[kLanes];
  std::unique_ptr<WarpState> state;
};
struct Running;
struct Block {
  Running* running = nullptr;
  dim3 index;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<unsigned> ready, held,
      polling;  // held: until earlier kernels have ended; polling: at a barrier in memory
  std::vector<BulkCopy> copies;
  unsigned vain_rounds = 0;  // of polling, in which nothing happened
  std::unique_ptr<void, void (*)(void*)> shared{nullptr, std::free};
  std::size_t alive = 0, at_barrier = 0;
  bool any = false, any_before = false;  // of what threads bring to the barrier
  // Of those that are ready the newest goes on, the oldest, one of a warp, or a drawn one.
  unsigned order = 0, favourite = 0;
};
/// A grid and those of its blocks that have begun, with the stacks of their threads.
struct Running {
  const Grid* grid = nullptr;
  std::vector<dim3> to_come;
  Block blocks[kBlocksAtOnce];
  bool early = false;  // earlier kernels have not ended
};

// What runs.
Block* block = nullptr;
unsigned now = 0;
void* scheduler = nullptr;
std::mt19937 dice{1};

Thread& current() { return block->threads[now]; }
Warp& warp() { return block->warps[now / kLanes]; }

void yield() { switch_stacks(&current().top, scheduler); }

void release_block() {
  for (unsigned i = 0; i < block->threads.size(); ++i)
    if (std::exchange(block->threads[i].waits_for_block, false)) block->ready.push_back(i);
  block->at_barrier = 0;
  block->any_before = std::exchange(block->any, false);
}

void deliver(std::vector<Copy>& group) {
  for (const Copy& copy : group) std::memcpy(copy.to, copy.from != nullptr ? copy.from : copy.bytes, 16);
}

/// A thread of one block after the other.
void run_thread() {
  for (;; yield()) {
    block->running->grid->kernel();
    if (!current().has_waited_for_earlier) fail("has ended without waiting for earlier kernels");
    for (std::vector<Copy>& group : current().groups) deliver(group);
    if (warp().waiting > 0) fail(std::string("has left while other lanes of its warp are at ") + warp().what);
    ++warp().left;
    if (warp().state != nullptr && warp().state->under_way()) fail("has ended before what its warp has begun");
    if (block->alive == 1 && !block->copies.empty()) fail("has ended, the last one, before copies to its block");
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

void start_block(Block& fresh, Running& running) {
  const Grid& grid = *running.grid;
  fresh.running = &running;
  fresh.index = running.to_come.back();
  running.to_come.pop_back();
  if (fresh.threads.size() != grid.block) fresh.threads = std::vector<Thread>(grid.block);
  fresh.warps = std::vector<Warp>(grid.block / kLanes);
  void* memory = nullptr;
  if (posix_memalign(&memory, 128, std::max<std::size_t>(grid.shared, 1)) != 0) std::abort();
  std::memset(memory, 0xff, grid.shared);  // NaN: nobody may read what nobody has written
  fresh.shared.reset(memory);
  fresh.alive = grid.block;
  fresh.order = dice() % 5;
  fresh.favourite = dice() % (grid.block / kLanes);
  for (unsigned i = 0; i < grid.block; ++i) {
    fresh.threads[i].groups.assign(1, {});
    fresh.threads[i].has_waited_for_earlier = false;
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

void settle(Barrier& barrier) {
  block->vain_rounds = 0;
  if (barrier.missing == 0 && barrier.bytes_and_phase / 2 == 0) {
    barrier.missing = barrier.count;
    barrier.bytes_and_phase ^= 1;
  }
}

/// Some copies arrive, and those at barriers look again. `all_wait`: nothing else can happen.
void look_again(bool all_wait) {
  for (std::size_t some = block->copies.empty() ? 0 : 1 + dice() % block->copies.size(); some > 0; --some) {
    const std::size_t chosen = dice() % block->copies.size();
    std::swap(block->copies[chosen], block->copies.back());
    const BulkCopy copy = std::move(block->copies.back());
    block->copies.pop_back();
    std::memcpy(copy.to, copy.from != nullptr ? copy.from : copy.bytes.data(), copy.bytes.size());
    auto& barrier = *reinterpret_cast<Barrier*>(copy.barrier);
    barrier.bytes_and_phase -= 2 * static_cast<std::int32_t>(copy.bytes.size());
    settle(barrier);
  }
  block->ready.insert(block->ready.end(), block->polling.begin(), block->polling.end());
  block->polling.clear();
  if (all_wait && ++block->vain_rounds > 100) fail("waits at a barrier in memory for ever, as all of its block do");
}

/// One thread of it, until it waits.
void run_some(Block& chosen) {
  block = &chosen;
  std::vector<unsigned>& ready = block->ready;
  if (ready.empty() || (!block->polling.empty() && dice() % 512 == 0)) look_again(ready.empty());
  const std::size_t at = choose();
  now = ready[at];
  std::swap(ready[at], ready.back());
  ready.pop_back();
  grid_size = block->running->grid->size;
  block_index = block->index;
  thread_index = dim3(now, 0, 0);
  resume(current());
  if (ready.empty() && block->held.empty() && block->polling.empty() && block->alive > 0)
    fail(std::to_string(block->alive) + " threads of the block wait for ever");
}

/// Draws the order of the blocks; the first ones begin and go on until they wait for earlier kernels.
void begin_early(Running& running, const Grid& grid) {
  if (grid.block == 0 || grid.block > 1024 || grid.block % kLanes != 0)
    fail("a grid has blocks of " + std::to_string(grid.block) + " threads");
  running.grid = &grid;
  running.early = true;
  for (unsigned z = 0; z < grid.size.z; ++z)
    for (unsigned y = 0; y < grid.size.y; ++y)
      for (unsigned x = 0; x < grid.size.x; ++x) running.to_come.emplace_back(x, y, z);
  std::shuffle(running.to_come.begin(), running.to_come.end(), dice);
  for (Block& early : running.blocks) {
    if (running.to_come.empty()) return;
    start_block(early, running);
    while (!early.ready.empty()) run_some(early);
  }
}

void finish(Running& running) {
  running.early = false;
  std::vector<Block*> resident;
  for (Block& each : running.blocks) {
    each.ready.insert(each.ready.end(), each.held.begin(), each.held.end());
    each.held.clear();
    resident.push_back(&each);
  }
  while (!resident.empty()) {
    const std::size_t chosen = dice() % resident.size();
    Block& next = *resident[chosen];
    if (next.alive > 0) {
      for (unsigned steps = 1 + dice() % 2000; steps > 0 && next.alive > 0; --steps) run_some(next);
    } else if (!running.to_come.empty()) {
      start_block(next, running);
    } else {
      resident.erase(resident.begin() + static_cast<std::ptrdiff_t>(chosen));
    }
  }
  running.grid = nullptr;
}

}  // namespace

void fail(const std::string& what) {
  std::fprintf(stderr, "kernel: block (%u, %u, %u), thread %u: %s\n", block_index.x, block_index.y, block_index.z, now,
               what.c_str());
  std::abort();
}

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
  Copy copy{to, toss() ? from : nullptr, {}};  // it may be read at once, or as late as possible
  std::memcpy(copy.bytes, from, 16);
  std::memset(to, 0xff, 16);
  current().groups.back().push_back(copy);
}
void close_group() { current().groups.emplace_back(); }
void wait_groups(std::size_t newest) {
  auto& groups = current().groups;
  for (; groups.size() > newest + 1; groups.pop_front()) deliver(groups.front());  // the open one is not among them
}

void init_barrier(std::uint64_t* barrier, unsigned count) {
  require_aligned(barrier, 8);
  *reinterpret_cast<Barrier*>(barrier) = {static_cast<std::uint16_t>(count), static_cast<std::uint16_t>(count), 0};
}
void arrive(std::uint64_t* at, std::size_t bytes) {
  auto& barrier = *reinterpret_cast<Barrier*>(at);
  if (barrier.missing == 0 || barrier.missing > barrier.count) fail("comes to a barrier that nobody is missing at");
  barrier.bytes_and_phase += 2 * static_cast<std::int32_t>(bytes);
  --barrier.missing;
  settle(barrier);
}
void wait_for_phase(const std::uint64_t* at, unsigned parity) {
  while ((reinterpret_cast<const Barrier*>(at)->bytes_and_phase & 1) == static_cast<int>(parity)) {
    block->polling.push_back(now);
    yield();
  }
  block->vain_rounds = 0;
}
void copy_bulk(void* to, const void* from, std::size_t bytes, std::uint64_t* barrier) {
  require_aligned(to, 16);
  require_aligned(from, 16);
  if (bytes == 0 || bytes % 16 != 0) fail("copies " + std::to_string(bytes) + " bytes, not a multiple of 16");
  const auto* source = static_cast<const unsigned char*>(from);
  block->copies.push_back({to, toss() ? from : nullptr, {source, source + bytes}, barrier});
  std::memset(to, 0xff, bytes);
}

std::uint32_t shared_address(const void* at) {
  const auto base = reinterpret_cast<std::uintptr_t>(block->shared.get());  // aligned as it is, up to 1024
  return static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(at) - (base & ~std::uintptr_t{1023}));
}
const std::uint8_t* shared_at(std::uint32_t address, std::size_t bytes) {
  const auto base = reinterpret_cast<std::uintptr_t>(block->shared.get());
  const std::uintptr_t at = (base & ~std::uintptr_t{1023}) + address;
  if (at < base || at + bytes > base + block->running->grid->shared) fail("reads beyond its shared memory");
  return reinterpret_cast<const std::uint8_t*>(at);
}

std::unique_ptr<WarpState>& warp_state() { return warp().state; }
bool toss() { return dice() % 2 == 0; }

void run_grid(const Grid& grid, const Grid* next) {
  static Running places[2];
  Running& running = places[places[0].grid == &grid ? 0 : 1];
  if (running.grid != &grid) begin_early(running, grid);
  if (next != nullptr) begin_early(places[&running == &places[0] ? 1 : 0], *next);
  finish(running);
}

void wait_for_earlier() {
  current().has_waited_for_earlier = true;
  if (!block->running->early) return;
  block->held.push_back(now);
  yield();
}

}  // namespace threads
