/* CPU kernels for the memory-bound parts of a training step, each in one pass: both response
normalisations with their gradients, and the update rule. `kernels.py` says what they compute;
`layers.py` and `optimizer.py` have the same in torch. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

/* Compiles a loop for several generations of processors; loading the module selects one. */
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif
#define INLINE static inline __attribute__((always_inline))

enum { FLOAT32, BFLOAT16 };
enum { REACH = 2, MOST = 4096 }; /* maps on either side that a sum includes; most maps per tower */

typedef struct {
    Py_ssize_t maps, towers; /* `maps` is the count in one tower */
    float alpha, k;
    int kind;
} Norm;

INLINE void read_row(const void *from, Py_ssize_t at, Py_ssize_t n, int kind, float *restrict out)
{
    if (kind == FLOAT32) {
        memcpy(out, (const float *)from + at, (size_t)n * sizeof(float));
        return;
    }
    const uint16_t *restrict halves = (const uint16_t *)from + at;
    for (Py_ssize_t i = 0; i < n; i++) {
        const uint32_t bits = (uint32_t)halves[i] << 16;
        memcpy(out + i, &bits, sizeof(bits));
    }
}

/* Rounds half to even; NaN stays NaN. */
INLINE void write_row(const float *restrict from, Py_ssize_t at, Py_ssize_t n, int kind, void *out)
{
    if (kind == FLOAT32) {
        memcpy((float *)out + at, from, (size_t)n * sizeof(float));
        return;
    }
    uint16_t *restrict halves = (uint16_t *)out + at;
    for (Py_ssize_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, from + i, sizeof(bits));
        const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
        halves[i] = (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
    }
}

/* Writes `base` and base ** -0.75 of a tower's maps at one pixel. */
INLINE void powers(const float *restrict x, const Norm *norm, float *restrict squares, float *restrict base, float *restrict power)
{
    const Py_ssize_t n = norm->maps;
    for (Py_ssize_t i = 0; i < n; i++)
        squares[REACH + i] = x[i] * x[i];
    for (Py_ssize_t i = 0; i < n; i++)
        base[i] = norm->k + norm->alpha * (squares[i] + squares[i + 1] + squares[i + 2] + squares[i + 3] + squares[i + 4]);
    for (Py_ssize_t i = 0; i < n; i++) {
        const float root = 1 / sqrtf(base[i]);
        power[i] = root * sqrtf(root);
    }
}

typedef struct {
    float x[MOST], grad[MOST], base[MOST], power[MOST], sums[MOST + 2 * REACH];
} Scratch;

INLINE void normalise_rows(const void *x, const Norm *norm, Py_ssize_t first, Py_ssize_t count, int kind, Scratch *s, void *out)
{
    const Py_ssize_t n = norm->maps;
    for (Py_ssize_t row = first * norm->towers; row < (first + count) * norm->towers; row++) {
        read_row(x, row * n, n, kind, s->x);
        powers(s->x, norm, s->sums, s->base, s->power);
        for (Py_ssize_t i = 0; i < n; i++)
            s->x[i] *= s->power[i];
        write_row(s->x, row * n, n, kind, out);
    }
}

INLINE void differentiate_rows(const void *x, const void *grad, const Norm *norm, Py_ssize_t first, Py_ssize_t count, int kind, Scratch *s, void *out)
{
    const Py_ssize_t n = norm->maps;
    const float factor = 1.5f * norm->alpha; /* 2 * 0.75 */
    for (Py_ssize_t row = first * norm->towers; row < (first + count) * norm->towers; row++) {
        read_row(x, row * n, n, kind, s->x);
        read_row(grad, row * n, n, kind, s->grad);
        powers(s->x, norm, s->sums, s->base, s->power);
        float *sums = s->sums;
        for (Py_ssize_t i = 0; i < n; i++)
            s->grad[i] *= s->power[i];
        for (Py_ssize_t i = 0; i < n; i++)
            sums[REACH + i] = s->grad[i] * s->x[i] / s->base[i];
        for (Py_ssize_t i = 0; i < n; i++)
            s->grad[i] -= factor * s->x[i] * (sums[i] + sums[i + 1] + sums[i + 2] + sums[i + 3] + sums[i + 4]);
        write_row(s->grad, row * n, n, kind, out);
    }
}

FOR_EACH_PROCESSOR static void normalise_all(const void *x, const void *grad, const Norm *norm, Py_ssize_t first, Py_ssize_t count, Scratch *s, void *out)
{
    memset(s->sums, 0, REACH * sizeof(float)); /* maps beyond the edges */
    memset(s->sums + REACH + norm->maps, 0, REACH * sizeof(float));
    if (grad && norm->kind == FLOAT32)
        differentiate_rows(x, grad, norm, first, count, FLOAT32, s, out);
    else if (grad)
        differentiate_rows(x, grad, norm, first, count, BFLOAT16, s, out);
    else if (norm->kind == FLOAT32)
        normalise_rows(x, norm, first, count, FLOAT32, s, out);
    else
        normalise_rows(x, norm, first, count, BFLOAT16, s, out);
}

