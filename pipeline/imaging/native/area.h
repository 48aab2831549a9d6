/* Shrink an image and keep its central square, with the same bits as OpenCV's INTER_AREA. Built
with -ffp-contract=off: one fused multiply-add would change a bit. */

#ifndef AREA_H
#define AREA_H

#include <float.h>
#include <math.h>

#include "decode.h"

typedef float Float4 __attribute__((vector_size(16)));

/* Along one axis: output i is the sum over k < count[i] of weights[i * stride + k] times input
first[i] + k. */
typedef struct {
    Py_ssize_t stride, longest;
    Py_ssize_t *first, *count;
    float *weights;
    /* Weights of outputs i and i + 1, each repeated for four lanes: [i / 2][k][8]; only for
    `longest` up to FEW. */
    float *pairs;
} Axis;

enum { FEW = 4 };

static void free_axis(Axis *axis)
{
    free(axis->first);
    free(axis->count);
    free(axis->weights);
    free(axis->pairs);
}

/* Set the weights of output i by the rule of OpenCV's computeResizeAreaTab: pieces under a
thousandth of a pixel are dropped. */
static void weigh(Axis *axis, Py_ssize_t i, Py_ssize_t position, Py_ssize_t source, double scale)
{
    float *weights = axis->weights + i * axis->stride;
    double start = (double)position * scale, end = start + scale;
    double cell = scale < (double)source - start ? scale : (double)source - start;
    Py_ssize_t low = (Py_ssize_t)start, high = (Py_ssize_t)end, n = 0;
    low += (double)low < start; /* rounded up */
    high = high < source - 1 ? high : source - 1;
    low = low < high ? low : high;

    axis->first[i] = low;
    if ((double)low - start > 1e-3) {
        axis->first[i] = low - 1;
        weights[n++] = (float)(((double)low - start) / cell);
    }
    for (Py_ssize_t at = low; at < high; at++)
        weights[n++] = (float)(1.0 / cell);
    if (end - (double)high > 1e-3) {
        double rest = end - (double)high < 1.0 ? end - (double)high : 1.0;
        weights[n++] = (float)((rest < cell ? rest : cell) / cell);
    }
    axis->count[i] = n;
    axis->longest = n > axis->longest ? n : axis->longest;
}

/* Fill `axis` for outputs `offset` to `offset + size` of `scaled`; -1 if out of memory. */
static int set_axis(Axis *axis, Py_ssize_t source, Py_ssize_t scaled, Py_ssize_t offset, Py_ssize_t size)
{
    double scale = 1.0 / ((double)scaled / (double)source); /* in this order, as OpenCV does */
    /* Whole pixels, a part at either end, and one for a quotient that is rounded up. */
    axis->stride = source / scaled + 3;
    axis->longest = 0;
    axis->first = calloc((size_t)size, sizeof(*axis->first));
    axis->count = calloc((size_t)size, sizeof(*axis->count));
    axis->weights = calloc((size_t)(size * axis->stride), sizeof(*axis->weights));
    if (!axis->first || !axis->count || !axis->weights)
        return -1;
    for (Py_ssize_t i = 0; i < size; i++)
        weigh(axis, i, offset + i, source, scale);
    return 0;
}

/* Give every output `longest` existing inputs; added inputs have weight zero: adding +0 changes no
bit. */
static void level(Axis *axis, Py_ssize_t source, Py_ssize_t size)
{
    for (Py_ssize_t i = 0; i < size; i++) {
        float *weights = axis->weights + i * axis->stride;
        Py_ssize_t beyond = axis->first[i] + axis->longest - source;
        if (beyond > 0) {
            memmove(weights + beyond, weights, (size_t)axis->count[i] * sizeof(*weights));
            memset(weights, 0, (size_t)beyond * sizeof(*weights));
            axis->first[i] -= beyond;
        }
    }
}

/* Repeat the weights for pairs_across, after `level`; -1 if out of memory. */
static int pair_weights(Axis *axis, Py_ssize_t size)
{
    if (axis->longest > FEW)
        return 0;
    axis->pairs = calloc((size_t)((size + 1) / 2 * axis->longest * 8), sizeof(*axis->pairs));
    if (!axis->pairs)
        return -1;
    for (Py_ssize_t i = 0; i < size; i++)
        for (Py_ssize_t k = 0; k < axis->longest; k++)
            for (int lane = 0; lane < 4; lane++)
                axis->pairs[(i / 2 * axis->longest + k) * 8 + i % 2 * 4 + lane] = axis->weights[i * axis->stride + k];
    return 0;
}

