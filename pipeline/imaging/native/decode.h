/* Decode a part of a baseline JPEG, with the same bits as libjpeg-turbo (accurate DCT, smooth
upsampling).

The Huffman codes of every block are read, since each block begins where the one before ends; but
only the blocks that the part needs are dequantised and transformed. Cb and Cr are upsampled, and
colours converted, row by row, when a row is asked for. */

#ifndef DECODE_H
#define DECODE_H

#include "common.h"
#include "colour.h"
#include "dct.h"
#include "jpeg.h"

/* Limit above which libjpeg's own 16-bit sums of coefficients might overflow: no camera writes such
coefficients. Its first pass multiplies by at most 1.39 * 4, and 5800 * 5.56 < 32768; a column's
coefficients are in two of the sums that inverse_dct makes. */
enum { WILD = 2900 };
/* Bytes that may be read beyond a segment's end: more than an MCU can take (6 blocks of 64 codes of
27 bits). */
enum { SLACK = 4096 };

typedef struct {
    const uint8_t *next;
    uint64_t bits; /* the next bits, the first in the highest place */
    int count;     /* number of certain `bits`; the bits below them are right too, or zero */
} Bits;

typedef struct {
    int x0, y0, x1, y1; /* the requested part, in pixels */
} Box;

typedef struct {
    void *start;
    Py_ssize_t bytes;
} Buffer;

typedef struct {
    Jpeg jpeg;
    Buffer buffer;
    Box box;
    int16_t steps[3][64]; /* quantisers in natural order */
    Py_ssize_t across, down;         /* MCUs of the image */
    Py_ssize_t mx0, my0, mx1, my1;   /* MCUs that are transformed */
    Py_ssize_t stride[3];            /* strides of the planes */
    uint8_t *plane[3];               /* samples; only those of the transformed MCUs are set */
    uint8_t *clean;                  /* compressed data without stuffing */
    Py_ssize_t segments, *ends;      /* parts of `clean` between restart markers, and their ends */
    uint32_t *row;                   /* one row of the image */
    int16_t *chroma;                 /* two rows of Cb and Cr: blended vertically, then upsampled */
} Decoder;

INLINE uint64_t big_endian(const uint8_t *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof(value));
    return __builtin_bswap64(value);
}

/* Refill to at least 56 bits. */
INLINE void refill(Bits *in)
{
    in->bits |= big_endian(in->next) >> in->count;
    in->next += (63 - in->count) >> 3;
    in->count |= 56;
}

INLINE void drop(Bits *in, int n)
{
    in->bits <<= n;
    in->count -= n;
}

/* Look up a code longer than LOOK bits. */
static Code long_code(const Huffman *huffman, uint64_t bits, int of_dc)
{
    const int32_t next = (int32_t)(bits >> 48);
    for (int length = LOOK + 1; length <= 16; length++)
        if (next < huffman->limit[length])
            return meaning(huffman->known[16 + huffman->offset[length] + (next >> (16 - length))], length, of_dc);
    return (Code){0, 0, 0};
}

/* Read a code and its value; `in` must have at least 27 bits. If the code has no bits, it does not
exist. */
INLINE Code read_code(Bits *in, const Huffman *huffman, int of_dc, int *value)
{
    Code code = huffman->codes[in->bits >> (64 - LOOK)];
    if (__builtin_expect(code.bits == 0, 0))
        code = long_code(huffman, in->bits, of_dc);
    /* code.bits <= 27 */
    const int bits = (int)(in->bits >> 32 >> (32 - code.bits)) & ((1 << code.size) - 1);
    *value = extend(bits, code.size);
    drop(in, code.bits);
    return code;
}

/* Read one block into `block` (65 zeros; natural order), still quantised. Return 1 if it has only a
mean, 0 if it has more, -1 if declined. */
INLINE int read_block(Bits *in, const Huffman *dc, const Huffman *ac, int step, int *mean, int16_t *block, int keep)
{
    int k = 1, value; /* k: the place of the next coefficient */
    refill(in);
    const Code first = read_code(in, dc, 1, &value);
    *mean += value;
    if (first.bits == 0 || *mean > WILD || *mean < -WILD || abs(*mean * step) > WILD)
        return -1;
    block[0] = (int16_t)*mean;
    while (k < 64) {
        refill(in);
        for (int i = 0; i < 4 && k < 64; i++) { /* there are 4 * LOOK bits */
            const Pair pair = ac->pairs[in->bits >> (64 - LOOK)];
            if (__builtin_expect(pair.bits == 0, 0)) {
                refill(in);
                const Code code = read_code(in, ac, 0, &value);
                if (code.bits == 0)
                    return -1;
                k += code.move;
                if (keep)
                    block[ZIGZAG[k - 1]] = (int16_t)value;
                break;
            }
            k += pair.move[0];
            if (keep)
                block[ZIGZAG[k - 1]] = pair.value[0];
            if (k >= 64) { /* the second code belongs to the next block */
                drop(in, pair.first);
                break;
            }
            k += pair.move[1];
            if (keep)
                block[ZIGZAG[k - 1]] = pair.value[1];
            drop(in, pair.bits);
        }
    }
    if (k > 64 && k < END_OF_BLOCK)
        return -1; /* a coefficient beyond the block */
    return k == 1 + END_OF_BLOCK;
}

