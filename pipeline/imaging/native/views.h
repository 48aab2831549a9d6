/* Make views of records for a network: crop, mirror, subtract the mean, add the colour shift,
divide. `reference.py` computes the same in numpy.

A JPEG is decoded only where its views lie, and its rows are written straight into the views. */

#ifndef VIEWS_H
#define VIEWS_H

#include "common.h"
#include "colour.h"
#include "decode.h"

enum { FLOAT32, BFLOAT16, FLOAT16 };

typedef struct {
    int size, crop, views; /* pixels per side of a record and of a view; views per record */
    int planes;            /* whether a view is three planes instead of rows of pixels */
    int kind;              /* number type: FLOAT32, BFLOAT16 or FLOAT16 */
    float scale;
    /* Subtracted from the record: float[3][size][size] if planes, else float[size][size][4]; or
    NULL. */
    const float *before;
    /* Subtracted from the view at the end: float[3][crop][crop] or float[crop][crop][4]; or NULL.
    */
    const float *after;
} Recipe;

typedef struct {
    int32_t top, left, flip;
} Window;

/* Convert a row of packed RGB to RGB0. */
INLINE void unpack(const uint8_t *restrict rgb, Py_ssize_t n, uint32_t *restrict out)
{
    Py_ssize_t i = 0;
#ifdef __AVX2__
    const __m128i spread = _mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1);
    for (; i + 6 <= n; i += 4) /* reads 16 of the 18 bytes from here on */
        _mm_storeu_si128((__m128i *)(out + i), _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(rgb + 3 * i)), spread));
#endif
    for (; i < n; i++)
        out[i] = rgb[3 * i] | (uint32_t)rgb[3 * i + 1] << 8 | (uint32_t)rgb[3 * i + 2] << 16;
}

/* Normalise one colour of a row in the same order of operations as the reference; the numbers in
`before` are `step` apart. */
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

/* Round half to even, as hardware does; the value must be finite. */
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
    if (magnitude < 0x38800000) { /* 2**-14: subnormal; adding 0.5 makes the last bit 2**-24 */
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

/* Write the i-th number of `out`, in the recipe's number type. */
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

/* Write row y of a view, colour by colour. */
INLINE void put_row(const uint32_t *row, const Recipe *recipe, const float *before, const float *offsets, Py_ssize_t y, int flip, int planes, int kind,
                    float *scratch, void *out)
{
    const Py_ssize_t n = recipe->crop, all = (Py_ssize_t)recipe->size * recipe->size, step = planes ? 1 : 4, stride = planes ? 1 : 3;
    for (int c = 0; c < 3; c++) {
        levelled(row, n, c, before ? before + (planes ? all * c : c) : NULL, step, offsets[c], recipe->scale, scratch);
        const float *after = recipe->after ? recipe->after + (planes ? n * n * c + n * y : 4 * n * y + c) : NULL;
        const Py_ssize_t start = planes ? n * n * c + n * y : 3 * n * y + c;
        for (Py_ssize_t i = 0; i < n; i++) {
            const float number = scratch[flip ? n - 1 - i : i];
            put_number(out, start + stride * i, after ? number - after[step * i] : number, kind);
        }
    }
}

#if defined(__AVX2__) && defined(__F16C__)

/* Do the same, 16 pixels at a time. In float32, they fill a whole cache line in each of the three
planes of 224 pixels, so that they can be written past the cache, which is 1.3 times as fast. The
last 16 pixels of a row overlap those before them; a row has at least 16. */
enum { STEP = 16, LINE = 64 };

INLINE __m256i eight_words(const uint32_t *row, int flip)
{
    const __m256i words = _mm256_loadu_si256((const __m256i *)row);
    return flip ? _mm256_permutevar8x32_epi32(words, _mm256_setr_epi32(7, 6, 5, 4, 3, 2, 1, 0)) : words;
}

INLINE __m256 eight_numbers(const float *from, int flip)
{
    const __m256 numbers = _mm256_loadu_ps(from);
    return flip ? _mm256_permutevar8x32_ps(numbers, _mm256_setr_epi32(7, 6, 5, 4, 3, 2, 1, 0)) : numbers;
}

/* Write eight numbers to `out`, from number `i` on. If `past`, write past the caches; the address
must then be a multiple of a vector's size. */
INLINE void put_eight(void *out, Py_ssize_t i, __m256 eight, int kind, int past)
{
    if (kind == FLOAT32 && past)
        _mm256_stream_ps((float *)out + i, eight);
    else if (kind == FLOAT32)
        _mm256_storeu_ps((float *)out + i, eight);
    else if (past)
        _mm_stream_si128((__m128i *)((uint16_t *)out + i), eight_halves(eight, kind));
    else
        _mm_storeu_si128((__m128i *)((uint16_t *)out + i), eight_halves(eight, kind));
}

INLINE void put_planes(const uint32_t *restrict row, const Recipe *recipe, const float *restrict before, const float *offsets, Py_ssize_t y, int flip,
                       int kind, int past, void *restrict out)
{
    const Py_ssize_t n = recipe->crop, all = (Py_ssize_t)recipe->size * recipe->size;
    const __m256 scale = _mm256_set1_ps(recipe->scale);
    for (Py_ssize_t step = 0; step < n; step += STEP) {
        const Py_ssize_t i = step + STEP <= n ? step : n - STEP, at = flip ? n - STEP - i : i, first = flip ? 8 : 0, second = flip ? 0 : 8;
        const __m256i words[2] = {eight_words(row + at + first, flip), eight_words(row + at + second, flip)};
        for (int c = 0; c < 3; c++) {
            const Py_ssize_t to = n * n * c + n * y + i;
            for (int j = 0; j < 2; j++) {
                __m256 eight = _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(words[j], 8 * c), _mm256_set1_epi32(255)));
                if (before)
                    eight = _mm256_sub_ps(eight, eight_numbers(before + all * c + at + (j ? second : first), flip));
                eight = _mm256_mul_ps(_mm256_sub_ps(eight, _mm256_set1_ps(offsets[c])), scale);
                if (recipe->after)
                    eight = _mm256_sub_ps(eight, _mm256_loadu_ps(recipe->after + to + 8 * j));
                put_eight(out, to + 8 * j, eight, kind, past);
            }
        }
    }
}

