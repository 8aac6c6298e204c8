/* libFuzzer's entry to the row reader: the tables of a shard's index are the input, its map is a few bytes of its own.
 *
 * Whatever the tables say and wherever they lie, nothing may be read outside of the buffers, and nothing may crash or leak; by
 * threads of a crew or without. Built and run by tools/fuzz.sh. */
#include "fuzz_python.h"

#include "../../fastload/shards/_rows.c"

#define XXH_INLINE_ALL
#include <xxhash.h>

#define ROWS 4
#define MAP_BYTES 600
#define WIDTH 8

/* A column of ROWS + extra numbers; rarely of another number or kind. */
static Array *column(int size, int extra) {
    static const char *const formats[] = {"?", "b", "h", "i", "I", "q", "Q", "f", "d", "e", "xx", NULL};
    const char *format = size == 8 ? "Q" : "I";
    size_t shift = oddly(8) ? 1 + take_bytes(1) % 7 : 0;
    if (oddly(64)) return filled(array_of(formats[take_bytes(1) % 12], (int)(take_bytes(1) % 10), ROWS - 1 + extra, -1, shift), 9);
    return filled(array_of(format, size, ROWS + extra, -1, shift), MAP_BYTES + 8);
}

/* Numbers of an index, of any kind that it may have. */
static Array *numbers(void) {
    static const struct { const char *format; int size; } kinds[] = {
        {"?", 1}, {"b", 1}, {"B", 1}, {"h", 2}, {"H", 2}, {"i", 4}, {"I", 4}, {"l", 8}, {"q", 8}, {"Q", 8}, {"f", 4}, {"d", 8}, {"e", 2},
    };
    size_t kind = take_bytes(1) % (sizeof kinds / sizeof *kinds);
    return filled(array_of(kinds[kind].format, kinds[kind].size, ROWS, -1, oddly(4) ? 1 : 0), 300);
}

/* int64 0, 1, ... */
static Array *counting(Py_ssize_t count) {
    Array *array = array_of("q", 8, count, -1, 0);
    for (int64_t i = 0; i < count; i++) ((int64_t *)array->data)[i] = i;
    return array;
}

/* Checksums that hold, so that what comes after them is reached. */
static void make_honest(Shard *shard) {
    for (Py_ssize_t row = 0; row < shard->rows; row++) {
        uint64_t offset = ((loose_u64 *)shard->offsets.buf)[row], size = item(&shard->sizes, row);
        if (offset <= MAP_BYTES && size <= MAP_BYTES - offset)
            ((loose_u64 *)shard->digests.buf)[row] = XXH3_64bits((const char *)shard->map.buf + offset, size);
    }
}

/* NULL if the columns do not fit each other. */
static PyObject *shard_of(PyObject *module, PyObject *map, uint8_t how) {
    PyObject *view = PyMemoryView_FromObject(map), *text = PyBytes_FromStringAndSize("abcdefgh", 8);
    Array *columns[] = {
        column(8, 0), column(how & 1 ? 8 : 4, 0), column(8, 0), column(4, 1), column(how & 2 ? 8 : 4, 0), column(how & 4 ? 8 : 4, 0),
        numbers(),
    };
    PyObject *spans = Py_BuildValue("((OO))", columns[4], columns[5]), *scalars = Py_BuildValue("(O)", columns[6]);
    PyObject *shard = PyObject_CallMethod(module, "Shard", "OOOOOOOO", view, columns[0], columns[1], columns[2], columns[3], text,
                                          spans, scalars);
    if (shard == NULL)
        accepted(NULL);
    else if (how & 8)
        make_honest((Shard *)shard);
    PyObject *others[] = {view, text, spans, scalars};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) Py_DECREF(others[i]);
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++) Py_DECREF(columns[i]);
    return shard;
}

/* What a task gives; or it is dropped, done or not. */
static void finish(PyObject *task, int dropped) {
    require(task != NULL);
    if (!dropped) require(accepted(PyObject_CallMethod(task, "result", NULL)));
    Py_DECREF(task);
}

/* All that is done with a shard, whose reference it takes. */
static void read_all(PyObject *module, PyObject *shard, uint8_t how, uint8_t kind_number, const char *head) {
    static PyObject *helpers; /* made once: to start threads takes longer than all else */
    if (helpers == NULL) helpers = PyObject_CallMethod(module, "Crew", "n", (Py_ssize_t)2);
    require(helpers != NULL);
    static const char *const kinds[][2] = {{"i4", "i8"}, {"u4", "i8"}, {"u2", "i8"}, {"u2", "i4"}, {"u1", "u1"}};
    const char *const *kind = kinds[kind_number / 16 % 5];
    PyObject *crew = how & 64 ? helpers : Py_None;
    int dropped = how & 128 && kind_number & 1;
    Py_ssize_t count = ((Shard *)shard)->rows;
    PyObject *shards = PyList_New(0);
    for (Py_ssize_t i = 0; i < count; i++) require(PyList_Append(shards, shard) == 0);
    Array *rows = counting(count), *sums = array_of(how & 128 ? "d" : "q", 8, count, -1, 0);
    Array *lengths = counting(count), *out = array_of("B", 1, count * WIDTH * (kind[1][1] - '0'), -1, 0);
    require(accepted(PyObject_CallMethod(module, "keys", "OO", shards, rows)));
    require(accepted(PyObject_CallMethod(module, "numbers", "OOiO", shards, rows, 0, sums)));
    PyObject *contents = PyObject_CallMethod(module, "read", "OOOi", crew, shards, rows, how & 16 ? 4096 : 16);
    PyObject *filling = PyObject_CallMethod(module, "fill", "OOOiy#sOsiO", crew, shards, rows, 0, head, (Py_ssize_t)(kind_number % 16),
                                            kind[0], out, kind[1], how >> 5 & 1, kind_number & 2 ? (PyObject *)lengths : Py_None);
    Py_DECREF(shards); /* the tasks alone hold them now */
    Py_DECREF(shard);
    finish(contents, dropped);
    finish(filling, dropped);
    Array *all[] = {rows, sums, lengths, out};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) Py_DECREF(all[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    PyObject *module = module_of(PyInit__rows);
    if (size < 2) return 0;
    bytes = data + 2, left = size - 2;
    char content[MAP_BYTES];
    for (int i = 0; i < MAP_BYTES; i++) content[i] = (char)(i % 4 ? 0 : i);
    PyObject *map = PyBytes_FromStringAndSize(content, MAP_BYTES), *shard = shard_of(module, map, data[0]);
    if (shard != NULL) read_all(module, shard, data[0], data[1], content);
    Py_DECREF(map);
    return 0;
}
