/* Convert YCbCr to RGB and back, by JFIF's equations in libjpeg's integers: 16 fraction bits,
rounded. */

#ifndef COLOUR_H
#define COLOUR_H

#include "common.h"

#ifdef __AVX2__
#include <immintrin.h>
#endif

enum { HALF = 1 << 15, ONE = 1 << 16 };
/* 1.402, 0.34414, 0.71414, 1.772 */
enum { R_CR = 91881, G_CB = 22554, G_CR = 46802, B_CB = 116130 };
/* 0.299, 0.587, 0.114, ... */
enum { Y_R = 19595, Y_G = 38470, Y_B = 7471, CB_R = 11059, CB_G = 21709, CR_G = 27439, CR_B = 5329 };

INLINE uint32_t byte(int value)
{
    return (uint32_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

/* Return one pixel, red in the lowest byte; 128 is subtracted from `cb` and `cr`. */
INLINE uint32_t to_rgb(int y, int cb, int cr)
{
    const uint32_t red = byte(y + ((R_CR * cr + HALF) >> 16)), green = byte(y + ((HALF - G_CB * cb - G_CR * cr) >> 16));
    return red | green << 8 | byte(y + ((B_CB * cb + HALF) >> 16)) << 16;
}

/* Convert one pixel; 128 is subtracted from all three values. */
INLINE void to_ycbcr(const uint8_t *pixel, int16_t *y, int16_t *cb, int16_t *cr)
{
    const int r = pixel[0], g = pixel[1], b = pixel[2];
    *y = (int16_t)(((Y_R * r + Y_G * g + Y_B * b + HALF) >> 16) - 128);
    *cb = (int16_t)((HALF * b - CB_R * r - CB_G * g + HALF - 1) >> 16);
    *cr = (int16_t)((HALF * r - CR_G * g - CR_B * b + HALF - 1) >> 16);
}

#ifdef __AVX2__

/* Sixteen pixels at a time. One instruction computes two products of 16 bits and their sum. So each
factor is reduced to a number of 65536ths that fits into 16 bits; the rest, a whole multiple of the
value, is added without a product. */

INLINE __m256i factors(int even, int odd)
{
    return _mm256_set1_epi32((int)((uint32_t)(uint16_t)even | (uint32_t)odd << 16));
}

/* Return (a * even + b * odd + half) / 65536 for sixteen a and b. */
INLINE __m256i weighted(__m256i a, __m256i b, __m256i weights, int half)
{
    const __m256i low = _mm256_madd_epi16(_mm256_unpacklo_epi16(a, b), weights), high = _mm256_madd_epi16(_mm256_unpackhi_epi16(a, b), weights);
    const __m256i add = _mm256_set1_epi32(half);
    return _mm256_packs_epi32(_mm256_srai_epi32(_mm256_add_epi32(low, add), 16), _mm256_srai_epi32(_mm256_add_epi32(high, add), 16));
}

INLINE void sixteen_rgb(__m256i y, __m256i cb, __m256i cr, uint32_t *out)
{
    const __m256i zero = _mm256_setzero_si256();
    const __m256i r = _mm256_add_epi16(_mm256_add_epi16(y, cr), weighted(cr, zero, factors(R_CR - ONE, 0), HALF));
    const __m256i g = _mm256_add_epi16(_mm256_sub_epi16(y, cr), weighted(cb, cr, factors(-G_CB, ONE - G_CR), HALF));
    const __m256i b = _mm256_add_epi16(_mm256_add_epi16(y, _mm256_add_epi16(cb, cb)), weighted(cb, zero, factors(B_CB - 2 * ONE, 0), HALF));
    /* Per half: eight values of the one, then eight of the other. */
    const __m256i rb = _mm256_packus_epi16(r, b), g0 = _mm256_packus_epi16(g, zero);
    const __m256i rg = _mm256_unpacklo_epi8(rb, g0), b0 = _mm256_unpackhi_epi8(rb, zero);
    /* Pixels 0-3 and 8-11; pixels 4-7 and 12-15. */
    const __m256i first = _mm256_unpacklo_epi16(rg, b0), second = _mm256_unpackhi_epi16(rg, b0);
    _mm256_storeu_si256((__m256i *)out, _mm256_permute2x128_si256(first, second, 0x20));
    _mm256_storeu_si256((__m256i *)(out + 8), _mm256_permute2x128_si256(first, second, 0x31));
}

/* Split eight pixels into pairs of 16 bits: R and G, and G and B. Reads 28 bytes. */
INLINE void eight_pairs(const uint8_t *rgb, __m256i *rg, __m256i *gb)
{
    const __m128i low = _mm_loadu_si128((const __m128i *)rgb), high = _mm_loadu_si128((const __m128i *)(rgb + 12));
    const __m256i both = _mm256_set_m128i(high, low);
    const __m128i to_rg = _mm_setr_epi8(0, -1, 1, -1, 3, -1, 4, -1, 6, -1, 7, -1, 9, -1, 10, -1);
    const __m128i to_gb = _mm_setr_epi8(1, -1, 2, -1, 4, -1, 5, -1, 7, -1, 8, -1, 10, -1, 11, -1);
    *rg = _mm256_shuffle_epi8(both, _mm256_broadcastsi128_si256(to_rg));
    *gb = _mm256_shuffle_epi8(both, _mm256_broadcastsi128_si256(to_gb));
}

INLINE __m256i rounded(__m256i sum, int half)
{
    return _mm256_srai_epi32(_mm256_add_epi32(sum, _mm256_set1_epi32(half)), 16);
}

INLINE void eight_ycbcr(const uint8_t *rgb, int16_t *y, int16_t *cb, int16_t *cr)
{
    __m256i rg, gb;
    eight_pairs(rgb, &rg, &gb);
    const __m256i luma = _mm256_add_epi32(_mm256_madd_epi16(rg, factors(Y_R, Y_G / 2)), _mm256_madd_epi16(gb, factors(Y_G / 2, Y_B)));
    const __m256i half_r = _mm256_srli_epi32(_mm256_slli_epi32(rg, 16), 1), half_b = _mm256_slli_epi32(_mm256_srli_epi32(gb, 16), 15);
    const __m256i blue = _mm256_add_epi32(_mm256_madd_epi16(rg, factors(-CB_R, -CB_G)), half_b);
    const __m256i red = _mm256_add_epi32(_mm256_madd_epi16(gb, factors(-CR_G, -CR_B)), half_r);
    const __m256i yb = _mm256_permute4x64_epi64(_mm256_packs_epi32(rounded(luma, HALF - 128 * ONE), rounded(blue, HALF - 1)), 0xd8);
    const __m256i r = rounded(red, HALF - 1);
    _mm_storeu_si128((__m128i *)y, _mm256_castsi256_si128(yb));
    _mm_storeu_si128((__m128i *)cb, _mm256_extracti128_si256(yb, 1));
    _mm_storeu_si128((__m128i *)cr, _mm_packs_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1)));
}