/* Convert two pixels, given as words, to two vectors of four numbers, and normalise them. */
INLINE __m256 two_pixels(__m128i words, const float *before, int flip, __m256 offset, __m256 scale, const float *after)
{
    __m256 two = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(words));
    if (before) {
        const __m256 mean = _mm256_loadu_ps(before);
        two = _mm256_sub_ps(two, flip ? _mm256_permute2f128_ps(mean, mean, 1) : mean);
    }
    two = _mm256_mul_ps(_mm256_sub_ps(two, offset), scale);
    return after ? _mm256_sub_ps(two, _mm256_loadu_ps(after)) : two;
}

INLINE void put_pixels(const uint32_t *restrict row, const Recipe *recipe, const float *restrict before, const float *offsets, Py_ssize_t y, int flip,
                       int kind, int past, void *restrict out)
{
    const Py_ssize_t n = recipe->crop;
    const __m256 offset = _mm256_setr_ps(offsets[0], offsets[1], offsets[2], 0, offsets[0], offsets[1], offsets[2], 0);
    const __m256 scale = _mm256_set1_ps(recipe->scale);
    for (Py_ssize_t step = 0; step < n; step += 8) {
        const Py_ssize_t i = step + 8 <= n ? step : n - 8, at = flip ? n - 8 - i : i, to = 3 * (n * y + i);
        const __m256i words = eight_words(row + at, flip);
        const __m128i low = _mm256_castsi256_si128(words), high = _mm256_extracti128_si256(words, 1);
        const __m128i pairs[4] = {low, _mm_unpackhi_epi64(low, low), high, _mm_unpackhi_epi64(high, high)};
        __m256 two[4];
        for (int j = 0; j < 4; j++)
            two[j] = two_pixels(pairs[j], before ? before + 4 * (at + (flip ? 6 - 2 * j : 2 * j)) : NULL, flip, offset, scale,
                                recipe->after ? recipe->after + 4 * (n * y + i + 2 * j) : NULL);
        /* Drop the fourth number of each pixel. */
        const __m256 a = _mm256_permutevar8x32_ps(two[0], _mm256_setr_epi32(0, 1, 2, 4, 5, 6, 0, 0));
        const __m256 b = _mm256_permutevar8x32_ps(two[1], _mm256_setr_epi32(2, 4, 5, 6, 0, 0, 0, 1));
        const __m256 c = _mm256_permutevar8x32_ps(two[2], _mm256_setr_epi32(5, 6, 0, 0, 0, 1, 2, 4));
        const __m256 d = _mm256_permutevar8x32_ps(two[3], _mm256_setr_epi32(0, 0, 0, 1, 2, 4, 5, 6));
        put_eight(out, to, _mm256_blend_ps(a, b, 0xc0), kind, past);
        put_eight(out, to + 8, _mm256_blend_ps(b, c, 0xf0), kind, past);
        put_eight(out, to + 16, _mm256_blend_ps(c, d, 0xfc), kind, past);
    }
}

#endif

INLINE void put_any(const uint32_t *row, const Recipe *recipe, const float *before, const float *offsets, Py_ssize_t y, int flip, int planes, int kind,
                    float *scratch, void *out)
{
#if defined(__AVX2__) && defined(__F16C__)
    const int past = recipe->crop % STEP == 0 && (uintptr_t)out % LINE == 0;
    if (recipe->crop >= STEP && planes)
        put_planes(row, recipe, before, offsets, y, flip, kind, past, out);
    else if (recipe->crop >= STEP)
        put_pixels(row, recipe, before, offsets, y, flip, kind, past, out);
    else
#endif
        put_row(row, recipe, before, offsets, y, flip, planes, kind, scratch, out);
}

/* Compile the loops once for each kind of view, so that none of them has to test the kind. */
INLINE void put_any_row(const uint32_t *row, const Recipe *recipe, const float *before, const float *offsets, Py_ssize_t y, int flip, float *scratch,
                        void *out)
{
    if (recipe->planes && recipe->kind == FLOAT32)
        put_any(row, recipe, before, offsets, y, flip, 1, FLOAT32, scratch, out);
    else if (recipe->planes && recipe->kind == BFLOAT16)
        put_any(row, recipe, before, offsets, y, flip, 1, BFLOAT16, scratch, out);
    else if (recipe->planes)
        put_any(row, recipe, before, offsets, y, flip, 1, FLOAT16, scratch, out);
    else if (recipe->kind == FLOAT32)
        put_any(row, recipe, before, offsets, y, flip, 0, FLOAT32, scratch, out);
    else if (recipe->kind == BFLOAT16)
        put_any(row, recipe, before, offsets, y, flip, 0, BFLOAT16, scratch, out);
    else
        put_any(row, recipe, before, offsets, y, flip, 0, FLOAT16, scratch, out);
}

/* Make one view of a record, from `pixels` (packed RGB) or from a decoder that has decoded that
part. `scratch`: 2 * crop numbers. */
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

/* Make all views of one record, which is raw if `decoder` is NULL; -1 if the JPEG is declined. */
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
#ifdef __AVX2__
    _mm_sfence(); /* other threads that see that this is done also see what went past the caches */
#endif
    return 0;
}

#endif
