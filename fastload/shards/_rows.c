/* Reads samples out of mapped tar shards: checks each against its XXH3-64 and takes out its key and its fields.

   Shard(view, offsets, sizes, digests, key_bounds, key_text, spans, scalars)
       The map of a tar and the columns of its .idx, as buffers (see fastload.shards.idx): int64, uint32 or uint64, uint64, int32,
       bytes, per stored field a pair of uint32 or uint64, and the fields of numbers. Keeps the buffers until it is dropped.

   Everywhere, shards: list of Shard, rows: buffer of int64, as long.

   keys(shards, rows) -> list of str, as `read` gives them; nothing of the map is touched.

   numbers(shards, rows, field, out) -> whether they fit
       The numbers of a field (its place in `scalars`), as int64 or float64: writable, as long as shards. What was written where
       they do not fit, floats into int64 or a uint64 above it, is of no use.

   read(crew, shards, rows, bytes_below) -> Task; Task.result() -> (keys, fields, faults, bytes), once
       keys: list of str. fields: one list a field, of bytes where the content is shorter than bytes_below, else of memoryviews.
       faults: list of (place, field): it lacks that field (by number); field -1: the sample is not what was packed, whatever else
       is said of it. Contents at faults are None. bytes: of all contents.

   fill(crew, shards, rows, field, head, stored, out, wanted, exact, lengths) -> Task; Task.result() -> (keys, left, bytes)
       For rows of numbers: where a content begins with `head` and has as many numbers behind it as a row of `out`, or more
       unless `exact`, that many are copied there. stored, wanted: their kinds, "i4" and such; see COPIES for the pairs that
       there are; "u1" to "u1" copies the bytes of any kind.
       out: writable, as many rows as shards. left: list of the places where it is otherwise, damaged samples among them.
       lengths: None; or writable int64, as long as shards: contents may then have fewer numbers too, if whole ones; zeros are
       put behind them, and how many were copied is told there. bytes: of all contents that were copied from, whole.

   crew: a Crew, whose threads begin at once, or None; see _rows_crew.c.

   builds() -> names, use(name)
       Which builds of the loops over samples' bytes there are, and another one than the fastest; for tests.

   Checksums are computed and contents copied with the GIL released: pages that are not in memory are waited for then.
   Offsets that do not fit the map count as damage: an index may be wrong, it must not make a process read elsewhere. */

#include "_rows.h"

const Loops *rows_loops = &rows_loops_base; /* the fastest that this processor has; set when the module is made */

static void shard_release(Shard *self) {
    Py_buffer *buffers[] = {&self->map, &self->offsets, &self->sizes, &self->digests, &self->key_bounds, &self->key_text};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
        PyBuffer_Release(buffers[i]);
    for (Py_ssize_t i = 0; i < self->fields && self->spans; i++) {
        PyBuffer_Release(&self->spans[i].starts);
        PyBuffer_Release(&self->spans[i].lengths);
    }
    for (Py_ssize_t i = 0; i < self->numbers && self->scalars; i++)
        PyBuffer_Release(&self->scalars[i]);
    PyMem_Free(self->spans);
    PyMem_Free(self->scalars);
    self->spans = NULL;
    self->scalars = NULL;
    Py_CLEAR(self->view);
}

static void shard_dealloc(PyObject *object) {
    shard_release((Shard *)object);
    Py_TYPE(object)->tp_free(object);
}

/* Also where they have no size, as numpy's may. */
static Py_ssize_t items_in(const Py_buffer *column) { return column->itemsize > 0 ? column->len / column->itemsize : 0; }

/* Whether numbers of so many bytes do not lie at multiples of them. */
static int is_loose(const Py_buffer *numbers, size_t size) { return numbers->len && (uintptr_t)numbers->buf % size; }

/* A contiguous buffer of `count` items of one of two sizes; -1 with an error set if it is another. */
static int take(PyObject *from, Py_buffer *into, Py_ssize_t size, Py_ssize_t other, Py_ssize_t count, const char *name) {
    if (PyObject_GetBuffer(from, into, PyBUF_ND | PyBUF_FORMAT) < 0)
        return -1;
    if ((into->itemsize != size && into->itemsize != other) || items_in(into) < count) {
        PyErr_Format(PyExc_ValueError, "%s: %zd items of %zd bytes do not fit the index", name, items_in(into), into->itemsize);
        return -1;
    }
    return 0;
}

