/* Sum pixels and their products. */

#ifndef MOMENTS_H
#define MOMENTS_H

#include "common.h"

/* Pixels per block: their planes fit into the L1 cache, and their sums of products into 32 bits. */
enum { BLOCK = 1024 };

INLINE void split(const uint8_t *pixels, Py_ssize_t n, int16_t *red, int16_t *green, int16_t *blue)
{
    for (Py_ssize_t i = 0; i < n; i++) {
        red[i] = pixels[3 * i];
        green[i] = pixels[3 * i + 1];
        blue[i] = pixels[3 * i + 2];
    }
}

INLINE void add_products(const int16_t *red, const int16_t *green, const int16_t *blue, Py_ssize_t n, uint64_t *outer)
{
    int32_t rr = 0, rg = 0, rb = 0, gg = 0, gb = 0, bb = 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        rr += red[i] * red[i];
        rg += red[i] * green[i];
        rb += red[i] * blue[i];
        gg += green[i] * green[i];
        gb += green[i] * blue[i];
        bb += blue[i] * blue[i];
    }
    const int32_t sums[6] = {rr, rg, rb, gg, gb, bb};
    for (int i = 0; i < 6; i++)
        outer[i] += (uint64_t)sums[i];
}

static void add_image(const uint8_t *image, Py_ssize_t pixels, uint16_t *restrict pixel_sum, uint64_t *restrict outer)
{
    int16_t red[BLOCK], green[BLOCK], blue[BLOCK];
    for (Py_ssize_t start = 0; start < pixels; start += BLOCK) {
        const Py_ssize_t n = pixels - start < BLOCK ? pixels - start : BLOCK;
        split(image + 3 * start, n, red, green, blue);
        add_products(red, green, blue, n, outer);
        for (Py_ssize_t i = 3 * start; i < 3 * (start + n); i++)
            pixel_sum[i] += image[i];
    }
}

#endif
