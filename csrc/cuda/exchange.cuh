// How the operand of the next step gets to the blocks that multiply by it. The operand is a matrix [sequences of the
// group][depth]; warps read it from shared memory, in tiles of eight sequences. A policy has
//
//   shared_bytes(call)   of shared memory that it wants
//   begin()              once, when this shared memory has been cleared
//   place(s, n, col)     an element of the operand of step s; a block sets those of its own units
//   send<units, gates>(s, j, u)  a warp calls it when it has set all gates' elements of its units, about u, in tile j
//   release(s)           every thread of the block calls it when all of the block's part of the operand of step s is
//                        sent. Nobody waits for what a thread stores between it and acquire(s): a step's results
//   acquire(s)           waits until all have released step s, and begins to get its operand
//   arrive<S>(s, j)      for j = 0, 1, ...: after it, tile(s, j) holds tile j, until arrive(s, j + 2); S: the warp's
//                        shape (product.cuh)
//   end()                after the last release, which no acquire follows
//   kStacked             whether a part of the operand comes from the run beside; handed_on(s, n, col) is then what the
//                        next run gets at step s, set before release(s + 1); `feeds` if there is such a run
//   kMailed              whether warps hand over by mail() instead of place() and send(): mailbox.cuh
//
// in the order begin(), send(0, j), release(0), for each step s: acquire(s), arrive(s, j), send(s + 1, j),
// release(s + 1), and end().
#pragma once
#include "persistent.h"
#include "types.cuh"

namespace lstmfast::cuda {

// The operand of two steps, in this block's shared memory.
template <class T>
struct InShared {
  static constexpr bool kStacked = false, kMailed = false;
  unsigned char* shared;
  int step_bytes, pitch;

  LF_DEVICE InShared(const PersistentCall& p, unsigned char* memory)
      : shared(memory), step_bytes(p.operand_bytes), pitch(p.plan.tiling.pitch) {}
  static LF_DEVICE int shared_bytes(const PersistentCall& p) { return 2 * p.operand_bytes; }
  LF_DEVICE unsigned char* row(int s, int n) const { return shared + (dev::anew(s) & 1) * step_bytes + n * pitch; }
  // Of the same parity as s, but not the same for all tiles: not kept in a register meanwhile.
  LF_DEVICE unsigned char* tile(int s, int j) const { return row(s + 2 * j, j * 8); }
  LF_DEVICE T* place(int s, int n, int col) const { return reinterpret_cast<T*>(row(s, n)) + col; }
  template <class S>
  LF_DEVICE void arrive(int, int) const {}
};

// A block has all of W_hh: what it computes it needs itself. Steps are read and written in turns.
// Barriers per step: one of the block.
template <class T>
struct InBlock : InShared<T> {
  using InShared<T>::InShared;
  LF_DEVICE void begin() const {}
  template <int units, int gates>
  LF_DEVICE void send(int, int, int) const {}
  LF_DEVICE void release(int) const { dev::sync_block(); }
  LF_DEVICE void acquire(int) const {}
  LF_DEVICE void end() const {}
};

// The blocks of a group are a cluster, and write what they have computed into each other's shared memory: each warp
// first into its block's, then from there to the others, 16 bytes at a time. A block writes the operand of step s + 1
// when it has passed the barrier of step s, at which the others had read that of step s - 1, which lies there.
// Barriers per step: one of the cluster, which the block's own warps meet at as well; results are stored while it is
// waited for. Traffic: a block writes its part of the operand to all others.
template <class T>
struct InCluster : InShared<T> {
  int gate_bytes;
  unsigned blocks;

