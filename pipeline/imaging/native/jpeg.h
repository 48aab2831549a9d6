/* Read a baseline JPEG up to its first scan: sizes, quantisers and Huffman codes (ITU-T T.81,
annexes B and F).

Only the usual kind is supported: 8 bits, Huffman, one scan of grey or of YCbCr in 4:4:4, 4:2:2 or
4:2:0. All other files, and damaged ones, are declined, so that a library decides what they mean. */

#ifndef JPEG_H
#define JPEG_H

#include "common.h"

/* Bits per table look-up: a table of pairs has 16 KiB, and the L1 cache holds two of them. */
enum { LOOK = 11 };
enum { END_OF_BLOCK = 128 };
/* The encoder looks up values from -SMALL to SMALL - 1 together with the zeros before them. */
enum { SMALL = 128 };

/* A code: the bits of the code and its value together, the bits of the value, and how far it moves
in the block. No bits: the code does not exist, or is longer than LOOK. */
typedef struct {
    uint8_t bits, size, move;
} Code;

/* Two codes with their values, if they fit into LOOK bits: bits of both, bits of the first, and how
far each moves in the block (0: there is no second, and the first value is repeated). No bits: not
even the first fits. */
typedef struct {
    uint8_t bits, first, move[2];
    int16_t value[2];
} Pair;

typedef struct {
    /* Numbers of codes of 1 to 16 bits, and the codes' symbols; NULL: not defined. */
    const uint8_t *counts, *symbols;
    uint8_t known[16 + 256]; /* counts and symbols from which the tables below were made */
    int usable;              /* whether those are a valid code */
    Code codes[1 << LOOK];
    Pair pairs[1 << LOOK];
    /* For each length of codes longer than LOOK: the first 16 bits beyond them, and the index of a
    symbol minus its code. */
    int32_t limit[17], offset[17];
    /* For the encoder: a symbol's code with room for the value behind it; the low 5 bits are the
    number of bits of both. */
    uint32_t put[256];
    /* The same with the value, by value + SMALL and number of zeros before it; made on first use.
    */
    uint32_t small[2 * SMALL][16];
    int has_small;
} Huffman;

typedef struct {
    int width, height, components;
    int h, v; /* samples of Y per sample of Cb and Cr, horizontally and vertically */
    int quantiser[3], dc[3], ac[3];
    uint8_t ids[3];
    const uint8_t *quantisers[4]; /* 64 bytes in zigzag order */
    Huffman dc_codes[2], ac_codes[2];
    Py_ssize_t restart; /* MCUs between restart markers; 0: none */
    Py_ssize_t scan;    /* offset of the compressed data */
} Jpeg;

enum { BEYOND = 64, PLACES = 64 + END_OF_BLOCK };

/* Place of the k-th coefficient in natural order; from the 64th on, one place behind the block. */
static const uint8_t ZIGZAG[PLACES] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6,  7,  14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
    [64 ... PLACES - 1] = BEYOND,
};

/* Return the value that `size` bits stand for, without a branch: no processor could predict it. */
INLINE int extend(int bits, int size)
{
    /* `negative` is all ones if the first bit is zero. */
    const int mask = (1 << size) - 1, negative = ((bits << 1) >> size) - 1;
    return bits - (mask & negative);
}

/* Return the meaning of a symbol; in a baseline JPEG, the size is at most 11 bits for DC, 10 for
AC. */
static Code meaning(int symbol, int length, int of_dc)
{
    const int size = of_dc ? symbol : symbol & 15, run = of_dc ? 0 : symbol >> 4;
    return (Code){(uint8_t)(length + size), (uint8_t)size, (uint8_t)(of_dc || size || run == 15 ? run + 1 : END_OF_BLOCK)};
}

/* Make the tables of `huffman` from counts and symbols; -1 if they are not a valid code. */
static int tabulate(Huffman *huffman, int of_dc)
{
    Code *at = huffman->codes;
    int code = 0, index = 0;
    const uint8_t *counts = huffman->known, *symbols = huffman->known + 16;
    memset(huffman->codes, 0, sizeof(huffman->codes));
    memset(huffman->put, 0, sizeof(huffman->put));
    for (int length = 1; length <= 16; length++, code <<= 1) {
        huffman->offset[length] = index - code;
        for (int i = 0; i < counts[length - 1]; i++, code++, index++) {
            const int symbol = symbols[index];
            const Code made = meaning(symbol, length, of_dc);
            if (code >= 1 << length || made.size > (of_dc ? 11 : 10))
                return -1;
            for (int same = length <= LOOK ? 1 << (LOOK - length) : 0; same; same--)
                *at++ = made;
            huffman->put[symbol] = (uint32_t)code << made.size << 5 | made.bits;
        }
        if (counts[length - 1] && code >= 1 << length)
            return -1; /* the last code is all ones, which T.81 (annex C) and libjpeg forbid */
        huffman->limit[length] = code << (16 - length);
    }
    return 0;
}