/* One image's maps, with all maps of a pixel adjacent in memory; `alpha` multiplies the sum over
a map's window. */
typedef struct {
    Py_ssize_t height, width, maps;
    float alpha;
    int kind;
} Within;

/* Sums over windows of 5x5, with zeros beyond the edges: first down the columns, then along rows.
`column` has 2 * REACH pixels more than a row. */
INLINE void window_sums(const float *restrict plane, const Within *norm, float *restrict column, float *restrict out)
{
    const Py_ssize_t c = norm->maps, row = norm->width * c;
    float *restrict inner = column + REACH * c;
    for (Py_ssize_t y = 0; y < norm->height; y++) {
        const Py_ssize_t low = y < REACH ? 0 : y - REACH, high = y + REACH < norm->height ? y + REACH : norm->height - 1;
        memcpy(inner, plane + low * row, (size_t)row * sizeof(float));
        for (Py_ssize_t other = low + 1; other <= high; other++)
            for (Py_ssize_t i = 0; i < row; i++)
                inner[i] += plane[other * row + i];
        for (Py_ssize_t i = 0; i < row; i++)
            out[y * row + i] = column[i] + column[i + c] + column[i + 2 * c] + column[i + 3 * c] + column[i + 4 * c];
    }
}

/* `planes` has room for four images and a column. */
INLINE void normalise_maps(const void *x, const void *grad, const Within *norm, Py_ssize_t first, Py_ssize_t count, int kind, float *planes, void *out)
{
    const Py_ssize_t n = norm->height * norm->width * norm->maps;
    float *restrict image = planes, *restrict gradient = planes + n, *restrict terms = planes + 2 * n, *restrict sums = planes + 3 * n;
    float *column = planes + 4 * n;
    const float factor = 1.5f * norm->alpha; /* 2 * 0.75 */
    for (Py_ssize_t at = first * n; at < (first + count) * n; at += n) {
        read_row(x, at, n, kind, image);
        for (Py_ssize_t i = 0; i < n; i++)
            terms[i] = image[i] * image[i];
        window_sums(terms, norm, column, sums);
        if (!grad)
            for (Py_ssize_t i = 0; i < n; i++) {
                const float root = 1 / sqrtf(1 + norm->alpha * sums[i]);
                image[i] *= root * sqrtf(root);
            }
        else {
            read_row(grad, at, n, kind, gradient);
            for (Py_ssize_t i = 0; i < n; i++) {
                const float root = 1 / sqrtf(1 + norm->alpha * sums[i]);
                gradient[i] *= root * sqrtf(root);
                terms[i] = gradient[i] * image[i] * root * root;
            }
            window_sums(terms, norm, column, sums);
            for (Py_ssize_t i = 0; i < n; i++)
                image[i] = gradient[i] - factor * image[i] * sums[i];
        }
        write_row(image, at, n, kind, out);
    }
}

FOR_EACH_PROCESSOR static void within_all(const void *x, const void *grad, const Within *norm, Py_ssize_t first, Py_ssize_t count, float *planes, void *out)
{
    if (norm->kind == FLOAT32)
        normalise_maps(x, grad, norm, first, count, FLOAT32, planes, out);
    else
        normalise_maps(x, grad, norm, first, count, BFLOAT16, planes, out);
}

FOR_EACH_PROCESSOR static void update_all(float *restrict weight, float *restrict velocity, const float *restrict grad, Py_ssize_t n, float momentum, float decay, float lr)
{
    for (Py_ssize_t i = 0; i < n; i++) {
        velocity[i] = velocity[i] * momentum - decay * weight[i] - lr * grad[i];
        weight[i] += velocity[i];
    }
}

/* Whether the buffers are equally long, in whole units of `unit` bytes, and have units `first` to
`first + count - 1`; `grad` may be absent. */
static int fit(const Py_buffer *x, const Py_buffer *grad, const Py_buffer *out, Py_ssize_t unit, Py_ssize_t first, Py_ssize_t count)
{
    return first >= 0 && count >= 0 && out->len == x->len && (!grad->buf || grad->len == x->len) && x->len % unit == 0 && first <= x->len / unit - count;
}

static void release(Py_buffer *x, Py_buffer *grad, Py_buffer *out)
{
    PyBuffer_Release(x);
    if (grad->obj)
        PyBuffer_Release(grad);
    PyBuffer_Release(out);
}

