// Compiler portability: the few macros that every layer below csrc/torch may use.
#pragma once

#if defined(__CUDACC__)
#define LF_HOST_DEVICE __host__ __device__
#else
#define LF_HOST_DEVICE
#endif

#define LF_INLINE inline __attribute__((always_inline))
#define LF_NOINLINE __attribute__((noinline))

// Code that is compiled once per instruction set lives in lstmfast::LF_ISA, so that no two units ever emit the same
// symbol: an ordinary inline template compiled in two units is one weak symbol, and the linker would be free to put
// the AVX-512 copy behind the baseline's call. An instruction set's unit defines LF_ISA before its first include.
#ifndef LF_ISA
#define LF_ISA portable
#endif
