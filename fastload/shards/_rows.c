/* Reads samples out of mapped tar shards: checks each against its XXH3-64 and takes out its key and its fields.

   Shard(view, offsets, sizes, digests, key_bounds, key_text, spans)
       The map of a tar and the columns of its .idx, as buffers (see fastload.shards.idx): int64, uint32 or uint64, uint64, int32,
       bytes, and per field a pair of uint32 or uint64. Keeps the buffers until it is dropped.

   read(shards, rows, bytes_below) -> (keys, fields, faults)
       shards: list of Shard, rows: list of int, as long. keys: list of str. fields: one list a field, of bytes where the content
       is shorter than bytes_below, else of memoryviews. faults: list of (place, field), field -1: the sample is not what was
       packed; else it lacks that field (by number). Contents at faults are None.

   fill(shards, rows, field, head, stored, out, wanted) -> (keys, left)
       For rows of integers: where a content begins with `head` and has as many integers behind it as a row of `out`, or more,
       that many are copied there. stored, wanted: their kinds, "i4" and such; see `copies` for the pairs that there are.
       out: writable, as many rows as shards. left: list of the places where it is otherwise, damaged samples among them.

   All checksums are computed first, with the GIL released: pages that are not in memory are waited for then.
   Offsets that do not fit the map count as damage: an index may be wrong, it must not make a process read elsewhere. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#define FETCH_AHEAD 2    /* samples */
#define FETCH_BYTES 2048 /* of each */

typedef struct {
    Py_buffer starts, lengths;
} Span;

typedef struct {
    PyObject_HEAD
    PyObject *view; /* the memoryview that slices are taken of */
    Py_buffer map, offsets, sizes, digests, key_bounds, key_text;
    Py_ssize_t rows, fields;
    Span *spans;
} Shard;

static void shard_release(Shard *self) {
    Py_buffer *buffers[] = {&self->map, &self->offsets, &self->sizes, &self->digests, &self->key_bounds, &self->key_text};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
        PyBuffer_Release(buffers[i]);
    for (Py_ssize_t i = 0; i < self->fields && self->spans; i++) {
        PyBuffer_Release(&self->spans[i].starts);
        PyBuffer_Release(&self->spans[i].lengths);
    }
    PyMem_Free(self->spans);
    self->spans = NULL;
    Py_CLEAR(self->view);
}

static void shard_dealloc(PyObject *object) {
    shard_release((Shard *)object);
    Py_TYPE(object)->tp_free(object);
}

/* A contiguous buffer of `count` items of one of two sizes; -1 with an error set if it is another. */
static int take(PyObject *from, Py_buffer *into, Py_ssize_t size, Py_ssize_t other, Py_ssize_t count, const char *name) {
    if (PyObject_GetBuffer(from, into, PyBUF_ND | PyBUF_FORMAT) < 0)
        return -1;
    if ((into->itemsize != size && into->itemsize != other) || into->len / into->itemsize < count) {
        PyErr_Format(PyExc_ValueError, "%s: %zd items of %zd bytes do not fit the index", name, into->len / into->itemsize,
                     into->itemsize);
        return -1;
    }
    return 0;
}

static int shard_init(PyObject *object, PyObject *args, PyObject *kwargs) {
    Shard *self = (Shard *)object;
    PyObject *view, *offsets, *sizes, *digests, *key_bounds, *key_text, *spans;
    (void)kwargs;
    if (self->view != NULL) {
        PyErr_SetString(PyExc_TypeError, "a Shard is made once");
        return -1;
    }
    if (!PyArg_ParseTuple(args, "OOOOOOO!", &view, &offsets, &sizes, &digests, &key_bounds, &key_text, &PyTuple_Type, &spans))
        return -1;
    if (PyObject_GetBuffer(view, &self->map, PyBUF_SIMPLE) < 0 || PyObject_GetBuffer(key_text, &self->key_text, PyBUF_SIMPLE) < 0)
        return -1;
    if (PyObject_GetBuffer(offsets, &self->offsets, PyBUF_ND | PyBUF_FORMAT) < 0)
        return -1;
    if (self->offsets.itemsize != 8) {
        PyErr_SetString(PyExc_ValueError, "offsets: int64 expected");
        return -1;
    }
    self->rows = self->offsets.len / 8;
    if (take(sizes, &self->sizes, 4, 8, self->rows, "sizes") < 0 || take(digests, &self->digests, 8, 8, self->rows, "digests") < 0 ||
        take(key_bounds, &self->key_bounds, 4, 4, self->rows + 1, "key_bounds") < 0)
        return -1;
    self->fields = PyTuple_GET_SIZE(spans);
    self->spans = PyMem_Calloc(self->fields ? (size_t)self->fields : 1, sizeof(Span));
    if (self->spans == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < self->fields; i++) {
        PyObject *starts, *lengths;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(spans, i), "OO", &starts, &lengths) ||
            take(starts, &self->spans[i].starts, 4, 8, self->rows, "starts") < 0 ||
            take(lengths, &self->spans[i].lengths, 4, 8, self->rows, "lengths") < 0)
            return -1;
    }
    Py_INCREF(view);
    self->view = view;
    return 0;
}

