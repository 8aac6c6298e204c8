/* The Python module fastload.decode._jpeg: buffers in, values out, and the GIL released in between.
 *
 * Its functions are wrapped, and documented for callers, in native.py. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "_jpeg.h"

/* One worker per thread, freed when the thread ends. */
static pthread_key_t worker_key;

static void free_worker(void *worker) { fl_worker_free(worker); }

static fl_worker *this_threads_worker(void) {
    fl_worker *worker = pthread_getspecific(worker_key);
    if (worker == NULL && (worker = fl_worker_new()) != NULL && pthread_setspecific(worker_key, worker) != 0) {
        fl_worker_free(worker);
        worker = NULL;
    }
    return worker;
}

static PyObject *transcode(PyObject *self, PyObject *args) {
    Py_buffer raw;
    long long min_pixels, max_pixels;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*LL", &raw, &min_pixels, &max_pixels)) return NULL;
    fl_buffer out = {0};
    char message[FL_MESSAGE_BYTES] = "";
    fl_status status;
    Py_BEGIN_ALLOW_THREADS
    status = fl_transcode(raw.buf, (size_t)raw.len, min_pixels, max_pixels, &out, message);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&raw);
    PyObject *result = NULL;
    if (status == FL_MEMORY) {
        PyErr_NoMemory();
    } else if (status == FL_OK) {
        result = Py_BuildValue("iy#s", (int)status, (char *)out.data, (Py_ssize_t)out.size, message);
    } else {
        result = Py_BuildValue("iOs", (int)status, Py_None, message);
    }
    fl_release(&out);
    return result;
}

static PyObject *cut(PyObject *self, PyObject *args) {
    Py_buffer raw;
    long long x, y, width, height;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*LLLL", &raw, &x, &y, &width, &height)) return NULL;
    fl_buffer lengths = {0}, starts = {0}, out = {0};
    fl_header header;
    fl_layout layout;
    fl_box box = {x, y, width, height}, origin;
    fl_status status = fl_read_header(raw.buf, (size_t)raw.len, &header);
    if (status == FL_OK) status = fl_read_layout(raw.buf, (size_t)raw.len, &header, &lengths, &layout);
    int inside = x >= 0 && y >= 0 && width > 0 && height > 0 && width <= header.width - x && height <= header.height - y;
    if (status == FL_OK && !inside) {
        PyErr_Format(PyExc_ValueError, "box (%lld, %lld, %lld, %lld) is not inside the picture of %lld x %lld pixels",
            x, y, width, height, (long long)header.width, (long long)header.height);
        status = FL_BROKEN;
    }
    if (status == FL_OK) status = fl_cut(raw.buf, &header, &layout, &box, &starts, &out, &origin);
    PyBuffer_Release(&raw);
    PyObject *result = NULL;
    if (status == FL_OK) {
        result = Py_BuildValue(
            "y#LL", (char *)out.data, (Py_ssize_t)out.size, (long long)origin.x, (long long)origin.y);
    } else if (status == FL_MEMORY) {
        PyErr_NoMemory();
    } else if (status == FL_OTHER) {
        result = Py_NewRef(Py_None);
    }
    fl_release(&lengths);
    fl_release(&starts);
    fl_release(&out);
    return result;
}

static PyObject *header(PyObject *self, PyObject *args) {
    Py_buffer raw;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*", &raw)) return NULL;
    fl_header found;
    fl_status status = fl_read_header(raw.buf, (size_t)raw.len, &found);
    PyBuffer_Release(&raw);
    if (status != FL_OK) Py_RETURN_NONE;
    return Py_BuildValue(
        "LLii", (long long)found.width, (long long)found.height, found.orientation, found.components);
}

static int parse_spec(PyObject *tuple, fl_spec *spec) {
    int crop;
    long long out_height, out_width, max_pixels;
    if (!PyArg_ParseTuple(tuple, "i(dd)(dd)dLLiLp", &crop, &spec->scale_low, &spec->scale_high, &spec->ratio_low,
            &spec->ratio_high, &spec->center_fraction, &out_height, &out_width, &spec->channels, &max_pixels,
            &spec->portable))
        return 0;
    spec->crop = crop;
    spec->out_height = out_height;
    spec->out_width = out_width;
    spec->max_pixels = max_pixels;
    if (out_height < 1 || out_width < 1 || out_height > 1 << 20 || out_width > 1 << 20
        || (spec->channels != 1 && spec->channels != 3)) {
        PyErr_SetString(PyExc_ValueError, "output of no size, or of other than 1 or 3 channels");
        return 0;
    }
    return 1;
}

static PyObject *box(PyObject *self, PyObject *args) {
    PyObject *tuple;
    long long width, height;
    unsigned long long key;
    fl_spec spec;
    (void)self;
    if (!PyArg_ParseTuple(args, "O!LLK", &PyTuple_Type, &tuple, &width, &height, &key) || !parse_spec(tuple, &spec))
        return NULL;
    fl_box b = {0, 0, width, height};
    if (spec.crop == FL_RANDOM) b = fl_random_box(&spec, width, height, key);
    if (spec.crop == FL_CENTER) b = fl_center_box(&spec, width, height);
    return Py_BuildValue("LLLL", (long long)b.x, (long long)b.y, (long long)b.width, (long long)b.height);
}