static int take_fields(Shard *self, PyObject *spans, PyObject *scalars) {
    self->fields = PyTuple_GET_SIZE(spans);
    self->numbers = PyTuple_GET_SIZE(scalars);
    self->spans = PyMem_Calloc(self->fields ? (size_t)self->fields : 1, sizeof(Span));
    self->scalars = PyMem_Calloc(self->numbers ? (size_t)self->numbers : 1, sizeof(Py_buffer));
    if (self->spans == NULL || self->scalars == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < self->numbers; i++) {
        Py_buffer *column = &self->scalars[i];
        if (PyObject_GetBuffer(PyTuple_GET_ITEM(scalars, i), column, PyBUF_ND | PyBUF_FORMAT) < 0)
            return -1;
        if (items_in(column) < self->rows) {
            PyErr_Format(PyExc_ValueError, "scalars: %zd numbers do not fit the index", items_in(column));
            return -1;
        }
    }
    for (Py_ssize_t i = 0; i < self->fields; i++) {
        PyObject *starts, *lengths;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(spans, i), "OO", &starts, &lengths) ||
            take(starts, &self->spans[i].starts, 4, 8, self->rows, "starts") < 0 ||
            take(lengths, &self->spans[i].lengths, 4, 8, self->rows, "lengths") < 0)
            return -1;
    }
    return 0;
}

/* Take hold of all buffers; -1 with an error set, and some of them may be held. */
static int take_all(Shard *self, PyObject *args) {
    PyObject *view, *offsets, *sizes, *digests, *key_bounds, *key_text, *spans, *scalars;
    if (!PyArg_ParseTuple(args, "OOOOOOO!O!", &view, &offsets, &sizes, &digests, &key_bounds, &key_text, &PyTuple_Type, &spans,
                          &PyTuple_Type, &scalars))
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
        take(key_bounds, &self->key_bounds, 4, 4, self->rows + 1, "key_bounds") < 0 || take_fields(self, spans, scalars) < 0)
        return -1;
    self->view = Py_NewRef(view);
    return 0;
}

static int shard_init(PyObject *object, PyObject *args, PyObject *kwargs) {
    Shard *self = (Shard *)object;
    (void)kwargs;
    if (self->view != NULL) {
        PyErr_SetString(PyExc_TypeError, "a Shard is made once");
        return -1;
    }
    if (take_all(self, args) == 0)
        return 0;
    shard_release(self); /* it may be tried again */
    return -1;
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

#define AHEAD 8 /* places whose columns are fetched beforehand: they lie anywhere, so the processor cannot guess */

static void locate(Place *place) {
    const Shard *shard = place->shard;
    uint64_t length = (uint64_t)shard->map.len;
    place->offset = ((const loose_u64 *)shard->offsets.buf)[place->row];
    place->size = item(&shard->sizes, place->row);
    place->damaged = place->offset > length || place->size > length - place->offset;
}

static void locate_all(Place *places, Py_ssize_t count) {
    for (Py_ssize_t i = 0; i < count; i++) {
        if (i + AHEAD < count) {
            const Place *later = &places[i + AHEAD];
            __builtin_prefetch((const char *)later->shard->offsets.buf + later->row * later->shard->offsets.itemsize);
            __builtin_prefetch((const char *)later->shard->sizes.buf + later->row * later->shard->sizes.itemsize);
            __builtin_prefetch((const char *)later->shard->digests.buf + later->row * later->shard->digests.itemsize);
        }
        locate(&places[i]);
    }
}

/* Begin to fetch what `key_of` reads: the bounds of a key long before it, its text shortly before. */
static void fetch_keys(const Place *places, Py_ssize_t count, Py_ssize_t i) {
    if (i + AHEAD < count)
        __builtin_prefetch((const loose_i32 *)places[i + AHEAD].shard->key_bounds.buf + places[i + AHEAD].row);
    if (i + AHEAD / 2 < count) {
        const Place *soon = &places[i + AHEAD / 2];
        __builtin_prefetch((const char *)soon->shard->key_text.buf + ((const loose_i32 *)soon->shard->key_bounds.buf)[soon->row]);
    }
}

static PyObject *key_of(const Place *place) {
    const loose_i32 *bounds = place->shard->key_bounds.buf;
    int64_t start = bounds[place->row], stop = bounds[place->row + 1];
    if (start < 0 || stop < start || stop > place->shard->key_text.len)
        return PyUnicode_FromString("");
    return PyUnicode_DecodeUTF8((const char *)place->shard->key_text.buf + start, stop - start, "replace");
}

static PyObject *view_of(const Place *place, uint64_t start, uint64_t length) {
    uint64_t first = place->offset + start;
    PyObject *a = PyLong_FromUnsignedLongLong(first), *b = PyLong_FromUnsignedLongLong(first + length);
    PyObject *range = a && b ? PySlice_New(a, b, NULL) : NULL;
    PyObject *result = range ? PyObject_GetItem(place->shard->view, range) : NULL;
    Py_XDECREF(range);
    Py_XDECREF(a);
    Py_XDECREF(b);
    return result;
}

int rows_add_fault(PyObject *faults, Py_ssize_t place, Py_ssize_t field) {
    PyObject *pair = Py_BuildValue("nn", place, field);
    int failed = pair == NULL || PyList_Append(faults, pair) < 0;
    Py_XDECREF(pair);
    return failed ? -1 : 0;
}

/* Room for one content, or a view of it; `piece` is then what is to be copied. */
static PyObject *room_for(const Place *place, uint64_t start, uint64_t length, Py_ssize_t bytes_below, Piece *piece) {
    piece->bytes = (size_t)length;
    if (length >= (uint64_t)bytes_below)
        return view_of(place, start, length);
    PyObject *room = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)length);
    if (room) {
        piece->from = (const char *)place->shard->map.buf + place->offset + start;
        piece->to = PyBytes_AS_STRING(room);
    }
    return room;
}

