// What kernels ask of the machine: the only file with PTX, intrinsics and the CUDA runtime. Built without nvcc, the
// same functions come from the emulation (tests/cuda_emulation/device.h), and kernels run on a CPU.
//
// So that they do, kernels have one-dimensional blocks of whole warps, no static shared memory, no inline PTX, no spin
// loop of their own, and use warp operations with all 32 lanes only.
#pragma once
#include <cstddef>
#include <cstdint>

#if defined(LSTMFAST_CUDA_EMULATION)
#include "device.h"
#else
#include <cuda_runtime_api.h>

#define LF_DEVICE __device__ __forceinline__

namespace lstmfast::cuda::dev {

extern __shared__ __align__(128) unsigned char dynamic_shared_memory[];
LF_DEVICE unsigned char* shared_memory() { return dynamic_shared_memory; }
LF_DEVICE unsigned thread_index() { return threadIdx.x; }
LF_DEVICE unsigned block_index() { return blockIdx.x; }
LF_DEVICE unsigned block_count() { return gridDim.x; }
LF_DEVICE unsigned group_index() { return blockIdx.y; }
LF_DEVICE unsigned run_index() { return blockIdx.z; }
LF_DEVICE unsigned thread_count() { return blockDim.x; }
// The same value, but what is made of it is computed anew, where the compiler would keep it in registers.
LF_DEVICE int anew(int x) {
  asm volatile("" : "+r"(x));
  return x;
}
LF_DEVICE void sync_block() { __syncthreads(); }
LF_DEVICE void sync_warp() { __syncwarp(); }
template <class T>
LF_DEVICE T shuffle_xor(T v, int mask) {
  return __shfl_xor_sync(0xffffffffu, v, mask);
}
// Byte i of the result is that of `low` and `high`, eight bytes together, which hexadecimal digit i of `from` numbers.
LF_DEVICE uint32_t permute_bytes(uint32_t low, uint32_t high, uint32_t from) { return __byte_perm(low, high, from); }

// The emulation refuses a wide access that a GPU would trap on.
template <int bytes>
LF_DEVICE void check_alignment(const void*) {}

// ---- conversions
LF_DEVICE uint32_t bits_of(float x) { return __float_as_uint(x); }
LF_DEVICE float float_of(uint32_t u) { return __uint_as_float(u); }
LF_DEVICE uint16_t to_bfloat16(float x) {
  uint16_t y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
  return y;
}
LF_DEVICE float from_bfloat16(uint16_t x) { return __uint_as_float(static_cast<uint32_t>(x) << 16); }
LF_DEVICE uint16_t to_float16(float x) {
  uint16_t y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
  return y;
}
LF_DEVICE float from_float16(uint16_t x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
  return y;
}
// Rounds to 10 bits of mantissa, to nearest, ties away from zero.
LF_DEVICE float to_tf32(float x) {
  uint32_t y;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
  return __uint_as_float(y);
}

// ---- approximate functions
LF_DEVICE float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
LF_DEVICE float reciprocal_approx(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
LF_DEVICE float tanh_approx(float x) {
  float y;
  asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// ---- tensor cores: D += A B on one tile per warp, 16 x 16 x 8 (16-bit) or 16 x 8 x 8 (TF32)
LF_DEVICE void mma_bfloat16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
LF_DEVICE void mma_float16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
LF_DEVICE void mma_tf32(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
LF_DEVICE uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }
// Four 8 x 16-byte matrices: lane l gives the address of row l % 8 of matrix l / 8 and gets word l % 4 of row l / 4 of
// each.
LF_DEVICE void load_matrices(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

struct alignas(16) Words {
  uint32_t at[4];
};

// ---- between blocks
// From L2: what other blocks have written must not come out of this multiprocessor's L1.
LF_DEVICE void copy_async16(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(global) : "memory");
}
LF_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int keep>
LF_DEVICE void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(keep) : "memory");
}
LF_DEVICE void add_release(uint32_t* flag, uint32_t value) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}
// Waits until *flag >= value, modulo 2^32.
LF_DEVICE void wait_acquire(const uint32_t* flag, uint32_t value) {
#ifdef LSTMFAST_DEBUG_SPINS
  long long spins = 0;
#endif
  uint32_t seen;
  while (true) {
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(flag) : "memory");
    if (static_cast<int32_t>(seen - value) >= 0) return;
#ifdef LSTMFAST_DEBUG_SPINS
    if (++spins > 10000000) __trap();  // some seconds, where a step takes microseconds
#endif
  }
}

