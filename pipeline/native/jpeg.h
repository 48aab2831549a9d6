/* A baseline JPEG as far as its first scan: sizes, quantisers and Huffman codes (ITU-T T.81, annexes B and F).

Only the usual kind is understood: 8 bits, Huffman, one scan of grey or of YCbCr in 4:4:4, 4:2:2 or 4:2:0. Whatever else there is, and
whatever is damaged, is declined, so that a library decides what it means. */

#ifndef JPEG_H
#define JPEG_H

#include "common.h"

enum { LOOK = 12 }; /* bits looked up at once: 16 KiB a code, which the first cache holds twice */

/* What the next LOOK bits say: the low 5 bits how many of them to drop, bits 8-15 how many coefficients to skip, and the upper half
the value; with MORE, the upper half is how many bits of value follow. 0: no code, or one longer than LOOK. */
enum { DROP = 31, MORE = 128, RUN = 8, VALUE = 16, END_OF_BLOCK = 127 };

/* Two codes at once, if both fit: bits of both, bits of the first, how far each moves in the block (0: there is no second, and the first
is repeated), values. All zero if not even the first fits. */
typedef struct {
    uint8_t bits, first, move[2];
    int16_t value[2];
} Pair;

typedef struct {
    const uint8_t *counts, *symbols; /* codes of 1 to 16 bits, and what they stand for; NULL: not defined */
    uint8_t known[16 + 256];         /* those that the tables below are of */
    int usable;                      /* whether these are a code */
    int32_t entries[1 << LOOK];
    Pair pairs[1 << LOOK];
    int32_t limit[17], offset[17]; /* of codes longer than LOOK: first 16 bits beyond them, and symbol less code */
    uint32_t put[256]; /* for the encoder: a symbol's code with room for the value behind it, and in the low 5 bits how many bits that is */
} Huffman;

typedef struct {
    int width, height, components;
    int h, v; /* samples of Y to one of Cb and Cr, across and down */
    int quantiser[3], dc[3], ac[3];
    uint8_t ids[3];
    const uint8_t *quantisers[4]; /* 64 bytes in zigzag order */
    Huffman dc_codes[2], ac_codes[2];
    Py_ssize_t restart; /* MCUs between restart markers; 0: none */
    Py_ssize_t scan;    /* where the compressed data begin */
} Jpeg;

enum { BEYOND = 64, PLACES = 64 + END_OF_BLOCK + 1 };

/* Where the k-th coefficient belongs; from the 64th on, to one place behind the block. */
static const uint8_t ZIGZAG[PLACES] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6,  7,  14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
    [64 ... PLACES - 1] = BEYOND,
};

/* The number that `bits`, the `size` bits after a code, stand for. */
INLINE int extend(int bits, int size)
{
    return bits < 1 << (size - 1) ? bits - (1 << size) + 1 : bits;
}

/* Fill the entries of one symbol, whose code has `length` <= LOOK bits, from `at` on; return their end. */
static int32_t *fill(int32_t *at, int length, int run, int size)
{
    const int left = LOOK - length;
    if (size > left) {
        for (int32_t *end = at + (1 << left); at < end; at++)
            *at = length | MORE | run << RUN | size << VALUE;
        return at;
    }
    for (int value = 0; value < 1 << size; value++) {
        const int number = size ? extend(value, size) : 0;
        const int32_t entry = (int32_t)((uint32_t)number << VALUE | (uint32_t)(run << RUN | (length + size)));
        for (int32_t *end = at + (1 << (left - size)); at < end; at++)
            *at = entry;
    }
    return at;
}

/* How many coefficients the symbol skips, and how many bits of value follow it; -1 if a baseline JPEG has no such symbol. */
static int meaning(int symbol, int of_dc, int *run, int *size)
{
    *run = of_dc ? 0 : symbol >> 4;
    *size = of_dc ? symbol : symbol & 15;
    if (!of_dc && *size == 0 && *run != 15)
        *run = END_OF_BLOCK;
    return *size > (of_dc ? 11 : 10) ? -1 : 0;
}