/* The contents of one field, a new list, with their pieces, `fields` apart; what a sample lacks goes to the faults. */
static PyObject *column_of(Place *places, Py_ssize_t count, Py_ssize_t field, Py_ssize_t bytes_below, Piece *pieces,
                           Py_ssize_t fields, PyObject *faults) {
    PyObject *column = PyList_New(count);
    for (Py_ssize_t i = 0; column && i < count; i++) {
        Place *place = &places[i];
        const Span *span = &place->shard->spans[field];
        uint64_t start = item(&span->starts, place->row), length = item(&span->lengths, place->row);
        PyObject *content = NULL;
        if (start && (start > place->size || length > place->size - start))
            place->damaged = 1; /* the index is wrong */
        if (!place->damaged && start)
            content = room_for(place, start, length, bytes_below, &pieces[i * fields]);
        else if (place->damaged || rows_add_fault(faults, i, field) == 0)
            content = Py_NewRef(Py_None);
        if (content == NULL)
            Py_CLEAR(column);
        else
            PyList_SET_ITEM(column, i, content);
    }
    return column;
}

/* The places of a tuple of shards, which has to outlive them, and a buffer of rows, and the number of their fields; NULL with an error
   set. */
static Place *places_of(PyObject *shards, PyObject *rows, Py_ssize_t *fields) {
    Py_ssize_t count = PyTuple_GET_SIZE(shards);
    Py_buffer numbers;
    if (PyObject_GetBuffer(rows, &numbers, PyBUF_ND) < 0)
        return NULL;
    Place *places = NULL;
    if (numbers.itemsize != 8 || numbers.len != 8 * count)
        PyErr_Format(PyExc_ValueError, "rows: %zd int64 expected, as many as shards", count);
    else if ((places = PyMem_Calloc(count ? (size_t)count : 1, sizeof(Place))) == NULL)
        PyErr_NoMemory();
    for (Py_ssize_t i = 0; places && i < count; i++) {
        PyObject *shard = PyTuple_GET_ITEM(shards, i);
        int64_t row = ((const loose_i64 *)numbers.buf)[i];
        if (!PyObject_TypeCheck(shard, &ShardType) || ((Shard *)shard)->view == NULL)
            PyErr_SetString(PyExc_TypeError, "a list of Shards expected");
        else if (row < 0 || row >= ((Shard *)shard)->rows)
            PyErr_Format(PyExc_IndexError, "row %lld of a shard of %zd samples", (long long)row, ((Shard *)shard)->rows);
        else if (i && ((Shard *)shard)->fields != *fields)
            PyErr_SetString(PyExc_ValueError, "shards with different fields");
        if (PyErr_Occurred()) {
            PyMem_Free(places);
            places = NULL;
            break;
        }
        *fields = ((Shard *)shard)->fields;
        places[i] = (Place){.shard = (Shard *)shard, .row = row};
    }
    PyBuffer_Release(&numbers);
    return places;
}