static PyTypeObject ShardType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "fastload.shards._rows.Shard",
    .tp_basicsize = sizeof(Shard),
    .tp_dealloc = shard_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = PyType_GenericNew,
    .tp_init = shard_init,
    .tp_doc = "The map of a tar and the columns of its .idx.",
};

static uint64_t item(const Py_buffer *column, Py_ssize_t row) {
    return column->itemsize == 8 ? ((const uint64_t *)column->buf)[row] : ((const uint32_t *)column->buf)[row];
}

/* One row of one shard, with its sample's place in the map; size 0 and damaged where it does not fit. */
typedef struct {
    Shard *shard;
    Py_ssize_t row;
    uint64_t offset, size;
    int damaged;
} Place;

static void locate(Place *place) {
    const Shard *shard = place->shard;
    uint64_t length = (uint64_t)shard->map.len;
    place->offset = ((const uint64_t *)shard->offsets.buf)[place->row];
    place->size = item(&shard->sizes, place->row);
    place->damaged = place->offset > length || place->size > length - place->offset;
}

static void check(Place *place) {
    const Shard *shard = place->shard;
    if (!place->damaged) {
        const char *start = (const char *)shard->map.buf + place->offset;
        place->damaged = XXH3_64bits(start, (size_t)place->size) != ((const uint64_t *)shard->digests.buf)[place->row];
    }
}

/* Begin to fetch the lines of a sample that is checked a little later: samples lie anywhere, so the processor cannot guess. */
static void fetch(const Place *place) {
    if (place->damaged)
        return;
    const char *start = (const char *)place->shard->map.buf + place->offset;
    uint64_t bytes = place->size < FETCH_BYTES ? place->size : FETCH_BYTES;
    for (uint64_t i = 0; i < bytes; i += 64)
        __builtin_prefetch(start + i);
}

static PyObject *key_of(const Place *place) {
    const int32_t *bounds = place->shard->key_bounds.buf;
    int64_t start = bounds[place->row], stop = bounds[place->row + 1];
    if (start < 0 || stop < start || stop > place->shard->key_text.len)
        return PyUnicode_FromString("");
    return PyUnicode_DecodeUTF8((const char *)place->shard->key_text.buf + start, stop - start, "replace");
}

static PyObject *slice(const Place *place, uint64_t start, uint64_t length, Py_ssize_t bytes_below) {
    uint64_t first = place->offset + start;
    if (length < (uint64_t)bytes_below)
        return PyBytes_FromStringAndSize((const char *)place->shard->map.buf + first, (Py_ssize_t)length);
    PyObject *a = PyLong_FromUnsignedLongLong(first), *b = PyLong_FromUnsignedLongLong(first + length);
    PyObject *range = a && b ? PySlice_New(a, b, NULL) : NULL;
    PyObject *result = range ? PyObject_GetItem(place->shard->view, range) : NULL;
    Py_XDECREF(range);
    Py_XDECREF(a);
    Py_XDECREF(b);
    return result;
}

static int add_fault(PyObject *faults, Py_ssize_t place, Py_ssize_t field) {
    PyObject *pair = Py_BuildValue("nn", place, field);
    int failed = pair == NULL || PyList_Append(faults, pair) < 0;
    Py_XDECREF(pair);
    return failed ? -1 : 0;
}

/* The contents of one field, a new list; faults are added to the list. */
static PyObject *column_of(const Place *places, Py_ssize_t count, Py_ssize_t field, Py_ssize_t bytes_below, PyObject *faults) {
    PyObject *column = PyList_New(count);
    for (Py_ssize_t i = 0; column && i < count; i++) {
        const Place *place = &places[i];
        const Span *span = &place->shard->spans[field];
        uint64_t start = item(&span->starts, place->row), length = item(&span->lengths, place->row);
        PyObject *content = NULL;
        if (!place->damaged && start && start <= place->size && length <= place->size - start)
            content = slice(place, start, length, bytes_below);
        else if (add_fault(faults, i, place->damaged || start ? -1 : field) == 0)
            content = Py_NewRef(Py_None);
        if (content == NULL)
            Py_CLEAR(column);
        else
            PyList_SET_ITEM(column, i, content);
    }
    return column;
}

