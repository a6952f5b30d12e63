// Host loops on OpenMP's threads, which are libtorch's too: two pools taking turns cost half the speed, each one's idle
// threads spinning on the other's cores. Work is cut the same way whatever the number of threads, so results that
// depend only on the chunk do not depend on the machine.
#pragma once

#include <cstdint>
#include <functional>

namespace scalebits {

/// Threads used by parallel_for, the caller included; default: the hardware's. Call before the first parallel_for.
void set_thread_count(int threads);
int thread_count();

/// Restarts the program, first thing in main(), with GOMP_SPINCOUNT set, unless the user has set how threads wait:
/// OpenMP's default is to spin for milliseconds after each loop, which beside another busy program costs tenfold, and
/// it reads its settings only when it is loaded. A millisecond's spin is as fast on an idle machine.
void limit_spinning(char** argv);

/// Calls body(i) for each i in [0, count), in any order and concurrently; returns when all are done. The first
/// exception thrown by a body is rethrown here. Not reentrant: a nested call runs serially.
void parallel_for(std::int64_t count, const std::function<void(std::int64_t)>& body);

}  // namespace scalebits
