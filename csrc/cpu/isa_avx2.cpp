// x86-64 with AVX2, FMA and F16C.
#define LF_ISA avx2
#define LF_VECTOR_BYTES 32
#define LF_TILE_ROWS 3
#include "unit.inl"
