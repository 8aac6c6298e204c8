/* The order's arithmetic, row by row where numpy goes over whole arrays thirty times: the same numbers in a tenth of the time.

   What it computes is said where the same stands in Python: `Order.locate` (shuffle.py), `permute` (permute.py) and `sample_keys`
   (hashing.py). All arrays are buffers of 64-bit integers, C-contiguous.

   locate(positions, samples, lanes, block_starts, block_sizes, block_keys, ends, starts, shards, out_shards, out_rows)
       Shard and row of each position, which are in [0, samples). block_*: [blocks] each, none where nothing is shuffled;
       ends, starts, shards: [S].

   sample_keys(seed, epochs, samples, out)
       The key of each sample: seed modulo 2**64; epochs: one, or as many as samples.

   Numbers that no order has (a block beyond the samples, ends that do not rise) give some place inside [0, S): nothing is read
   outside of the arrays, and none is walked for ever, whatever they hold. Sums are modulo 2**64. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

#define ROUNDS 8
#define MIN_BITS 6
#define MAX_DOMAIN ((uint64_t)1 << 52)
#define GOLDEN 0x9E3779B97F4A7C15u
#define MIX_A 0xBF58476D1CE4E5B9u
#define MIX_B 0x94D049BB133111EBu

static uint64_t mix64(uint64_t x) {
    x = (x ^ (x >> 30)) * MIX_A;
    x = (x ^ (x >> 27)) * MIX_B;
    return x ^ (x >> 31);
}

static uint64_t combine_word(uint64_t key, uint64_t word) { return mix64((key ^ word) + GOLDEN); }

/* Modulo 2**64, as numpy has them. */
static int64_t plus(int64_t a, int64_t b) { return (int64_t)((uint64_t)a + (uint64_t)b); }
static int64_t minus(int64_t a, int64_t b) { return (int64_t)((uint64_t)a - (uint64_t)b); }
static int64_t times(int64_t a, int64_t b) { return (int64_t)((uint64_t)a * (uint64_t)b); }

/* The bijection of one block. */
typedef struct {
    uint64_t size, keys[ROUNDS], masks[2];
    int low; /* bits of the right side */
} Network;

static Network network_of(uint64_t size, uint64_t key) {
    Network network = {.size = size};
    int bits = 0;
    while (bits < 64 && size > 1 && (size - 1) >> bits)
        bits++;
    if (bits < MIN_BITS)
        bits = MIN_BITS;
    network.low = bits / 2;
    network.masks[0] = ((uint64_t)1 << (bits - network.low)) - 1;
    network.masks[1] = ((uint64_t)1 << network.low) - 1;
    for (int i = 0; i < ROUNDS; i++)
        network.keys[i] = key ^ mix64(GOLDEN * (uint64_t)(i + 1));
    return network;
}

static uint64_t permuted(const Network *network, uint64_t x) {
    if (network->size < 2 || network->size > MAX_DOMAIN || x >= network->size) /* from outside it might walk for ever */
        return 0;
    do {
        uint64_t left = x >> network->low, right = x & network->masks[1];
        for (int i = 0; i < ROUNDS; i++) {
            uint64_t mixed = (right + network->keys[i]) * MIX_A;
            mixed ^= mixed >> 29;
            mixed *= MIX_B;
            mixed ^= mixed >> 32;
            mixed = (mixed & network->masks[i & 1]) ^ left;
            left = right;
            right = mixed;
        }
        x = (left << network->low) | right;
    } while (x >= network->size);
    return x;
}

/* How many of `count` rising numbers are at most x. */
static Py_ssize_t at_most(const int64_t *numbers, Py_ssize_t count, int64_t x) {
    Py_ssize_t low = 0;
    while (count) {
        Py_ssize_t half = count / 2;
        int right = numbers[low + half] <= x;
        low += right ? half + 1 : 0;
        count = right ? count - half - 1 : half;
    }
    return low;
}

enum { POSITIONS, BLOCK_STARTS, BLOCK_SIZES, BLOCK_KEYS, ENDS, STARTS, SHARDS, OUT_SHARDS, OUT_ROWS, ARRAYS };

static void release(Py_buffer *arrays, int count) {
    for (int i = 0; i < count; i++)
        PyBuffer_Release(&arrays[i]);
}

/* Buffers of 64-bit integers, those from `first_out` on writable; -1 with an error set, and none is held. */
static int take(PyObject **objects, Py_buffer *arrays, int count, int first_out) {
    for (int i = 0; i < count; i++) {
        if (PyObject_GetBuffer(objects[i], &arrays[i], i < first_out ? PyBUF_ND : PyBUF_ND | PyBUF_WRITABLE) < 0) {
            release(arrays, i);
            return -1;
        }
        if (arrays[i].itemsize != 8) {
            release(arrays, i + 1);
            PyErr_SetString(PyExc_ValueError, "arrays of 64-bit integers expected");
            return -1;
        }
    }
    return 0;
}

