/* Many small files in one call, with the GIL released: what a file costs is then what the kernel takes for it.

   stat(folder, names, sizes, times) -> done
       folder: descriptor of the folder that the names are in. names: list of str. sizes, times: writable int64, as many as names:
       bytes and nanoseconds, these modulo 2**64 (after 2262 and before 1677). Links are followed.

   read(folder, paths, starts, sizes, into, first) -> done
       Reads each file from the first on, whole, to its place: starts, sizes: int64, as many as paths; into: writable bytes, one more than the last
       file takes. A file that is longer than its size is noticed by the byte after its place, which may be overwritten then.

   write_back(file, start, bytes)
       Has the kernel begin to write a range of a file to its disk; what becomes of it, fsync says. Elsewhere than on Linux: nothing.

   stat and read stop at the first file that is not there, is no regular file, or is otherwise than expected, and return how many are done:
   the caller looks at that one by itself, and says what is wrong with it. Neither waits for a pipe: to read, it is an empty file. */

#define PY_SSIZE_T_CLEAN
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* sync_file_range */
#endif
#include <Python.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/stat.h>
#include <unistd.h>

/* What files are called, as UTF-8. */
typedef struct {
    PyObject *held; /* a tuple, which keeps the texts: another thread may change the list in the meantime */
    const char **texts;
    Py_ssize_t count, usable; /* usable: how many come before one that has no such text (a name that is not UTF-8) */
} Names;

static void let_go(Names *names) {
    PyMem_Free(names->texts);
    Py_XDECREF(names->held);
}

/* -1 with an error set, and nothing is held. */
static int hold(PyObject *list, Names *names) {
    names->held = PyList_AsTuple(list);
    if (!names->held)
        return -1;
    names->count = PyTuple_GET_SIZE(names->held);
    names->texts = PyMem_New(const char *, names->count + 1);
    if (!names->texts) {
        Py_CLEAR(names->held);
        PyErr_NoMemory();
        return -1;
    }
    for (names->usable = 0; names->usable < names->count; names->usable++) {
        PyObject *name = PyTuple_GET_ITEM(names->held, names->usable);
        Py_ssize_t length;
        const char *text = PyUnicode_Check(name) ? PyUnicode_AsUTF8AndSize(name, &length) : NULL;
        if (!text || strlen(text) != (size_t)length) {
            PyErr_Clear();
            break;
        }
        names->texts[names->usable] = text;
    }
    return 0;
}

/* A contiguous buffer of at least `count` int64; -1 with an error set if it is another. */
static int take(PyObject *from, Py_buffer *into, int flags, Py_ssize_t count) {
    if (PyObject_GetBuffer(from, into, flags | PyBUF_ND) < 0)
        return -1;
    if (into->itemsize != sizeof(int64_t) || into->len / into->itemsize < count) {
        PyErr_SetString(PyExc_ValueError, "sizes and places are int64, one for each file");
        PyBuffer_Release(into);
        return -1;
    }
    return 0;
}

static PyObject *stat_files(PyObject *module, PyObject *args) {
    int folder;
    PyObject *list, *sizes_object, *times_object;
    Py_buffer sizes = {0}, times = {0};
    Names names = {0};
    Py_ssize_t done = 0;
    (void)module;
    if (!PyArg_ParseTuple(args, "iO!OO", &folder, &PyList_Type, &list, &sizes_object, &times_object) || hold(list, &names) < 0)
        return NULL;
    int ready = take(sizes_object, &sizes, PyBUF_WRITABLE, names.count) == 0 &&
                take(times_object, &times, PyBUF_WRITABLE, names.count) == 0;
    if (ready) {
        Py_BEGIN_ALLOW_THREADS
        for (; done < names.usable; done++) {
            struct stat about;
            if (fstatat(folder, names.texts[done], &about, 0) < 0 || !S_ISREG(about.st_mode))
                break;
            ((int64_t *)sizes.buf)[done] = about.st_size;
            ((uint64_t *)times.buf)[done] = (uint64_t)about.st_mtim.tv_sec * 1000000000u + (uint64_t)about.st_mtim.tv_nsec;
        }
        Py_END_ALLOW_THREADS
    }
    let_go(&names);
    PyBuffer_Release(&sizes);
    PyBuffer_Release(&times);
    return ready ? PyLong_FromSsize_t(done) : NULL;
}

/* Whether a file has exactly `size` bytes, which are then at `place`; the byte behind them is the caller's too. */
static int read_file(int folder, const char *path, uint8_t *place, int64_t size) {
    int file = openat(folder, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (file < 0)
        return 0;
    ssize_t found = read(file, place, (size_t)size + 1);
    close(file);
    return found == size;
}

static PyObject *read_files(PyObject *module, PyObject *args) {
    int folder;
    PyObject *list, *starts_object, *sizes_object;
    Py_buffer starts = {0}, sizes = {0}, into;
    Names paths = {0};
    Py_ssize_t done;
    (void)module;
    if (!PyArg_ParseTuple(args, "iO!OOw*n", &folder, &PyList_Type, &list, &starts_object, &sizes_object, &into, &done))
        return NULL;
    int ready = 0;
    if (done < 0)
        PyErr_SetString(PyExc_ValueError, "the first file has a number from 0");
    else
        ready = hold(list, &paths) == 0 && take(starts_object, &starts, 0, paths.count) == 0 &&
                take(sizes_object, &sizes, 0, paths.count) == 0;
    if (ready) {
        const int64_t *start = starts.buf, *size = sizes.buf;
        Py_BEGIN_ALLOW_THREADS
        for (; done < paths.usable; done++) {
            if (size[done] < 0 || start[done] < 0 || start[done] >= into.len || size[done] >= into.len - start[done])
                break;
            if (!read_file(folder, paths.texts[done], (uint8_t *)into.buf + start[done], size[done]))
                break;
        }
        Py_END_ALLOW_THREADS
    }
    let_go(&paths);
    PyBuffer_Release(&starts);
    PyBuffer_Release(&sizes);
    PyBuffer_Release(&into);
    return ready ? PyLong_FromSsize_t(done) : NULL;
}

static PyObject *write_back(PyObject *module, PyObject *args) {
    int file;
    long long start, bytes;
    (void)module;
    if (!PyArg_ParseTuple(args, "iLL", &file, &start, &bytes))
        return NULL;
#ifdef SYNC_FILE_RANGE_WRITE
    Py_BEGIN_ALLOW_THREADS
    sync_file_range(file, start, bytes, SYNC_FILE_RANGE_WRITE);
    Py_END_ALLOW_THREADS
#endif
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"stat", stat_files, METH_VARARGS, "stat(folder, names, sizes, times) -> done"},
    {"read", read_files, METH_VARARGS, "read(folder, paths, starts, sizes, into, first) -> done"},
    {"write_back", write_back, METH_VARARGS, "write_back(file, start, bytes)"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_files", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__files(void) {
    return PyModule_Create(&module);
}
