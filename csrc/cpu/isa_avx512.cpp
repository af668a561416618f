// x86-64 with AVX-512 F, BW, DQ and VL.
#define LF_ISA avx512
#define LF_VECTOR_BYTES 64
#define LF_TILE_ROWS 6
#include "unit.inl"