static void locate_all(const Py_buffer *arrays, int64_t samples, int64_t lanes) {
    const int64_t *positions = arrays[POSITIONS].buf, *block_starts = arrays[BLOCK_STARTS].buf, *ends = arrays[ENDS].buf;
    const uint64_t *block_sizes = arrays[BLOCK_SIZES].buf, *block_keys = arrays[BLOCK_KEYS].buf;
    const int64_t *starts = arrays[STARTS].buf, *shards = arrays[SHARDS].buf;
    int64_t *out_shards = arrays[OUT_SHARDS].buf, *out_rows = arrays[OUT_ROWS].buf;
    Py_ssize_t count = arrays[POSITIONS].len / 8, blocks = arrays[BLOCK_STARTS].len / 8, places = arrays[ENDS].len / 8;
    int64_t quotient = samples / lanes, remainder = samples % lanes;
    int64_t first = 0, behind = 0; /* of the block that the last one lay in */
    Network network = {0};
    for (Py_ssize_t i = 0; i < count; i++) {
        int64_t p = positions[i];
        if (lanes > 1) {
            int64_t lane = p % lanes;
            int64_t before = plus(times(lane, quotient), lane < remainder ? lane : remainder);
            p = plus(before, p / lanes);
        }
        if (blocks && (p < first || p >= behind)) {
            Py_ssize_t block = at_most(block_starts, blocks, p) - 1;
            block = block < 0 ? 0 : block;
            first = block_starts[block];
            behind = block + 1 < blocks ? block_starts[block + 1] : INT64_MAX;
            network = network_of(block_sizes[block], block_keys[block]);
        }
        if (blocks)
            p = plus(first, (int64_t)permuted(&network, (uint64_t)minus(p, first)));
        Py_ssize_t place = at_most(ends, places, p);
        place = place < places ? place : places - 1;
        out_shards[i] = shards[place];
        out_rows[i] = minus(p, starts[place]);
    }
}

static PyObject *order_locate(PyObject *module, PyObject *args) {
    PyObject *objects[ARRAYS];
    Py_buffer arrays[ARRAYS];
    long long samples, lanes;
    (void)module;
    if (!PyArg_ParseTuple(args, "OLLOOOOOOOO", &objects[POSITIONS], &samples, &lanes, &objects[BLOCK_STARTS], &objects[BLOCK_SIZES],
                          &objects[BLOCK_KEYS], &objects[ENDS], &objects[STARTS], &objects[SHARDS], &objects[OUT_SHARDS],
                          &objects[OUT_ROWS]) ||
        take(objects, arrays, ARRAYS, OUT_SHARDS) < 0)
        return NULL;
    Py_ssize_t count = arrays[POSITIONS].len, places = arrays[ENDS].len, blocks = arrays[BLOCK_STARTS].len;
    if (lanes < 1 || arrays[OUT_SHARDS].len != count || arrays[OUT_ROWS].len != count || arrays[STARTS].len != places ||
        arrays[SHARDS].len != places || arrays[BLOCK_SIZES].len != blocks || arrays[BLOCK_KEYS].len != blocks || (count && !places))
        PyErr_SetString(PyExc_ValueError, "locate: arrays of other lengths expected");
    else
        locate_all(arrays, samples, lanes);
    release(arrays, ARRAYS);
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *order_sample_keys(PyObject *module, PyObject *args) {
    PyObject *objects[3];
    Py_buffer arrays[3];
    unsigned long long seed;
    (void)module;
    if (!PyArg_ParseTuple(args, "KOOO", &seed, &objects[0], &objects[1], &objects[2]) || take(objects, arrays, 3, 2) < 0)
        return NULL;
    const uint64_t *epochs = arrays[0].buf, *samples = arrays[1].buf;
    uint64_t *out = arrays[2].buf, of_seed = combine_word(0, seed), of_epoch = 0;
    Py_ssize_t count = arrays[1].len / 8, step = arrays[0].len == 8 ? 0 : 1;
    if (arrays[2].len != arrays[1].len || (step && arrays[0].len != arrays[1].len))
        PyErr_SetString(PyExc_ValueError, "sample_keys: as many epochs and keys as samples expected"), count = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        if (i == 0 || (step && epochs[i] != epochs[i - 1]))
            of_epoch = combine_word(of_seed, epochs[i * step]);
        out[i] = combine_word(of_epoch, samples[i]);
    }
    release(arrays, 3);
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"locate", order_locate, METH_VARARGS,
     "locate(positions, samples, lanes, block_starts, block_sizes, block_keys, ends, starts, shards, out_shards, out_rows)"},
    {"sample_keys", order_sample_keys, METH_VARARGS, "sample_keys(seed, epochs, samples, out)"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "fastload.order._order",
    .m_doc = "The order's arithmetic.",
    .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__order(void) { return PyModule_Create(&definition); }