/* Return the number of inputs from the first to the last that the outputs need, after `level`. */
static Py_ssize_t span(const Axis *axis, Py_ssize_t size)
{
    return axis->first[size - 1] - axis->first[0] + axis->longest;
}

/* Compute outputs `start` to `end` of one row. Each pixel is a vector of four: the fourth value is
the place of the next pixel's red, which overwrites it. */
INLINE void across(const float *restrict row, const Axis *axis, Py_ssize_t start, Py_ssize_t end, Py_ssize_t taps, int channels, float *restrict out)
{
    const Py_ssize_t *first = axis->first, origin = first[0], stride = axis->stride;
    const float *weights = axis->weights + start * stride;
    for (Py_ssize_t i = start; i < end; i++, weights += stride) {
        const float *from = row + channels * (first[i] - origin);
        Float4 sum = {0};
        for (Py_ssize_t k = 0; k < taps; k++) {
            Float4 pixel;
            memcpy(&pixel, from + channels * k, sizeof(pixel));
            sum += pixel * weights[k];
        }
        memcpy(out + 3 * i, &sum, sizeof(sum));
    }
}

#ifdef __AVX2__

/* Do the same for two outputs at a time. */
INLINE void pairs_across(const float *restrict row, const Axis *axis, Py_ssize_t size, Py_ssize_t taps, int channels, float *restrict out)
{
    const Py_ssize_t *first = axis->first, origin = first[0];
    const float *weights = axis->pairs;
    for (Py_ssize_t i = 0; i + 1 < size; i += 2) {
        const float *from = row + channels * (first[i] - origin), *next = row + channels * (first[i + 1] - origin);
        __m256 sum = _mm256_setzero_ps();
        for (Py_ssize_t k = 0; k < taps; k++, weights += 8) {
            const __m256 pixels = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(from + channels * k)), _mm_loadu_ps(next + channels * k), 1);
            sum = _mm256_add_ps(sum, _mm256_mul_ps(pixels, _mm256_loadu_ps(weights)));
        }
        _mm_storeu_ps(out + 3 * i, _mm256_castps256_ps128(sum));
        _mm_storeu_ps(out + 3 * i + 3, _mm256_extractf128_ps(sum, 1));
    }
    if (size & 1)
        across(row, axis, size - 1, size, taps, channels, out);
}

#else

INLINE void pairs_across(const float *restrict row, const Axis *axis, Py_ssize_t size, Py_ssize_t taps, int channels, float *restrict out)
{
    across(row, axis, 0, size, taps, channels, out);
}

#endif

/* Do the same for a row of bytes, the first of which is input first[0]. A separate loop converts
them to floats: GCC 12 converts a vector of four bytes one by one, which takes three times as
long. */
INLINE void any_row_across(const uint8_t *restrict row, int channels, const Axis *axis, Py_ssize_t size, float *restrict floats, float *restrict out)
{
    const Py_ssize_t n = channels * span(axis, size);
    for (Py_ssize_t i = 0; i < n; i++)
        floats[i] = row[i];
    if (axis->longest == 2)
        pairs_across(floats, axis, size, 2, channels, out);
    else if (axis->longest == 3)
        pairs_across(floats, axis, size, 3, channels, out);
    else if (axis->longest == 4)
        pairs_across(floats, axis, size, 4, channels, out);
    else
        across(floats, axis, 0, size, axis->longest, channels, out);
}

/* Round half to even: from 2**23 on, a float32 has no bits for a fraction, and its last bits are
those of the integer. The clamp is on the integer: GCC does not vectorise a loop that compares
floats, since that could raise a floating-point flag. */
INLINE void round_row(const float *restrict sum, Py_ssize_t n, uint8_t *restrict out)
{
    const float whole = 8388608.0f;
    for (Py_ssize_t i = 0; i < n; i++) {
        const float value = sum[i] + whole;
        int32_t bits, zero;
        memcpy(&bits, &value, sizeof(bits));
        memcpy(&zero, &whole, sizeof(zero));
        out[i] = (uint8_t)(bits - zero < 255 ? bits - zero : 255);
    }
}

/* Return the floats of `scratch`: a row of sums, a row of outputs and a row of inputs; the last two
have room for the end of a vector behind them. */
static Py_ssize_t scratch_size(const Axis *x, Py_ssize_t size)
{
    return 3 * size + (3 * size + 1) + (4 * span(x, size) + 1);
}

