/* Views of records for a network: crop, mirror, less the mean, plus the colour shift, divided. `reference.py` says the same in numpy.

A JPEG is decoded only where its views lie, and its rows go straight into the views. */

#ifndef VIEWS_H
#define VIEWS_H

#include "common.h"
#include "colour.h"
#include "decode.h"

enum { FLOAT32, BFLOAT16, FLOAT16 };

typedef struct {
    int size, crop, views; /* pixels a side of a record and of a view; views a record */
    int planes;            /* whether a view is three planes, or rows of pixels */
    int kind;              /* of number */
    float scale;
    const float *before; /* subtracted from the record, in planes float[3][size][size], else float[size][size][4]; or NULL */
    const float *after;  /* subtracted from the view at last: float[3][crop][crop] or float[crop][crop][4]; or NULL */
} Recipe;

typedef struct {
    int32_t top, left, flip;
} Window;

/* A row of packed RGB to RGB0. */
INLINE void unpack(const uint8_t *restrict rgb, Py_ssize_t n, uint32_t *restrict out)
{
    Py_ssize_t i = 0;
#ifdef __AVX2__
    const __m128i spread = _mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1);
    for (; i + 6 <= n; i += 4) /* 16 of the 18 bytes from here on are read */
        _mm_storeu_si128((__m128i *)(out + i), _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(rgb + 3 * i)), spread));
#endif
    for (; i < n; i++)
        out[i] = rgb[3 * i] | (uint32_t)rgb[3 * i + 1] << 8 | (uint32_t)rgb[3 * i + 2] << 16;
}

/* One colour of a row as the reference computes it, in its order; `before` has a number every `step`. */
INLINE void levelled(const uint32_t *restrict row, Py_ssize_t n, int c, const float *restrict before, int step, float offset, float scale,
                     float *restrict out)
{
    if (before)
        for (Py_ssize_t i = 0; i < n; i++)
            out[i] = (((float)(int32_t)(row[i] >> 8 * c & 255) - before[step * i]) - offset) * scale;
    else
        for (Py_ssize_t i = 0; i < n; i++)
            out[i] = ((float)(int32_t)(row[i] >> 8 * c & 255) - offset) * scale;
}

/* Rounded half to even, as hardware does it; the values are finite. */
INLINE uint16_t to_bfloat16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

INLINE uint16_t to_float16(float value)
{
#if defined(__F16C__)
    return (uint16_t)_cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT);
#else
    uint32_t bits, magnitude;
    memcpy(&bits, &value, sizeof(bits));
    const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    magnitude = bits & 0x7fffffff;
    if (magnitude >= 0x47800000) /* 65536 */
        return sign | 0x7c00;
    if (magnitude < 0x38800000) { /* 2**-14: subnormal; adding a half makes the float's last bit 2**-24 */
        float small;
        memcpy(&small, &magnitude, sizeof(small));
        small += 0.5f;
        memcpy(&bits, &small, sizeof(bits));
        return (uint16_t)(sign | (bits - 0x3f000000));
    }
    magnitude -= 112u << 23;
    return (uint16_t)(sign | ((magnitude + 0xfff + (magnitude >> 13 & 1)) >> 13));
#endif
}

/* The i-th number of `out`, of the recipe's kind. */
INLINE void put_number(void *out, Py_ssize_t i, float value, int kind)
{
    if (kind == FLOAT32)
        ((float *)out)[i] = value;
    else
        ((uint16_t *)out)[i] = kind == BFLOAT16 ? to_bfloat16(value) : to_float16(value);
}

#if defined(__AVX2__) && defined(__F16C__)

INLINE __m128i eight_halves(__m256 eight, int kind)
{
    if (kind == FLOAT16)
        return _mm256_cvtps_ph(eight, _MM_FROUND_TO_NEAREST_INT);
    const __m256i bits = _mm256_castps_si256(eight), odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i high = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
}

#endif