/* Return the value of a code that fits into LOOK bits; `next` is those bits. */
static int16_t value_of(Code code, int next)
{
    return (int16_t)extend(next >> (LOOK - code.bits) & ((1 << code.size) - 1), code.size);
}

static void pair(Huffman *huffman)
{
    memset(huffman->pairs, 0, sizeof(huffman->pairs));
    for (int next = 0; next < 1 << LOOK; next++) {
        const Code one = huffman->codes[next];
        if (!one.bits || one.bits > LOOK)
            continue;
        const int16_t value = value_of(one, next);
        huffman->pairs[next] = (Pair){one.bits, one.bits, {one.move, 0}, {value, value}};
        const int then = next << one.bits & ((1 << LOOK) - 1);
        const Code two = huffman->codes[then];
        if (two.bits && one.bits + two.bits <= LOOK)
            huffman->pairs[next] = (Pair){(uint8_t)(one.bits + two.bits), one.bits, {one.move, two.move}, {value, value_of(two, then)}};
    }
}

/* Make the tables of the header's code, unless they exist: most files have the same code as the
file before, since most encoders use the same one. */
static int build(Huffman *huffman, int of_dc)
{
    uint8_t wanted[16 + 256] = {0};
    if (!huffman->counts)
        return -1;
    memcpy(wanted, huffman->counts, 16);
    int symbols = 0;
    for (int i = 0; i < 16; i++)
        symbols += wanted[i];
    memcpy(wanted + 16, huffman->symbols, (size_t)symbols);
    if (!huffman->usable || memcmp(wanted, huffman->known, sizeof(wanted))) {
        memcpy(huffman->known, wanted, sizeof(wanted));
        huffman->usable = !tabulate(huffman, of_dc);
        huffman->has_small = 0;
        if (huffman->usable && !of_dc)
            pair(huffman);
    }
    return huffman->usable ? 0 : -1;
}

static int word(const uint8_t *at)
{
    return at[0] << 8 | at[1];
}

/* Each of the following functions reads a segment, gets the data behind its length field, and
returns -1 to decline the file. */

static int read_quantisers(Jpeg *jpeg, const uint8_t *at, int n)
{
    for (; n >= 65; at += 65, n -= 65) {
        if (at[0] > 3)
            return -1; /* 16 bits, or no such table */
        jpeg->quantisers[at[0]] = at + 1;
    }
    return n ? -1 : 0;
}

static int read_codes(Jpeg *jpeg, const uint8_t *at, int n)
{
    while (n >= 17) {
        int symbols = 0;
        for (int i = 1; i <= 16; i++)
            symbols += at[i];
        if ((at[0] & 0xee) || symbols > 256 || n < 17 + symbols)
            return -1;
        Huffman *huffman = at[0] & 16 ? &jpeg->ac_codes[at[0] & 1] : &jpeg->dc_codes[at[0] & 1];
        huffman->counts = at + 1;
        huffman->symbols = at + 17;
        at += 17 + symbols;
        n -= 17 + symbols;
    }
    return n ? -1 : 0;
}

static int read_frame(Jpeg *jpeg, const uint8_t *at, int n)
{
    if (n < 6 || jpeg->components || at[0] != 8 || (at[5] != 1 && at[5] != 3) || n != 6 + 3 * at[5])
        return -1;
    jpeg->height = word(at + 1);
    jpeg->width = word(at + 3);
    jpeg->components = at[5];
    for (int i = 0; i < jpeg->components; i++) {
        const uint8_t *component = at + 6 + 3 * i;
        jpeg->ids[i] = component[0];
        jpeg->quantiser[i] = component[2];
        if (component[2] > 3 || (i && component[1] != 0x11))
            return -1;
    }
    jpeg->h = at[7] >> 4;
    jpeg->v = at[7] & 15;
    if (jpeg->components == 1 && jpeg->h >= 1 && jpeg->h <= 4 && jpeg->v >= 1 && jpeg->v <= 4)
        jpeg->h = jpeg->v = 1; /* for one component, the factors have no meaning */
    const int known = (jpeg->h == 1 && jpeg->v == 1) || (jpeg->h == 2 && (jpeg->v == 1 || jpeg->v == 2));
    /* libjpeg does not smooth images narrower than `narrowest`, and refuses those above `largest`.
    */
    const int narrowest = jpeg->h == 2 ? 5 : 1, largest = 65500;
    return known && jpeg->width >= narrowest && jpeg->width <= largest && jpeg->height >= 1 && jpeg->height <= largest ? 0 : -1;
}

