/* What the parts of _rows share: rows of shards, and the loops over their bytes that are built once for each kind of processor. */

#ifndef FASTLOAD_ROWS_H
#define FASTLOAD_ROWS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

typedef struct {
    Py_buffer starts, lengths;
} Span;

typedef struct {
    PyObject_HEAD
    PyObject *view; /* the memoryview that slices are taken of */
    Py_buffer map, offsets, sizes, digests, key_bounds, key_text;
    Py_ssize_t rows, fields, numbers;
    Span *spans;
    Py_buffer *scalars; /* [numbers] */
} Shard;

/* One row of one shard, with its sample's place in the map; size 0 and damaged where it does not fit. */
typedef struct {
    Shard *shard;
    Py_ssize_t row;
    uint64_t offset, size;
    int damaged;
} Place;

/* Columns lie where the .idx has them, and a wrong one may have them anywhere. */
typedef int32_t loose_i32 __attribute__((aligned(1)));
typedef int64_t loose_i64 __attribute__((aligned(1)));
typedef uint32_t loose_u32 __attribute__((aligned(1)));
typedef uint64_t loose_u64 __attribute__((aligned(1)));

static inline uint64_t item(const Py_buffer *column, Py_ssize_t row) {
    return column->itemsize == 8 ? ((const loose_u64 *)column->buf)[row] : ((const loose_u32 *)column->buf)[row];
}

/* What `fill` copies: the numbers behind `head` in a field's content, as another kind. `out` has `width` of them a row; with
   `lengths` a row may have fewer, and has zeros behind them. */
typedef struct {
    Py_ssize_t field;
    const char *head;
    size_t head_bytes, width, row_bytes; /* numbers and bytes of a row of `out` */
    int exact; /* there may be no more behind them */
    int kind;  /* place in COPIES */
    char *out;
    int64_t *lengths; /* numbers of each row, to be told; NULL: `width` */
} Filling;

/* What `read` copies: a field's content to where a bytes object has room for it; `to` is NULL for one that stays where it is. */
typedef struct {
    const char *from;
    char *to;
    size_t bytes;
} Piece;

#define COPIES(EACH) \
    EACH(i4_i8, "i4", "i8", int32_t, int64_t) \
    EACH(u4_i8, "u4", "i8", uint32_t, int64_t) \
    EACH(u2_i8, "u2", "i8", uint16_t, int64_t) \
    EACH(u2_i4, "u2", "i4", uint16_t, int32_t) \
    EACH(u1_u1, "u1", "u1", uint8_t, uint8_t)

typedef struct {
    /* Check and copy; marks those as damaged that were not copied. */
    void (*fill)(Place *places, Py_ssize_t count, const Filling *filling);
    /* Check, mark the damaged ones, and copy the others' pieces, `fields` each. */
    void (*take)(Place *places, Py_ssize_t count, const Piece *pieces, Py_ssize_t fields);
} Loops;

extern const Loops rows_loops_base, rows_loops_avx2, rows_loops_avx512;
extern const Loops *rows_loops; /* the fastest of them that this processor has */

/* The keys of so many rows: a new list of str. */
PyObject *rows_keys(const Place *places, Py_ssize_t count);

/* Append (place, field) to a list of faults; -1 with an error set. */
int rows_add_fault(PyObject *faults, Py_ssize_t place, Py_ssize_t field);

/* Threads that check and copy rows, and rows on their way; see _rows_crew.c. */
typedef struct Crew Crew;
typedef struct Task Task;

/* What is to be done with rows: those of `fill`, or, where there are columns, those of `read`. */
typedef struct {
    PyObject *shards; /* a tuple: keeps the maps that places point into, whatever becomes of the list */
    size_t row_bytes; /* that are read and written for a row, about */
    Filling filling;
    Py_buffer head, out, lengths;
    Py_ssize_t fields;
    Piece *pieces;              /* [count, fields] */
    PyObject *columns, *faults; /* of `read`; see there */
} Work;

void rows_drop(Work *work);

int rows_is_crew(PyObject *object);

/* A new Task, which takes over the places, one a shard, and the work; NULL with an error set, and nothing is taken over. */
PyObject *rows_task(PyObject *crew, Place *places, const Work *work);

int rows_add_crew(PyObject *module);

/* #pragma GCC target, which clang has not */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define ROWS_DISPATCH 1
#endif

#endif
