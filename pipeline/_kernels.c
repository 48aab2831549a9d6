/* The loops of kernels.py, which says what they compute and holds the same in numpy and OpenCV.

Buffers come through the buffer protocol and are checked before the GIL is released. Built with -ffp-contract=off: one fused
multiply-add would change a bit. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define CLONES __attribute__((target_clones("avx2", "default"))) /* avx2 has no FMA in it */
#else
#define CLONES
#endif
#define INLINE static inline __attribute__((always_inline))

typedef float Float4 __attribute__((vector_size(16)));

/* ---- area_square ---- */

/* Along one axis: output i is the sum over k < count[i] of weights[i * stride + k] * input first[i] + k. */
typedef struct {
    Py_ssize_t stride, longest;
    Py_ssize_t *first, *count;
    float *weights;
} Axis;

static void free_axis(Axis *axis)
{
    PyMem_Free(axis->first);
    PyMem_Free(axis->count);
    PyMem_Free(axis->weights);
}

/* The weights of output i, by the rule of OpenCV's computeResizeAreaTab: pieces under a thousandth of a pixel are dropped. */
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

/* Fill `axis` for outputs `offset` to `offset + size` of `scaled`; -1 without memory. */
static int set_axis(Axis *axis, Py_ssize_t source, Py_ssize_t scaled, Py_ssize_t offset, Py_ssize_t size)
{
    double scale = 1.0 / ((double)scaled / (double)source); /* in this order, as OpenCV does */
    axis->stride = source / scaled + 3; /* whole pixels, a part at either end, and one for a quotient rounded up */
    axis->longest = 0;
    axis->first = PyMem_Calloc((size_t)size, sizeof(*axis->first));
    axis->count = PyMem_Calloc((size_t)size, sizeof(*axis->count));
    axis->weights = PyMem_Calloc((size_t)(size * axis->stride), sizeof(*axis->weights));
    if (!axis->first || !axis->count || !axis->weights)
        return -1;
    for (Py_ssize_t i = 0; i < size; i++)
        weigh(axis, i, offset + i, source, scale);
    return 0;
}

/* Give every output `longest` inputs that exist, the new ones with weight zero: adding +0 changes no bit. */
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

/* Inputs from the first to the last that the outputs of a levelled axis need. */
static Py_ssize_t span(const Axis *axis, Py_ssize_t size)
{
    return axis->first[size - 1] - axis->first[0] + axis->longest;
}

/* One row across, a pixel at a time in a vector of four: the fourth is the next pixel's red, and overwritten by it. */
INLINE void across(const float *restrict row, const Axis *axis, Py_ssize_t size, Py_ssize_t taps, float *restrict out)
{
    const Py_ssize_t *first = axis->first, origin = first[0], stride = axis->stride;
    const float *weights = axis->weights;
    for (Py_ssize_t i = 0; i < size; i++, weights += stride) {
        const float *from = row + 3 * (first[i] - origin);
        Float4 sum = {0};
        for (Py_ssize_t k = 0; k < taps; k++) {
            Float4 pixel;
            memcpy(&pixel, from + 3 * k, sizeof(pixel));
            sum += pixel * weights[k];
        }
        memcpy(out + 3 * i, &sum, sizeof(sum));
    }
}

/* The same from bytes. They become floats in a loop of their own: GCC 12 converts a vector of four bytes one by one, which takes
three times as long. */
INLINE void any_row_across(const uint8_t *restrict row, const Axis *axis, Py_ssize_t size, float *restrict floats, float *restrict out)
{
    const uint8_t *from = row + 3 * axis->first[0];
    const Py_ssize_t n = 3 * span(axis, size);
    for (Py_ssize_t i = 0; i < n; i++)
        floats[i] = from[i];
    if (axis->longest == 2)
        across(floats, axis, size, 2, out);
    else if (axis->longest == 3)
        across(floats, axis, size, 3, out);
    else if (axis->longest == 4)
        across(floats, axis, size, 4, out);
    else
        across(floats, axis, size, axis->longest, out);
}

/* Rounded half to even: from 2**23 on a float32 has no bits for a fraction, and the last bits are those of the integer. The limit
is set on the integer: GCC leaves a loop that compares floats alone, lest it raise a flag. */
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

/* `scratch`: a row of sums, one of outputs with a vector's end behind it, and one of inputs with the same. */
static Py_ssize_t scratch_size(const Axis *x, Py_ssize_t size)
{
    return 3 * size + (3 * size + 1) + (3 * span(x, size) + 1);
}

