/* Make an Arrow array of stored records without a copy: a binary_view with one buffer per value,
passed through Arrow's C data interface (arrow.apache.org/docs/format/CDataInterface.html, which
defines the two structures below). One object owns everything, so that releasing an array takes the
GIL once, not once per record. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct ArrowSchema {
    const char *format, *name, *metadata;
    int64_t flags, n_children;
    struct ArrowSchema **children, *dictionary;
    void (*release)(struct ArrowSchema *);
    void *private_data;
};

struct ArrowArray {
    int64_t length, null_count, offset, n_buffers, n_children;
    const void **buffers;
    struct ArrowArray **children, *dictionary;
    void (*release)(struct ArrowArray *);
    void *private_data;
};

enum { IN_VIEW = 12 }; /* maximum bytes of a value that is stored in its view */

typedef struct {
    int32_t length;
    union {
        unsigned char bytes[IN_VIEW];
        struct {
            unsigned char prefix[4];
            int32_t buffer, offset;
        } at;
    };
} View;

typedef struct {
    PyObject *owner;
    View *views;
    int64_t *sizes;
    const void *buffers[];
} Strings;

#if PY_VERSION_HEX < 0x030D0000
#define Py_IsFinalizing _Py_IsFinalizing
#endif

static void let_go_of_schema(struct ArrowSchema *schema)
{
    schema->release = NULL;
}

static void let_go_of_strings(struct ArrowArray *array)
{
    Strings *strings = array->private_data;
    array->release = NULL;
    if (Py_IsInitialized() && !Py_IsFinalizing()) { /* may be called from any thread */
        PyGILState_STATE state = PyGILState_Ensure();
        Py_DECREF(strings->owner);
        PyGILState_Release(state);
    }
    free(strings);
}

static void free_schema(PyObject *capsule)
{
    struct ArrowSchema *schema = PyCapsule_GetPointer(capsule, "arrow_schema");
    if (schema->release)
        schema->release(schema);
    free(schema);
}

static void free_array(PyObject *capsule)
{
    struct ArrowArray *array = PyCapsule_GetPointer(capsule, "arrow_array");
    if (array->release)
        array->release(array);
    free(array);
}

/* Find the bytes of row `row` of a block, a tuple (data, offsets or None, ...); without offsets,
they are data[row]. -1: an exception is set. */
static int find(PyObject *block, int64_t row, const void **at, int64_t *size)
{
    if (!PyTuple_Check(block) || PyTuple_GET_SIZE(block) < 2) {
        PyErr_SetString(PyExc_TypeError, "a block is a tuple of data, offsets and more");
        return -1;
    }
    PyObject *offsets = PyTuple_GET_ITEM(block, 1);
    Py_buffer data;
    if (PyObject_GetBuffer(PyTuple_GET_ITEM(block, 0), &data, PyBUF_C_CONTIGUOUS))
        return -1;
    int64_t start = -1, end = -1;
    if (offsets == Py_None) {
        if (data.ndim > 0 && row >= 0 && row < data.shape[0]) {
            end = data.len / data.shape[0] * (row + 1);
            start = end - data.len / data.shape[0];
        }
    } else {
        Py_buffer ends;
        if (PyObject_GetBuffer(offsets, &ends, PyBUF_SIMPLE)) {
            PyBuffer_Release(&data);
            return -1;
        }
        if (row >= 0 && row < ends.len / (int64_t)sizeof(int32_t) - 1) {
            start = ((const int32_t *)ends.buf)[row];
            end = ((const int32_t *)ends.buf)[row + 1];
        }
        PyBuffer_Release(&ends);
    }
    const int within = 0 <= start && start <= end && end <= data.len && end - start <= INT32_MAX;
    if (within) {
        *at = (const char *)data.buf + start;
        *size = end - start;
    }
    PyBuffer_Release(&data); /* the block keeps the memory alive */
    if (!within)
        PyErr_Format(PyExc_ValueError, "row %lld is not within its block", (long long)row);
    return within ? 0 : -1;
}

static PyObject *handed_over(struct ArrowArray made)
{
    struct ArrowSchema *schema = calloc(1, sizeof *schema);
    struct ArrowArray *array = malloc(sizeof *array);
    if (schema && array) {
        *schema = (struct ArrowSchema){.format = "vz", .name = "", .release = let_go_of_schema};
        *array = made;
        PyObject *one = PyCapsule_New(schema, "arrow_schema", free_schema);
        PyObject *other = one ? PyCapsule_New(array, "arrow_array", free_array) : NULL;
        if (other)
            return Py_BuildValue("NN", one, other);
        if (one)
            schema = NULL; /* the capsule frees it */
        Py_XDECREF(one);
    } else {
        PyErr_NoMemory();
    }
    made.release(&made);
    free(schema);
    free(array);
    return NULL;
}

static PyObject *stored_strings(PyObject *module, PyObject *arguments)
{
    (void)module;
    PyObject *blocks, *places;
    Py_buffer rows;
    if (!PyArg_ParseTuple(arguments, "O!O", &PyList_Type, &blocks, &places) || take(places, &rows, 0, "lq", 1, "rows"))
        return NULL;
    const Py_ssize_t count = rows.shape[0];
    Strings *strings = NULL;
    if (rows.itemsize != sizeof(int64_t))
        PyErr_Format(PyExc_ValueError, "rows must have 8 bytes each, not %zd", rows.itemsize);
    else if (PyList_GET_SIZE(blocks) != count)
        PyErr_Format(PyExc_ValueError, "%zd rows of %zd blocks", count, PyList_GET_SIZE(blocks));
    else if (!(strings = calloc(1, sizeof *strings + (size_t)(count + 3) * sizeof(void *) + (size_t)count * (sizeof(View) + sizeof(int64_t)))))
        PyErr_NoMemory();
    if (strings) {
        strings->views = (View *)(strings->buffers + count + 3);
        strings->sizes = (int64_t *)(strings->views + count);
        strings->buffers[1] = strings->views;
        strings->buffers[count + 2] = strings->sizes;
        for (Py_ssize_t i = 0; i < count; i++) {
            if (find(PyList_GET_ITEM(blocks, i), ((const int64_t *)rows.buf)[i], &strings->buffers[i + 2], &strings->sizes[i])) {
                free(strings);
                strings = NULL;
                break;
            }
        }
    }
    PyBuffer_Release(&rows);
    if (!strings)
        return NULL;
    Py_BEGIN_ALLOW_THREADS /* the first touch of a record may read it from the disk */
    for (Py_ssize_t i = 0; i < count; i++) {
        View *view = &strings->views[i];
        view->length = (int32_t)strings->sizes[i];
        if (view->length <= IN_VIEW)
            memcpy(view->bytes, strings->buffers[i + 2], (size_t)view->length);
        else {
            memcpy(view->at.prefix, strings->buffers[i + 2], sizeof view->at.prefix);
            view->at.buffer = (int32_t)i;
        }
    }
    Py_END_ALLOW_THREADS
    strings->owner = Py_NewRef(blocks);
    return handed_over((struct ArrowArray){.length = count,
                                           .n_buffers = count + 3,
                                           .buffers = strings->buffers,
                                           .release = let_go_of_strings,
                                           .private_data = strings});
}