/* Maximum number of blocks that are read before they are transformed. A processor that loads a
vector from words that it has just stored waits until they are in the cache: transforming each block
at once took half as long again. */
enum { BATCH = 24 };

typedef struct {
    int16_t block[BATCH][80]; /* 64, one beyond, rounded up to a multiple of a vector */
    uint8_t *out[BATCH];
    uint8_t component[BATCH], flat[BATCH];
    int count;
    Int8 largest;
} Batch;

INLINE void transform(const Decoder *decoder, Batch *batch)
{
    for (int i = 0; i < batch->count; i++) {
        const int c = batch->component[i];
        if (batch->flat[i])
            inverse_dct_flat(batch->block[i][0] * decoder->steps[c][0], batch->out[i], decoder->stride[c]);
        else
            inverse_dct(batch->block[i], decoder->steps[c], batch->out[i], decoder->stride[c], &batch->largest);
    }
    batch->count = 0;
}

/* Read one MCU; add its blocks to the batch if `keep`. */
INLINE int read_mcu(Decoder *decoder, Bits *in, int *means, Py_ssize_t mx, Py_ssize_t my, Batch *batch, int keep)
{
    const Jpeg *jpeg = &decoder->jpeg;
    for (int c = 0; c < jpeg->components; c++) {
        const int across = c ? 1 : jpeg->h, down = c ? 1 : jpeg->v;
        const Huffman *dc = &jpeg->dc_codes[jpeg->dc[c]], *ac = &jpeg->ac_codes[jpeg->ac[c]];
        for (int i = 0; i < across * down; i++) {
            int16_t *block = batch->block[batch->count];
            const Int8 zeros = {0};
            /* GCC 12 would turn a memset into a slow rep stos. */
            for (int j = 0; j < 64 && keep; j += 16)
                memcpy(block + j, &zeros, sizeof(zeros));
            const int flat = read_block(in, dc, ac, decoder->steps[c][0], &means[c], block, keep);
            if (flat < 0)
                return -1;
            if (!keep)
                continue;
            const Py_ssize_t x = mx * across + i % across, y = my * down + i / across;
            batch->out[batch->count] = decoder->plane[c] + 8 * (y * decoder->stride[c] + x);
            batch->component[batch->count] = (uint8_t)c;
            batch->flat[batch->count++] = (uint8_t)flat;
        }
    }
    return 0;
}

/* Return whether all bits from `start` to `end` are used, but for less than a byte of padding. */
static int at_end(const Bits *in, const uint8_t *start, const uint8_t *end)
{
    const Py_ssize_t used = 8 * (in->next - start) - in->count, left = 8 * (end - start) - used;
    return left >= 0 && left < 8;
}

static int read_mcus(Decoder *decoder)
{
    const Py_ssize_t total = decoder->across * decoder->down, restart = decoder->jpeg.restart ? decoder->jpeg.restart : total;
    const uint8_t *start = decoder->clean;
    Batch batch;
    batch.count = 0;
    batch.largest = (Int8){0};
    for (Py_ssize_t segment = 0; segment < decoder->segments; segment++) {
        const uint8_t *end = decoder->clean + decoder->ends[segment];
        Bits in = {start, 0, 0};
        int means[3] = {0};
        const Py_ssize_t first = segment * restart, last = first + restart < total ? first + restart : total;
        Py_ssize_t my = first / decoder->across, mx = first % decoder->across;
        for (Py_ssize_t mcu = first; mcu < last; mcu++) {
            const int keep = mx >= decoder->mx0 && mx < decoder->mx1 && my >= decoder->my0 && my < decoder->my1;
            if ((keep ? read_mcu(decoder, &in, means, mx, my, &batch, 1) : read_mcu(decoder, &in, means, mx, my, &batch, 0)) || in.next > end + 8)
                return -1;
            if (batch.count > BATCH - 6) /* an MCU has at most 6 blocks */
                transform(decoder, &batch);
            if (++mx == decoder->across) {
                mx = 0;
                my++;
            }
        }
        if (!at_end(&in, start, end))
            return -1;
        start = end;
    }
    transform(decoder, &batch);
    for (int i = 0; i < 8; i++)
        if (batch.largest[i] > WILD)
            return -1;
    return 0;
}