/* Row y of a view from one of its colours, still unmirrored. */
INLINE void put_colour(const float *restrict from, const Recipe *recipe, Py_ssize_t y, int c, int flip, int planes, int kind, void *restrict out)
{
    const Py_ssize_t n = recipe->crop, plane = n * n;
    const float *restrict after = recipe->after ? recipe->after + (planes ? plane * c + n * y : 4 * n * y + c) : NULL;
    const Py_ssize_t start = planes ? plane * c + n * y : 3 * n * y + c, stride = planes ? 1 : 3;
    Py_ssize_t i = 0;
#if defined(__AVX2__) && defined(__F16C__)
    for (; kind != FLOAT32 && planes && i + 8 <= n; i += 8) {
        __m256 eight = _mm256_loadu_ps(from + (flip ? n - 8 - i : i));
        if (flip)
            eight = _mm256_permutevar8x32_ps(eight, _mm256_setr_epi32(7, 6, 5, 4, 3, 2, 1, 0));
        if (after)
            eight = _mm256_sub_ps(eight, _mm256_loadu_ps(after + i));
        _mm_storeu_si128((__m128i *)((uint16_t *)out + start + i), eight_halves(eight, kind));
    }
#endif
    if (after)
        for (; i < n; i++)
            put_number(out, start + stride * i, from[flip ? n - 1 - i : i] - after[planes ? i : 4 * i], kind);
    else if (flip)
        for (; i < n; i++)
            put_number(out, start + stride * i, from[n - 1 - i], kind);
    else
        for (; i < n; i++)
            put_number(out, start + stride * i, from[i], kind);
}

/* Row y of a view, colour by colour. */
INLINE void put_row(const uint32_t *row, const Recipe *recipe, const float *before, const float *offsets, Py_ssize_t y, int flip, int planes, int kind,
                    float *scratch, void *out)
{
    const Py_ssize_t plane = (Py_ssize_t)recipe->size * recipe->size;
    for (int c = 0; c < 3; c++) {
        const float *mine = before ? before + (planes ? plane * c : c) : NULL;
        levelled(row, recipe->crop, c, mine, planes ? 1 : 4, offsets[c], recipe->scale, scratch);
        put_colour(scratch, recipe, y, c, flip, planes, kind, out);
    }
}

#if defined(__AVX2__) && defined(__F16C__)

/* Four numbers to `out`, of which `count` are meant; the others are overwritten by what follows. */
INLINE void put_four(void *out, Py_ssize_t i, __m128 four, int kind, size_t count)
{
    if (kind == FLOAT32) {
        memcpy((float *)out + i, &four, 4 * count);
        return;
    }
    const __m128i halves = eight_halves(_mm256_castps128_ps256(four), kind);
    memcpy((uint16_t *)out + i, &halves, 2 * count);
}

/* Row y of a view that is rows of pixels, a pixel at a time in a vector of four. */
INLINE void put_pixels(const uint32_t *restrict row, const Recipe *recipe, const float *restrict before, const float *offsets, Py_ssize_t y, int flip,
                       int kind, float *scratch, void *restrict out)
{
    (void)scratch;
    const Py_ssize_t n = recipe->crop;
    const __m128 offset = _mm_setr_ps(offsets[0], offsets[1], offsets[2], 0), scale = _mm_set1_ps(recipe->scale);
    const float *after = recipe->after ? recipe->after + 4 * n * y : NULL;
    for (Py_ssize_t i = 0; i < n; i++) {
        const Py_ssize_t at = flip ? n - 1 - i : i;
        __m128 pixel = _mm_cvtepi32_ps(_mm_cvtepu8_epi32(_mm_cvtsi32_si128((int)row[at])));
        if (before)
            pixel = _mm_sub_ps(pixel, _mm_loadu_ps(before + 4 * at));
        pixel = _mm_mul_ps(_mm_sub_ps(pixel, offset), scale);
        if (after)
            pixel = _mm_sub_ps(pixel, _mm_loadu_ps(after + 4 * i));
        if (i + 1 < n)
            put_four(out, 3 * (n * y + i), pixel, kind, 4);
        else
            put_four(out, 3 * (n * y + i), pixel, kind, 3);
    }
}

