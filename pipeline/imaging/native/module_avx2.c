/* module.c under another name, compiled for AVX2. */

#define MODULE "_kernels_avx2"
#define INITIALISE PyInit__kernels_avx2

#include "module.c"
