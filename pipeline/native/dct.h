/* The 8x8 discrete cosine transform and its inverse, in the integers of libjpeg's "islow": every bit is the same.

Loeffler, Ligtenberg and Moschytz 1989, with 13 bits of fraction in the constants and 2 more bits between the passes. A block is
eight vectors of eight; a pass transforms along the vectors' index, all eight lanes at once. */

#ifndef DCT_H
#define DCT_H

#include "common.h"

typedef int32_t Int8 __attribute__((vector_size(32)));
typedef float Float8 __attribute__((vector_size(32)));

#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (Int8){__VA_ARGS__})
#endif

enum { FRACTION = 13, BETWEEN = 2 };

/* The constants of the transform, times 2**13. */
enum {
    F_0_298 = 2446, F_0_390 = 3196, F_0_541 = 4433, F_0_765 = 6270, F_0_899 = 7373, F_1_175 = 9633,
    F_1_501 = 12299, F_1_847 = 15137, F_1_961 = 16069, F_2_053 = 16819, F_2_562 = 20995, F_3_072 = 25172,
};

INLINE void transpose(Int8 *v)
{
    Int8 a[8], b[8];
    for (int i = 0; i < 8; i += 2) {
        a[i] = SHUFFLE(v[i], v[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        a[i + 1] = SHUFFLE(v[i], v[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            b[i + 2 * j] = SHUFFLE(a[i + j], a[i + j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
            b[i + 2 * j + 1] = SHUFFLE(a[i + j], a[i + j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        }
    for (int i = 0; i < 4; i++) {
        v[i] = SHUFFLE(b[i], b[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        v[i + 4] = SHUFFLE(b[i], b[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
}

/* The rotations of the odd half, which both directions share. */
INLINE void rotate(Int8 *t0, Int8 *t1, Int8 *t2, Int8 *t3)
{
    const Int8 z5 = (*t0 + *t2 + *t1 + *t3) * F_1_175;
    const Int8 z1 = (*t0 + *t3) * -F_0_899, z2 = (*t1 + *t2) * -F_2_562;
    const Int8 z3 = (*t0 + *t2) * -F_1_961 + z5, z4 = (*t1 + *t3) * -F_0_390 + z5;
    *t0 = *t0 * F_0_298 + z1 + z3;
    *t1 = *t1 * F_2_053 + z2 + z4;
    *t2 = *t2 * F_3_072 + z2 + z3;
    *t3 = *t3 * F_1_501 + z1 + z4;
}

INLINE void inverse_pass(Int8 *v, int shift)
{
    const Int8 z1 = (v[2] + v[6]) * F_0_541;
    const Int8 e2 = z1 - v[6] * F_1_847, e3 = z1 + v[2] * F_0_765;
    const Int8 e0 = (v[0] + v[4]) * (1 << FRACTION), e1 = (v[0] - v[4]) * (1 << FRACTION);
    const int half = 1 << (shift - 1);
    const Int8 a0 = e0 + e3 + half, a3 = e0 - e3 + half, a1 = e1 + e2 + half, a2 = e1 - e2 + half;
    Int8 t0 = v[7], t1 = v[5], t2 = v[3], t3 = v[1];
    rotate(&t0, &t1, &t2, &t3);
    v[0] = (a0 + t3) >> shift;
    v[7] = (a0 - t3) >> shift;
    v[1] = (a1 + t2) >> shift;
    v[6] = (a1 - t2) >> shift;
    v[2] = (a2 + t1) >> shift;
    v[5] = (a2 - t1) >> shift;
    v[3] = (a3 + t0) >> shift;
    v[4] = (a3 - t0) >> shift;
}

INLINE Int8 to_byte(Int8 v)
{
    v += 128;
    v &= ~(v < 0);
    const Int8 over = v > 255;
    return (v & ~over) | (over & 255);
}

INLINE Int8 widen(const int16_t *row)
{
    int16_t narrow __attribute__((vector_size(16)));
    memcpy(&narrow, row, sizeof(narrow));
    return __builtin_convertvector(narrow, Int8);
}

/* Dequantised coefficients, row by row, to pixels; `largest` keeps the largest sum of magnitudes of each column. */
INLINE void inverse_dct(const int16_t *coefficients, uint8_t *out, Py_ssize_t stride, Int8 *largest)
{
    Int8 v[8], sum = {0};
    for (int i = 0; i < 8; i++) {
        v[i] = widen(coefficients + 8 * i);
        const Int8 sign = v[i] >> 31;
        sum += (v[i] ^ sign) - sign;
    }
    const Int8 larger = sum > *largest;
    *largest = (sum & larger) | (*largest & ~larger);
    inverse_pass(v, FRACTION - BETWEEN);
    transpose(v);
    inverse_pass(v, FRACTION + BETWEEN + 3);
    /* v[j] is column j. Four columns become the bytes of one vector of words: lane i holds four pixels of row i. */
    const Int8 left = to_byte(v[0]) | to_byte(v[1]) << 8 | to_byte(v[2]) << 16 | to_byte(v[3]) << 24;
    const Int8 right = to_byte(v[4]) | to_byte(v[5]) << 8 | to_byte(v[6]) << 16 | to_byte(v[7]) << 24;
    const Int8 pairs[2] = {SHUFFLE(left, right, 0, 8, 1, 9, 2, 10, 3, 11), SHUFFLE(left, right, 4, 12, 5, 13, 6, 14, 7, 15)};
    const uint8_t *pixels = (const uint8_t *)pairs;
    for (int i = 0; i < 8; i++)
        memcpy(out + stride * i, pixels + 8 * i, 8);
}

/* The same of a block with only a mean: `dc` is its dequantised coefficient. */
INLINE void inverse_dct_flat(int dc, uint8_t *out, Py_ssize_t stride)
{
    int value = (((dc * (1 << BETWEEN)) + 16) >> 5) + 128;
    value = value < 0 ? 0 : value > 255 ? 255 : value;
    for (int i = 0; i < 8; i++)
        memset(out + stride * i, value, 8);
}

/* `scale` are the bits to lose of a value that is only a sum, `shift` those of one with a fraction. */
INLINE void forward_pass(Int8 *v, int scale, int shift)
{
    const Int8 s0 = v[0] + v[7], s1 = v[1] + v[6], s2 = v[2] + v[5], s3 = v[3] + v[4];
    Int8 t0 = v[3] - v[4], t1 = v[2] - v[5], t2 = v[1] - v[6], t3 = v[0] - v[7];
    const Int8 e0 = s0 + s3, e3 = s0 - s3, e1 = s1 + s2, e2 = s1 - s2;
    const int half = 1 << (shift - 1);
    const Int8 z1 = (e2 + e3) * F_0_541 + half;
    if (scale < 0) {
        v[0] = (e0 + e1) * (1 << -scale);
        v[4] = (e0 - e1) * (1 << -scale);
    } else {
        v[0] = (e0 + e1 + (1 << (scale - 1))) >> scale;
        v[4] = (e0 - e1 + (1 << (scale - 1))) >> scale;
    }
    v[2] = (z1 + e3 * F_0_765) >> shift;
    v[6] = (z1 - e2 * F_1_847) >> shift;
    rotate(&t0, &t1, &t2, &t3);
    v[7] = (t0 + half) >> shift;
    v[5] = (t1 + half) >> shift;
    v[3] = (t2 + half) >> shift;
    v[1] = (t3 + half) >> shift;
}

/* In place: rows of pixels less 128 to rows of coefficients times 8. */
INLINE void forward_dct(Int8 *v)
{
    transpose(v);
    forward_pass(v, -BETWEEN, FRACTION - BETWEEN);
    transpose(v);
    forward_pass(v, BETWEEN, FRACTION + BETWEEN);
}

#endif
