/* Many small files in one call, with the GIL released: what a file costs is then what the kernel takes for it.

   stat(folder, names, sizes, times) -> done
       folder: descriptor of the folder that the names are in. names: list of str. sizes, times: writable int64, as many as names:
       bytes and nanoseconds. Links are followed.

   read(folder, paths, starts, sizes, into, first) -> done
       Reads each file from the first on, whole, to its place: starts, sizes: int64, as many as paths; into: writable bytes, one more than the last
       file takes. A file that is longer than its size is noticed by the byte after its place, which may be overwritten then.

   write_back(file, start, bytes)
       Has the kernel begin to write a range of a file to its disk; what becomes of it, fsync says. Elsewhere than on Linux: nothing.

   stat and read stop at the first file that is not there, is no regular file, or is otherwise than expected, and return how many are done:
   the caller looks at that one by itself, and says what is wrong with it. */

#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/stat.h>
#include <unistd.h>

/* The UTF-8 of each name, valid as long as the list's items; stops before one that has none (a name that is not UTF-8). */
static const char **texts(PyObject *names, Py_ssize_t *count) {
    const char **found = PyMem_New(const char *, PyList_GET_SIZE(names) + 1);
    if (!found) {
        PyErr_NoMemory();
        return NULL;
    }
    for (*count = 0; *count < PyList_GET_SIZE(names); ++*count) {
        PyObject *name = PyList_GET_ITEM(names, *count);
        Py_ssize_t length;
        found[*count] = PyUnicode_Check(name) ? PyUnicode_AsUTF8AndSize(name, &length) : NULL;
        if (!found[*count] || strlen(found[*count]) != (size_t)length) {
            PyErr_Clear();
            break;
        }
    }
    return found;
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
    PyObject *names, *sizes_object, *times_object;
    Py_buffer sizes, times;
    Py_ssize_t count = 0, done = 0;
    (void)module;
    if (!PyArg_ParseTuple(args, "iO!OO", &folder, &PyList_Type, &names, &sizes_object, &times_object))
        return NULL;
    if (take(sizes_object, &sizes, PyBUF_WRITABLE, PyList_GET_SIZE(names)) < 0)
        return NULL;
    if (take(times_object, &times, PyBUF_WRITABLE, PyList_GET_SIZE(names)) < 0) {
        PyBuffer_Release(&sizes);
        return NULL;
    }
    const char **text = texts(names, &count);
    if (text) {
        Py_BEGIN_ALLOW_THREADS
        for (; done < count; done++) {
            struct stat about;
            if (fstatat(folder, text[done], &about, 0) < 0 || !S_ISREG(about.st_mode))
                break;
            ((int64_t *)sizes.buf)[done] = about.st_size;
            ((int64_t *)times.buf)[done] = (int64_t)about.st_mtim.tv_sec * 1000000000 + about.st_mtim.tv_nsec;
        }
        Py_END_ALLOW_THREADS
    }
    PyMem_Free(text);
    PyBuffer_Release(&sizes);
    PyBuffer_Release(&times);
    return text ? PyLong_FromSsize_t(done) : NULL;
}

/* Whether a file has exactly `size` bytes, which are then at `place`; the byte behind them is the caller's too. */
static int read_file(int folder, const char *path, uint8_t *place, int64_t size) {
    int file = openat(folder, path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return 0;
    ssize_t found = read(file, place, (size_t)size + 1);
    close(file);
    return found == size;
}

static PyObject *read_files(PyObject *module, PyObject *args) {
    int folder;
    PyObject *paths, *starts_object, *sizes_object;
    Py_buffer starts, sizes, into;
    Py_ssize_t count = 0, done;
    (void)module;
    if (!PyArg_ParseTuple(args, "iO!OOw*n", &folder, &PyList_Type, &paths, &starts_object, &sizes_object, &into, &done))
        return NULL;
    if (done < 0) {
        PyBuffer_Release(&into);
        PyErr_SetString(PyExc_ValueError, "the first file has a number from 0");
        return NULL;
    }
    if (take(starts_object, &starts, 0, PyList_GET_SIZE(paths)) < 0) {
        PyBuffer_Release(&into);
        return NULL;
    }
    if (take(sizes_object, &sizes, 0, PyList_GET_SIZE(paths)) < 0) {
        PyBuffer_Release(&into);
        PyBuffer_Release(&starts);
        return NULL;
    }
    const char **text = texts(paths, &count);
    if (text) {
        const int64_t *start = starts.buf, *size = sizes.buf;
        Py_BEGIN_ALLOW_THREADS
        for (; done < count; done++) {
            if (size[done] < 0 || start[done] < 0 || start[done] >= into.len || size[done] >= into.len - start[done])
                break;
            if (!read_file(folder, text[done], (uint8_t *)into.buf + start[done], size[done]))
                break;
        }
        Py_END_ALLOW_THREADS
    }
    PyMem_Free(text);
    PyBuffer_Release(&starts);
    PyBuffer_Release(&sizes);
    PyBuffer_Release(&into);
    return text ? PyLong_FromSsize_t(done) : NULL;
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