static int read_scan(Jpeg *jpeg, const uint8_t *at, int n)
{
    if (!jpeg->components || n != 4 + 2 * jpeg->components || at[0] != jpeg->components)
        return -1;
    for (int i = 0; i < jpeg->components; i++) {
        const int tables = at[2 + 2 * i];
        if (at[1 + 2 * i] != jpeg->ids[i] || (tables & 0xee) || !jpeg->quantisers[jpeg->quantiser[i]])
            return -1;
        jpeg->dc[i] = tables >> 4;
        jpeg->ac[i] = tables & 1;
    }
    const uint8_t *spectrum = at + n - 3;
    return spectrum[0] == 0 && spectrum[1] == 63 && spectrum[2] == 0 ? 0 : -1;
}

static int build_codes(Jpeg *jpeg)
{
    for (int table = 0; table < 2; table++) {
        int dc = 0, ac = 0;
        for (int i = 0; i < jpeg->components; i++) {
            dc |= jpeg->dc[i] == table;
            ac |= jpeg->ac[i] == table;
        }
        if ((dc && build(&jpeg->dc_codes[table], 1)) || (ac && build(&jpeg->ac_codes[table], 0)))
            return -1;
    }
    return 0;
}

/* Read everything before the compressed data, without making tables; -1 to decline. */
static int read_header(Jpeg *jpeg, const uint8_t *data, Py_ssize_t n)
{
    /* `profiles` and `profile`: parts that an ICC profile announces, and parts read so far. */
    int jfif = 0, adobe = -1, profiles = 0, profile = 0;
    jpeg->components = 0;
    jpeg->restart = 0;
    memset(jpeg->quantisers, 0, sizeof(jpeg->quantisers));
    for (int i = 0; i < 2; i++)
        jpeg->dc_codes[i].counts = jpeg->ac_codes[i].counts = NULL;
    if (n < 4 || data[0] != 0xff || data[1] != 0xd8)
        return -1;
    for (Py_ssize_t at = 2; at + 4 <= n;) {
        const int marker = data[at + 1], length = word(data + at + 2) - 2;
        const uint8_t *segment = data + at + 4;
        if (data[at] != 0xff || length < 0 || length > n - at - 4)
            return -1;
        at += 4 + length;
        int declined = 0;
        if (marker == 0xdb)
            declined = read_quantisers(jpeg, segment, length);
        else if (marker == 0xc4)
            declined = read_codes(jpeg, segment, length);
        else if (marker == 0xc0)
            declined = read_frame(jpeg, segment, length);
        else if (marker == 0xdd && length == 2)
            jpeg->restart = word(segment);
        else if (marker == 0xe0) {
            if (length >= 14 && !memcmp(segment, "JFIF", 5)) {
                jfif = 1;
                declined = segment[5] != 1; /* the major version: libjpeg warns about any other */
            }
        } else if (marker == 0xe2 && length >= 14 && !memcmp(segment, "ICC_PROFILE", 12)) {
            declined = segment[12] != profile + 1 || (profile && segment[13] != profiles);
            profile = segment[12];
            profiles = segment[13];
        } else if (marker == 0xee)
            adobe = length >= 12 && !memcmp(segment, "Adobe", 5) ? segment[11] : adobe;
        else if (marker == 0xda) {
            const int ycbcr = jfif || adobe == 1 || (adobe == -1 && jpeg->ids[0] == 1 && jpeg->ids[1] == 2 && jpeg->ids[2] == 3);
            jpeg->scan = at;
            if (profile != profiles)
                return -1; /* a profile with missing or extra parts: libjpeg warns */
            return read_scan(jpeg, segment, length) || (jpeg->components == 3 && !ycbcr) ? -1 : 0;
        } else if ((marker & 0xf0) != 0xe0 && marker != 0xfe)
            declined = -1;
        if (declined)
            return -1;
    }
    return -1;
}

#endif