  LF_DEVICE InCluster(const PersistentCall& p, unsigned char* memory)
      : InShared<T>(p, memory),
        gate_bytes(p.gate_width * static_cast<int>(sizeof(T))),
        blocks(static_cast<unsigned>(p.plan.tiling.group_blocks)) {}
  LF_DEVICE void begin() const { dev::cluster_arrive(), dev::cluster_wait(); }
  // The first block to be sent to is the next one: they are not all sent to one at a time.
  template <int units, int gates>
  LF_DEVICE void send(int s, int j, int unit) const {
    constexpr int kPieces = units * static_cast<int>(sizeof(T)) / 16;         // of a gate in a row
    const unsigned own = dev::block_index();                                  // a cluster is all of a group
    const int column = (dev::anew(unit) & -8) * static_cast<int>(sizeof(T));  // of the warp's first unit
    dev::sync_warp();
    for (int i = dev::anew(static_cast<int>(dev::thread_index())) & 31; i < 8 * kPieces * gates; i += 32) {
      const int gate = i / (8 * kPieces), first = column + i / 8 % kPieces * 16;
      if (first >= gate_bytes) continue;  // there are no more units
      unsigned char* at = this->row(s, j * 8 + i % 8) + gate * gate_bytes + first;
      const dev::Words x = *reinterpret_cast<const dev::Words*>(at);
      for (unsigned k = 1; k < blocks; k++) dev::store_remote(at, x, own + k < blocks ? own + k : own + k - blocks);
    }
  }
  LF_DEVICE void release(int) const { dev::cluster_arrive(); }
  LF_DEVICE void acquire(int) const { dev::cluster_wait(); }
  LF_DEVICE void end() const { dev::cluster_wait(); }  // none leaves while others still store into its memory
};

// The blocks of a group exchange through global memory, which stays in L2, and count arrivals in a flag. Two buffers:
// a block that writes the operand of step s + 1 has seen all others arrive with that of step s, so they have read that
// of step s - 1, which lies where it writes. Shared memory has room for two tiles: one comes in while the other is
// used. Barriers per step: two of the block and one more for each tile, one of the group. Traffic: a block reads all of
// the group's operand.
template <class T>
struct ThroughL2 {
  static constexpr bool kStacked = false, kMailed = false;
  unsigned char* shared;
  const PersistentCall& p;
  int pitch, row_bytes, tiles;
  uint32_t blocks;

  LF_DEVICE ThroughL2(const PersistentCall& call, unsigned char* memory)
      : shared(memory),
        p(call),
        pitch(p.plan.tiling.pitch),
        row_bytes(p.exchange_width * static_cast<int>(sizeof(T))),
        tiles(p.plan.tiling.tiles),
        blocks(static_cast<uint32_t>(p.plan.tiling.group_blocks)) {}
  LF_DEVICE int group() const {
    return static_cast<int>(dev::run_index()) * p.plan.tiling.groups + static_cast<int>(dev::group_index());
  }
  // One thread of a block uses it: no register of all others is to hold it.
  LF_DEVICE uint32_t* flag() const { return p.flags + dev::anew(group()) * kFlagStride; }
  static LF_DEVICE int shared_bytes(const PersistentCall& p) {
    return (p.plan.tiling.tiles < 2 ? p.plan.tiling.tiles : 2) * 8 * p.plan.tiling.pitch;
  }
  LF_DEVICE void begin() const {}
  LF_DEVICE unsigned char* tile(int, int j) const { return shared + (j & 1) * 8 * pitch; }
  LF_DEVICE unsigned char* row(int s, int n) const {
    const int group_of_two = (dev::anew(s) & 1) * p.exchange_groups + group();
    return rows_on(static_cast<unsigned char*>(p.exchange), group_of_two, p.group_bytes) + n * row_bytes;
  }
  LF_DEVICE T* place(int s, int n, int col) const {
    return reinterpret_cast<T*>(row(s, 0) + (n * row_bytes + col * static_cast<int>(sizeof(T))));
  }
  template <int units, int gates>
  LF_DEVICE void send(int, int, int) const {}

