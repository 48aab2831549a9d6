/* Compute the 8x8 discrete cosine transform and its inverse, in integers, with the same bits as
libjpeg's "islow".

The algorithm is that of Loeffler, Ligtenberg and Moschytz 1989, with 13 fraction bits in the
constants and 2 more bits between the passes. A block is eight vectors of eight; a pass transforms
along the vectors' index, all eight lanes at once. */

#ifndef DCT_H
#define DCT_H

#include "common.h"

typedef int32_t Int8 __attribute__((vector_size(32)));
typedef float Float8 __attribute__((vector_size(32)));
typedef int16_t Short8 __attribute__((vector_size(16)));

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

INLINE Int8 widen(const int16_t *row)
{
    Short8 narrow;
    memcpy(&narrow, row, sizeof(narrow));
    return __builtin_convertvector(narrow, Int8);
}

#ifdef __AVX2__

#include <immintrin.h>

/* The inputs have 16 bits; one instruction multiplies two coefficients by two constants and sums
the products in 32 bits. The sums are those of the plain passes below, multiplied out. A block is
four vectors of two rows each. */

INLINE __m256i pair_of(int even, int odd)
{
    return _mm256_set1_epi32((int)((uint32_t)(uint16_t)even | (uint32_t)odd << 16));
}

/* Interleave rows a and b: return the pairs of all eight columns. */
INLINE __m256i interleave(__m128i a, __m128i b)
{
    return _mm256_set_m128i(_mm_unpackhi_epi16(a, b), _mm_unpacklo_epi16(a, b));
}

/* Compute the odd half of either direction: what rotate() below does to t0 to t3. */
INLINE void rotate_pairs(__m128i t0, __m128i t1, __m128i t2, __m128i t3, __m256i *out)
{
    const __m256i sums = interleave(_mm_add_epi16(t0, t2), _mm_add_epi16(t1, t3)), outer = interleave(t0, t3), inner = interleave(t1, t2);
    const __m256i z3 = _mm256_madd_epi16(sums, pair_of(F_1_175 - F_1_961, F_1_175));
    const __m256i z4 = _mm256_madd_epi16(sums, pair_of(F_1_175, F_1_175 - F_0_390));
    out[0] = _mm256_add_epi32(_mm256_madd_epi16(outer, pair_of(F_0_298 - F_0_899, -F_0_899)), z3);
    out[3] = _mm256_add_epi32(_mm256_madd_epi16(outer, pair_of(-F_0_899, F_1_501 - F_0_899)), z4);
    out[1] = _mm256_add_epi32(_mm256_madd_epi16(inner, pair_of(F_2_053 - F_2_562, -F_2_562)), z4);
    out[2] = _mm256_add_epi32(_mm256_madd_epi16(inner, pair_of(-F_2_562, F_3_072 - F_2_562)), z3);
}

INLINE void inverse_pairs(const __m128i *v, __m256i *out, int shift)
{
    const __m256i half = _mm256_set1_epi32(1 << (shift - 1)), even = interleave(v[0], v[4]), rest = interleave(v[2], v[6]);
    const __m256i e0 = _mm256_add_epi32(_mm256_madd_epi16(even, pair_of(1 << FRACTION, 1 << FRACTION)), half);
    const __m256i e1 = _mm256_add_epi32(_mm256_madd_epi16(even, pair_of(1 << FRACTION, -(1 << FRACTION))), half);
    const __m256i e2 = _mm256_madd_epi16(rest, pair_of(F_0_541, F_0_541 - F_1_847));
    const __m256i e3 = _mm256_madd_epi16(rest, pair_of(F_0_541 + F_0_765, F_0_541));
    const __m256i a[4] = {_mm256_add_epi32(e0, e3), _mm256_add_epi32(e1, e2), _mm256_sub_epi32(e1, e2), _mm256_sub_epi32(e0, e3)};
    __m256i t[4];
    rotate_pairs(v[7], v[5], v[3], v[1], t);
    for (int i = 0; i < 4; i++) {
        out[i] = _mm256_srai_epi32(_mm256_add_epi32(a[i], t[3 - i]), shift);
        out[7 - i] = _mm256_srai_epi32(_mm256_sub_epi32(a[i], t[3 - i]), shift);
    }
}