/* normalise(x, grad or None, out, maps, towers, alpha, k, kind, first, count): `count` rows
from `first` on. */
static PyObject *normalise(PyObject *module, PyObject *arguments)
{
    Py_buffer x, grad, out;
    Py_ssize_t first, count;
    Norm norm;
    PyObject *result = NULL;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*z*w*nnffinn:normalise", &x, &grad, &out, &norm.maps, &norm.towers, &norm.alpha, &norm.k, &norm.kind, &first, &count))
        return NULL;
    const Py_ssize_t width = norm.kind == FLOAT32 ? 4 : 2;
    const int fits = norm.maps > 0 && norm.maps <= MOST && norm.towers > 0 && norm.towers <= MOST && (norm.kind == FLOAT32 || norm.kind == BFLOAT16) &&
                     fit(&x, &grad, &out, norm.maps * norm.towers * width, first, count);
    if (fits) {
        Scratch *scratch = PyMem_RawMalloc(sizeof(*scratch));
        if (scratch) {
            Py_BEGIN_ALLOW_THREADS
            normalise_all(x.buf, grad.buf, &norm, first, count, scratch, out.buf);
            Py_END_ALLOW_THREADS
            PyMem_RawFree(scratch);
            result = Py_NewRef(Py_None);
        } else
            PyErr_NoMemory();
    } else
        PyErr_SetString(PyExc_ValueError, "the buffers do not fit together");
    release(&x, &grad, &out);
    return result;
}

/* normalise_within(x, grad or None, out, height, width, maps, alpha, kind, first, count):
`count` images from `first` on. */
static PyObject *normalise_within(PyObject *module, PyObject *arguments)
{
    Py_buffer x, grad, out;
    Py_ssize_t first, count;
    Within norm;
    PyObject *result = NULL;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*z*w*nnnfinn:normalise_within", &x, &grad, &out, &norm.height, &norm.width, &norm.maps, &norm.alpha, &norm.kind, &first, &count))
        return NULL;
    const Py_ssize_t width = norm.kind == FLOAT32 ? 4 : 2, most = PY_SSIZE_T_MAX / 64;
    int fits = (norm.kind == FLOAT32 || norm.kind == BFLOAT16) && norm.height > 0 && norm.width > 0 && norm.maps > 0 && norm.maps <= most / norm.width &&
               norm.maps * norm.width <= most / norm.height;
    const Py_ssize_t row = fits ? norm.width * norm.maps : 1, image = fits ? norm.height * row : 1;
    fits = fits && fit(&x, &grad, &out, image * width, first, count);
    if (fits) {
        /* the column's ends stay zero */
        float *planes = PyMem_RawCalloc((size_t)(4 * image + row + 2 * REACH * norm.maps), sizeof(float));
        if (planes) {
            Py_BEGIN_ALLOW_THREADS
            within_all(x.buf, grad.buf, &norm, first, count, planes, out.buf);
            Py_END_ALLOW_THREADS
            PyMem_RawFree(planes);
            result = Py_NewRef(Py_None);
        } else
            PyErr_NoMemory();
    } else
        PyErr_SetString(PyExc_ValueError, "the buffers do not fit together");
    release(&x, &grad, &out);
    return result;
}

/* update(weight, velocity, grad, momentum, decay, lr, first, count): `count` float32 numbers from
`first` on. */
static PyObject *update(PyObject *module, PyObject *arguments)
{
    Py_buffer weight, velocity, grad;
    Py_ssize_t first, count;
    float momentum, decay, lr;
    PyObject *result = NULL;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "w*w*y*fffnn:update", &weight, &velocity, &grad, &momentum, &decay, &lr, &first, &count))
        return NULL;
    if (weight.len == velocity.len && weight.len == grad.len && first >= 0 && count >= 0 && first <= weight.len / 4 - count) {
        Py_BEGIN_ALLOW_THREADS
        update_all((float *)weight.buf + first, (float *)velocity.buf + first, (const float *)grad.buf + first, count, momentum, decay, lr);
        Py_END_ALLOW_THREADS
        result = Py_NewRef(Py_None);
    } else
        PyErr_SetString(PyExc_ValueError, "the buffers do not fit together");
    PyBuffer_Release(&weight);
    PyBuffer_Release(&velocity);
    PyBuffer_Release(&grad);
    return result;
}

static PyMethodDef methods[] = {
    {"normalise", normalise, METH_VARARGS, "normalise(x, grad, out, maps, towers, alpha, k, kind, first, count): see kernels.py"},
    {"normalise_within", normalise_within, METH_VARARGS, "normalise_within(x, grad, out, height, width, maps, alpha, kind, first, count): see kernels.py"},
    {"update", update, METH_VARARGS, "update(weight, velocity, grad, momentum, decay, lr, first, count): see kernels.py"},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_kernels", "The loops of kernels.py.", 0, methods, slots, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernels(void)
{
    return PyModuleDef_Init(&definition);
}
