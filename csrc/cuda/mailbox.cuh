// The exchange through global memory without a flag: every step has a place of its own for its operand, the mailbox,
// filled before the launch with a word that is never sent. Who needs the operand reads the place until no such word is
// left in it. A step waits for one way through L2, where a flag takes three: the writes must have arrived before the
// flag, the flag before the reads.
//
// Why that is sound in PTX's memory model. All accesses in the launch are strong: relaxed, in the scope of the GPU.
// They are of 32 bits on both sides, and those of one word overlap completely: a warp puts the 16-bit elements of two
// hidden units into one word before it stores it (mail()), and a vector of four words is loaded as four accesses in no
// order, each of which is looked at. So no two accesses race, nor are there mixed sizes, and a load yields either the
// word that was there before the launch or the one that was sent. What is used is the word that was looked at itself:
// no other access has to be ordered behind it, and there is nothing to release or to acquire. A place is sent to once
// and never used again, so nobody has to know when it has been read: a ring of places would need to, and an order.
#pragma once
#include "persistent.h"
#include "types.cuh"

namespace lstmfast::cuda {

// What is sent is told from it: a NaN that has just these bits is sent as another one.
LF_DEVICE uint32_t sendable(uint32_t word) { return word < kUnsent ? word : kUnsent - 1; }

// Receives 16 bytes each from from(k) for the bits k of `missing`, all at once, and puts them to to(k): waits until no
// word of them is unsent.
template <int loads, class From, class To>
LF_DEVICE void receive_words(unsigned missing, const From& from, const To& to) {
  dev::poll([&] {
    dev::Words x[loads];
#pragma unroll
    for (int k = 0; k < loads; k++)
      if (missing >> k & 1) x[k] = dev::load_relaxed(from(k));
#pragma unroll
    for (int k = 0; k < loads; k++) {
      const uint32_t (&word)[4] = x[k].at;
      if (!(missing >> k & 1)) continue;
      if (word[0] == kUnsent || word[1] == kUnsent || word[2] == kUnsent || word[3] == kUnsent) continue;
      *reinterpret_cast<dev::Words*>(to(k)) = x[k];
      missing &= ~(1u << k);
    }
    return missing == 0;
  });
}

// A policy like those of exchange.cuh, but that warps hand over everything that the next step reads, also where a
// sequence or a unit has computed nothing, by mail(). Shared memory has room for two tiles, in turns, from step to
// step. Barriers per step: one of the block for each tile. Traffic: a block reads all of the group's operand, of the
// sequences that there are.
template <class T>
struct ThroughMailbox {
  static constexpr bool kStacked = false, kMailed = true;

  unsigned char* shared;
  const PersistentCall& p;

  LF_DEVICE ThroughMailbox(const PersistentCall& call, unsigned char* memory) : shared(memory), p(call) {}
  static LF_DEVICE int shared_bytes(const PersistentCall& p) { return 2 * 8 * p.plan.tiling.pitch; }
  LF_DEVICE void begin() const {}
  LF_DEVICE unsigned char* tile(int s, int j) const {
    return shared + ((dev::anew(s) * p.plan.tiling.tiles + j) & 1) * 8 * p.plan.tiling.pitch;
  }
  LF_DEVICE int first() const { return static_cast<int>(dev::group_index()) * p.plan.tiling.tiles * 8; }
  // Of sequence n of the group.
  LF_DEVICE uint32_t* row(int s, int n) const {
    const int run = dev::anew(s) * p.plan.runs + static_cast<int>(dev::run_index());
    return rows_on(static_cast<uint32_t*>(p.exchange), run * p.batch + first() + n, p.row_bytes);
  }

  // Sends element(group, gate, e) for each group of eight hidden units, the first about `unit`, gate, and sequence of
  // the thread's two. All lanes of a warp call it: in 16-bit types those 4 apart have units side by side, and each of
  // the two stores both units of one sequence.
  template <int groups, int gates, class F>
  LF_DEVICE void mail(int s, int local, int unit, const F& element) const {
    const auto put = [&](uint32_t* to, int n, int u, uint32_t word) {
      if (first() + n < p.batch && u < p.gate_width) dev::store_relaxed(to, sendable(word));
    };
    if constexpr (sizeof(T) == 4) {
#pragma unroll
      for (int e = 0; e < 2; e++) {
        uint32_t* to = row(s, local + e) + unit;
#pragma unroll
        for (int gate = 0; gate < gates; gate++, to += p.gate_width)
#pragma unroll
          for (int group = 0; group < groups; group++)
            put(to + group * 8, local + e, unit + group * 8, dev::bits_of(element(group, gate, e)));
      }
    } else {
      const int odd = unit & 1;
      uint32_t words[gates][groups];
      dev::sync_warp();
#pragma unroll
      for (int gate = 0; gate < gates; gate++)
#pragma unroll
        for (int group = 0; group < groups; group++) {
          const uint32_t low = element(group, gate, 0).bits, high = element(group, gate, 1).bits;
          const uint32_t mine = low | high << 16;
          words[gate][group] = dev::permute_bytes(mine, dev::shuffle_xor(mine, 4), odd ? 0x3276 : 0x5410);
        }
      uint32_t* to = row(s, local + odd) + unit / 2;
#pragma unroll
      for (int gate = 0; gate < gates; gate++, to += p.gate_width / 2)
#pragma unroll
        for (int group = 0; group < groups; group++)
          put(to + group * 4, local + odd, unit + group * 8, words[gate][group]);
    }
  }
  LF_DEVICE void release(int) const {}
  LF_DEVICE void acquire(int) const {}
  // The barrier shows what every thread has received to all. Who comes to the next one has done with the tile before
  // this, in whose place the next will be.
  template <class S>
  LF_DEVICE void arrive(int s, int j) const {
    constexpr int kLoads = loads_under_way(S::kRowTiles * S::kDepthTiles * 4);
    if (s >= p.first_mailed) receive<kLoads>(s, j);
    dev::sync_block();
  }
  LF_DEVICE void end() const {}

 private:
  // Eight threads take 128 bytes of a row side by side, the next eight of the next row, up to kRows of them. A thread
  // has several loads under way, from rows that far apart; or, if there are no more rows, from further on in its row.
  template <int loads>
  LF_DEVICE void receive(int s, int j) const {
    constexpr int kRows = 8 / loads;
    const bool along = p.batch <= kRows;
    const int apart = along ? static_cast<int>(dev::thread_count()) / kRows * 16 : kRows,
              end = along ? p.row_bytes : p.batch - first() - j * 8;
    const int from_apart = along ? apart : kRows * p.row_bytes, to_apart = along ? apart : kRows * p.plan.tiling.pitch;
#pragma unroll 1
    for (unsigned i = dev::thread_index();; i += along ? loads * dev::thread_count() : dev::thread_count()) {
      const int n = static_cast<int>((i >> 3) % kRows), column = static_cast<int>(i / (8 * kRows) * 128 + (i & 7) * 16);
      if (column >= p.row_bytes || first() + j * 8 + n >= p.batch) break;
      const uint32_t* from = row(s, j * 8 + n) + column / 4;
      unsigned char* to = tile(s, j) + n * p.plan.tiling.pitch + column;
      unsigned missing = 0;  // a bit each
#pragma unroll
      for (int k = 0; k < loads; k++)
        if ((along ? column : n) + k * apart < end) missing |= 1u << k;
      receive_words<loads>(
          missing, [&](int k) { return from + k * from_apart / 4; }, [&](int k) { return to + k * to_apart; });
    }
  }
};

}  // namespace lstmfast::cuda