static Place *places_of(PyObject *shards, PyObject *rows, Py_ssize_t count, Py_ssize_t *fields) {
    Place *places = PyMem_Calloc(count ? (size_t)count : 1, sizeof(Place));
    if (places == NULL)
        return (Place *)PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *shard = PyList_GET_ITEM(shards, i);
        Py_ssize_t row = PyLong_AsSsize_t(PyList_GET_ITEM(rows, i));
        if (!PyObject_TypeCheck(shard, &ShardType) || ((Shard *)shard)->view == NULL)
            PyErr_SetString(PyExc_TypeError, "read: a list of Shards expected");
        else if (!PyErr_Occurred() && (row < 0 || row >= ((Shard *)shard)->rows))
            PyErr_Format(PyExc_IndexError, "row %zd of a shard of %zd samples", row, ((Shard *)shard)->rows);
        else if (i && ((Shard *)shard)->fields != *fields)
            PyErr_SetString(PyExc_ValueError, "read: shards with different fields");
        if (PyErr_Occurred()) {
            PyMem_Free(places);
            return NULL;
        }
        *fields = ((Shard *)shard)->fields;
        places[i] = (Place){.shard = (Shard *)shard, .row = row};
        locate(&places[i]);
    }
    return places;
}

static PyObject *keys_of(const Place *places, Py_ssize_t count) {
    PyObject *keys = PyList_New(count);
    for (Py_ssize_t i = 0; keys && i < count; i++) {
        PyObject *key = key_of(&places[i]);
        if (key == NULL)
            Py_CLEAR(keys);
        else
            PyList_SET_ITEM(keys, i, key);
    }
    return keys;
}

static PyObject *rows_read(PyObject *module, PyObject *args) {
    PyObject *shards, *rows;
    Py_ssize_t bytes_below, fields = 0;
    (void)module;
    if (!PyArg_ParseTuple(args, "O!O!n", &PyList_Type, &shards, &PyList_Type, &rows, &bytes_below))
        return NULL;
    Py_ssize_t count = PyList_GET_SIZE(shards);
    if (PyList_GET_SIZE(rows) != count) {
        PyErr_SetString(PyExc_ValueError, "read: as many rows as shards expected");
        return NULL;
    }
    Place *places = places_of(shards, rows, count, &fields);
    if (places == NULL)
        return NULL;
    Py_BEGIN_ALLOW_THREADS /* the caller's list keeps the shards alive, and they their buffers */
    for (Py_ssize_t i = 0; i < count; i++) {
        if (i + FETCH_AHEAD < count)
            fetch(&places[i + FETCH_AHEAD]);
        check(&places[i]);
    }
    Py_END_ALLOW_THREADS
    PyObject *keys = keys_of(places, count), *columns = PyList_New(fields), *faults = PyList_New(0);
    int failed = keys == NULL || columns == NULL || faults == NULL;
    for (Py_ssize_t field = 0; !failed && field < fields; field++) {
        PyObject *column = column_of(places, count, field, bytes_below, faults);
        failed = column == NULL;
        if (!failed)
            PyList_SET_ITEM(columns, field, column);
    }
    PyMem_Free(places);
    PyObject *result = failed ? NULL : PyTuple_Pack(3, keys, columns, faults);
    Py_XDECREF(keys);
    Py_XDECREF(columns);
    Py_XDECREF(faults);
    return result;
}

/* Integers from any place in memory into another integer type that holds them all. */
#define WIDENING(NAME, STORED, WANTED)                                     \
    static void NAME(void *out, const char *in, size_t count) {            \
        WANTED *to = out;                                                  \
        for (size_t i = 0; i < count; i++) {                               \
            STORED value;                                                  \
            memcpy(&value, in + i * sizeof value, sizeof value);           \
            to[i] = (WANTED)value;                                         \
        }                                                                  \
    }

WIDENING(copy_i4_i8, int32_t, int64_t)
WIDENING(copy_u4_i8, uint32_t, int64_t)
WIDENING(copy_u2_i8, uint16_t, int64_t)
WIDENING(copy_u2_i4, uint16_t, int32_t)
WIDENING(copy_i8_i8, int64_t, int64_t)
WIDENING(copy_i4_i4, int32_t, int32_t)
WIDENING(copy_u2_u2, uint16_t, uint16_t)

typedef struct {
    const char *stored, *wanted;
    size_t stored_size, wanted_size;
    void (*copy)(void *, const char *, size_t);
} Copying;

static const Copying copies[] = {
    {"i4", "i8", 4, 8, copy_i4_i8}, {"u4", "i8", 4, 8, copy_u4_i8}, {"u2", "i8", 2, 8, copy_u2_i8}, {"u2", "i4", 2, 4, copy_u2_i4},
    {"i8", "i8", 8, 8, copy_i8_i8}, {"i4", "i4", 4, 4, copy_i4_i4}, {"u2", "u2", 2, 2, copy_u2_u2},
};