PyObject *rows_keys(const Place *places, Py_ssize_t count) {
    PyObject *keys = PyList_New(count);
    for (Py_ssize_t i = 0; keys && i < count; i++) {
        fetch_keys(places, count, i);
        PyObject *key = key_of(&places[i]);
        if (key == NULL)
            Py_CLEAR(keys);
        else
            PyList_SET_ITEM(keys, i, key);
    }
    return keys;
}

static PyObject *rows_only_keys(PyObject *module, PyObject *args) {
    PyObject *list, *rows;
    Py_ssize_t fields = 0;
    (void)module;
    if (!PyArg_ParseTuple(args, "O!O", &PyList_Type, &list, &rows))
        return NULL;
    PyObject *shards = PyList_AsTuple(list);
    Place *places = shards ? places_of(shards, rows, &fields) : NULL;
    PyObject *keys = places ? rows_keys(places, PyTuple_GET_SIZE(shards)) : NULL;
    PyMem_Free(places);
    Py_XDECREF(shards);
    return keys;
}

/* The letters of struct that integers and floats of an .idx have, with their types. */
#define INTEGERS(EACH) \
    EACH('?', uint8_t) EACH('b', int8_t) EACH('B', uint8_t) EACH('h', int16_t) EACH('H', uint16_t) EACH('i', int32_t) \
    EACH('I', uint32_t) EACH('l', long) EACH('L', unsigned long) EACH('q', long long) EACH('Q', unsigned long long)
#define FLOATS(EACH) EACH('f', float) EACH('d', double)

#define AS_INTEGER(LETTER, TYPE)                          \
    case LETTER: {                                        \
        typedef TYPE loose __attribute__((aligned(1)));   \
        TYPE value = ((const loose *)column->buf)[row];   \
        *out = (int64_t)value;                            \
        return value < 1 || *out > 0; /* a uint64 that int64 cannot hold is negative there */ \
    }
#define AS_FLOAT(LETTER, TYPE)                                 \
    case LETTER: {                                             \
        typedef TYPE loose __attribute__((aligned(1)));        \
        *out = (double)((const loose *)column->buf)[row];      \
        return 1;                                              \
    }

static int integer_of(const Py_buffer *column, Py_ssize_t row, int64_t *out) {
    switch (column->format && !column->format[1] ? *column->format : 0) {
        INTEGERS(AS_INTEGER)
        default: return 0;
    }
}

static int float_of(const Py_buffer *column, Py_ssize_t row, double *out) {
    switch (column->format && !column->format[1] ? *column->format : 0) {
        INTEGERS(AS_FLOAT)
        FLOATS(AS_FLOAT)
        default: return 0;
    }
}

static PyObject *rows_numbers(PyObject *module, PyObject *args) {
    PyObject *list, *rows, *array;
    Py_ssize_t field, fields = 0;
    Py_buffer out;
    (void)module;
    if (!PyArg_ParseTuple(args, "O!OnO", &PyList_Type, &list, &rows, &field, &array) ||
        PyObject_GetBuffer(array, &out, PyBUF_WRITABLE | PyBUF_ND | PyBUF_FORMAT) < 0)
        return NULL;
    PyObject *shards = PyList_AsTuple(list);
    Py_ssize_t count = shards ? PyTuple_GET_SIZE(shards) : 0;
    Place *places = NULL;
    int fits = 1, floats = strcmp(out.format, "d") == 0;
    if (shards && (out.len != 8 * count || (!floats && strcmp(out.format, "l") && strcmp(out.format, "q"))))
        PyErr_SetString(PyExc_ValueError, "numbers: int64 or float64 expected, as many as shards");
    else if (shards && is_loose(&out, 8))
        PyErr_SetString(PyExc_ValueError, "numbers: they do not lie at multiples of 8 bytes");
    else if (shards)
        places = places_of(shards, rows, &fields);
    for (Py_ssize_t i = 0; places && i < count && fits; i++) {
        const Place *place = &places[i];
        if (field < 0 || field >= place->shard->numbers) {
            PyErr_Format(PyExc_IndexError, "numbers: field %zd of %zd", field, place->shard->numbers);
            break;
        }
        const Py_buffer *column = &place->shard->scalars[field];
        fits = floats ? float_of(column, place->row, (double *)out.buf + i) : integer_of(column, place->row, (int64_t *)out.buf + i);
    }
    PyMem_Free(places);
    Py_XDECREF(shards);
    PyBuffer_Release(&out);
    return PyErr_Occurred() ? NULL : PyBool_FromLong(fits);
}

