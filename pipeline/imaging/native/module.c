/* The compiled loops of kernels.py, which documents them and has the same in numpy, OpenCV and
libjpeg.

Buffers come through the buffer protocol and are checked before the GIL is released. */

#ifndef MODULE
#define MODULE "_kernels"
#define INITIALISE PyInit__kernels
#endif

#include "area.h"
#include "encode.h"
#include "moments.h"
#include "views.h"

/* Take a C-contiguous buffer of numbers of one of `formats`; -1 with ValueError if it is anything
else. */
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

#include "strings.h"

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
    Shrinking shrinking = {0};
    int failed;
    Py_BEGIN_ALLOW_THREADS
    failed = set_shrinking(&shrinking, rows, columns, height, width, size);
    if (!failed)
        shrink_image(image->buf, columns, &shrinking.y, &shrinking.x, size, shrinking.scratch, out->buf);
    free_shrinking(&shrinking);
    Py_END_ALLOW_THREADS
    return failed ? PyErr_NoMemory() : Py_NewRef(Py_None);
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
        return PyErr_Format(PyExc_ValueError, "an image of %zdx%zd pixels does not match sums of %zdx%zd", image->shape[1], image->shape[0],
                            pixel_sum->shape[1], pixel_sum->shape[0]);
    if (outer->shape[0] != 6 || outer->itemsize != 8)
        return PyErr_Format(PyExc_ValueError, "the sums of products must be six numbers of 64 bits, not %zd of %zd", outer->shape[0], 8 * outer->itemsize);
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

/* Idle decoders and encoders, with their buffers and Huffman tables. The GIL guards the lists. */

enum { IDLE = 16, LARGEST_KEPT = 64 << 20 /* bytes */ };
static void *idle_decoders[IDLE], *idle_encoders[IDLE];

static void *borrow(void **idle, size_t size)
{
    for (int i = 0; i < IDLE; i++)
        if (idle[i]) {
            void *one = idle[i];
            idle[i] = NULL;
            return one;
        }
    return calloc(1, size);
}

/* Keep an idle object if there is room for it; return whether it was kept. */
static int kept(void **idle, void *one)
{
    for (int i = 0; i < IDLE; i++)
        if (!idle[i]) {
            idle[i] = one;
            return 1;
        }
    return 0;
}

static void return_decoder(Decoder *decoder)
{
    if (!decoder || (decoder->buffer.bytes <= LARGEST_KEPT && kept(idle_decoders, decoder)))
        return;
    free(decoder->buffer.start);
    free(decoder);
}

static void return_encoder(Encoder *encoder)
{
    if (!encoder || (encoder->decoder.buffer.bytes <= LARGEST_KEPT && kept(idle_encoders, encoder)))
        return;
    free(encoder->decoder.buffer.start);
    free(encoder->writer.start);
    free(encoder->buffer.start);
    free(encoder);
}

/* jpeg_square and decode_jpeg return None for a JPEG that is damaged or not of the usual kind. */

static PyObject *jpeg_square(PyObject *module, PyObject *arguments)
{
    PyObject *target;
    Py_buffer data, out;
    Py_ssize_t most;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*On:jpeg_square", &data, &target, &most))
        return NULL;
    if (take_image(target, &out, 1, "B", "the square")) {
        PyBuffer_Release(&data);
        return NULL;
    }
    const Py_ssize_t size = out.shape[0];
    Decoder *decoder = borrow(idle_decoders, sizeof(Decoder));
    Shrinking shrinking = {0};
    int declined = -1, height = 0, width = 0;
    if (decoder && out.shape[1] == size && size > 0) {
        Py_BEGIN_ALLOW_THREADS
        declined = read_header(&decoder->jpeg, data.buf, data.len);
        height = decoder->jpeg.height;
        width = decoder->jpeg.width;
        if (!declined && (Py_ssize_t)height * width <= most)
            declined = square_of_jpeg(decoder, &shrinking, data.buf, data.len, size, out.buf);
        else
            declined = -1;
        free_shrinking(&shrinking);
        Py_END_ALLOW_THREADS
    }
    return_decoder(decoder);
    PyBuffer_Release(&out);
    PyBuffer_Release(&data);
    return declined ? Py_NewRef(Py_None) : Py_BuildValue("ii", height, width);
}

