/* The clock of one thread: what clock.py says of it, at a third of the cost.

   All is done under the interpreter's lock, so that whoever reads a clock finds no half change. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stddef.h>
#include <structmember.h>
#include <time.h>

#define STAGES 9        /* plan, read, decode, assemble, copy, augment, step, waiting, idle: numbered as in clock.py */
#define DECODE 2
#define STEP 6
#define SIZES_SAMPLED 4 /* as in clock.py */

typedef struct {
    PyObject_HEAD
    int now;
    double since, started, seconds[STAGES];
    long long rows, decoded, read_bytes, batches, samples, copied_bytes;
    long long *ready; /* NULL until a batch was asked for */
    Py_ssize_t ready_size;
} Clock;

/* time.perf_counter() */
static double time_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* The stage of this number; -1 with an error set. */
static int stage_of(PyObject *number) {
    long stage = PyLong_AsLong(number);
    if (stage == -1 && PyErr_Occurred())
        return -1;
    if (stage < 0 || stage >= STAGES) {
        PyErr_Format(PyExc_IndexError, "stage %ld: pass one from 0 to %d", stage, STAGES - 1);
        return -1;
    }
    return (int)stage;
}

static int clock_init(Clock *self, PyObject *args, PyObject *keywords) {
    static char *names[] = {"now", NULL};
    PyObject *number;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O:Clock", names, &number))
        return -1;
    int stage = stage_of(number);
    if (stage < 0)
        return -1;
    self->now = stage;
    self->since = self->started = time_now();
    return 0;
}

static void clock_free(Clock *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyMem_Free(self->ready);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static void enter(Clock *self, int stage) {
    double at = time_now();
    self->seconds[self->now] += at - self->since;
    if (self->now == DECODE)
        self->decoded = self->rows;
    self->now = stage;
    self->since = at;
}

static PyObject *clock_enter(Clock *self, PyObject *number) {
    int stage = stage_of(number);
    if (stage < 0)
        return NULL;
    enter(self, stage);
    Py_RETURN_NONE;
}

/* Bytes of a field's contents, from some of them; -1 with an error set. */
static long long estimate_of(PyObject *contents) {
    PyObject *values = PySequence_Fast(contents, "contents: a list for each field expected");
    if (!values)
        return -1;
    Py_ssize_t count = PySequence_Fast_GET_SIZE(values), some = 0;
    long long size = 0;
    for (Py_ssize_t i = 0; i < count; i += count / SIZES_SAMPLED + 1, some++) {
        PyObject *value = PySequence_Fast_GET_ITEM(values, i);
        if (PyBytes_CheckExact(value))
            size += PyBytes_GET_SIZE(value);
        else if (PyMemoryView_Check(value))
            size += PyMemoryView_GET_BUFFER(value)->len;
    }
    Py_DECREF(values);
    return some ? size * count / some : 0;
}

/* The same of all fields. */
static long long estimate(PyObject *fields) {
    PyObject *iterator = PyObject_GetIter(fields), *contents;
    long long total = 0;
    if (!iterator)
        return -1;
    while ((contents = PyIter_Next(iterator))) {
        long long size = estimate_of(contents);
        Py_DECREF(contents);
        if (size < 0)
            break;
        total += size;
    }
    Py_DECREF(iterator);
    return PyErr_Occurred() ? -1 : total;
}

static PyObject *clock_read(Clock *self, PyObject *const *args, Py_ssize_t count) {
    if (count != 2) {
        PyErr_Format(PyExc_TypeError, "read() takes 2 arguments, not %zd", count);
        return NULL;
    }
    long long rows = PyLong_AsLongLong(args[0]);
    if (rows == -1 && PyErr_Occurred())
        return NULL;
    long long size = PyLong_CheckExact(args[1]) ? PyLong_AsLongLong(args[1]) : estimate(args[1]);
    if (size == -1 && PyErr_Occurred())
        return NULL;
    self->rows += rows;
    self->read_bytes += size;
    enter(self, DECODE);
    Py_RETURN_NONE;
}

static PyObject *clock_handed_over(Clock *self, PyObject *number) {
    long long rows = PyLong_AsLongLong(number);
    if (rows == -1 && PyErr_Occurred())
        return NULL;
    self->samples += rows;
    self->batches++;
    enter(self, STEP);
    Py_RETURN_NONE;
}

static PyObject *clock_asked(Clock *self, PyObject *number) {
    Py_ssize_t ready = PyNumber_AsSsize_t(number, PyExc_OverflowError);
    if (ready == -1 && PyErr_Occurred())
        return NULL;
    if (ready < 0 || ready > PY_SSIZE_T_MAX / (Py_ssize_t)sizeof(*self->ready) - 1)
        return PyErr_Format(PyExc_ValueError, "asked(%zd): pass how many batches are ready", ready);
    if (ready >= self->ready_size) {
        long long *more = PyMem_Realloc(self->ready, (size_t)(ready + 1) * sizeof(*more));
        if (!more)
            return PyErr_NoMemory();
        for (Py_ssize_t i = self->ready_size; i <= ready; i++)
            more[i] = 0;
        self->ready = more;
        self->ready_size = ready + 1;
    }
    self->ready[ready]++;
    Py_RETURN_NONE;
}

static PyObject *list_of(const double *seconds) {
    PyObject *list = PyList_New(STAGES);
    for (int i = 0; list && i < STAGES; i++) {
        PyObject *number = PyFloat_FromDouble(seconds[i]);
        if (!number)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, i, number);
    }
    return list;
}