/* Transpose eight rows of 32 bits to eight columns of 16 bits. */
INLINE void turn(const __m256i *rows, __m128i *columns)
{
    __m256i a[4], b[4];
    /* Row i in columns 0-3, row i + 4 in columns 0-3; then both in columns 4-7. */
    for (int i = 0; i < 4; i++)
        a[i] = _mm256_packs_epi32(rows[i], rows[i + 4]);
    b[0] = _mm256_unpacklo_epi16(a[0], a[1]); /* per half: rows 0 and 1 of four columns */
    b[1] = _mm256_unpackhi_epi16(a[0], a[1]); /* rows 4 and 5 */
    b[2] = _mm256_unpacklo_epi16(a[2], a[3]);
    b[3] = _mm256_unpackhi_epi16(a[2], a[3]);
    /* Rows 0-3 of two columns each, then rows 4-7. */
    const __m256i low[2] = {_mm256_unpacklo_epi32(b[0], b[2]), _mm256_unpackhi_epi32(b[0], b[2])};
    const __m256i high[2] = {_mm256_unpacklo_epi32(b[1], b[3]), _mm256_unpackhi_epi32(b[1], b[3])};
    for (int i = 0; i < 2; i++) {
        const __m256i first = _mm256_unpacklo_epi64(low[i], high[i]), second = _mm256_unpackhi_epi64(low[i], high[i]);
        columns[2 * i] = _mm256_castsi256_si128(first);
        columns[2 * i + 1] = _mm256_castsi256_si128(second);
        columns[2 * i + 4] = _mm256_extracti128_si256(first, 1);
        columns[2 * i + 5] = _mm256_extracti128_si256(second, 1);
    }
}

/* Convert quantised coefficients, row by row, and their quantisers to pixels; `largest` keeps the
largest sums of magnitudes. */
INLINE void inverse_dct(const int16_t *values, const int16_t *steps, uint8_t *out, Py_ssize_t stride, Int8 *largest)
{
    __m128i v[8];
    __m256i wide[8], sum = _mm256_setzero_si256();
    for (int i = 0; i < 8; i += 2) {
        const __m256i two = _mm256_loadu_si256((const __m256i *)(values + 8 * i)), step = _mm256_loadu_si256((const __m256i *)(steps + 8 * i));
        const __m256i coefficients = _mm256_mullo_epi16(two, step);
        /* Sums of two columns, over half of the rows. */
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_abs_epi16(two), step));
        v[i] = _mm256_castsi256_si128(coefficients);
        v[i + 1] = _mm256_extracti128_si256(coefficients, 1);
    }
    *largest = (Int8)_mm256_max_epi32((__m256i)*largest, sum);
    inverse_pairs(v, wide, FRACTION - BETWEEN);
    turn(wide, v);
    inverse_pairs(v, wide, FRACTION + BETWEEN + 3);
    turn(wide, v);
    for (int i = 0; i < 8; i += 2) {
        /* The exclusive or adds 128. */
        const __m128i two = _mm_xor_si128(_mm_packs_epi16(v[i], v[i + 1]), _mm_set1_epi8((char)0x80));
        _mm_storel_epi64((__m128i *)(out + stride * i), two);
        _mm_storel_epi64((__m128i *)(out + stride * (i + 1)), _mm_unpackhi_epi64(two, two));
    }
}

/* `scale`: bits to drop from a value that is only a sum (to add, if negative); `shift`: bits to
drop from a value with a fraction. */
INLINE void forward_pairs(const __m128i *v, __m256i *out, int scale, int shift)
{
    const __m256i half = _mm256_set1_epi32(1 << (shift - 1));
    const __m128i s0 = _mm_add_epi16(v[0], v[7]), s1 = _mm_add_epi16(v[1], v[6]), s2 = _mm_add_epi16(v[2], v[5]), s3 = _mm_add_epi16(v[3], v[4]);
    const __m128i e0 = _mm_add_epi16(s0, s3), e1 = _mm_add_epi16(s1, s2), e2 = _mm_sub_epi16(s1, s2), e3 = _mm_sub_epi16(s0, s3);
    const __m256i sums = interleave(e0, e1), rest = interleave(e2, e3);
    const int factor = scale < 0 ? 1 << -scale : 1;
    out[0] = _mm256_madd_epi16(sums, pair_of(factor, factor));
    out[4] = _mm256_madd_epi16(sums, pair_of(factor, -factor));
    if (scale > 0) {
        const __m256i half_of_sum = _mm256_set1_epi32(1 << (scale - 1));
        out[0] = _mm256_srai_epi32(_mm256_add_epi32(out[0], half_of_sum), scale);
        out[4] = _mm256_srai_epi32(_mm256_add_epi32(out[4], half_of_sum), scale);
    }
    out[2] = _mm256_srai_epi32(_mm256_add_epi32(_mm256_madd_epi16(rest, pair_of(F_0_541, F_0_541 + F_0_765)), half), shift);
    out[6] = _mm256_srai_epi32(_mm256_add_epi32(_mm256_madd_epi16(rest, pair_of(F_0_541 - F_1_847, F_0_541)), half), shift);
    __m256i t[4];
    rotate_pairs(_mm_sub_epi16(v[3], v[4]), _mm_sub_epi16(v[2], v[5]), _mm_sub_epi16(v[1], v[6]), _mm_sub_epi16(v[0], v[7]), t);
    for (int i = 0; i < 4; i++)
        out[7 - 2 * i] = _mm256_srai_epi32(_mm256_add_epi32(t[i], half), shift);
}