static PyObject *decode_jpeg(PyObject *module, PyObject *arguments)
{
    PyObject *pixels = NULL;
    Py_buffer data;
    Py_ssize_t most;
    Box box = {0};
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*n|(iiii):decode_jpeg", &data, &most, &box.x0, &box.y0, &box.x1, &box.y1))
        return NULL;
    Decoder *decoder = borrow(idle_decoders, sizeof(Decoder));
    if (decoder && !read_header(&decoder->jpeg, data.buf, data.len)) {
        const int height = decoder->jpeg.height, width = decoder->jpeg.width;
        if (!box.x1)
            box = (Box){0, 0, width, height};
        const int within = box.x0 >= 0 && box.y0 >= 0 && box.x0 < box.x1 && box.y0 < box.y1 && box.x1 <= width && box.y1 <= height;
        int declined = !within || (Py_ssize_t)height * width > most;
        if (!declined) {
            Py_BEGIN_ALLOW_THREADS
            declined = decode(decoder, data.buf, data.len, box);
            Py_END_ALLOW_THREADS
        }
        pixels = declined ? NULL : PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)3 * (box.x1 - box.x0) * (box.y1 - box.y0));
        if (pixels) {
            uint8_t *out = (uint8_t *)PyByteArray_AS_STRING(pixels);
            Py_BEGIN_ALLOW_THREADS
            rgb_box(decoder, out);
            Py_END_ALLOW_THREADS
        }
    }
    return_decoder(decoder);
    PyBuffer_Release(&data);
    if (PyErr_Occurred() || !pixels)
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    return Py_BuildValue("Nii", pixels, box.y1 - box.y0, box.x1 - box.x0);
}

static PyObject *encode_jpeg(PyObject *module, PyObject *arguments)
{
    PyObject *source, *target, *result = NULL;
    Py_buffer header, image = {0}, pixels = {0};
    (void)module;
    if (!PyArg_ParseTuple(arguments, "OOy*:encode_jpeg", &source, &target, &header))
        return NULL;
    if (!take_image(source, &image, 0, "B", "the image") && !take_image(target, &pixels, 1, "B", "the pixels")) {
        const Py_ssize_t size = image.shape[0];
        Encoder *encoder = borrow(idle_encoders, sizeof(Encoder));
        if (!encoder)
            PyErr_NoMemory();
        else if (image.shape[1] != size || pixels.shape[0] != size || pixels.shape[1] != size)
            PyErr_Format(PyExc_ValueError, "image and pixels must be squares of one size, not %zdx%zd and %zdx%zd", image.shape[1], size,
                         pixels.shape[1], pixels.shape[0]);
        else {
            int failed;
            Py_BEGIN_ALLOW_THREADS
            failed = encode(encoder, header.buf, header.len, image.buf, size, pixels.buf);
            Py_END_ALLOW_THREADS
            if (failed)
                PyErr_SetString(PyExc_ValueError, "not the header of a JPEG of this size and kind");
            else if ((result = PyBytes_FromStringAndSize(NULL, finished_bytes(encoder))))
                finish(encoder, (uint8_t *)PyBytes_AS_STRING(result));
        }
        return_encoder(encoder);
    }
    if (pixels.obj)
        PyBuffer_Release(&pixels);
    if (image.obj)
        PyBuffer_Release(&image);
    PyBuffer_Release(&header);
    return result;
}

typedef struct {
    Recipe recipe;
    Py_ssize_t first, count; /* this call's share of the batch's records */
    int raw;
    const Window *windows;
    const float *offsets;
    uint8_t *out;
} Share;

/* Render the share; `declined[i]` is set if the JPEG was declined. -1: out of memory. */
static int render_share(const Share *share, const Py_buffer *images, Decoder *decoder, uint8_t *declined)
{
    const Recipe *recipe = &share->recipe;
    const Py_ssize_t bytes = (Py_ssize_t)3 * recipe->crop * recipe->crop * (recipe->kind == FLOAT32 ? 4 : 2) * recipe->views;
    float *scratch = malloc(2 * (size_t)recipe->crop * sizeof(*scratch));
    if (!scratch)
        return -1;
    for (Py_ssize_t i = 0; i < share->count; i++) {
        const Py_ssize_t at = share->first + i;
        declined[i] = views_of(images[i].buf, images[i].len, share->raw ? NULL : decoder, recipe, share->windows + at * recipe->views,
                               share->offsets + 3 * at, scratch, share->out + at * bytes) != 0;
    }
    free(scratch);
    return 0;
}

/* Take the buffers of the share's images; raw images must have every pixel. Return how many were
taken. */
static Py_ssize_t take_images(PyObject *list, const Share *share, Py_buffer *images)
{
    const Py_ssize_t pixels = (Py_ssize_t)3 * share->recipe.size * share->recipe.size;
    for (Py_ssize_t i = 0; i < share->count; i++) {
        if (PyObject_GetBuffer(PyList_GET_ITEM(list, share->first + i), &images[i], PyBUF_C_CONTIGUOUS))
            return i;
        if (share->raw && images[i].len != pixels) {
            PyErr_Format(PyExc_ValueError, "a record of %zd bytes instead of %zd", images[i].len, pixels);
            return i + 1;
        }
    }
    return share->count;
}

static PyObject *numbers_of(const uint8_t *declined, const Share *share)
{
    PyObject *list = PyList_New(0);
    for (Py_ssize_t i = 0; list && i < share->count; i++)
        if (declined[i]) {
            PyObject *number = PyLong_FromSsize_t(share->first + i);
            if (!number || PyList_Append(list, number))
                Py_CLEAR(list);
            Py_XDECREF(number);
        }
    return list;
}

