/* Encode a square as a baseline JPEG, 4:4:4 or 4:2:0, with the same bytes as libjpeg-turbo, and
compute the pixels that decoding it will give.

The header (quantisers, Huffman codes) comes from libjpeg itself. The pixels cost an inverse DCT,
but no Huffman decoding. */

#ifndef ENCODE_H
#define ENCODE_H

#include "common.h"
#include "dct.h"
#include "decode.h"
#include "jpeg.h"

/* Maximum bytes of a block: every code and value at its longest, and a word that is overwritten. */
enum { LONGEST_BLOCK = 64 * 27 / 8 + 8 };

typedef struct {
    uint8_t *start, *out, *end;
    uint64_t bits; /* pending bits, the first in the highest place; the others are zero */
    int free;      /* number of free bits in `bits` */
} Writer;

/* Append n bits; at most 52 bits may be put between two calls of `pass_on`. */
INLINE void put(Writer *writer, uint32_t value, int n)
{
    writer->free -= n;
    writer->bits |= (uint64_t)value << writer->free;
}

/* Write all whole bytes. There is no branch, and so no check for bytes to stuff: the processor
cannot predict whether a word is full. */
INLINE void pass_on(Writer *writer)
{
    const uint64_t swapped = __builtin_bswap64(writer->bits);
    const int bits = (64 - writer->free) & ~7;
    memcpy(writer->out, &swapped, 8);
    writer->out += bits >> 3;
    /* Two thirds of the time that `<< bits` takes (Zen 5, GCC 12), for an unknown reason. */
    writer->bits = writer->bits << (bits & 32) << (bits & 24);
    writer->free += bits;
}

/* Return the code of `run` zeros before `value`, with the value's bits, as in Huffman.put. */
INLINE uint32_t code_of(const Huffman *huffman, int run, int value)
{
    const int magnitude = value < 0 ? -value : value, size = magnitude ? 32 - __builtin_clz((unsigned)magnitude) : 0;
    return huffman->put[run << 4 | size] | ((uint32_t)(value - (value < 0)) & ((1u << size) - 1)) << 5;
}

INLINE void put_code(Writer *writer, uint32_t code)
{
    put(writer, code >> 5, code & 31);
}

static void fill_small(Huffman *huffman)
{
    if (huffman->has_small)
        return;
    huffman->has_small = 1;
    for (int run = 0; run < 16; run++)
        for (int value = -SMALL; value < SMALL; value++)
            huffman->small[value + SMALL][run] = code_of(huffman, run, value);
}

/* For each row of a block and each set of its columns: the set of those coefficients, by zigzag
position. */
static uint64_t in_zigzag[8][256];

static void fill_in_zigzag(void)
{
    for (int k = 0; k < 64; k++)
        for (int columns = 0; columns < 256; columns++)
            in_zigzag[ZIGZAG[k] / 8][columns] |= (uint64_t)(columns >> ZIGZAG[k] % 8 & 1) << k;
}

/* Return the set of nonzero coefficients of a block, by zigzag position. */
INLINE uint64_t nonzero(const int16_t *block)
{
    uint64_t set = 0;
    uint8_t flags[64];
    for (int i = 0; i < 64; i++)
        flags[i] = block[i] != 0;
    for (int row = 0; row < 8; row++) { /* eight bytes of 0 or 1 become a byte of bits */
        uint64_t bytes;
        memcpy(&bytes, flags + 8 * row, 8);
        set |= in_zigzag[row][bytes * 0x0102040810204080 >> 56];
    }
    return set;
}

/* Write one block of quantised coefficients in natural order; return whether it is flat. */
INLINE int put_block(Writer *writer, const Huffman *dc, const Huffman *ac, const int16_t *block, int *mean)
{
    const uint64_t set = nonzero(block) & ~(uint64_t)1;
    put_code(writer, code_of(dc, 0, block[0] - *mean));
    *mean = block[0];
    int last = 0;
    for (uint64_t left = set; left; left &= left - 1) {
        const int k = __builtin_ctzll(left), value = block[ZIGZAG[k]];
        int run = k - last - 1;
        for (; run > 15; run -= 16) {
            pass_on(writer);
            put_code(writer, ac->put[0xf0]);
        }
        pass_on(writer);
        put_code(writer, value >= -SMALL && value < SMALL ? ac->small[value + SMALL][run] : code_of(ac, run, value));
        last = k;
    }
    pass_on(writer);
    if (last < 63)
        put_code(writer, ac->put[0]);
    return set == 0;
}

typedef struct {
    Decoder decoder; /* decoder of the written JPEG: its header, and the samples it will give */
    Writer writer;
    float inverse[3][64]; /* 1 / (8 * quantiser), in natural order */
    Py_ssize_t size, wide; /* wide: size rounded up to MCUs */
    Py_ssize_t header;     /* bytes of the header; the data behind it are not stuffed yet */
    Buffer buffer;         /* memory of the samples */
    int16_t *samples;      /* three planes of the rows of an MCU, each value minus 128 */
} Encoder;

