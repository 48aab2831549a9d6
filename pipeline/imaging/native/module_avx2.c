/* Compile module.c for AVX2, under another module name. */

#define MODULE "_kernels_avx2"
#define INITIALISE PyInit__kernels_avx2

#include "module.c"