static PyObject *clock_running(Clock *self, PyObject *nothing) {
    double seconds[STAGES];
    (void)nothing;
    for (int i = 0; i < STAGES; i++)
        seconds[i] = self->seconds[i];
    seconds[self->now] += time_now() - self->since;
    return list_of(seconds);
}

static PyObject *clock_seconds(Clock *self, void *closure) {
    (void)closure;
    return list_of(self->seconds);
}

static PyObject *clock_ready(Clock *self, void *closure) {
    (void)closure;
    Py_ssize_t size = self->ready_size; /* which only grows, should the list wake the collector and that somebody who asks */
    PyObject *list = PyList_New(size);
    for (Py_ssize_t i = 0; list && i < size; i++) {
        PyObject *number = PyLong_FromLongLong(self->ready[i]);
        if (!number)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, i, number);
    }
    return list;
}

static PyMethodDef methods[] = {
    {"enter", (PyCFunction)clock_enter, METH_O, "What it counts from now on."},
    {"read", (PyCFunction)(void (*)(void))clock_read, METH_FASTCALL, "So many samples were read; they are decoded next."},
    {"handed_over", (PyCFunction)clock_handed_over, METH_O, "The consumer gets a batch of so many; its step is next."},
    {"asked", (PyCFunction)clock_asked, METH_O, "The consumer asks for a batch, and so many are ready."},
    {"running", (PyCFunction)clock_running, METH_NOARGS, "Seconds by stage up to this moment; for any thread."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
    {"now", T_INT, offsetof(Clock, now), READONLY, "The stage that it is in."},
    {"since", T_DOUBLE, offsetof(Clock, since), READONLY, "From when."},
    {"started", T_DOUBLE, offsetof(Clock, started), READONLY, "When it was made."},
    {"rows", T_LONGLONG, offsetof(Clock, rows), 0, "Samples that were read."},
    {"decoded", T_LONGLONG, offsetof(Clock, decoded), READONLY, "Of them, those whose decoding has ended."},
    {"read_bytes", T_LONGLONG, offsetof(Clock, read_bytes), 0, "Their stored bytes."},
    {"batches", T_LONGLONG, offsetof(Clock, batches), 0, "Batches handed to the consumer."},
    {"samples", T_LONGLONG, offsetof(Clock, samples), 0, "Their samples."},
    {"copied_bytes", T_LONGLONG, offsetof(Clock, copied_bytes), 0, "Bytes brought to the device."},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef properties[] = {
    {"seconds", (getter)clock_seconds, NULL, "Seconds in each stage, up to the last change.", NULL},
    {"ready", (getter)clock_ready, NULL, "ready[k]: how often k batches were ready when one was asked for.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "The seconds of one thread, by what it did."},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_init, clock_init},
    {Py_tp_dealloc, clock_free},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {Py_tp_getset, properties},
    {0, NULL},
};

static PyType_Spec specification = {
    .name = "fastload._clock.Clock",
    .basicsize = sizeof(Clock),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = slots,
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "fastload._clock",
    .m_doc = "The clock of one thread.",
    .m_size = -1,
};

PyMODINIT_FUNC PyInit__clock(void) {
    PyObject *module = PyModule_Create(&definition), *type = module ? PyType_FromSpec(&specification) : NULL;
    if (!type || PyModule_AddObjectRef(module, "Clock", type) < 0)
        Py_CLEAR(module);
    Py_XDECREF(type);
    return module;
}