/* Convert the rows of an MCU, from `row` on; beyond the edges the last pixel is repeated. */
INLINE void convert_rows(const Encoder *encoder, const uint8_t *restrict image, Py_ssize_t row)
{
    const Py_ssize_t size = encoder->size, wide = encoder->wide, high = 8 * encoder->decoder.jpeg.v;
    for (Py_ssize_t i = 0; i < high; i++) {
        const uint8_t *restrict from = image + 3 * size * (row + i < size ? row + i : size - 1);
        int16_t *restrict y = encoder->samples + wide * i, *restrict cb = y + high * wide, *restrict cr = cb + high * wide;
        ycbcr_row(from, size, y, cb, cr);
        for (Py_ssize_t x = size; x < wide; x++) {
            y[x] = y[size - 1];
            cb[x] = cb[size - 1];
            cr[x] = cr[size - 1];
        }
    }
}

/* Reduce sixteen rows of Cb or Cr to eight, in place: means of 2 x 2, rounded down and up in turn.
Below the image the last row is repeated. */
INLINE void halve_rows(int16_t *plane, Py_ssize_t wide, Py_ssize_t row, Py_ssize_t size)
{
    for (Py_ssize_t i = 0; i < 8; i++) {
        const int16_t *one = plane + 2 * i * wide, *other = one + wide;
        int16_t *out = plane + i * wide;
        if (row + 2 * i >= size)
            /* i > 0, since an MCU begins within the image. */
            memcpy(out, out - wide, (size_t)wide / 2 * sizeof(*out));
        else
            for (Py_ssize_t x = 0; x < wide / 2; x++) /* out[x] lies before all unread values */
                out[x] = (int16_t)((one[2 * x] + one[2 * x + 1] + other[2 * x] + other[2 * x + 1] + 1 + (x & 1)) >> 2);
    }
}

/* Divide by 8 times the quantiser and round halves away from zero. float32 is exact here, since
values have 16 bits and quantisers have 8. */
INLINE Int8 quantise(Int8 v, const int16_t *steps, const float *inverse)
{
    const Int8 step = widen(steps);
    Float8 factor;
    memcpy(&factor, inverse, sizeof(factor));
    const Int8 sign = v >> 31, magnitude = ((v ^ sign) - sign) + 4 * step;
    const Int8 quotient = __builtin_convertvector((__builtin_convertvector(magnitude, Float8) + 0.5f) * factor, Int8);
    return (quotient ^ sign) - sign;
}

INLINE void narrow(Int8 v, int16_t *out)
{
    const Short8 values = __builtin_convertvector(v, Short8);
    memcpy(out, &values, sizeof(values));
}

/* Encode block (x, y) of component `c`, from `samples` on. As in libjpeg, blocks of an MCU that lie
outside the image are copies of the preceding mean. */
INLINE void encode_block(Encoder *encoder, Writer *writer, int c, Py_ssize_t x, Py_ssize_t y, const int16_t *samples, int *means)
{
    Decoder *decoder = &encoder->decoder;
    const Jpeg *jpeg = &decoder->jpeg;
    const Huffman *dc = &jpeg->dc_codes[jpeg->dc[c]], *ac = &jpeg->ac_codes[jpeg->ac[c]];
    int16_t block[64];
    Int8 v[8], unused = {0};
    if (c == 0 && (8 * x >= encoder->size || 8 * y >= encoder->size)) {
        pass_on(writer);
        put_code(writer, dc->put[0]);
        put_code(writer, ac->put[0]);
        pass_on(writer);
        return;
    }
    forward_dct(samples, encoder->wide, v);
    for (int i = 0; i < 8; i++)
        narrow(quantise(v[i], decoder->steps[c] + 8 * i, encoder->inverse[c] + 8 * i), block + 8 * i);
    const int flat = put_block(writer, dc, ac, block, &means[c]);
    uint8_t *out = decoder->plane[c] + 8 * (y * decoder->stride[c] + x);
    if (flat)
        inverse_dct_flat(block[0] * decoder->steps[c][0], out, decoder->stride[c]);
    else
        inverse_dct(block, decoder->steps[c], out, decoder->stride[c], &unused);
}

/* Encode the MCU at (mx, my); it has `h` x `h` blocks of Y. */
INLINE void encode_mcu(Encoder *encoder, Writer *writer, Py_ssize_t mx, Py_ssize_t my, int h, int *means)
{
    const Py_ssize_t wide = encoder->wide;
    for (int i = 0; i < h * h; i++) {
        const Py_ssize_t across = mx * h + i % h, down = i / h;
        encode_block(encoder, writer, 0, across, my * h + down, encoder->samples + 8 * (down * wide + across), means);
    }
    for (int c = 1; c < 3; c++)
        encode_block(encoder, writer, c, mx, my, encoder->samples + 8 * (h * c * wide + mx), means);
}