/* Convert rows of pixels minus 128, `stride` apart, to rows of coefficients times 8. */
INLINE void forward_dct(const int16_t *samples, Py_ssize_t stride, Int8 *out)
{
    __m256i wide[8];
    __m128i v[8];
    for (int i = 0; i < 8; i++)
        wide[i] = _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)(samples + stride * i)));
    turn(wide, v);
    forward_pairs(v, wide, -BETWEEN, FRACTION - BETWEEN);
    turn(wide, v);
    forward_pairs(v, (__m256i *)out, BETWEEN, FRACTION + BETWEEN);
}

#else

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

/* Compute the rotations of the odd half, which both directions share. */
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

/* Convert quantised coefficients, row by row, and their quantisers to pixels; `largest` keeps the
largest sums of magnitudes. */
INLINE void inverse_dct(const int16_t *values, const int16_t *steps, uint8_t *out, Py_ssize_t stride, Int8 *largest)
{
    Int8 v[8], sum = {0};
    for (int i = 0; i < 8; i++) {
        v[i] = widen(values + 8 * i) * widen(steps + 8 * i);
        const Int8 sign = v[i] >> 31;
        sum += (v[i] ^ sign) - sign;
    }
    const Int8 larger = sum > *largest;
    *largest = (sum & larger) | (*largest & ~larger);
    inverse_pass(v, FRACTION - BETWEEN);
    transpose(v);
    inverse_pass(v, FRACTION + BETWEEN + 3);
    /* v[j] is column j. Four columns become the bytes of one vector of words: lane i holds four
    pixels of row i. */
    const Int8 left = to_byte(v[0]) | to_byte(v[1]) << 8 | to_byte(v[2]) << 16 | to_byte(v[3]) << 24;
    const Int8 right = to_byte(v[4]) | to_byte(v[5]) << 8 | to_byte(v[6]) << 16 | to_byte(v[7]) << 24;
    const Int8 pairs[2] = {SHUFFLE(left, right, 0, 8, 1, 9, 2, 10, 3, 11), SHUFFLE(left, right, 4, 12, 5, 13, 6, 14, 7, 15)};
    const uint8_t *pixels = (const uint8_t *)pairs;
    for (int i = 0; i < 8; i++)
        memcpy(out + stride * i, pixels + 8 * i, 8);
}

/* `scale`: bits to drop from a value that is only a sum; `shift`: bits to drop from a value with a
fraction. */
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

/* Convert rows of pixels minus 128, `stride` apart, to rows of coefficients times 8. */
INLINE void forward_dct(const int16_t *samples, Py_ssize_t stride, Int8 *v)
{
    for (int i = 0; i < 8; i++)
        v[i] = widen(samples + stride * i);
    transpose(v);
    forward_pass(v, -BETWEEN, FRACTION - BETWEEN);
    transpose(v);
    forward_pass(v, BETWEEN, FRACTION + BETWEEN);
}

#endif

/* Do the same for a block that has only a mean: `dc` is its dequantised coefficient. */
INLINE void inverse_dct_flat(int dc, uint8_t *out, Py_ssize_t stride)
{
    int value = (((dc * (1 << BETWEEN)) + 16) >> 5) + 128;
    value = value < 0 ? 0 : value > 255 ? 255 : value;
    for (int i = 0; i < 8; i++)
        memset(out + stride * i, value, 8);
}

#endif
