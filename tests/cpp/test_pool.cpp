// Memory kept from call to call: who gets which block, what is kept, and what threads may do at once.
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#include "check.h"
#include "cpu/pool.h"

using namespace lstmfast::cpu;

namespace {

constexpr size_t kMiB = size_t{1} << 20, kNoLimit = size_t{1} << 40;

void check_blocks_come_back() {
  for (const bool lend : {false, true}) {
    Pool pool(2, kNoLimit, lend);
    void* const first = pool.take(5 * kMiB);
    CHECK(reinterpret_cast<uintptr_t>(first) % 64 == 0);
    std::memset(first, 1, 5 * kMiB);
    CHECK(pool.kept() == 0);
    pool.give_back(first);
    CHECK(pool.kept() >= 5 * kMiB && pool.kept() < 6 * kMiB);
    void* const again = pool.take(5 * kMiB);
    CHECK(again == first && pool.kept() == 0);
    void* const other = pool.take(5 * kMiB);
    CHECK(other != again);
    std::memset(again, 2, 5 * kMiB);
    std::memset(other, 3, 5 * kMiB);
    CHECK(static_cast<char*>(again)[5 * kMiB - 1] == 2);
    pool.give_back(again);
    pool.give_back(other);
    pool.release();
    CHECK(pool.kept() == 0);
  }
}

void check_small_requests() {
  Pool pool(2, kNoLimit, true);
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{4000}, size_t{5000}}) {
    void* const p = pool.take(bytes);
    std::memset(p, 1, bytes);
    pool.give_back(p);
  }
  pool.release();
}

void check_the_smallest_that_will_do() {
  Pool pool(2, kNoLimit, false);
  void *const large = pool.take(40 * kMiB), *const middle = pool.take(30 * kMiB), *const small = pool.take(10 * kMiB);
  pool.give_back(large);
  pool.give_back(middle);
  pool.give_back(small);
  CHECK(pool.take(25 * kMiB) == middle);
  CHECK(pool.take(25 * kMiB) == large);
  pool.give_back(middle);
  pool.give_back(large);
  // 30 MiB are more than twice 12.
  void* const fresh = pool.take(12 * kMiB);
  CHECK(fresh != middle && fresh != large && fresh != small);
  // For it the one that was too small has gone, and nothing else.
  CHECK(pool.kept() > 70 * kMiB && pool.kept() < 76 * kMiB);
  pool.give_back(fresh);
  pool.release();
}

// Requests that grow from call to call leave one block behind, not all of them.
void check_growth() {
  Pool pool(2, kNoLimit, true);
  for (size_t bytes = 2 * kMiB; bytes < 100 * kMiB; bytes += 3 * kMiB) {
    void* const p = pool.take(bytes);
    pool.give_back(p);
    CHECK(pool.kept() <= bytes + 2 * kMiB + 64);
  }
  pool.release();
}

void check_limit() {
  Pool pool(2, 20 * kMiB, true);
  void *const a = pool.take(15 * kMiB), *const b = pool.take(15 * kMiB);
  pool.give_back(a);
  pool.give_back(b);
  CHECK(pool.kept() > 0 && pool.kept() <= 20 * kMiB);
  pool.set_limit(0);
  CHECK(pool.kept() == 0);
  pool.give_back(pool.take(3 * kMiB));
  CHECK(pool.kept() == 0);
  pool.set_limit(kNoLimit);
  std::vector<void*> many;
  for (int i = 0; i < 40; i++) many.push_back(pool.take(2 * kMiB));
  for (void* p : many) pool.give_back(p);
  CHECK(pool.kept() >= 32 * kMiB && pool.kept() < 40 * kMiB);  // as many as there are places
  pool.release();
}

// No two owners at the same time, and nothing lost from the account.
void check_threads() {
  Pool pool(2, 64 * kMiB, true);
  constexpr int kThreads = 4, kCalls = 300;
  bool right[kThreads] = {};
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; i++)
    threads.emplace_back([&, i] {
      right[i] = true;
      for (int k = 0; k < kCalls; k++) {
        const size_t size = (2 + static_cast<size_t>(k * (i + 3)) % 7) * kMiB;
        char* const p = static_cast<char*>(pool.take(size));
        for (size_t at = 0; at < size; at += kMiB / 2) p[at] = static_cast<char>(i + 1);
        for (size_t at = 0; at < size; at += kMiB / 2) right[i] &= p[at] == static_cast<char>(i + 1);
        pool.give_back(p);
        if (i == 0 && k % 50 == 49) pool.release();
      }
    });
  for (std::thread& t : threads) t.join();
  for (const bool r : right) CHECK(r);
  CHECK(pool.kept() <= 64 * kMiB);
  pool.release();
  CHECK(pool.kept() == 0);
}

}  // namespace

int main() {
  check_blocks_come_back();
  check_small_requests();
  check_the_smallest_that_will_do();
  check_growth();
  check_limit();
  check_threads();
  return finish();
}