static int is_crew(PyObject *crew) {
    if (crew == Py_None || rows_is_crew(crew))
        return 1;
    PyErr_SetString(PyExc_TypeError, "a Crew or None expected");
    return 0;
}

static PyObject *rows_read(PyObject *module, PyObject *args) {
    PyObject *crew, *list, *rows, *task = NULL;
    Py_ssize_t bytes_below;
    Work work = {0};
    (void)module;
    if (!PyArg_ParseTuple(args, "OO!On", &crew, &PyList_Type, &list, &rows, &bytes_below) || !is_crew(crew))
        return NULL;
    work.shards = PyList_AsTuple(list);
    Place *places = work.shards ? places_of(work.shards, rows, &work.fields) : NULL;
    if (places == NULL) {
        rows_drop(&work);
        return NULL;
    }
    Py_ssize_t count = PyTuple_GET_SIZE(work.shards);
    locate_all(places, count);
    work.columns = PyList_New(work.fields);
    work.faults = PyList_New(0);
    work.pieces = PyMem_Calloc((size_t)(count * work.fields + 1), sizeof(Piece));
    if (work.pieces == NULL)
        PyErr_NoMemory();
    for (Py_ssize_t field = 0; !PyErr_Occurred() && field < work.fields; field++) {
        PyObject *column = column_of(places, count, field, bytes_below, work.pieces + field, work.fields, work.faults);
        if (column)
            PyList_SET_ITEM(work.columns, field, column);
    }
    for (Py_ssize_t i = 0; i < count; i++)
        work.row_bytes += places[i].damaged ? 0 : (size_t)places[i].size / (size_t)count;
    if (!PyErr_Occurred())
        task = rows_task(crew, places, &work);
    if (task == NULL) {
        PyMem_Free(places);
        rows_drop(&work);
    }
    return task;
}

typedef struct {
    const char *stored, *wanted;
    Py_ssize_t wanted_size;
} Kind;

#define KIND(NAME, STORED_NAME, WANTED_NAME, STORED, WANTED) {STORED_NAME, WANTED_NAME, sizeof(WANTED)},

static const Kind kinds[] = {COPIES(KIND)};

/* The place in COPIES; -1 with an error set if there is none. */
static int kind_of(const char *stored, const char *wanted) {
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(kinds[i].stored, stored) == 0 && strcmp(kinds[i].wanted, wanted) == 0)
            return (int)i;
    PyErr_Format(PyExc_ValueError, "fill: no copying from %s to %s", stored, wanted);
    return -1;
}

/* Room for the lengths of so many rows; nothing for None. -1 with an error set if it is anything else. */
static int get_lengths(PyObject *lengths, Py_ssize_t count, Py_buffer *out) {
    if (lengths == Py_None)
        return 0;
    if (PyObject_GetBuffer(lengths, out, PyBUF_WRITABLE | PyBUF_FORMAT | PyBUF_ND) < 0)
        return -1;
    if (out->len == 8 * count && !is_loose(out, 8) && (strcmp(out->format, "l") == 0 || strcmp(out->format, "q") == 0))
        return 0;
    PyErr_SetString(PyExc_ValueError, "fill: lengths: int64 expected, as many as shards");
    return -1;
}

/* Bytes of a sample, about. */
static size_t mean_bytes(const Place *places, Py_ssize_t count) {
    uint64_t total = 0;
    for (Py_ssize_t i = 0; i < count; i++)
        total += places[i].damaged ? 0 : places[i].size / (uint64_t)count;
    return (size_t)total;
}

