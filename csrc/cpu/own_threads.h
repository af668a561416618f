// Threads for a process in which OpenMP's cannot be used: the child of a fork.
#pragma once

namespace lstmfast::cpu {

// Whether this process was forked after this library was loaded. A fork copies only the thread that calls it. The
// OpenMP runtime of such a child still believes in the pool that its parent had, and the first parallel region would
// wait for threads that do not exist, for ever.
bool is_forked_child();

// Calls work(context, size, me) for each me in [0, size), me = 0 in the calling thread; returns when all have returned.
// size is `threads`, or less where the system gives fewer. The threads live for this call only: starting one costs tens
// of microseconds, and there is nothing to keep, or to go wrong, across another fork.
void run_on_own_threads(int threads, void (*work)(void* context, int size, int me), void* context);

}  // namespace lstmfast::cpu