typedef struct {
    Py_buffer raw;
    uint64_t key;
    int flip, given;
} row;

static void run(const fl_spec *spec, const row *rows, Py_ssize_t count, uint8_t *out, char *statuses) {
    fl_worker *worker = this_threads_worker();
    size_t row_bytes = (size_t)(spec->out_height * spec->out_width) * (size_t)spec->channels;
    for (Py_ssize_t i = 0; i < count; i++) {
        fl_status status = FL_OK;
        if (rows[i].given)
            status = worker == NULL ? FL_MEMORY
                                    : fl_decode_row(worker, spec, rows[i].raw.buf, (size_t)rows[i].raw.len,
                                        rows[i].key, rows[i].flip, out + (size_t)i * row_bytes);
        statuses[i] = (char)status;
    }
}

/* Take hold of the buffers and keys; 0 with an exception set, and only the first `taken` rows to be given back. */
static int take(
    PyObject *raws, PyObject *keys, const Py_buffer *flips, row *rows, Py_ssize_t count, Py_ssize_t *taken) {
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *raw = PySequence_Fast_GET_ITEM(raws, i);
        rows[i].key = PyLong_AsUnsignedLongLong(PySequence_Fast_GET_ITEM(keys, i));
        if (PyErr_Occurred()) return 0;
        rows[i].flip = flips->buf != NULL && ((const char *)flips->buf)[i] != 0;
        rows[i].given = raw != Py_None;
        if (rows[i].given && PyObject_GetBuffer(raw, &rows[i].raw, PyBUF_SIMPLE) < 0) return 0;
        *taken = i + 1;
    }
    return 1;
}

static PyObject *decode_with(
    PyObject *raws, PyObject *keys, const Py_buffer *out, const Py_buffer *flips, const fl_spec *spec) {
    Py_ssize_t count = PySequence_Fast_GET_SIZE(raws), taken = 0;
    int64_t row_bytes = spec->out_height * spec->out_width * spec->channels;
    if (PySequence_Fast_GET_SIZE(keys) != count || (flips->buf != NULL && flips->len != count)
        || out->len % row_bytes || out->len / row_bytes != count) /* the product might be more than int64 holds */
        return PyErr_Format(PyExc_ValueError,
            "%zd rows, and keys, flips or an output of %zd bytes that do not fit them", count, out->len);
    row *rows = PyMem_Calloc(count ? (size_t)count : 1, sizeof *rows);
    PyObject *statuses = PyBytes_FromStringAndSize(NULL, count);
    if (rows == NULL || statuses == NULL) {
        PyMem_Free(rows);
        Py_XDECREF(statuses);
        return PyErr_NoMemory();
    }
    int ready = take(raws, keys, flips, rows, count, &taken);
    if (ready) {
        char *to = PyBytes_AS_STRING(statuses);
        Py_BEGIN_ALLOW_THREADS
        run(spec, rows, count, out->buf, to);
        Py_END_ALLOW_THREADS
    }
    for (Py_ssize_t i = 0; i < taken; i++)
        if (rows[i].given) PyBuffer_Release(&rows[i].raw);
    PyMem_Free(rows);
    if (!ready) Py_CLEAR(statuses);
    return statuses;
}

static PyObject *decode_rows(PyObject *self, PyObject *args) {
    PyObject *raws, *keys, *tuple;
    Py_buffer out, flips;
    fl_spec spec;
    (void)self;
    if (!PyArg_ParseTuple(args, "OOw*z*O!", &raws, &keys, &out, &flips, &PyTuple_Type, &tuple)) return NULL;
    PyObject *result = NULL, *raw_list = NULL, *key_list = NULL;
    if (parse_spec(tuple, &spec) && (raw_list = PySequence_Fast(raws, "rows are not a sequence")) != NULL
        && (key_list = PySequence_Fast(keys, "keys are not a sequence")) != NULL)
        result = decode_with(raw_list, key_list, &out, &flips, &spec);
    Py_XDECREF(raw_list);
    Py_XDECREF(key_list);
    PyBuffer_Release(&out);
    PyBuffer_Release(&flips);
    return result;
}

static PyMethodDef methods[] = {
    {"transcode", transcode, METH_VARARGS, "transcode(raw, min_pixels, max_pixels) -> (status, bytes | None, message)"},
    {"cut", cut, METH_VARARGS, "cut(raw, x, y, width, height) -> (jpeg, x, y) | None"},
    {"header", header, METH_VARARGS, "header(raw) -> (width, height, orientation, components) | None"},
    {"box", box, METH_VARARGS, "box(spec, width, height, key) -> (x, y, width, height)"},
    {"decode_rows", decode_rows, METH_VARARGS, "decode_rows(raws, keys, out, flips, spec) -> statuses"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "fastload.decode._jpeg",
    .m_doc = "JPEG: transcoding, cutting, and decoding of whole chunks of rows; see native.py.",
    .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__jpeg(void) {
    if (pthread_key_create(&worker_key, free_worker) != 0) return PyErr_NoMemory();
    return PyModule_Create(&module);
}
