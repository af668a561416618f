// How the operand of the next step gets to the blocks that multiply by it. The operand is a matrix [sequences of the
// group][depth]; warps read it from shared memory, in tiles of eight sequences. A policy has
//
//   rows(tiling)        sequences for which it wants shared memory
//   begin()             once, when this shared memory has been cleared
//   put(s, n, col, x)   sets an element of the operand of step s; a block puts those of its own units
//   held(s, n, col)     an element that this thread has put
//   release(s)          every thread of the block calls it when the block's part of the operand of step s has been put
//   acquire(s)          begins to get the operand of step s
//   arrive(s, j)        for j = 0, 1, ...: after it, tile(s, j) holds tile j, until arrive(s, j + 2)
//   kStacked            whether a part of the operand comes from the run beside; hand_on(s, n, col, x) then sets an
//                       element of what the next run gets at step s, before release(s + 1)
//
// in the order begin(), put(0), release(0), and for each step s: acquire(s), arrive(s, j), put(s + 1), release(s + 1).
#pragma once
#include "persistent.h"
#include "types.cuh"

namespace lstmfast::cuda {

// The operand of two steps, in this block's shared memory.
template <class T>
struct InShared {
  static constexpr bool kStacked = false;
  unsigned char* shared;
  int step_bytes, pitch;

  LF_DEVICE InShared(const PersistentCall& p, unsigned char* memory)
      : shared(memory), step_bytes(p.plan.tiling.tiles * 8 * p.plan.tiling.pitch), pitch(p.plan.tiling.pitch) {}
  static LF_DEVICE int rows(const Tiling& t) { return 2 * t.tiles * 8; }
  LF_DEVICE unsigned char* row(int s, int n) const { return shared + (s & 1) * step_bytes + n * pitch; }
  LF_DEVICE unsigned char* tile(int s, int j) const { return row(s, j * 8); }
  LF_DEVICE void put(int s, int n, int col, T x) const { reinterpret_cast<T*>(row(s, n))[col] = x; }
  LF_DEVICE T held(int s, int n, int col) const { return reinterpret_cast<const T*>(row(s, n))[col]; }
  LF_DEVICE void acquire(int) const {}
  LF_DEVICE void arrive(int, int) const {}
};

// A block has all of W_hh: what it computes it needs itself. Steps are read and written in turns.
// Barriers per step: one of the block.
template <class T>
struct InBlock : InShared<T> {
  using InShared<T>::InShared;
  LF_DEVICE void begin() const {}
  LF_DEVICE void release(int) const { dev::sync_block(); }
};

// The blocks of a group are a cluster, and write what they have computed into each other's shared memory: first into
// their own, then from there to the others, 16 bytes at a time. A block writes the operand of step s + 1 when it has
// passed the barrier of step s, at which the others had read that of step s - 1, which lies there.
// Barriers per step: one of the block, one of the cluster. Traffic: a block writes its part of the operand to all
// others.
template <class T>
struct InCluster : InShared<T> {
  int sequences, gate_bytes, gates, first, bytes;  // this block's part of a gate: [first, first + bytes)
  unsigned blocks;

  LF_DEVICE InCluster(const PersistentCall& p, unsigned char* memory)
      : InShared<T>(p, memory),
        sequences(p.plan.tiling.tiles * 8),
        gate_bytes(p.gate_width * static_cast<int>(sizeof(T))),
        gates(p.exchange_width / p.gate_width),
        blocks(static_cast<unsigned>(p.plan.tiling.group_blocks)) {
    const int part = p.plan.tiling.unit_warps * p.plan.tiling.warp_units * static_cast<int>(sizeof(T));
    first = static_cast<int>(dev::cluster_rank()) * part;
    bytes = gate_bytes - first < part ? gate_bytes - first : part;
  }
  LF_DEVICE void begin() const { dev::cluster_sync(); }
  LF_DEVICE void release(int s) const {
    dev::sync_block();
    const int chunks = bytes / 16, threads = static_cast<int>(dev::thread_count());
    for (int i = static_cast<int>(dev::thread_index()); i < sequences * gates * chunks; i += threads) {
      const int segment = i / chunks, n = segment / gates;
      unsigned char* at = this->row(s, n) + (segment - n * gates) * gate_bytes + first + (i - segment * chunks) * 16;
      const dev::Words x = *reinterpret_cast<const dev::Words*>(at);
      for (unsigned rank = 0; rank < blocks; rank++)
        if (rank != dev::cluster_rank()) dev::store_remote(at, x, rank);
    }
    dev::cluster_sync();
  }
};

// The blocks of a group exchange through global memory, which stays in L2, and count arrivals in a flag. Two buffers:
// a block that writes the operand of step s + 1 has seen all others arrive with that of step s, so they have read that
// of step s - 1, which lies where it writes. Shared memory has room for two tiles: one comes in while the other is
// used. Barriers per step: two of the block and one more for each tile, one of the group. Traffic: a block reads all of
// the group's operand.
template <class T>
struct ThroughL2 {
  static constexpr bool kStacked = false;
  unsigned char* shared;
  unsigned char* global;  // [2][runs][groups][sequences][row_bytes]
  uint32_t* flag;
  int64_t buffer_bytes;
  int pitch, row_bytes, tiles;
  uint32_t blocks;

