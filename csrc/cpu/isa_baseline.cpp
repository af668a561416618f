// Any processor of the target architecture: SSE2 on x86-64, NEON on Arm.
#define LF_ISA baseline
#define LF_VECTOR_BYTES 16
#if defined(__aarch64__)
#define LF_TILE_ROWS 6
#else
#define LF_TILE_ROWS 3
#endif
#include "unit.inl"