INLINE __m256i sixteen(const uint8_t *bytes)
{
    return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)bytes));
}

#endif

/* Convert a row to RGB0; `cb` and `cr` are bytes. */
INLINE void rgb_of_bytes(const uint8_t *restrict y, const uint8_t *restrict cb, const uint8_t *restrict cr, Py_ssize_t n, uint32_t *restrict out)
{
    Py_ssize_t i = 0;
#ifdef __AVX2__
    const __m256i middle = _mm256_set1_epi16(128);
    for (; i + 16 <= n; i += 16)
        sixteen_rgb(sixteen(y + i), _mm256_sub_epi16(sixteen(cb + i), middle), _mm256_sub_epi16(sixteen(cr + i), middle), out + i);
#endif
    for (; i < n; i++)
        out[i] = to_rgb(y[i], cb[i] - 128, cr[i] - 128);
}

/* Do the same; `cb` and `cr` have 128 subtracted. */
INLINE void rgb_of_shorts(const uint8_t *restrict y, const int16_t *restrict cb, const int16_t *restrict cr, Py_ssize_t n, uint32_t *restrict out)
{
    Py_ssize_t i = 0;
#ifdef __AVX2__
    for (; i + 16 <= n; i += 16)
        sixteen_rgb(sixteen(y + i), _mm256_loadu_si256((const __m256i *)(cb + i)), _mm256_loadu_si256((const __m256i *)(cr + i)), out + i);
#endif
    for (; i < n; i++)
        out[i] = to_rgb(y[i], cb[i], cr[i]);
}

/* Convert a row of RGB to Y, Cb and Cr, each minus 128. */
INLINE void ycbcr_row(const uint8_t *restrict rgb, Py_ssize_t n, int16_t *restrict y, int16_t *restrict cb, int16_t *restrict cr)
{
    Py_ssize_t i = 0;
#ifdef __AVX2__
    for (; i + 10 <= n; i += 8) /* reads 28 of the 30 bytes from here on */
        eight_ycbcr(rgb + 3 * i, y + i, cb + i, cr + i);
#endif
    for (; i < n; i++)
        to_ycbcr(rgb + 3 * i, y + i, cb + i, cr + i);
}

/* Drop every fourth byte, which is zero. */
INLINE void pack(const uint32_t *restrict words, Py_ssize_t n, uint8_t *restrict out)
{
    Py_ssize_t i = 0;
    for (; i + 3 < n; i += 2) { /* the next pixel overwrites the last two bytes */
        const uint64_t two = words[i] | (uint64_t)words[i + 1] << 24;
        memcpy(out + 3 * i, &two, 8);
    }
    for (; i < n; i++)
        memcpy(out + 3 * i, words + i, 3);
}

#endif