/* Make the tables of `huffman` from counts and symbols; -1 if they are no code. */
static int tabulate(Huffman *huffman, int of_dc)
{
    int32_t *at = huffman->entries;
    int code = 0, index = 0, run, size;
    const uint8_t *counts = huffman->known, *symbols = huffman->known + 16;
    memset(huffman->put, 0, sizeof(huffman->put));
    for (int length = 1; length <= 16; length++, code <<= 1) {
        huffman->offset[length] = index - code;
        for (int i = 0; i < counts[length - 1]; i++, code++, index++) {
            const int symbol = symbols[index];
            if (code >= 1 << length || meaning(symbol, of_dc, &run, &size))
                return -1;
            if (length <= LOOK)
                at = fill(at, length, run, size);
            huffman->put[symbol] = (uint32_t)code << size << 5 | (uint32_t)(length + size);
        }
        huffman->limit[length] = code << (16 - length);
    }
    memset(at, 0, (size_t)(huffman->entries + (1 << LOOK) - at) * sizeof(*at));
    return 0;
}

static void pair(Huffman *huffman)
{
    for (int next = 0; next < 1 << LOOK; next++) {
        const int32_t one = huffman->entries[next], bits = one & DROP;
        Pair *both = &huffman->pairs[next];
        *both = (Pair){0};
        if (one == 0 || one & MORE)
            continue;
        const int32_t two = huffman->entries[(next << bits) & ((1 << LOOK) - 1)];
        *both = (Pair){(uint8_t)bits, (uint8_t)bits, {(uint8_t)((one >> RUN & 255) + 1), 0}, {(int16_t)(one >> VALUE), (int16_t)(one >> VALUE)}};
        if (two && !(two & MORE) && bits + (two & DROP) <= LOOK) {
            both->bits = (uint8_t)(bits + (two & DROP));
            both->move[1] = (uint8_t)((two >> RUN & 255) + 1);
            both->value[1] = (int16_t)(two >> VALUE);
        }
    }
}

/* Have the tables of what the header said; most files have the code of the one before, which most encoders use. */
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
        if (huffman->usable && !of_dc)
            pair(huffman);
    }
    return huffman->usable ? 0 : -1;
}

static int word(const uint8_t *at)
{
    return at[0] << 8 | at[1];
}

/* Every reader of a segment gets what is behind its length, and returns -1 to decline the file. */

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
    if (jpeg->components == 1)
        jpeg->h = jpeg->v = 1; /* of one component, the factors mean nothing */
    const int known = (jpeg->h == 1 && jpeg->v == 1) || (jpeg->h == 2 && (jpeg->v == 1 || jpeg->v == 2));
    const int narrowest = jpeg->h == 2 ? 5 : 1; /* below, libjpeg does not smooth */
    return known && jpeg->width >= narrowest && jpeg->height ? 0 : -1;
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

/* Read everything before the compressed data, and make no tables yet; -1 to decline. */
static int read_header(Jpeg *jpeg, const uint8_t *data, Py_ssize_t n)
{
    int jfif = 0, adobe = -1;
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
        else if (marker == 0xe0)
            jfif |= length >= 14 && !memcmp(segment, "JFIF", 5);
        else if (marker == 0xee)
            adobe = length >= 12 && !memcmp(segment, "Adobe", 5) ? segment[11] : adobe;
        else if (marker == 0xda) {
            const int ycbcr = jfif || adobe == 1 || (adobe == -1 && jpeg->ids[0] == 1 && jpeg->ids[1] == 2 && jpeg->ids[2] == 3);
            jpeg->scan = at;
            return read_scan(jpeg, segment, length) || (jpeg->components == 3 && !ycbcr) ? -1 : 0;
        } else if ((marker & 0xf0) != 0xe0 && marker != 0xfe)
            declined = -1;
        if (declined)
            return -1;
    }
    return -1;
}

#endif