/* Copy the scan to `clean`, without stuffed zeros and restart markers; -1 unless it ends in EOI and
has the right markers. */
static int unstuff(Decoder *decoder, const uint8_t *data, Py_ssize_t n)
{
    const Py_ssize_t total = decoder->across * decoder->down, restart = decoder->jpeg.restart;
    const Py_ssize_t segments = restart ? (total + restart - 1) / restart : 1;
    const uint8_t *at = data + decoder->jpeg.scan, *end = data + n;
    uint8_t *out = decoder->clean;
    decoder->segments = 0;
    for (;;) {
        const uint8_t *mark = memchr(at, 0xff, (size_t)(end - at));
        if (!mark || mark + 1 >= end)
            return -1;
        memcpy(out, at, (size_t)(mark - at));
        out += mark - at;
        at = mark + 2;
        if (mark[1] == 0) {
            *out++ = 0xff;
            continue;
        }
        if (decoder->segments == segments)
            return -1;
        decoder->ends[decoder->segments++] = out - decoder->clean;
        if (mark[1] == 0xd9) {
            memset(out, 0, SLACK);
            return decoder->segments == segments ? 0 : -1;
        }
        if (mark[1] != 0xd0 + ((decoder->segments - 1) & 7))
            return -1;
    }
}

/* Make room for `bytes` in a buffer that is reused for later images: fresh pages cost a tenth of
the decoding time. -1: out of memory. */
static int reserve(Buffer *buffer, Py_ssize_t bytes)
{
    if (buffer->bytes >= bytes)
        return 0;
    free(buffer->start);
    buffer->start = malloc((size_t)bytes);
    buffer->bytes = buffer->start ? bytes : 0;
    return buffer->start ? 0 : -1;
}

static Py_ssize_t clamp(Py_ssize_t value, Py_ssize_t low, Py_ssize_t high)
{
    return value < low ? low : value > high ? high : value;
}

/* Set everything except the samples that `box` and `compressed` bytes need; call it after
read_header. -1: declined, or out of memory. */
static int lay_out(Decoder *decoder, Box box, Py_ssize_t compressed)
{
    const Jpeg *jpeg = &decoder->jpeg;
    const int wide = 8 * jpeg->h, high = 8 * jpeg->v;
    /* Pixels around the box whose Cb and Cr contribute to it. */
    const Py_ssize_t around = jpeg->h > 1 ? 2 : 0;
    decoder->box = box;
    decoder->across = (jpeg->width + wide - 1) / wide;
    decoder->down = (jpeg->height + high - 1) / high;
    decoder->mx0 = clamp(box.x0 - around, 0, jpeg->width) / wide;
    decoder->my0 = clamp(box.y0 - around, 0, jpeg->height) / high;
    decoder->mx1 = clamp((box.x1 + around + wide - 1) / wide, 0, decoder->across);
    decoder->my1 = clamp((box.y1 + around + high - 1) / high, 0, decoder->down);
    decoder->stride[0] = decoder->across * wide;
    decoder->stride[1] = decoder->stride[2] = decoder->across * 8;
    const Py_ssize_t y = decoder->stride[0] * decoder->down * high, c = jpeg->components == 3 ? decoder->stride[1] * decoder->down * 8 : 0;
    const Py_ssize_t segments = jpeg->restart ? decoder->across * decoder->down / jpeg->restart + 1 : 1;
    const Py_ssize_t parts[] = {
        segments * (Py_ssize_t)sizeof(*decoder->ends),
        jpeg->width * (Py_ssize_t)sizeof(*decoder->row),
        (2 * decoder->stride[0] + 2 * decoder->stride[1] + 8) * (Py_ssize_t)sizeof(*decoder->chroma),
        y + 2 * c,
        compressed + SLACK,
    };
    uint8_t *at[5];
    Py_ssize_t bytes = 0;
    for (int i = 0; i < 5; i++)
        bytes += (parts[i] + 63) / 64 * 64;
    if (reserve(&decoder->buffer, bytes) || build_codes(&decoder->jpeg))
        return -1;
    at[0] = decoder->buffer.start;
    for (int i = 1; i < 5; i++)
        at[i] = at[i - 1] + (parts[i - 1] + 63) / 64 * 64;
    decoder->ends = (Py_ssize_t *)at[0];
    decoder->row = (uint32_t *)at[1];
    decoder->chroma = (int16_t *)at[2];
    decoder->plane[0] = at[3];
    decoder->plane[1] = at[3] + y;
    decoder->plane[2] = at[3] + y + c;
    decoder->clean = at[4];
    for (int i = 0; i < jpeg->components; i++)
        for (int k = 0; k < 64; k++)
            decoder->steps[i][ZIGZAG[k]] = jpeg->quantisers[jpeg->quantiser[i]][k];
    return 0;
}

