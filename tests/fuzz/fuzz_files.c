/* libFuzzer's entry to the reading of many files: names, places and sizes of all sorts, some of which no caller has.
 *
 * Whatever they are, nothing may be written but where a file was to go, nothing may be waited for, and what is said to be done must
 * be what the files hold. Built and run by tools/fuzz.sh, in a folder where it makes a few files. */
#include "fuzz_python.h"

#include "../../fastload/pack/_files.c"

#include <errno.h>

#define FILES 8     /* "0", "1", ..., of as many bytes */
#define NAMES 12    /* at most, in one call */
#define ROOM 40     /* bytes to read into, at most */
#define UNTOUCHED 0xAA

static int folder = -1, file = -1;

static void make_files(void) {
    require(mkdir("files", 0700) == 0 || errno == EEXIST);
    folder = open("files", O_RDONLY | O_DIRECTORY);
    require(folder >= 0);
    for (int size = 0; size < FILES; size++) {
        char name[2] = {(char)('0' + size), 0}, content[FILES];
        memset(content, size, sizeof content);
        int made = openat(folder, name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        require(made >= 0 && write(made, content, (size_t)size) == size);
        close(made);
    }
    file = openat(folder, "7", O_RDWR);
    require(mkdirat(folder, "below", 0700) == 0 || errno == EEXIST);
    require(mkfifoat(folder, "pipe", 0600) == 0 || errno == EEXIST);
    require(symlinkat("nothing", folder, "broken") == 0 || errno == EEXIST);
    require(symlinkat("3", folder, "link") == 0 || errno == EEXIST);
}

/* How many bytes the regular file of a name has; -1 if there is none. */
static int size_of(PyObject *name) {
    const char *text = PyUnicode_Check(name) ? PyUnicode_AsUTF8(name) : NULL;
    PyErr_Clear();
    if (text == NULL) return -1;
    if (strcmp(text, "link") == 0) return 3;
    return text[0] >= '0' && text[0] < '0' + FILES && PyUnicode_GetLength(name) == 1 ? text[0] - '0' : -1;
}

static PyObject *name_of_some_kind(void) {
    static const char *const others[] = {"link", "broken", "below", "pipe", ""};
    uint64_t what = take_bytes(1);
    if (what < 200) return PyUnicode_FromFormat("%c", (int)('0' + what % FILES));
    if (what < 230) return PyUnicode_FromString(others[what % 5]);
    if (what == 255) return PyLong_FromLong(7);
    uint32_t letters[3];
    for (int i = 0; i < 3; i++) {
        letters[i] = (uint32_t)take_bytes(2); /* zeros and halves of surrogates among them */
        if (letters[i] == '/' || letters[i] == '.') letters[i] = '_'; /* not out of the folder */
    }
    return PyUnicode_FromKindAndData(PyUnicode_4BYTE_KIND, letters, 1 + (Py_ssize_t)(what & 1) * 2);
}

static void look_up(PyObject *module, PyObject *names, int where) {
    Py_ssize_t count = PyList_GET_SIZE(names);
    Array *sizes = array_of("q", oddly(32) ? 4 : 8, oddly(32) ? count - 1 + !count : count, -1, 0);
    Array *times = array_of("q", 8, oddly(32) ? count + 1 : count, -1, 0);
    times->read_only = oddly(64);
    PyObject *done = PyObject_CallMethod(module, "stat", "iOOO", where, names, sizes, times);
    Py_ssize_t found = done ? PyLong_AsSsize_t(done) : 0;
    require(found >= 0 && found <= count);
    for (Py_ssize_t i = 0; i < found; i++) {
        int64_t size;
        memcpy(&size, sizes->data + 8 * i, 8);
        require(size == size_of(PyList_GET_ITEM(names, i)));
    }
    if (done && found < count && where == folder) require(size_of(PyList_GET_ITEM(names, found)) < 0);
    accepted(done);
    Py_DECREF(sizes);
    Py_DECREF(times);
}

/* One number for each file, and rarely another number of them, another kind or another shape. */
static Array *places(Py_ssize_t count, uint64_t most) {
    return filled(array_of("q", oddly(64) ? 2 : 8, oddly(64) ? count + 1 : count, oddly(64) ? 1 : -1, 0), most);
}

static void read_them(PyObject *module, PyObject *names, int where) {
    Py_ssize_t count = PyList_GET_SIZE(names), first = oddly(8) ? (Py_ssize_t)take_number(NAMES) : 0;
    Array *starts = places(count, ROOM + 2), *sizes = places(count, FILES);
    Array *into = array_of("B", 1, (Py_ssize_t)(take_bytes(1) % ROOM), -1, 0);
    memset(into->data, UNTOUCHED, (size_t)into->bytes);
    into->read_only = oddly(64);
    if (!oddly(4) && sizes->item_bytes == 8) /* as they are: else few are read */
        for (Py_ssize_t i = 0; i < count && i < sizes->bytes / 8; i++) {
            int64_t size = size_of(PyList_GET_ITEM(names, i));
            memcpy(sizes->data + 8 * i, &size, 8);
        }
    PyObject *done = PyObject_CallMethod(module, "read", "iOOOOn", where, names, starts, sizes, into, first);
    if (done) {
        Py_ssize_t found = PyLong_AsSsize_t(done);
        require(found >= first && (found <= count || found == first));
        char may_be[ROOM] = {0}; /* where bytes may be by now */
        for (Py_ssize_t i = first; i <= found && i < count; i++) {
            int64_t start = ((int64_t *)starts->data)[i], size = ((int64_t *)sizes->data)[i];
            int fits = start >= 0 && size >= 0 && start < into->bytes && size < into->bytes - start;
            if (i < found) require(fits && (size == size_of(PyList_GET_ITEM(names, i)) || size == 0)); /* 0: the pipe */
            if (fits) memset(may_be + start, 1, (size_t)size + 1);
            if (i + 1 == found && (found == count || size_of(PyList_GET_ITEM(names, found)) <= 0)) /* nothing came over it */
                for (int64_t at = start; at < start + size; at++) require((int64_t)into->data[at] == size);
        }
        for (Py_ssize_t at = 0; at < into->bytes; at++) require(may_be[at] || (uint8_t)into->data[at] == UNTOUCHED);
    } else {
        PyErr_Clear(); /* into what cannot be written to: a TypeError */
    }
    Py_XDECREF(done);
    Array *all[] = {starts, sizes, into};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) Py_DECREF(all[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    PyObject *module = module_of(PyInit__files);
    if (folder < 0) make_files();
    bytes = data, left = size;
    PyObject *names = PyList_New((Py_ssize_t)(take_bytes(1) % (NAMES + 1)));
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(names); i++) {
        PyObject *name = name_of_some_kind();
        require(name != NULL);
        PyList_SET_ITEM(names, i, name);
    }
    int where = oddly(32) ? -1 : folder;
    read_them(module, names, where);
    look_up(module, names, where);
    if (oddly(64)) {
        long long start = (long long)take_number(100), length = (long long)take_number(100);
        require(accepted(PyObject_CallMethod(module, "write_back", "iLL", oddly(8) ? -1 : file, start, length)));
    }
    Py_DECREF(names);
    return 0;
}
