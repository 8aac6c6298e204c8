/* libFuzzer's entry to the conversion of sample rates: shapes, places and numbers of all sorts, some of which no caller has.
 *
 * Whatever they are, nothing may be read or written outside of the arrays; and what is accepted must come out as the sums say, to
 * the bit. Built and run by tools/fuzz.sh. */
#include "fuzz_python.h"

#include "../../fastload/decode/_polyphase.c"

typedef struct {
    Array *samples, *starts, *taps, *out;
    int64_t orig;
} Call;

/* The value of one output, from what the extension says of itself. */
static float expected(const Call *call, Py_ssize_t channel, Py_ssize_t n) {
    Py_ssize_t frames = call->samples->shape[1], phases = call->starts->shape[0], width = call->taps->shape[1];
    const float *samples = (const float *)call->samples->data + channel * frames;
    const float *taps = (const float *)call->taps->data + n % phases * width;
    uint64_t first = (uint64_t)(n / phases) * (uint64_t)call->orig + ((const uint64_t *)call->starts->data)[n % phases];
    float parts[LANES] = {0};
    for (Py_ssize_t i = 0; i < width; i++)
        if (first + (uint64_t)i < (uint64_t)frames) parts[i % LANES] += taps[i] * samples[first + (uint64_t)i];
    return total(parts);
}

static void compare(const Call *call) {
    for (Py_ssize_t channel = 0; channel < call->out->shape[0]; channel++)
        for (Py_ssize_t n = 0; n < call->out->shape[1]; n++) {
            float ours = ((const float *)call->out->data)[channel * call->out->shape[1] + n], other = expected(call, channel, n);
            require(memcmp(&ours, &other, sizeof ours) == 0 || (ours != ours && other != other));
        }
}

/* Floats that add up, and now and then any bits. */
static Array *of_floats(Py_ssize_t rows, Py_ssize_t columns) {
    Array *array = array_of("f", oddly(64) ? 2 : 4, rows, oddly(64) ? -1 : columns, 0);
    int any = oddly(8);
    uint32_t bits = 0;
    for (Py_ssize_t i = 0; i < array->bytes / 4; i++) {
        bits = bits * 1664525 + (uint32_t)take_bytes(2) + 1; /* goes on where the input ends */
        float value = (float)(int32_t)bits / (1 << 24);
        if (any) memcpy(&value, &bits, sizeof value);
        memcpy(array->data + 4 * i, &value, sizeof value);
    }
    return array;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    PyObject *module = module_of(PyInit__polyphase);
    bytes = data, left = size;
    Py_ssize_t channels = (Py_ssize_t)(take_bytes(1) % 4), frames = (Py_ssize_t)(take_bytes(1));
    Py_ssize_t phases = (Py_ssize_t)(take_bytes(1) % 8), count = (Py_ssize_t)(take_bytes(1));
    Py_ssize_t width = oddly(16) ? (Py_ssize_t)take_bytes(1) : (Py_ssize_t)(LANES * (1 + take_bytes(1) % 5));
    Call call = {.orig = (int64_t)take_number(50)};
    call.starts = filled(array_of("q", oddly(64) ? 4 : 8, phases, oddly(64) ? 1 : -1, 0), 300);
    call.samples = of_floats(channels, frames);
    call.taps = of_floats(oddly(16) ? phases + 1 : phases, width);
    call.out = of_floats(oddly(16) ? channels + 1 : channels, count);
    call.out->read_only = oddly(64);
    if (accepted(PyObject_CallMethod(module, "convert", "OOOLO", call.samples, call.starts, call.taps, (long long)call.orig, call.out)))
        compare(&call);
    Array *all[] = {call.samples, call.starts, call.taps, call.out};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) Py_DECREF(all[i]);
    return 0;
}