CLONES static void area_rows(const uint8_t *image, Py_ssize_t width, const Axis *y, const Axis *x, Py_ssize_t size, float *scratch, uint8_t *out)
{
    const Py_ssize_t n = 3 * size;
    float *sum = scratch, *row = sum + n, *floats = row + n + 1;
    Py_ssize_t held = -1; /* the source row that is in `row`: the last of one output is often the first of the next */
    for (Py_ssize_t i = 0; i < size; i++) {
        for (Py_ssize_t k = 0; k < y->count[i]; k++) {
            const float weight = y->weights[i * y->stride + k];
            const Py_ssize_t at = y->first[i] + k;
            if (at != held)
                any_row_across(image + 3 * width * at, x, size, floats, row);
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

/* ---- count_moments ---- */

enum { BLOCK = 1024 }; /* pixels: their planes stay in the first cache, and a sum of products of them in 32 bits */

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

CLONES static void add_image(const uint8_t *image, Py_ssize_t pixels, uint16_t *restrict pixel_sum, uint64_t *restrict outer)
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

/* ---- for Python ---- */

/* Take a C-contiguous buffer of numbers of one of `formats`; ValueError if it is another kind. */
static int take(PyObject *object, Py_buffer *view, int writable, const char *formats, int dimensions, const char *what)
{
    if (PyObject_GetBuffer(object, view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0))) {
        if (PyErr_ExceptionMatches(PyExc_BufferError))
            PyErr_Format(PyExc_ValueError, "%s must be C-contiguous%s", what, writable ? " and writable" : "");
        return -1;
    }
    const char *format = view->format ? view->format : "B";
    if (view->ndim != dimensions || strlen(format) != 1 || !strchr(formats, *format)) {
        PyErr_Format(PyExc_ValueError, "%s must have %d dimensions and format %s, not %d and %s", what, dimensions, formats, view->ndim, format);
        PyBuffer_Release(view);
        return -1;
    }
    return 0;
}

static int take_image(PyObject *object, Py_buffer *view, int writable, const char *formats, const char *what)
{
    if (take(object, view, writable, formats, 3, what))
        return -1;
    if (view->shape[2] != 3) {
        PyErr_Format(PyExc_ValueError, "%s must have 3 channels, not %zd", what, view->shape[2]);
        PyBuffer_Release(view);
        return -1;
    }
    return 0;
}

static PyObject *area(const Py_buffer *image, Py_ssize_t height, Py_ssize_t width, const Py_buffer *out)
{
    const Py_ssize_t rows = image->shape[0], columns = image->shape[1], size = out->shape[0];
    if (out->shape[1] != size || size < 1 || height < size || width < size || height > rows || width > columns)
        return PyErr_Format(PyExc_ValueError, "%zdx%zd pixels cannot shrink to %zdx%zd around %zdx%zd", columns, rows, width, height,
                            out->shape[1], size);
    Axis y = {0}, x = {0};
    float *scratch = NULL;
    if (!set_axis(&y, rows, height, (height - size) / 2, size) && !set_axis(&x, columns, width, (width - size) / 2, size)) {
        level(&x, columns, size);
        scratch = PyMem_Calloc((size_t)scratch_size(&x, size), sizeof(*scratch));
    }
    if (scratch) {
        Py_BEGIN_ALLOW_THREADS
        area_rows(image->buf, columns, &y, &x, size, scratch, out->buf);
        Py_END_ALLOW_THREADS
    }
    PyObject *result = scratch ? Py_NewRef(Py_None) : PyErr_NoMemory();
    PyMem_Free(scratch);
    free_axis(&y);
    free_axis(&x);
    return result;
}

static PyObject *area_square(PyObject *module, PyObject *arguments)
{
    PyObject *source, *target, *result = NULL;
    Py_ssize_t height, width;
    Py_buffer image, out;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "OnnO:area_square", &source, &height, &width, &target) || take_image(source, &image, 0, "B", "the image"))
        return NULL;
    if (!take_image(target, &out, 1, "B", "the square")) {
        result = area(&image, height, width, &out);
        PyBuffer_Release(&out);
    }
    PyBuffer_Release(&image);
    return result;
}

static PyObject *moments(const Py_buffer *image, const Py_buffer *pixel_sum, const Py_buffer *outer)
{
    if (image->shape[0] != pixel_sum->shape[0] || image->shape[1] != pixel_sum->shape[1])
        return PyErr_Format(PyExc_ValueError, "an image of %zdx%zd pixels in sums of %zdx%zd", image->shape[1], image->shape[0],
                            pixel_sum->shape[1], pixel_sum->shape[0]);
    if (outer->shape[0] != 6 || outer->itemsize != 8)
        return PyErr_Format(PyExc_ValueError, "six products of 64 bits, not %zd of %zd", outer->shape[0], 8 * outer->itemsize);
    Py_BEGIN_ALLOW_THREADS
    add_image(image->buf, image->shape[0] * image->shape[1], pixel_sum->buf, outer->buf);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *count_moments(PyObject *module, PyObject *arguments)
{
    PyObject *source, *sums, *products, *result = NULL;
    Py_buffer image, pixel_sum, outer;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "OOO:count_moments", &source, &sums, &products) || take_image(source, &image, 0, "B", "the image"))
        return NULL;
    if (!take_image(sums, &pixel_sum, 1, "H", "the sums of pixels")) {
        if (!take(products, &outer, 1, "LQ", 1, "the sums of products")) {
            result = moments(&image, &pixel_sum, &outer);
            PyBuffer_Release(&outer);
        }
        PyBuffer_Release(&pixel_sum);
    }
    PyBuffer_Release(&image);
    return result;
}

static PyMethodDef methods[] = {
    {"area_square", area_square, METH_VARARGS, "area_square(image, height, width, out): see kernels.py"},
    {"count_moments", count_moments, METH_VARARGS, "count_moments(image, pixel_sum, outer): see kernels.py"},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_kernels", "The loops of kernels.py.", 0, methods, slots, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernels(void)
{
    return PyModuleDef_Init(&definition);
}