#else

INLINE void put_pixels(const uint32_t *row, const Recipe *recipe, const float *before, const float *offsets, Py_ssize_t y, int flip, int kind,
                       float *scratch, void *out)
{
    put_row(row, recipe, before, offsets, y, flip, 0, kind, scratch, out);
}

#endif

INLINE void put_any_row(const uint32_t *row, const Recipe *recipe, const float *before, const float *offsets, Py_ssize_t y, int flip, float *scratch,
                        void *out)
{
    if (recipe->planes && recipe->kind == FLOAT32)
        put_row(row, recipe, before, offsets, y, flip, 1, FLOAT32, scratch, out);
    else if (recipe->planes && recipe->kind == BFLOAT16)
        put_row(row, recipe, before, offsets, y, flip, 1, BFLOAT16, scratch, out);
    else if (recipe->planes)
        put_row(row, recipe, before, offsets, y, flip, 1, FLOAT16, scratch, out);
    else if (recipe->kind == FLOAT32)
        put_pixels(row, recipe, before, offsets, y, flip, FLOAT32, scratch, out);
    else if (recipe->kind == BFLOAT16)
        put_pixels(row, recipe, before, offsets, y, flip, BFLOAT16, scratch, out);
    else
        put_pixels(row, recipe, before, offsets, y, flip, FLOAT16, scratch, out);
}

/* One view of a record: of `pixels` (packed RGB), or of a decoder that has decoded that part. `scratch`: 2 * crop numbers. */
static void one_view(const uint8_t *pixels, const Decoder *decoder, const Recipe *recipe, Window window, const float *offsets, float *scratch,
                     void *out)
{
    const Py_ssize_t n = recipe->crop, size = recipe->size;
    uint32_t *row = (uint32_t *)(scratch + n);
    for (Py_ssize_t y = 0; y < n; y++) {
        const Py_ssize_t at = size * (window.top + y) + window.left;
        const float *before = recipe->before ? recipe->before + (recipe->planes ? 1 : 4) * at : NULL;
        if (decoder)
            rgb_row(decoder, window.top + y, window.left, window.left + n, row);
        else
            unpack(pixels + 3 * at, n, row);
        put_any_row(row, recipe, before, offsets, y, window.flip, scratch, out);
    }
}

/* All views of one record, raw if `decoder` is NULL; -1 if the JPEG is declined. */
static int views_of(const uint8_t *data, Py_ssize_t bytes, Decoder *decoder, const Recipe *recipe, const Window *windows, const float *offsets,
                    float *scratch, uint8_t *out)
{
    const Py_ssize_t view = (Py_ssize_t)3 * recipe->crop * recipe->crop * (recipe->kind == FLOAT32 ? 4 : 2);
    if (decoder) {
        Box box = {recipe->size, recipe->size, 0, 0};
        for (int i = 0; i < recipe->views; i++) {
            const Window window = windows[i];
            box.x0 = window.left < box.x0 ? window.left : box.x0;
            box.y0 = window.top < box.y0 ? window.top : box.y0;
            box.x1 = window.left + recipe->crop > box.x1 ? window.left + recipe->crop : box.x1;
            box.y1 = window.top + recipe->crop > box.y1 ? window.top + recipe->crop : box.y1;
        }
        if (read_header(&decoder->jpeg, data, bytes) || decoder->jpeg.width != recipe->size || decoder->jpeg.height != recipe->size ||
            decode(decoder, data, bytes, box))
            return -1;
    }
    for (int i = 0; i < recipe->views; i++)
        one_view(data, decoder, recipe, windows[i], offsets, scratch, out + view * i);
    return 0;
}

#endif
