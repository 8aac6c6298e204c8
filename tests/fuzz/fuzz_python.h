/* What the harnesses of extensions share: an interpreter whose memory the sanitizers see, numbers out of the input, and arrays of any
 * shape, kind and place, whose memory ends where they do. */
#ifndef FUZZ_PYTHON_H
#define FUZZ_PYTHON_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static const uint8_t *bytes;
static size_t left;

static uint64_t take_bytes(int count) {
    uint64_t number = 0;
    for (int i = 0; i < count && left; i++, left--) number |= (uint64_t)*bytes++ << (8 * i);
    return number;
}

/* Small numbers most of the time, for what they lead to: below `most`, or a little below 0; else any. */
static uint64_t take_number(uint64_t most) {
    uint64_t number = take_bytes(8);
    switch (number & 3) {
        case 0: return number;
        case 1: return -(number >> 48);
        default: return (number >> 2) % most;
    }
}

/* One time out of `often`: what no caller does. */
static int oddly(int often) { return take_bytes(2) % (uint64_t)often == 1; }

static void require(int condition) {
    if (!condition) {
        PyErr_Print();
        abort();
    }
}

/* What came of a call: whether it gave a result, or an error that says what does not fit. */
static int accepted(PyObject *result) {
    if (result == NULL) {
        require(PyErr_ExceptionMatches(PyExc_ValueError) || PyErr_ExceptionMatches(PyExc_BufferError)
                || PyErr_ExceptionMatches(PyExc_IndexError));
        PyErr_Clear();
        return 0;
    }
    require(!PyErr_Occurred());
    Py_DECREF(result);
    return 1;
}

#define DIMENSIONS 2

typedef struct {
    PyObject_HEAD
    char *block, *data; /* from malloc; where in it the array begins */
    Py_ssize_t bytes, item_bytes, shape[DIMENSIONS], strides[DIMENSIONS];
    int dimensions, read_only, exports;
    const char *format;
} Array;

static int array_export(PyObject *self, Py_buffer *view, int flags) {
    Array *array = (Array *)self;
    view->obj = NULL;
    if ((flags & PyBUF_WRITABLE) && array->read_only) {
        PyErr_SetString(PyExc_BufferError, "read-only");
        return -1;
    }
    *view = (Py_buffer){
        .buf = array->data, .obj = Py_NewRef(self), .len = array->bytes, .itemsize = array->item_bytes,
        .readonly = array->read_only, .ndim = array->dimensions,
        .format = flags & PyBUF_FORMAT ? (char *)array->format : NULL,
        .shape = flags & PyBUF_ND ? array->shape : NULL,
        .strides = (flags & PyBUF_STRIDES) == PyBUF_STRIDES ? array->strides : NULL,
    };
    array->exports++;
    return 0;
}

static void array_take_back(PyObject *self, Py_buffer *view) {
    (void)view;
    ((Array *)self)->exports--;
}

static void array_free(PyObject *self) {
    Array *array = (Array *)self;
    require(array->exports == 0);
    free(array->block);
    PyObject_Free(array);
}

static PyBufferProcs array_buffers = {array_export, array_take_back};

static PyTypeObject ArrayType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "Array",
    .tp_basicsize = sizeof(Array),
    .tp_dealloc = array_free,
    .tp_as_buffer = &array_buffers,
    .tp_flags = Py_TPFLAGS_DEFAULT,
};

/* A contiguous array of [rows], or of [rows, columns] unless columns is -1, full of zeros. */
static Array *array_of(const char *format, Py_ssize_t item_bytes, Py_ssize_t rows, Py_ssize_t columns, size_t shift) {
    Array *array = PyObject_New(Array, &ArrayType);
    require(array != NULL);
    array->dimensions = columns < 0 ? 1 : 2;
    array->shape[0] = rows, array->shape[1] = columns < 0 ? 1 : columns;
    array->strides[1] = item_bytes;
    array->strides[0] = item_bytes * array->shape[1];
    array->bytes = rows * array->strides[0], array->item_bytes = item_bytes;
    array->format = format;
    array->read_only = array->exports = 0;
    array->block = calloc(1, (size_t)array->bytes + shift + !(array->bytes + shift));
    require(array->block != NULL);
    array->data = array->block + shift;
    return array;
}

/* Numbers out of the input in place of the zeros; whatever the kind, bits of them. */
static Array *filled(Array *array, uint64_t most) {
    for (Py_ssize_t at = 0; array->item_bytes && at + array->item_bytes <= array->bytes; at += array->item_bytes) {
        uint64_t number = take_number(most);
        memcpy(array->data + at, &number, array->item_bytes < 8 ? (size_t)array->item_bytes : 8);
    }
    return array;
}

/* The module of an extension, made once. */
static PyObject *module_of(PyObject *(*init)(void)) {
    static PyObject *module;
    if (module == NULL) {
        Py_Initialize();
        require(PyType_Ready(&ArrayType) == 0);
        module = init();
        require(module != NULL);
    }
    return module;
}

#endif
