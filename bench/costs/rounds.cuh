// Rounds of what a step of the persistent kernels waits for, with nothing else in them: barriers, the two exchanges
// between blocks, chains of mma. Through the wrappers that those kernels use, so that the same instructions are timed,
// and the emulated GPU can run them.
#pragma once
#include "cuda/mailbox.cuh"

namespace lstmfast::cuda::costs {

struct Rounds {
  int rounds;
  int bytes;            // of the operand that a group exchanges, a multiple of 16 x its blocks
  int blocks;           // of a group
  unsigned char* meet;  // [2][groups][bytes] in device memory; of a mailbox [rounds][groups][bytes], all unsent
  uint32_t* flags;      // kFlagStride apart, one a group, zero at launch
  float* sums;          // [blocks of the grid][threads]: of what each thread has read, so that nothing can be left out
};

LF_DEVICE void keep(const Rounds& p, float sum) {
  p.sums[dev::block_index() * dev::thread_count() + dev::thread_index()] = sum;
}

// One barrier of the block a round.
__global__ void block_barriers(const __grid_constant__ Rounds p) {
#pragma unroll 1
  for (int r = 0; r < p.rounds; r++) dev::sync_block();
  keep(p, 1);
}

// One barrier of the cluster a round.
__global__ void cluster_barriers(const __grid_constant__ Rounds p) {
#pragma unroll 1
  for (int r = 0; r < p.rounds; r++) dev::cluster_arrive(), dev::cluster_wait();
  keep(p, 1);
}

// A value that tells the round and the block; exact in float32 for those that are tested.
LF_DEVICE dev::Words words(int round, int rank) {
  const uint32_t x = dev::bits_of(static_cast<float>(round * 256 + rank));
  return {{x, x, x, x}};
}
// Of what has come, every thread reads one word.
LF_DEVICE float word_of(const unsigned char* operand, int bytes) {
  const int at = static_cast<int>(dev::thread_index()) * 16;
  return at < bytes ? *reinterpret_cast<const float*>(operand + at) : 0;
}

// The operand through L2, as in ThroughL2: every block writes its part, all meet at the flag, every block copies all of
// it into its shared memory. Three barriers of the block a round, and a fourth before the next copies.
__global__ void through_l2(const __grid_constant__ Rounds p) {
  unsigned char* shared = dev::shared_memory();
  const int group = static_cast<int>(dev::block_index()) / p.blocks,
            rank = static_cast<int>(dev::block_index()) % p.blocks;
  const int groups = static_cast<int>(dev::block_count()) / p.blocks, part = p.bytes / p.blocks;
  const int first = static_cast<int>(dev::thread_index()) * 16, stride = static_cast<int>(dev::thread_count()) * 16;
  uint32_t* flag = p.flags + group * kFlagStride;
  float sum = 0;
#pragma unroll 1
  for (int r = 0; r < p.rounds; r++) {
    unsigned char* meet = p.meet + (static_cast<int64_t>(r & 1) * groups + group) * p.bytes;
    for (int at = first; at < part; at += stride)
      *reinterpret_cast<dev::Words*>(meet + rank * part + at) = words(r, rank);
    dev::sync_block();
    if (dev::thread_index() == 0) {
      dev::add_release(flag, 1);
      dev::wait_acquire(flag, static_cast<uint32_t>((r + 1) * p.blocks));
    }
    dev::sync_block();
    for (int at = first; at < p.bytes; at += stride) dev::copy_async16(shared + at, meet + at);
    dev::commit_copies();
    dev::wait_copies<0>();
    dev::sync_block();
    sum += word_of(shared, p.bytes);
    dev::sync_block();
  }
  keep(p, sum);
}

// The operand through a mailbox, as in ThroughMailbox: every block stores its part, word by word, and receives all of
// it. One barrier of the block a round.
__global__ void through_mailbox(const __grid_constant__ Rounds p) {
  constexpr int kLoads = 4;
  const int group = static_cast<int>(dev::block_index()) / p.blocks,
            rank = static_cast<int>(dev::block_index()) % p.blocks;
  const int groups = static_cast<int>(dev::block_count()) / p.blocks, part = p.bytes / p.blocks;
  const int thread = static_cast<int>(dev::thread_index()), threads = static_cast<int>(dev::thread_count());
  float sum = 0;
#pragma unroll 1
  for (int r = 0; r < p.rounds; r++) {
    unsigned char* shared = dev::shared_memory() + (r & 1) * p.bytes;
    uint32_t* meet = reinterpret_cast<uint32_t*>(p.meet + (static_cast<int64_t>(r) * groups + group) * p.bytes);
    for (int at = thread * 4; at < part; at += threads * 4)
      dev::store_relaxed(meet + (rank * part + at) / 4, sendable(words(r, rank).at[0]));
    for (int first = thread * 16; first < p.bytes; first += kLoads * threads * 16) {
      const auto at = [&](int k) { return first + k * threads * 16; };
      unsigned missing = 0;
#pragma unroll
      for (int k = 0; k < kLoads; k++)
        if (at(k) < p.bytes) missing |= 1u << k;
      receive_words<kLoads>(missing, [&](int k) { return meet + at(k) / 4; }, [&](int k) { return shared + at(k); });
    }
    dev::sync_block();
    sum += word_of(shared, p.bytes);
  }
  keep(p, sum);
}

// The operand through distributed shared memory: every block stores its part into all others, as in InCluster. One
// barrier of the cluster a round, and one of the block, which InCluster does without.
__global__ void through_cluster(const __grid_constant__ Rounds p) {
  unsigned char* shared = dev::shared_memory();
  const int rank = static_cast<int>(dev::cluster_rank()), part = p.bytes / p.blocks;
  const int first = static_cast<int>(dev::thread_index()) * 16, stride = static_cast<int>(dev::thread_count()) * 16;
  dev::cluster_arrive(), dev::cluster_wait();  // all blocks are there
  float sum = 0;
#pragma unroll 1
  for (int r = 0; r < p.rounds; r++) {
    unsigned char* operand = shared + (r & 1) * p.bytes;
    dev::sync_block();
    for (int at = first; at < part; at += stride)
      for (unsigned to = 0; to < static_cast<unsigned>(p.blocks); to++)
        dev::store_remote(operand + rank * part + at, words(r, rank), to);
    dev::cluster_arrive(), dev::cluster_wait();
    sum += word_of(operand, p.bytes);
  }
  keep(p, sum);
}

// `chains` sums, each of them added to in turn; every warp of the block.
template <int chains>
__global__ void mma_chains(const __grid_constant__ Rounds p) {
  float c[chains][4] = {};
  const uint32_t one = 0x3f803f80;  // two bfloat16
  const uint32_t a[4] = {one, one, one, one};
#pragma unroll 1
  for (int r = 0; r < p.rounds; r++)
#pragma unroll
    for (int i = 0; i < chains; i++) dev::mma_bfloat16(c[i], a, one, one);
  float sum = 0;
#pragma unroll
  for (int i = 0; i < chains; i++) sum += c[i][0] + c[i][1] + c[i][2] + c[i][3];
  keep(p, sum);
}

}  // namespace lstmfast::cuda::costs