/* Make room for `needed` more bytes; -1 if out of memory. */
static int make_room(Writer *writer, Py_ssize_t needed)
{
    const Py_ssize_t used = writer->out - writer->start, held = writer->end - writer->start;
    if (held - used >= needed)
        return 0;
    uint8_t *larger = malloc((size_t)(2 * held + needed));
    if (!larger)
        return -1;
    if (used)
        memcpy(larger, writer->start, (size_t)used);
    free(writer->start);
    writer->start = larger;
    writer->out = larger + used;
    writer->end = larger + 2 * held + needed;
    return 0;
}

INLINE int encode_rows(Encoder *encoder, const uint8_t *image, int h)
{
    int means[3] = {0};
    const Py_ssize_t wide = encoder->wide, size = encoder->size, across = wide / (8 * h);
    Writer writer = encoder->writer; /* a local copy stays in registers */
    for (Py_ssize_t my = 0; my < across; my++) {
        encoder->writer = writer;
        if (make_room(&encoder->writer, (across * (h * h + 2) + 1) * LONGEST_BLOCK))
            return -1;
        writer = encoder->writer;
        convert_rows(encoder, image, 8 * h * my);
        for (int c = 1; c < 3 && h == 2; c++)
            halve_rows(encoder->samples + 16 * c * wide, wide, 16 * my, size);
        for (Py_ssize_t mx = 0; mx < across; mx++)
            encode_mcu(encoder, &writer, mx, my, h, means);
    }
    encoder->writer = writer;
    return 0;
}

/* Encode `image`, `size` x `size` RGB, behind `header`; its decoded pixels go to `pixels`. -1: out
of memory, or the header does not fit. */
static int encode(Encoder *encoder, const uint8_t *header, Py_ssize_t n, const uint8_t *image, Py_ssize_t size, uint8_t *pixels)
{
    Jpeg *jpeg = &encoder->decoder.jpeg;
    Writer *writer = &encoder->writer;
    if (read_header(jpeg, header, n) || jpeg->scan != n || jpeg->components != 3 || jpeg->h != jpeg->v || jpeg->restart || jpeg->width != size ||
        jpeg->height != size || lay_out(&encoder->decoder, (Box){0, 0, (int)size, (int)size}, 0))
        return -1;
    encoder->size = size;
    encoder->wide = 8 * jpeg->h * encoder->decoder.across;
    for (int c = 0; c < 3; c++)
        for (int k = 0; k < 64; k++) {
            if (!encoder->decoder.steps[c][k])
                return -1;
            encoder->inverse[c][k] = 1.0f / (float)(8 * encoder->decoder.steps[c][k]);
        }
    for (int table = 0; table < 2; table++)
        fill_small(&jpeg->ac_codes[table]);
    writer->out = writer->start;
    if (reserve(&encoder->buffer, 3 * 8 * jpeg->h * encoder->wide * (Py_ssize_t)sizeof(*encoder->samples)) || make_room(writer, n + 16))
        return -1;
    encoder->samples = encoder->buffer.start;
    memcpy(writer->out, header, (size_t)n);
    writer->out += n;
    writer->bits = 0;
    writer->free = 64;
    if (jpeg->h == 1 ? encode_rows(encoder, image, 1) : encode_rows(encoder, image, 2))
        return -1;
    pass_on(writer);
    put(writer, 0xff, 8); /* fills a partial byte with ones */
    *writer->out = (uint8_t)(writer->bits >> 56);
    writer->out += writer->free < 56;
    encoder->header = n;
    rgb_box(&encoder->decoder, pixels);
    return 0;
}

/* Return the bytes of the finished file: with a zero behind every 255 of the compressed data, and
EOI. */
static Py_ssize_t finished_bytes(const Encoder *encoder)
{
    const uint8_t *end = encoder->writer.out;
    Py_ssize_t bytes = end - encoder->writer.start + 2;
    for (const uint8_t *at = encoder->writer.start + encoder->header; (at = memchr(at, 0xff, (size_t)(end - at))); at++)
        bytes++;
    return bytes;
}

static void finish(const Encoder *encoder, uint8_t *out)
{
    const uint8_t *end = encoder->writer.out, *at = encoder->writer.start, *mark = at + encoder->header;
    while ((mark = memchr(mark, 0xff, (size_t)(end - mark)))) {
        memcpy(out, at, (size_t)(++mark - at));
        out += mark - at;
        *out++ = 0;
        at = mark;
    }
    memcpy(out, at, (size_t)(end - at));
    memcpy(out + (end - at), "\xff\xd9", 2);
}

#endif