static PyObject *rows_fill(PyObject *module, PyObject *args) {
    PyObject *crew, *list, *rows, *lengths, *result = NULL;
    Py_ssize_t field;
    const char *stored, *wanted;
    int exact;
    Work work = {0};
    (void)module;
    if (!PyArg_ParseTuple(args, "OO!Ony*sw*spO", &crew, &PyList_Type, &list, &rows, &field, &work.head, &stored, &work.out, &wanted,
                          &exact, &lengths))
        return NULL;
    work.shards = PyList_AsTuple(list);
    Py_ssize_t count = work.shards ? PyTuple_GET_SIZE(work.shards) : 0;
    int kind = work.shards && is_crew(crew) ? kind_of(stored, wanted) : -1;
    Place *places = NULL;
    if (kind >= 0 && (count ? work.out.len % (count * kinds[kind].wanted_size) : work.out.len))
        PyErr_SetString(PyExc_ValueError, "fill: a row of whole numbers for each row expected");
    else if (kind >= 0 && is_loose(&work.out, (size_t)kinds[kind].wanted_size))
        PyErr_Format(PyExc_ValueError, "fill: numbers do not lie at multiples of %zd bytes", kinds[kind].wanted_size);
    else if (kind >= 0 && get_lengths(lengths, count, &work.lengths) == 0)
        places = places_of(work.shards, rows, &work.fields);
    if (places)
        locate_all(places, count);
    if (places && count && (field < 0 || field >= work.fields)) {
        PyErr_Format(PyExc_IndexError, "fill: field %zd of %zd", field, work.fields);
    } else if (places) {
        size_t row_bytes = count ? (size_t)(work.out.len / count) : 0;
        work.row_bytes = row_bytes + mean_bytes(places, count);
        work.filling = (Filling){
            .field = field,
            .head = work.head.buf,
            .head_bytes = (size_t)work.head.len,
            .width = row_bytes / (size_t)kinds[kind].wanted_size,
            .row_bytes = row_bytes,
            .exact = exact,
            .kind = kind,
            .out = work.out.buf,
            .lengths = work.lengths.buf,
        };
        result = rows_task(crew, places, &work);
    }
    if (result == NULL) {
        PyMem_Free(places);
        rows_drop(&work);
    }
    return result;
}

typedef struct {
    const char *name;
    const Loops *loops;
    int supported;
} Build;

/* The builds of the loops, slowest first, and which of them this processor can run. */
static Build builds[] = {
    {"base", &rows_loops_base, 1},
#ifdef ROWS_DISPATCH
    {"avx2", &rows_loops_avx2, 0},
    {"avx512", &rows_loops_avx512, 0},
#endif
};

static void find_builds(void) {
#ifdef ROWS_DISPATCH
    __builtin_cpu_init();
    builds[1].supported = __builtin_cpu_supports("avx2") != 0;
    builds[2].supported =
        __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
#endif
    for (size_t i = 0; i < sizeof builds / sizeof *builds; i++)
        if (builds[i].supported)
            rows_loops = builds[i].loops;
}

static PyObject *rows_builds(PyObject *module, PyObject *args) {
    PyObject *names = PyList_New(0);
    (void)module, (void)args;
    for (size_t i = 0; names && i < sizeof builds / sizeof *builds; i++) {
        PyObject *name = builds[i].supported ? PyUnicode_FromString(builds[i].name) : Py_NewRef(Py_None);
        if (name == NULL || (name != Py_None && PyList_Append(names, name) < 0))
            Py_CLEAR(names);
        Py_XDECREF(name);
    }
    return names;
}

static PyObject *rows_use(PyObject *module, PyObject *name) {
    (void)module;
    const char *wanted = PyUnicode_AsUTF8(name);
    for (size_t i = 0; wanted && i < sizeof builds / sizeof *builds; i++)
        if (builds[i].supported && strcmp(builds[i].name, wanted) == 0) {
            rows_loops = builds[i].loops;
            Py_RETURN_NONE;
        }
    return wanted ? PyErr_Format(PyExc_ValueError, "use: no build %s for this processor", wanted) : NULL;
}

static PyMethodDef methods[] = {
    {"builds", rows_builds, METH_NOARGS, "builds() -> names of the builds that this processor can run, slowest first"},
    {"use", rows_use, METH_O, "use(name): check and copy with this build from now on; the last of builds() is the default"},
    {"fill", rows_fill, METH_VARARGS, "fill(crew, shards, rows, field, head, stored, out, wanted, exact, lengths) -> Task"},
    {"keys", rows_only_keys, METH_VARARGS, "keys(shards, rows) -> list of str"},
    {"numbers", rows_numbers, METH_VARARGS, "numbers(shards, rows, field, out) -> whether they fit"},
    {"read", rows_read, METH_VARARGS, "read(crew, shards, rows, bytes_below) -> Task"},
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
    find_builds();
    PyObject *module = PyType_Ready(&ShardType) < 0 ? NULL : PyModule_Create(&definition);
    if (module && (PyModule_AddObjectRef(module, "Shard", (PyObject *)&ShardType) < 0 || rows_add_crew(module) < 0))
        Py_CLEAR(module);
    return module;
}