  LF_DEVICE void acquire(int s) const {
    if (dev::thread_index() == 0) dev::wait_acquire(flag(), static_cast<uint32_t>(dev::anew(s) + 1) * blocks);
    dev::sync_block();
    fetch(s, 0);
  }
  LF_DEVICE void fetch(int s, int j) const {
    copy_rows(tile(s, j), row(s, j * 8), row_bytes, 1);
    dev::commit_copies();
  }
  // `bytes` of each row of one tile, or two. Eight threads copy 128 bytes of a row side by side, the next eight of the
  // next row: which row and which bytes takes no division, and what a warp asks for at once are whole lines.
  LF_DEVICE void copy_rows(unsigned char* to, const unsigned char* from, int bytes, int count) const {
    const int thread = dev::anew(static_cast<int>(dev::thread_index()));
    const int stride = dev::anew(static_cast<int>(dev::thread_count())) / 8;
    for (int i = thread >> 3;; i += stride) {
      const int n = i & (8 * count - 1), column = (i >> (2 + count)) * 128 + (thread & 7) * 16;
      if (column >= bytes) break;
      dev::copy_async16(to + n * pitch + column, from + (n * row_bytes + column));
    }
  }
  // The barrier shows every thread's copies to all, and that the tile before is no longer read.
  template <class S>
  LF_DEVICE void arrive(int s, int j) const {
    dev::wait_copies<0>();
    dev::sync_block();
    if (j + 1 < tiles) fetch(s, j + 1);
  }
  // The barrier puts every thread's writes before the flag, which is a release for the whole GPU.
  LF_DEVICE void release(int) const {
    dev::sync_block();
    if (dev::thread_index() == 0) dev::add_release(flag(), 1);
  }
  LF_DEVICE void end() const {}
};

// The same in a stack, where the operand has a second part: what the run beside has handed on at this step. Every step
// has its own place for that, so that a layer never waits for the one that reads from it. Barriers per step: as above;
// of a flag, one more that is waited for. Traffic: twice the operand.
template <class T>
struct ThroughStack : ThroughL2<T> {
  static constexpr bool kStacked = true;
  using ThroughL2<T>::p;
  unsigned char* handed;  // [steps][groups][sequences][row_bytes]: this group's, of the first step
  bool is_fed, feeds;     // not at the ends of the stack

  LF_DEVICE ThroughStack(const PersistentCall& call, unsigned char* memory) : ThroughL2<T>(call, memory) {
    const int run = static_cast<int>(dev::run_index());
    is_fed = run > 0, feeds = run + 1 < p.plan.runs;
    const int64_t group_bytes = this->tiles * 8 * this->row_bytes;
    handed = static_cast<unsigned char*>(p.handed) + run * run_bytes() + dev::group_index() * group_bytes;
  }
  LF_DEVICE int64_t run_bytes() const { return p.steps * p.handed_bytes; }
  LF_DEVICE unsigned char* handed_row(int s, int n) const { return handed + s * p.handed_bytes + n * this->row_bytes; }
  LF_DEVICE T* handed_on(int s, int n, int col) const { return reinterpret_cast<T*>(handed_row(s, n)) + col; }

  // The run before has handed on step s when it has released step s + 1.
  LF_DEVICE void acquire(int s) const {
    if (dev::thread_index() == 0) {
      const uint32_t* before = this->flag() - p.plan.tiling.groups * kFlagStride;
      if (is_fed && s < p.steps) dev::wait_acquire(before, static_cast<uint32_t>(dev::anew(s) + 2) * this->blocks);
      dev::wait_acquire(this->flag(), static_cast<uint32_t>(dev::anew(s) + 1) * this->blocks);
    }
    dev::sync_block();
    fetch(s, 0);
  }
  LF_DEVICE void fetch(int s, int j) const {
    const int own = p.plan.tiling.own_slice * p.plan.tiling.depth_tiles * 32;  // bytes of the first part
    if (is_fed && s < p.steps)
      this->copy_rows(this->tile(s, j), handed_row(s, j * 8) - run_bytes(), this->row_bytes, 1);
    this->copy_rows(this->tile(s, j) + own, this->row(s, j * 8), this->row_bytes, 1);
    dev::commit_copies();
  }
  template <class S>
  LF_DEVICE void arrive(int s, int j) const {
    dev::wait_copies<0>();
    dev::sync_block();
    if (j + 1 < this->tiles) fetch(s, j + 1);
  }
};

}  // namespace lstmfast::cuda
