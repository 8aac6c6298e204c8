/* Sample-rate conversion in 32 bits: each output is a sum over a few inputs, with the taps of its phase.

   convert(samples, starts, taps, orig, out)
       samples: float32 [C, T]. starts: int64 [new], of each phase the first input, counted from its block's. taps: float32
       [new, width], width a multiple of LANES. orig: inputs of a block. out: writable float32 [C, N]; output n has phase n % new of
       block n / new, and inputs that are not there count as zeros. All are contiguous. Places are numbers modulo 2**64.

   Sums go in a fixed order, in LANES parts, whatever the processor: the same bits everywhere. The GIL is released. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

#define LANES 8

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__gnu_linux__)
#define FOR_MANY_PROCESSORS __attribute__((target_clones("avx2", "default")))
#else
#define FOR_MANY_PROCESSORS
#endif

static float total(const float *parts) {
    return ((parts[0] + parts[4]) + (parts[2] + parts[6])) + ((parts[1] + parts[5]) + (parts[3] + parts[7]));
}

/* The sum where the inputs [first, first + width) reach over an end. */
static float at_an_end(const float *samples, int64_t frames, uint64_t first, const float *taps, int64_t width) {
    float parts[LANES] = {0};
    for (int64_t i = 0; i < width; i++) {
        uint64_t place = first + (uint64_t)i; /* before the beginning: a large number */
        if (place < (uint64_t)frames)
            parts[i % LANES] += taps[i] * samples[place];
    }
    return total(parts);
}

FOR_MANY_PROCESSORS
static void convert_channel(const float *samples, int64_t frames, const int64_t *starts, const float *taps, int64_t width, int64_t orig,
                            int64_t new, float *out, int64_t count) {
    uint64_t block = 0;
    for (int64_t n = 0, phase = 0; n < count; n++) {
        const float *mine = taps + phase * width;
        int64_t first = (int64_t)(block + (uint64_t)starts[phase]);
        if (first < 0 || first > frames - width) {
            out[n] = at_an_end(samples, frames, (uint64_t)first, mine, width);
        } else {
            float parts[LANES] = {0};
            for (int64_t i = 0; i < width; i += LANES)
                for (int k = 0; k < LANES; k++)
                    parts[k] += mine[i + k] * samples[first + i + k];
            out[n] = total(parts);
        }
        if (++phase == new) {
            phase = 0;
            block += (uint64_t)orig;
        }
    }
}

/* A contiguous buffer of items of one size with so many dimensions; -1 with an error set if it is another. */
static int take(PyObject *from, Py_buffer *into, int flags, Py_ssize_t size, int dimensions, const char *name) {
    if (PyObject_GetBuffer(from, into, flags | PyBUF_C_CONTIGUOUS) < 0)
        return -1;
    if (into->itemsize != size || into->ndim != dimensions) {
        PyErr_Format(PyExc_ValueError, "%s: %d dimensions of items of %zd bytes expected", name, dimensions, size);
        return -1;
    }
    return 0;
}

static PyObject *convert(PyObject *module, PyObject *args) {
    PyObject *objects[4];
    Py_buffer samples = {0}, starts = {0}, taps = {0}, out = {0};
    long long orig;
    (void)module;
    if (!PyArg_ParseTuple(args, "OOOLO", &objects[0], &objects[1], &objects[2], &orig, &objects[3]))
        return NULL;
    if (take(objects[0], &samples, 0, 4, 2, "samples") == 0 && take(objects[1], &starts, 0, 8, 1, "starts") == 0 &&
        take(objects[2], &taps, 0, 4, 2, "taps") == 0 && take(objects[3], &out, PyBUF_WRITABLE, 4, 2, "out") == 0) {
        int64_t width = taps.shape[1], new = starts.shape[0];
        if (orig < 1 || new < 1 || taps.shape[0] != new || width < LANES || width % LANES || out.shape[0] != samples.shape[0]) {
            PyErr_SetString(PyExc_ValueError, "convert: shapes that do not fit each other");
        } else {
            Py_BEGIN_ALLOW_THREADS
            for (Py_ssize_t channel = 0; channel < out.shape[0]; channel++)
                convert_channel((const float *)samples.buf + channel * samples.shape[1], samples.shape[1], starts.buf, taps.buf, width,
                                orig, new, (float *)out.buf + channel * out.shape[1], out.shape[1]);
            Py_END_ALLOW_THREADS
        }
    }
    Py_buffer *buffers[] = {&samples, &starts, &taps, &out};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
        PyBuffer_Release(buffers[i]);
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

static PyMethodDef methods[] = {
    {"convert", convert, METH_VARARGS, "convert(samples, starts, taps, orig, out)"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "fastload.decode._polyphase",
    .m_doc = "Sample-rate conversion in 32 bits.",
    .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__polyphase(void) { return PyModule_Create(&definition); }