static const Copying *copying(const char *stored, const char *wanted) {
    for (size_t i = 0; i < sizeof copies / sizeof *copies; i++)
        if (strcmp(copies[i].stored, stored) == 0 && strcmp(copies[i].wanted, wanted) == 0)
            return &copies[i];
    PyErr_Format(PyExc_ValueError, "fill: no copying from %s to %s", stored, wanted);
    return NULL;
}

/* Where the integers of a place begin, or NULL if it is not `head` and so many bytes of them, whole and undamaged. */
static const char *integers_of(const Place *place, Py_ssize_t field, const Py_buffer *head, uint64_t bytes) {
    const Span *span = &place->shard->spans[field];
    uint64_t start = item(&span->starts, place->row), length = item(&span->lengths, place->row);
    if (place->damaged || !start || start > place->size || length > place->size - start || length < (uint64_t)head->len + bytes)
        return NULL;
    const char *content = (const char *)place->shard->map.buf + place->offset + start;
    return memcmp(content, head->buf, (size_t)head->len) ? NULL : content + head->len;
}

static PyObject *fill(Place *places, Py_ssize_t count, Py_ssize_t field, const Py_buffer *head, const Copying *how, Py_buffer *out) {
    size_t row_bytes = count ? (size_t)(out->len / count) : 0, width = row_bytes / how->wanted_size;
    Py_BEGIN_ALLOW_THREADS /* as in rows_read; the sample is copied while its checksum has it in the cache */
    for (Py_ssize_t i = 0; i < count; i++) {
        if (i + FETCH_AHEAD < count)
            fetch(&places[i + FETCH_AHEAD]);
        check(&places[i]);
        const char *integers = integers_of(&places[i], field, head, width * how->stored_size);
        places[i].damaged = integers == NULL; /* from here on: not copied */
        if (integers)
            how->copy((char *)out->buf + (size_t)i * row_bytes, integers, width);
    }
    Py_END_ALLOW_THREADS
    PyObject *keys = keys_of(places, count), *left = PyList_New(0);
    int failed = keys == NULL || left == NULL;
    for (Py_ssize_t i = 0; !failed && i < count; i++) {
        if (!places[i].damaged)
            continue;
        PyObject *number = PyLong_FromSsize_t(i);
        failed = number == NULL || PyList_Append(left, number) < 0;
        Py_XDECREF(number);
    }
    PyObject *result = failed ? NULL : PyTuple_Pack(2, keys, left);
    Py_XDECREF(keys);
    Py_XDECREF(left);
    return result;
}

static PyObject *rows_fill(PyObject *module, PyObject *args) {
    PyObject *shards, *rows, *result = NULL;
    Py_ssize_t field, fields = 0;
    Py_buffer head, out;
    const char *stored, *wanted;
    (void)module;
    if (!PyArg_ParseTuple(args, "O!O!ny*sw*s", &PyList_Type, &shards, &PyList_Type, &rows, &field, &head, &stored, &out, &wanted))
        return NULL;
    Py_ssize_t count = PyList_GET_SIZE(shards);
    const Copying *how = copying(stored, wanted);
    Place *places = NULL;
    if (how && (PyList_GET_SIZE(rows) != count || (count ? out.len % (count * (Py_ssize_t)how->wanted_size) : out.len)))
        PyErr_SetString(PyExc_ValueError, "fill: as many rows as shards expected, and a row of whole integers for each");
    else if (how)
        places = places_of(shards, rows, count, &fields);
    if (places && count && (field < 0 || field >= fields))
        PyErr_Format(PyExc_IndexError, "fill: field %zd of %zd", field, fields);
    else if (places)
        result = fill(places, count, field, &head, how, &out);
    PyMem_Free(places);
    PyBuffer_Release(&head);
    PyBuffer_Release(&out);
    return result;
}

static PyMethodDef methods[] = {
    {"fill", rows_fill, METH_VARARGS, "fill(shards, rows, field, head, stored, out, wanted) -> (keys, left)"},
    {"read", rows_read, METH_VARARGS, "read(shards, rows, bytes_below) -> (keys, fields, faults)"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "fastload.shards._rows",
    .m_doc = "Reads samples out of mapped tar shards.",
    .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__rows(void) {
    PyObject *module = PyType_Ready(&ShardType) < 0 ? NULL : PyModule_Create(&definition);
    if (module && PyModule_AddObjectRef(module, "Shard", (PyObject *)&ShardType) < 0)
        Py_CLEAR(module);
    return module;
}