  LF_DEVICE ThroughL2(const PersistentCall& p, unsigned char* memory)
      : shared(memory),
        pitch(p.plan.tiling.pitch),
        row_bytes(p.exchange_width * static_cast<int>(sizeof(T))),
        tiles(p.plan.tiling.tiles),
        blocks(static_cast<uint32_t>(p.plan.tiling.group_blocks)) {
    const int64_t group = dev::block_index() / blocks, bytes = static_cast<int64_t>(tiles) * 8 * row_bytes;
    buffer_bytes = static_cast<int64_t>(p.plan.runs) * p.plan.tiling.groups * bytes;
    global = static_cast<unsigned char*>(p.exchange) + group * bytes;
    flag = p.flags + group * kFlagStride;
  }
  static LF_DEVICE int rows(const Tiling& t) { return (t.tiles < 2 ? t.tiles : 2) * 8; }
  LF_DEVICE void begin() const {}
  LF_DEVICE unsigned char* tile(int, int j) const { return shared + (j & 1) * 8 * pitch; }
  LF_DEVICE unsigned char* row(int s, int n) const {
    return global + (s & 1) * buffer_bytes + static_cast<int64_t>(n) * row_bytes;
  }
  LF_DEVICE void put(int s, int n, int col, T x) const { reinterpret_cast<T*>(row(s, n))[col] = x; }
  LF_DEVICE T held(int s, int n, int col) const { return reinterpret_cast<const T*>(row(s, n))[col]; }

  LF_DEVICE void acquire(int s) const {
    if (dev::thread_index() == 0) dev::wait_acquire(flag, static_cast<uint32_t>(s + 1) * blocks);
    dev::sync_block();
    fetch(s, 0);
  }
  LF_DEVICE void fetch(int s, int j) const {
    copy_tile(tile(s, j), row(s, j * 8));
    dev::commit_copies();
  }
  LF_DEVICE void copy_tile(unsigned char* to, const unsigned char* from) const {
    const int threads = static_cast<int>(dev::thread_count());
    for (int at = static_cast<int>(dev::thread_index()) * 16; at < 8 * row_bytes; at += threads * 16)
      dev::copy_async16(to + at / row_bytes * pitch + at % row_bytes, from + at);
  }
  // The barrier shows every thread's copies to all, and that the tile before is no longer read.
  LF_DEVICE void arrive(int s, int j) const {
    dev::wait_copies<0>();
    dev::sync_block();
    if (j + 1 < tiles) fetch(s, j + 1);
  }
  // The barrier puts every thread's writes before the flag, which is a release for the whole GPU.
  LF_DEVICE void release(int) const {
    dev::sync_block();
    if (dev::thread_index() == 0) dev::add_release(flag, 1);
  }
};

// The same in a stack, where the operand has a second part: what the run beside has handed on at this step. Every step
// has its own place for that, so that a layer never waits for the one that reads from it. Barriers per step: as above;
// of a flag, one more that is waited for. Traffic: twice the operand.
template <class T>
struct ThroughStack : ThroughL2<T> {
  static constexpr bool kStacked = true;
  const PersistentCall& p;
  unsigned char* handed;  // [steps][groups][sequences][row_bytes]: this group's, of the first step
  bool is_fed, feeds;     // not at the ends of the stack

  LF_DEVICE ThroughStack(const PersistentCall& call, unsigned char* memory) : ThroughL2<T>(call, memory), p(call) {
    const int groups = p.plan.tiling.groups, group = static_cast<int>(dev::block_index() / this->blocks);
    const int run = group / groups;
    is_fed = run > 0, feeds = run + 1 < p.plan.runs;
    handed = static_cast<unsigned char*>(p.handed) + run * run_bytes() + group % groups * (step_bytes() / groups);
  }
  // What is not in registers comes from the arguments again.
  LF_DEVICE int64_t step_bytes() const {
    return static_cast<int64_t>(p.plan.tiling.groups) * this->tiles * 8 * this->row_bytes;
  }
  LF_DEVICE int64_t run_bytes() const { return p.steps * step_bytes(); }
  LF_DEVICE unsigned char* handed_row(int s, int n) const {
    return handed + s * step_bytes() + static_cast<int64_t>(n) * this->row_bytes;
  }

  LF_DEVICE void hand_on(int s, int n, int col, T x) const {
    if (feeds) reinterpret_cast<T*>(handed_row(s, n))[col] = x;
  }
  // The run before has handed on step s when it has released step s + 1.
  LF_DEVICE void acquire(int s) const {
    if (dev::thread_index() == 0) {
      const uint32_t* before = this->flag - p.plan.tiling.groups * kFlagStride;
      if (is_fed && s < p.steps) dev::wait_acquire(before, static_cast<uint32_t>(s + 2) * this->blocks);
      dev::wait_acquire(this->flag, static_cast<uint32_t>(s + 1) * this->blocks);
    }
    dev::sync_block();
    fetch(s, 0);
  }
  LF_DEVICE void fetch(int s, int j) const {
    const int own = p.plan.tiling.own_slice * p.plan.tiling.depth_tiles * 32;  // bytes of the first part
    if (is_fed && s < p.steps) this->copy_tile(this->tile(s, j), handed_row(s, j * 8) - run_bytes());
    this->copy_tile(this->tile(s, j) + own, this->row(s, j * 8));
    dev::commit_copies();
  }
  LF_DEVICE void arrive(int s, int j) const {
    dev::wait_copies<0>();
    dev::sync_block();
    if (j + 1 < this->tiles) fetch(s, j + 1);
  }
};

}  // namespace lstmfast::cuda
