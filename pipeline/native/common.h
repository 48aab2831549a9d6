/* What the loops share. */

#ifndef COMMON_H
#define COMMON_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define CLONES __attribute__((target_clones("arch=x86-64-v3", "default"))) /* avx2 has no FMA in it */
#else
#define CLONES
#endif
#define INLINE static inline __attribute__((always_inline))

#endif