// Words that other blocks store, or load, at the same time, with nothing else ordered by it: relaxed, in the scope of
// the GPU. Sixteen bytes are loaded as four words, in no order.
LF_DEVICE void store_relaxed(uint32_t* p, uint32_t x) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(x));
}
LF_DEVICE Words load_relaxed(const uint32_t* p) {
  Words x;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(x.at[0]), "=r"(x.at[1]), "=r"(x.at[2]), "=r"(x.at[3])
               : "l"(p));
  return x;
}
// Repeats round(), which loads words that others store, until it has found them all.
template <class F>
LF_DEVICE void poll(const F& round) {
#ifdef LSTMFAST_DEBUG_SPINS
  long long spins = 0;
#endif
  while (!round()) {
#ifdef LSTMFAST_DEBUG_SPINS
    if (++spins > 10000000) __trap();
#endif
  }
}

// ---- between the blocks of a cluster, which older GPUs than compute capability 9.0 do not have: the planner does not
// choose kernels with clusters there, and what is compiled for them traps.
LF_DEVICE unsigned cluster_rank() {
  uint32_t rank = 0;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
  return rank;
}
// All threads of all blocks, each of them arriving and waiting in turns: what any of them wrote before it arrived, in
// shared memory of whichever block, all see when they have waited.
LF_DEVICE void cluster_arrive() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  __syncwarp();
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#else
  __trap();
#endif
}
LF_DEVICE void cluster_wait() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  __syncwarp();
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
  __trap();
#endif
}
// Stores 16 bytes at the place in another block's shared memory that `local` is in this one's.
LF_DEVICE void store_remote(void* local, const Words& x, unsigned rank) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  uint32_t remote;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(shared_address(local)), "r"(rank));
  asm volatile("st.shared::cluster.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(remote), "r"(x.at[0]), "r"(x.at[1]),
               "r"(x.at[2]), "r"(x.at[3])
               : "memory");
#else
  __trap();
#endif
}

// ---- the host's side. Every call returns a cudaError_t.
struct Launch {
  unsigned blocks = 1, threads = 32;
  size_t shared_bytes = 0;
  unsigned cluster = 1;
  bool cooperative = false;
  unsigned groups = 1, runs = 1;  // of so many blocks each, of so many groups each
};
constexpr int kErrorCooperativeLaunchTooLarge = cudaErrorCooperativeLaunchTooLarge;

template <class Params>
int launch(void (*kernel)(Params), const Launch& shape, const Params& params, void* stream) {
  static_assert(sizeof(Params) <= 4096, "kernel arguments are limited");
  cudaLaunchAttribute attributes[2];
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(shape.blocks, shape.groups, shape.runs);
  config.blockDim = dim3(shape.threads);
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = attributes;
  if (shape.cooperative) {
    attributes[config.numAttrs].id = cudaLaunchAttributeCooperative;
    attributes[config.numAttrs++].val.cooperative = 1;
  }
  if (shape.cluster > 1) {
    attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
    attributes[config.numAttrs].val.clusterDim.x = shape.cluster;
    attributes[config.numAttrs].val.clusterDim.y = 1;
    attributes[config.numAttrs++].val.clusterDim.z = 1;
  }
  void* arguments[] = {const_cast<Params*>(&params)};
  const cudaError_t error = cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(kernel), arguments);
  if (error != cudaSuccess) cudaGetLastError();  // reported by its value: the caller may go on without this kernel
  return error;
}
template <class Params>
int allow_shared_memory(void (*kernel)(Params), int bytes) {
  const cudaError_t error =
      cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error != cudaSuccess) cudaGetLastError();
  return error;
}
inline int most_shared_memory(int* bytes) {
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error != cudaSuccess) cudaGetLastError();
  return error;
}
inline int set_memory(void* p, int value, size_t bytes, void* stream) {
  const cudaError_t error = cudaMemsetAsync(p, value, bytes, static_cast<cudaStream_t>(stream));
  if (error != cudaSuccess) cudaGetLastError();
  return error;
}

}  // namespace lstmfast::cuda::dev
#endif