/* Decode the samples of `box`, after read_header. 0: done, and rgb_row gives the pixels. -1:
declined, or out of memory. */
static int decode(Decoder *decoder, const uint8_t *data, Py_ssize_t n, Box box)
{
    return lay_out(decoder, box, n - decoder->jpeg.scan) || unstuff(decoder, data, n) || read_mcus(decoder) ? -1 : 0;
}

/* Upsample one row of Cb or Cr horizontally: n samples to 2 * n values, each minus 128. */
INLINE void enlarge(const int16_t *restrict row, Py_ssize_t n, int three_quarters, int even, int odd, int shift, int16_t *restrict out)
{
    for (Py_ssize_t i = 0; i < n; i++) {
        out[2 * i] = (int16_t)(((three_quarters * row[i] + row[i - 1] + even) >> shift) - 128);
        out[2 * i + 1] = (int16_t)(((three_quarters * row[i] + row[i + 1] + odd) >> shift) - 128);
    }
}

/* Upsample row `y` of plane `c`, columns x0 to x1 of the image, with libjpeg's triangle filter;
out[0] is column x0 & ~1. */
INLINE void enlarged_row(const Decoder *decoder, int c, Py_ssize_t y, Py_ssize_t x0, Py_ssize_t x1, int16_t *restrict out)
{
    const Jpeg *jpeg = &decoder->jpeg;
    /* In samples of the plane. */
    const Py_ssize_t width = (jpeg->width + 1) / 2, first = x0 / 2, last = (x1 + 1) / 2;
    const Py_ssize_t from = first ? first - 1 : 0, to = last < width ? last + 1 : width;
    int16_t *row = decoder->chroma + 1 - from; /* with room for a sample before it, for the edge */
    const uint8_t *plane = decoder->plane[c];
    if (jpeg->v == 2) {
        const Py_ssize_t height = (jpeg->height + 1) / 2, other = clamp(y & 1 ? y / 2 + 1 : y / 2 - 1, 0, height - 1);
        const uint8_t *restrict near = plane + decoder->stride[c] * (y / 2), *restrict far = plane + decoder->stride[c] * other;
        for (Py_ssize_t i = from; i < to; i++)
            row[i] = (int16_t)(3 * near[i] + far[i]);
    } else {
        const uint8_t *restrict near = plane + decoder->stride[c] * y;
        for (Py_ssize_t i = from; i < to; i++)
            row[i] = near[i];
    }
    if (!first)
        row[-1] = row[0];
    if (last == width)
        row[width] = row[width - 1];
    if (jpeg->v == 2)
        enlarge(row + first, last - first, 3, 8, 7, 4, out);
    else
        enlarge(row + first, last - first, 3, 1, 2, 2, out);
}

/* Return columns x0 to x1 of row `y` of the image as RGB0; both must be within the box. */
INLINE void rgb_row(const Decoder *decoder, Py_ssize_t y, Py_ssize_t x0, Py_ssize_t x1, uint32_t *restrict out)
{
    const Py_ssize_t n = x1 - x0;
    const uint8_t *restrict luma = decoder->plane[0] + decoder->stride[0] * y + x0;
    if (decoder->jpeg.components == 1) {
        for (Py_ssize_t i = 0; i < n; i++)
            out[i] = luma[i] * 0x10101u;
        return;
    }
    if (decoder->jpeg.h == 1) {
        const Py_ssize_t at = decoder->stride[1] * y + x0;
        rgb_of_bytes(luma, decoder->plane[1] + at, decoder->plane[2] + at, n, out);
        return;
    }
    int16_t *blue = decoder->chroma + decoder->stride[1] + 4, *red = blue + decoder->stride[0] + 2;
    enlarged_row(decoder, 1, y, x0, x1, blue);
    enlarged_row(decoder, 2, y, x0, x1, red);
    rgb_of_shorts(luma, blue + (x0 & 1), red + (x0 & 1), n, out);
}

/* Write all pixels of the box, row by row. */
static void rgb_box(const Decoder *decoder, uint8_t *out)
{
    const Box box = decoder->box;
    for (Py_ssize_t y = box.y0; y < box.y1; y++, out += 3 * (box.x1 - box.x0)) {
        rgb_row(decoder, y, box.x0, box.x1, decoder->row);
        pack(decoder->row, box.x1 - box.x0, out);
    }
}

#endif