/* Shrink rows of `image`, or of `jpeg` if it is not NULL: its rows are converted as needed. */
INLINE void shrink(const uint8_t *image, Py_ssize_t width, const Decoder *jpeg, const Axis *y, const Axis *x, Py_ssize_t size, float *scratch,
                   uint8_t *out)
{
    const Py_ssize_t n = 3 * size, from = x->first[0];
    float *sum = scratch, *row = sum + n, *floats = row + n + 1;
    /* The source row in `row`: the last row of one output is often the first row of the next. */
    Py_ssize_t held = -1;
    for (Py_ssize_t i = 0; i < size; i++) {
        for (Py_ssize_t k = 0; k < y->count[i]; k++) {
            const float weight = y->weights[i * y->stride + k];
            const Py_ssize_t at = y->first[i] + k;
            if (at != held && jpeg) {
                rgb_row(jpeg, at, from, from + span(x, size), jpeg->row);
                any_row_across((const uint8_t *)jpeg->row, 4, x, size, floats, row);
            } else if (at != held)
                any_row_across(image + 3 * (width * at + from), 3, x, size, floats, row);
            held = at;
            if (k == 0)
                for (Py_ssize_t j = 0; j < n; j++)
                    sum[j] = weight * row[j];
            else
                for (Py_ssize_t j = 0; j < n; j++)
                    sum[j] += weight * row[j];
        }
        round_row(sum, n, out + n * i);
    }
}

static void shrink_image(const uint8_t *image, Py_ssize_t width, const Axis *y, const Axis *x, Py_ssize_t size, float *scratch, uint8_t *out)
{
    shrink(image, width, NULL, y, x, size, scratch, out);
}

static void shrink_jpeg(const Decoder *jpeg, const Axis *y, const Axis *x, Py_ssize_t size, float *scratch, uint8_t *out)
{
    shrink(NULL, 0, jpeg, y, x, size, scratch, out);
}

typedef struct {
    Axis y, x;
    float *scratch;
} Shrinking;

static void free_shrinking(Shrinking *shrinking)
{
    free_axis(&shrinking->y);
    free_axis(&shrinking->x);
    free(shrinking->scratch);
}

/* Prepare to shrink rows x columns to height x width and keep the central square; -1 if out of
memory. */
static int set_shrinking(Shrinking *shrinking, Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t height, Py_ssize_t width, Py_ssize_t size)
{
    Axis *y = &shrinking->y, *x = &shrinking->x;
    if (set_axis(y, rows, height, (height - size) / 2, size) || set_axis(x, columns, width, (width - size) / 2, size))
        return -1;
    level(x, columns, size);
    if (pair_weights(x, size))
        return -1;
    shrinking->scratch = calloc((size_t)scratch_size(x, size), sizeof(float));
    return shrinking->scratch ? 0 : -1;
}

/* Return whether the scale is a whole number. If both are, OpenCV sums integers, which is fast. */
static int is_whole(Py_ssize_t source, Py_ssize_t scaled)
{
    /* In this order, as OpenCV does. */
    const double scale = 1.0 / ((double)scaled / (double)source), away = scale - nearbyint(scale);
    return fabs(away) < DBL_EPSILON;
}

/* Make the central square of a JPEG whose header was read, its shorter side scaled to `size`; -1 to
decline. */
static int square_of_jpeg(Decoder *decoder, Shrinking *shrinking, const uint8_t *data, Py_ssize_t n, Py_ssize_t size, uint8_t *out)
{
    const int rows = decoder->jpeg.height, columns = decoder->jpeg.width, shorter = rows < columns ? rows : columns;
    if (shorter < size)
        return -1; /* would be enlarged */
    const Py_ssize_t height = (Py_ssize_t)((double)(rows * size) / shorter + 0.5), width = (Py_ssize_t)((double)(columns * size) / shorter + 0.5);
    if (shorter == size) {
        const int top = (int)(rows - size) / 2, left = (int)(columns - size) / 2;
        if (decode(decoder, data, n, (Box){left, top, left + (int)size, top + (int)size}))
            return -1;
        rgb_box(decoder, out);
        return 0;
    }
    if ((is_whole(rows, height) && is_whole(columns, width)) || set_shrinking(shrinking, rows, columns, height, width, size))
        return -1;
    const Axis *y = &shrinking->y, *x = &shrinking->x;
    const Box box = {(int)x->first[0], (int)y->first[0], (int)(x->first[0] + span(x, size)), (int)(y->first[size - 1] + y->count[size - 1])};
    if (decode(decoder, data, n, box))
        return -1;
    shrink_jpeg(decoder, y, x, size, shrinking->scratch, out);
    return 0;
}

#endif