static PyObject *rendered(PyObject *list, const Share *share)
{
    PyObject *result = NULL;
    Py_buffer *images = PyMem_Calloc((size_t)share->count + 1, sizeof(*images));
    uint8_t *declined = PyMem_Calloc((size_t)share->count + 1, 1);
    Decoder *decoder = share->raw ? NULL : borrow(idle_decoders, sizeof(Decoder));
    if (!images || !declined || (!share->raw && !decoder))
        PyErr_NoMemory();
    else {
        const Py_ssize_t taken = take_images(list, share, images);
        if (!PyErr_Occurred()) {
            int failed;
            Py_BEGIN_ALLOW_THREADS
            failed = render_share(share, images, decoder, declined);
            Py_END_ALLOW_THREADS
            result = failed ? PyErr_NoMemory() : numbers_of(declined, share);
        }
        for (Py_ssize_t i = 0; i < taken; i++)
            PyBuffer_Release(&images[i]);
    }
    return_decoder(decoder);
    PyMem_Free(declined);
    PyMem_Free(images);
    return result;
}

static int within(const Window *windows, Py_ssize_t n, int room)
{
    for (Py_ssize_t i = 0; i < n; i++)
        if (windows[i].top < 0 || windows[i].left < 0 || windows[i].top > room || windows[i].left > room)
            return 0;
    return 1;
}

static PyObject *render(PyObject *module, PyObject *arguments)
{
    PyObject *list, *result = NULL;
    Py_buffer windows, offsets, before, after, out;
    Share share = {0};
    Recipe *recipe = &share.recipe;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "O!py*y*z*z*w*(iiipif)nn:render", &PyList_Type, &list, &share.raw, &windows, &offsets, &before, &after, &out,
                          &recipe->size, &recipe->crop, &recipe->views, &recipe->planes, &recipe->kind, &recipe->scale,
                          &share.first, &share.count))
        return NULL;
    const Py_ssize_t records = PyList_GET_SIZE(list), size = recipe->size, crop = recipe->crop;
    const Py_ssize_t numbers = records * recipe->views * 3 * crop * crop, width = recipe->kind == FLOAT32 ? 4 : 2;
    const Py_ssize_t colours = recipe->planes ? 3 : 4;
    const int fits = size > 0 && size <= 4096 && crop > 0 && crop <= size && recipe->views > 0 && recipe->kind >= FLOAT32 &&
                     recipe->kind <= FLOAT16 && share.first >= 0 && share.count >= 0 && share.first <= records - share.count &&
                     windows.len == records * recipe->views * (Py_ssize_t)sizeof(Window) && offsets.len == records * 3 * 4 &&
                     (!before.buf || before.len == colours * size * size * 4) && (!after.buf || after.len == colours * crop * crop * 4) &&
                     out.len == numbers * width && within(windows.buf, records * recipe->views, (int)(size - crop));
    if (fits) {
        share.windows = windows.buf;
        share.offsets = offsets.buf;
        share.out = out.buf;
        recipe->before = before.buf;
        recipe->after = after.buf;
        result = rendered(list, &share);
    } else
        PyErr_SetString(PyExc_ValueError, "the buffers do not fit together");
    PyBuffer_Release(&windows);
    PyBuffer_Release(&offsets);
    if (before.obj)
        PyBuffer_Release(&before);
    if (after.obj)
        PyBuffer_Release(&after);
    PyBuffer_Release(&out);
    return result;
}

static PyObject *runs_avx2(PyObject *module, PyObject *arguments)
{
    (void)module;
    (void)arguments;
#if defined(__x86_64__)
    return PyBool_FromLong(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("f16c"));
#else
    Py_RETURN_FALSE;
#endif
}

static PyMethodDef methods[] = {
    {"area_square", area_square, METH_VARARGS, "area_square(image, height, width, out): see kernels.py"},
    {"count_moments", count_moments, METH_VARARGS, "count_moments(image, pixel_sum, outer): see kernels.py"},
    {"jpeg_square", jpeg_square, METH_VARARGS, "jpeg_square(data, out, most): see kernels.py"},
    {"decode_jpeg", decode_jpeg, METH_VARARGS, "decode_jpeg(data, most, box): see kernels.py"},
    {"encode_jpeg", encode_jpeg, METH_VARARGS, "encode_jpeg(image, pixels, header): see kernels.py"},
    {"render", render, METH_VARARGS, "render(images, raw, windows, offsets, before, after, out, recipe, first, count): see kernels.py"},
    {"stored_strings", stored_strings, METH_VARARGS, "stored_strings(blocks, rows): see kernels.py"},
    {"runs_avx2", runs_avx2, METH_NOARGS, "runs_avx2(): whether this processor can run the AVX2 build of this module"},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, MODULE, "The compiled loops of kernels.py.", 0, methods, slots, NULL, NULL, NULL};

PyMODINIT_FUNC INITIALISE(void)
{
    fill_in_zigzag();
    return PyModuleDef_Init(&definition);
}
