/* libFuzzer's entry to the row reader: the tables of a shard's index are the input, its map is a few bytes of its own.
 *
 * Whatever the tables say, nothing may be read outside of the buffers, and nothing may crash or leak. Built and run by
 * tools/fuzz.sh, inside an interpreter whose memory the sanitizers see. */
#include "../../fastload/shards/_rows.c"

#define XXH_INLINE_ALL
#include <xxhash.h>

#define ROWS 4
#define MAP_BYTES 600
#define WIDTH 8

static const uint8_t *bytes;
static size_t left;

static uint64_t take_number(void) {
    uint64_t number = 0;
    for (int i = 0; i < 8 && left; i++, left--)
        number |= (uint64_t)*bytes++ << (8 * i);
    switch (number & 3) { /* small numbers most of the time, for what they lead to */
        case 0: return number >> 2;
        case 1: return -(number >> 48);
        default: return (number >> 2) % (MAP_BYTES + 8);
    }
}

static void require(int condition) {
    if (!condition) {
        PyErr_Print();
        abort();
    }
}

/* A buffer of ROWS + extra numbers of one size, as memoryview.cast makes it. */
static PyObject *column(int size, int extra) {
    uint64_t numbers[ROWS + 1];
    char packed[8 * (ROWS + 1)];
    for (int i = 0; i < ROWS + extra; i++) {
        numbers[i] = take_number();
        memcpy(packed + i * size, &numbers[i], (size_t)size);
    }
    PyObject *content = PyBytes_FromStringAndSize(packed, size * (ROWS + extra));
    PyObject *view = PyMemoryView_FromObject(content);
    PyObject *cast = PyObject_CallMethod(view, "cast", "s", size == 8 ? "Q" : "I");
    require(cast != NULL);
    Py_DECREF(content);
    Py_DECREF(view);
    return cast;
}

/* Writable int64 0, 1, ..., as a memoryview. */
static PyObject *longs(int count) {
    PyObject *bytes = PyByteArray_FromStringAndSize(NULL, 8 * count), *view = PyMemoryView_FromObject(bytes);
    for (int64_t i = 0; i < count; i++)
        memcpy(PyByteArray_AS_STRING(bytes) + 8 * i, &i, 8);
    PyObject *cast = PyObject_CallMethod(view, "cast", "s", "q");
    require(cast != NULL);
    Py_DECREF(bytes);
    Py_DECREF(view);
    return cast;
}

static PyObject *shard_of(PyObject *module, PyObject *map, uint8_t how, int honest) {
    PyObject *view = PyMemoryView_FromObject(map), *text = PyBytes_FromStringAndSize("abcdefgh", 8);
    PyObject *offsets = column(8, 0), *sizes = column(how & 1 ? 8 : 4, 0), *digests = column(8, 0), *bounds = column(4, 1);
    PyObject *starts = column(how & 2 ? 8 : 4, 0), *lengths = column(how & 4 ? 8 : 4, 0);
    PyObject *spans = Py_BuildValue("((OO))", starts, lengths), *numbers = Py_BuildValue("(O)", digests);
    PyObject *shard = PyObject_CallMethod(module, "Shard", "OOOOOOOO", view, offsets, sizes, digests, bounds, text, spans, numbers);
    require(shard != NULL);
    if (honest) { /* checksums that hold, so that what comes after them is reached */
        Shard *inside = (Shard *)shard;
        for (Py_ssize_t row = 0; row < ROWS; row++) {
            uint64_t offset = ((uint64_t *)inside->offsets.buf)[row], size = item(&inside->sizes, row);
            if (offset <= MAP_BYTES && size <= MAP_BYTES - offset)
                ((uint64_t *)inside->digests.buf)[row] = XXH3_64bits((const char *)inside->map.buf + offset, size);
        }
    }
    PyObject *all[] = {view, text, offsets, sizes, digests, bounds, starts, lengths, spans, numbers};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        Py_DECREF(all[i]);
    return shard;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static PyObject *module;
    if (module == NULL) {
        Py_Initialize();
        module = PyInit__rows();
        require(module != NULL);
    }
    if (size < 2)
        return 0;
    uint8_t how = data[0], head_bytes = data[1] % 16;
    bytes = data + 2, left = size - 2;
    char content[MAP_BYTES];
    for (int i = 0; i < MAP_BYTES; i++)
        content[i] = (char)(i % 4 ? 0 : i);
    PyObject *map = PyBytes_FromStringAndSize(content, MAP_BYTES);
    PyObject *shard = shard_of(module, map, how, how & 8);
    PyObject *shards = Py_BuildValue("[OOOO]", shard, shard, shard, shard), *rows = longs(ROWS);
    PyObject *found[4];
    found[0] = PyObject_CallMethod(module, "keys", "OO", shards, rows);
    PyObject *sums = longs(ROWS), *reading = PyObject_CallMethod(module, "read", "OOOi", Py_None, shards, rows, how & 16 ? 4096 : 16);
    require(reading != NULL);
    found[1] = PyObject_CallMethod(reading, "result", NULL);
    Py_DECREF(reading);
    found[3] = PyObject_CallMethod(module, "numbers", "OOiO", shards, rows, 0, sums);
    static const char *const kinds[][2] = {{"i4", "i8"}, {"u4", "i8"}, {"u2", "i8"}, {"u2", "i4"}, {"u1", "u1"}};
    const char *const *kind = kinds[data[1] / 16 % 5];
    PyObject *out = PyByteArray_FromStringAndSize(NULL, ROWS * WIDTH * (kind[1][1] - '0'));
    PyObject *lengths = how & 64 ? longs(ROWS) : Py_NewRef(Py_None);
    PyObject *task = PyObject_CallMethod(module, "fill", "OOOiy#sOsiO", Py_None, shards, rows, 0, content, (Py_ssize_t)head_bytes,
                                         kind[0], out, kind[1], how >> 5 & 1, lengths);
    require(task != NULL);
    found[2] = PyObject_CallMethod(task, "result", NULL);
    Py_DECREF(task);
    for (int i = 0; i < 4; i++) {
        require(found[i] != NULL);
        Py_DECREF(found[i]);
    }
    PyObject *all[] = {out, shards, rows, shard, map, sums, lengths};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        Py_DECREF(all[i]);
    return 0;
}
