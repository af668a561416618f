// How the operand of the next step gets to the blocks that multiply by it. A policy has a tile of it in shared memory,
// [sequences of the group][pitch], and these operations:
//
//   acquire(s)          after it, tile(s) holds the operand of step s
//   put(s, n, col, x)   sets an element of the operand of step s
//   release(s)          after it, the operand of step s may be acquired; every thread of the block calls it
//   begin()             once, when the tiles of this block have been cleared and tile(0) holds the first operand
//
// Then acquire(0), release(1), acquire(1), release(2), and so on.
#pragma once
#include "persistent.h"
#include "types.cuh"

namespace lstmfast::cuda {

// A block has all of W_hh: what it computes it needs itself. Two tiles, read and written in turns.
// Barriers per step: one of the block.
template <class T>
struct InBlock {
  static constexpr int kTiles = 2;
  unsigned char* shared;
  int tile_bytes, pitch;

  LF_DEVICE InBlock(const PersistentCall& p, unsigned char* memory)
      : shared(memory), tile_bytes(p.plan.tiling.tiles * 8 * p.plan.tiling.pitch), pitch(p.plan.tiling.pitch) {}
  LF_DEVICE unsigned char* tile(int s) const { return shared + (s & 1) * tile_bytes; }
  LF_DEVICE void begin() const {}
  LF_DEVICE void acquire(int) const {}
  LF_DEVICE void put(int s, int n, int col, T x) const { reinterpret_cast<T*>(tile(s) + n * pitch)[col] = x; }
  LF_DEVICE void release(int) const { dev::sync_block(); }
};

// The blocks of a group are a cluster, and write what they have computed into each other's shared memory: first into
// their own tile, then from there to the others, 16 bytes at a time. Two tiles: a block writes into those of step s + 1
// when it has passed the barrier of step s, at which the others had read those of step s - 1, the same memory.
// Barriers per step: one of the block, one of the cluster. Traffic: a block writes its part of the operand to all
// others.
template <class T>
struct InCluster {
  static constexpr int kTiles = 2;
  unsigned char* shared;
  int tile_bytes, pitch, rows, gate_bytes, gates, first, bytes;  // this block's part of a gate: [first, first + bytes)
  unsigned blocks;

  LF_DEVICE InCluster(const PersistentCall& p, unsigned char* memory)
      : shared(memory),
        tile_bytes(p.plan.tiling.tiles * 8 * p.plan.tiling.pitch),
        pitch(p.plan.tiling.pitch),
        rows(p.plan.tiling.tiles * 8),
        gate_bytes(p.gate_width * static_cast<int>(sizeof(T))),
        gates(p.exchange_width / p.gate_width),
        blocks(static_cast<unsigned>(p.plan.tiling.group_blocks)) {
    const int part = p.plan.tiling.unit_warps * p.plan.tiling.warp_units * static_cast<int>(sizeof(T));
    first = static_cast<int>(dev::cluster_rank()) * part;
    bytes = gate_bytes - first < part ? gate_bytes - first : part;
  }
  LF_DEVICE unsigned char* tile(int s) const { return shared + (s & 1) * tile_bytes; }
  LF_DEVICE void begin() const { dev::cluster_sync(); }
  LF_DEVICE void acquire(int) const {}
  LF_DEVICE void put(int s, int n, int col, T x) const { reinterpret_cast<T*>(tile(s) + n * pitch)[col] = x; }
  LF_DEVICE void release(int s) const {
    dev::sync_block();
    const int chunks = bytes / 16, threads = static_cast<int>(dev::thread_count());
    for (int i = static_cast<int>(dev::thread_index()); i < rows * gates * chunks; i += threads) {
      const int segment = i / chunks, n = segment / gates;
      unsigned char* at =
          tile(s) + n * pitch + (segment - n * gates) * gate_bytes + first + (i - segment * chunks) * 16;
      const dev::Words x = *reinterpret_cast<const dev::Words*>(at);
      for (unsigned rank = 0; rank < blocks; rank++)
        if (rank != dev::cluster_rank()) dev::store_remote(at, x, rank);
    }
    dev::cluster_sync();
  }
};

// The blocks of a group exchange through global memory, which stays in L2, and count arrivals in a flag. Two buffers:
// a block that writes the operand of step s + 1 has seen all others arrive with that of step s, so they have read that
// of step s - 1, which lies where it writes.
// Barriers per step: three of the block, one of the group. Traffic: a block reads all of the group's operand.
template <class T>
struct ThroughL2 {
  static constexpr int kTiles = 1;
  unsigned char* shared;
  unsigned char* global;  // [2][groups][rows][row_bytes]
  uint32_t* flag;
  int64_t buffer_bytes;
  int pitch, row_bytes, rows;
  uint32_t blocks;

  LF_DEVICE ThroughL2(const PersistentCall& p, unsigned char* memory)
      : shared(memory),
        pitch(p.plan.tiling.pitch),
        row_bytes(p.exchange_width * static_cast<int>(sizeof(T))),
        rows(p.plan.tiling.tiles * 8),
        blocks(static_cast<uint32_t>(p.plan.tiling.group_blocks)) {
    const int64_t group = dev::block_index() / blocks;
    buffer_bytes = static_cast<int64_t>(p.plan.tiling.groups) * rows * row_bytes;
    global = static_cast<unsigned char*>(p.exchange) + group * rows * row_bytes;
    flag = p.flags + group * kFlagStride;
  }
  LF_DEVICE unsigned char* tile(int) const { return shared; }
  LF_DEVICE void begin() const {}
  LF_DEVICE void acquire(int s) const {
    if (s == 0) return;
    if (dev::thread_index() == 0) dev::wait_acquire(flag, static_cast<uint32_t>(s) * blocks);
    dev::sync_block();
    const unsigned char* from = global + (s & 1) * buffer_bytes;
    const int threads = static_cast<int>(dev::thread_count());
    for (int at = static_cast<int>(dev::thread_index()) * 16; at < rows * row_bytes; at += threads * 16)
      dev::copy_async16(shared + at / row_bytes * pitch + at % row_bytes, from + at);
    dev::commit_copies();
    dev::wait_copies<0>();
    dev::sync_block();
  }
  LF_DEVICE void put(int s, int n, int col, T x) const {
    reinterpret_cast<T*>(global + (s & 1) * buffer_bytes + n * row_bytes)[col] = x;
  }
  // The block's barrier puts every thread's writes before the flag, which is a release for the whole GPU.
  LF_DEVICE void release(int) const {
    dev::sync_block();
    if (dev::thread_index() == 0) dev::add_release(flag, 1);
  }
};

}  // namespace lstmfast::cuda
