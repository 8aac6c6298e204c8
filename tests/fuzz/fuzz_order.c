/* libFuzzer's entry to the order's arithmetic: shards, blocks and positions of all sorts, most of which no order has.
 *
 * Whatever they are, nothing may be read or written outside of the arrays or walked for ever, and a position that is accepted must
 * come to lie in some shard. Built and run by tools/fuzz.sh. */
#include "fuzz_python.h"

#include "../../fastload/order/_order.c"

#define MOST 12 /* numbers in an array */

static Array *some(Py_ssize_t count, uint64_t most) {
    return filled(array_of("q", oddly(128) ? 4 : 8, oddly(128) ? count + 1 : count, -1, 0), most);
}

/* Rising from 0 on, most of the time: where blocks or shards begin. */
static Array *rising(Py_ssize_t count, uint64_t most) {
    Array *array = some(count, most);
    if (array->item_bytes == 8 && !oddly(4))
        for (Py_ssize_t i = 0; i < array->shape[0]; i++) {
            uint64_t *at = (uint64_t *)array->data + i;
            *at = i ? at[-1] + *at % most : 0;
        }
    return array;
}

/* Around the largest domain: beyond it a walk may never end. */
static Array *raised(Array *array, int huge) {
    for (Py_ssize_t i = 0; huge && array->item_bytes == 8 && i < array->shape[0]; i++)
        ((uint64_t *)array->data)[i] += MAX_DOMAIN - 30;
    return array;
}

static void fuzz_locate(PyObject *module) {
    Py_ssize_t count = (Py_ssize_t)(take_bytes(1) % MOST), blocks = (Py_ssize_t)(take_bytes(1) % MOST);
    Py_ssize_t shards = (Py_ssize_t)(take_bytes(1) % MOST);
    int huge = oddly(4);
    long long samples = (long long)take_number(200), lanes = oddly(2) ? (long long)take_number(9) : 1;
    Array *given[] = {
        [POSITIONS] = raised(some(count, 200), huge),
        [BLOCK_STARTS] = rising(blocks, 60), [BLOCK_SIZES] = raised(some(blocks, 60), huge),
        [BLOCK_KEYS] = some(blocks, UINT64_MAX),
        [ENDS] = rising(shards, 60), [STARTS] = some(shards, 60), [SHARDS] = some(shards, 60),
        [OUT_SHARDS] = some(count, 60), [OUT_ROWS] = some(count, 60),
    };
    if (given[SHARDS]->item_bytes == 8) /* their own numbers, to know them by */
        for (Py_ssize_t i = 0; i < given[SHARDS]->shape[0]; i++) ((int64_t *)given[SHARDS]->data)[i] = i;
    given[OUT_ROWS]->read_only = oddly(128);
    PyObject *result = PyObject_CallMethod(module, "locate", "OLLOOOOOOOO", given[POSITIONS], samples, lanes, given[BLOCK_STARTS],
        given[BLOCK_SIZES], given[BLOCK_KEYS], given[ENDS], given[STARTS], given[SHARDS], given[OUT_SHARDS], given[OUT_ROWS]);
    if (accepted(result))
        for (Py_ssize_t i = 0; i < given[OUT_SHARDS]->shape[0]; i++) {
            int64_t shard = ((int64_t *)given[OUT_SHARDS]->data)[i];
            require(shard >= 0 && shard < given[SHARDS]->shape[0]);
        }
    for (int i = 0; i < ARRAYS; i++) Py_DECREF(given[i]);
}

static void fuzz_keys(PyObject *module) {
    Py_ssize_t count = (Py_ssize_t)(take_bytes(1) % MOST);
    unsigned long long seed = take_number(9);
    Array *epochs = some(oddly(2) ? count : 1, 4), *samples = some(count, 200), *out = some(count, 1);
    out->read_only = oddly(128);
    accepted(PyObject_CallMethod(module, "sample_keys", "KOOO", seed, epochs, samples, out));
    Array *all[] = {epochs, samples, out};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) Py_DECREF(all[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    PyObject *module = module_of(PyInit__order);
    bytes = data, left = size;
    if (take_bytes(1) % 4)
        fuzz_locate(module);
    else
        fuzz_keys(module);
    return 0;
}
