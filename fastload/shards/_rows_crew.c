/* A crew of threads that know nothing of Python: they check and copy rows while the interpreter goes on.

   A task is a list of rows. Whoever is free, the crew's threads and in the end the one who asks for the result, takes its next few
   rows, so that it is done even if the crew is slow to wake, closed, or was never there.

   All of a task's and a crew's counts are guarded by the crew's lock. What waits for the lock never holds the GIL longer than it takes
   to copy a few rows. A process made by fork has the memory but not the threads: there, nothing is waited for. */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* pthread_setname_np */
#endif

#include "_rows.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#define CHUNK_BYTES 65536 /* of rows taken at a time: 3 us, ten times what taking them costs */
#define SPIN_NS 100000     /* a thread without work looks for more that long before it sleeps: waking it takes as long */
#define STACK_BYTES (256 << 10)

struct Crew {
    PyObject_HEAD
    pthread_mutex_t lock;
    pthread_cond_t work, done; /* there are rows to take, or it is closed; the last rows of a task are done */
    Task *first;               /* tasks with rows to take, oldest first */
    atomic_int tasks;          /* how many these are */
    int closed, asleep;
    pid_t process;
    Py_ssize_t threads;
    pthread_t *ids;
};

/* Rows in the making. Where there is no crew, nobody but the one who asks works on it. */
struct Task {
    PyObject_HEAD
    Crew *crew;
    Place *places;
    Py_ssize_t count, chunk;
    Work work;
    Py_ssize_t next, working; /* the first row that nobody has taken; how many work on some */
    int handed_out;           /* columns and faults were */
    Task *behind;
};

static PyTypeObject CrewType, TaskType;

static int is_here(const Crew *crew) { return crew->process == getpid(); }

static void do_rows(const Task *task, Py_ssize_t start, Py_ssize_t stop) {
    const Work *work = &task->work;
    if (work->columns) {
        rows_loops->take(task->places + start, stop - start, work->pieces + start * work->fields, work->fields);
        return;
    }
    Filling filling = work->filling;
    filling.out += (size_t)start * filling.row_bytes;
    if (filling.lengths)
        filling.lengths += start;
    rows_loops->fill(task->places + start, stop - start, &filling);
}

static void unlink_task(Crew *crew, Task *task) {
    for (Task **at = &crew->first; *at; at = &(*at)->behind)
        if (*at == task) {
            *at = task->behind;
            atomic_fetch_sub(&crew->tasks, 1);
            return;
        }
}

/* Take some rows and do them; the lock is held before and after. */
static void work_on(Crew *crew, Task *task) {
    Py_ssize_t start = task->next, stop = task->count - start > task->chunk ? start + task->chunk : task->count;
    task->next = stop;
    task->working++;
    if (stop == task->count)
        unlink_task(crew, task);
    pthread_mutex_unlock(&crew->lock);
    do_rows(task, start, stop);
    pthread_mutex_lock(&crew->lock);
    if (--task->working == 0 && task->next == task->count)
        pthread_cond_broadcast(&crew->done);
}

static int64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static void spin(Crew *crew) {
    for (int64_t end = now_ns() + SPIN_NS; !atomic_load_explicit(&crew->tasks, memory_order_relaxed) && now_ns() < end;)
        for (int i = 0; i < 8; i++) {
#if defined(__x86_64__) || defined(__i386__)
            __builtin_ia32_pause();
#endif
        }
}

static void *help(void *argument) {
    Crew *crew = argument;
    int awake = 0; /* something was done since it looked for work the last time */
    pthread_mutex_lock(&crew->lock);
    while (!crew->closed) {
        if (crew->first) {
            work_on(crew, crew->first);
            awake = 1;
        } else if (awake) {
            pthread_mutex_unlock(&crew->lock);
            spin(crew);
            pthread_mutex_lock(&crew->lock);
            awake = 0;
        } else {
            crew->asleep++;
            pthread_cond_wait(&crew->work, &crew->lock);
            crew->asleep--;
        }
    }
    pthread_mutex_unlock(&crew->lock);
    return NULL;
}

/* What a thread brings on itself, as by reading a map whose file was cut off. Blocked it would end the process without a word of
   faulthandler's. */
static const int deadly[] = {SIGBUS, SIGSEGV, SIGFPE, SIGILL};

/* Start the threads; the number that could be started. Other signals go to the interpreter's threads. */
static Py_ssize_t start_threads(Crew *crew, Py_ssize_t threads) {
    sigset_t all, before;
    pthread_attr_t attributes;
    Py_ssize_t started = 0;
    sigfillset(&all);
    for (size_t i = 0; i < sizeof deadly / sizeof *deadly; i++)
        sigdelset(&all, deadly[i]);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    while (started < threads && pthread_create(&crew->ids[started], &attributes, help, crew) == 0) {
#ifdef __linux__
        pthread_setname_np(crew->ids[started], "fastload-crew");
#endif
        started++;
    }
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return started;
}

/* End the threads, after the rows that they work on. */
static void close_crew(Crew *crew) {
    if (!is_here(crew) || crew->threads == 0)
        return;
    Py_ssize_t threads = crew->threads;
    crew->threads = 0; /* of several who close it, one joins */
    Py_BEGIN_ALLOW_THREADS
    pthread_mutex_lock(&crew->lock);
    crew->closed = 1;
    pthread_cond_broadcast(&crew->work);
    pthread_mutex_unlock(&crew->lock);
    for (Py_ssize_t i = 0; i < threads; i++)
        pthread_join(crew->ids[i], NULL);
    Py_END_ALLOW_THREADS
}

static PyObject *crew_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    Py_ssize_t threads;
    (void)kwargs;
    if (!PyArg_ParseTuple(args, "n", &threads))
        return NULL;
    if (threads < 1)
        return PyErr_Format(PyExc_ValueError, "Crew(%zd): at least one thread", threads);
    Crew *crew = (Crew *)type->tp_alloc(type, 0);
    if (crew == NULL)
        return NULL;
    pthread_mutex_init(&crew->lock, NULL);
    pthread_cond_init(&crew->work, NULL);
    pthread_cond_init(&crew->done, NULL);
    crew->process = getpid();
    crew->ids = PyMem_Calloc((size_t)threads, sizeof *crew->ids);
    if (crew->ids == NULL) {
        Py_DECREF(crew);
        return PyErr_NoMemory();
    }
    crew->threads = start_threads(crew, threads);
    if (crew->threads < threads) {
        PyErr_Format(PyExc_RuntimeError, "Crew(%zd): the system gave %zd threads", threads, crew->threads);
        Py_CLEAR(crew);
    }
    return (PyObject *)crew;
}

static void crew_dealloc(PyObject *object) {
    Crew *crew = (Crew *)object;
    close_crew(crew);
    if (is_here(crew)) { /* else somebody who is not here may hold them for ever */
        pthread_cond_destroy(&crew->work);
        pthread_cond_destroy(&crew->done);
        pthread_mutex_destroy(&crew->lock);
    }
    PyMem_Free(crew->ids);
    Py_TYPE(object)->tp_free(object);
}

static PyObject *crew_close(PyObject *self, PyObject *none) {
    (void)none;
    close_crew((Crew *)self);
    Py_RETURN_NONE;
}

static PyMethodDef crew_methods[] = {
    {"close", crew_close, METH_NOARGS, "close(): end the threads; tasks are then done by who asks for their result"},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject CrewType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "fastload.shards._rows.Crew",
    .tp_basicsize = sizeof(Crew),
    .tp_dealloc = crew_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = crew_new,
    .tp_methods = crew_methods,
    .tp_doc = "Crew(threads): threads that fill rows without the interpreter.",
};

/* Put a task where the crew finds it. */
static void hand_over(Crew *crew, Task *task) {
    Task **last = &crew->first;
    pthread_mutex_lock(&crew->lock);
    while (*last)
        last = &(*last)->behind;
    *last = task;
    atomic_fetch_add(&crew->tasks, 1);
    if (crew->asleep)
        pthread_cond_broadcast(&crew->work);
    pthread_mutex_unlock(&crew->lock);
}

PyObject *rows_task(PyObject *crew, Place *places, const Work *work) {
    Task *task = PyObject_New(Task, &TaskType);
    Py_ssize_t count = PyTuple_GET_SIZE(work->shards);
    if (task == NULL)
        return NULL;
    task->crew = (Crew *)(crew == Py_None ? NULL : Py_NewRef(crew));
    task->places = places;
    task->count = count;
    task->work = *work;
    task->chunk = work->row_bytes < CHUNK_BYTES ? (Py_ssize_t)(CHUNK_BYTES / (work->row_bytes + 1)) : 1;
    task->next = task->working = 0;
    task->handed_out = 0;
    task->behind = NULL;
    if (task->crew && count && task->crew->threads && is_here(task->crew))
        hand_over(task->crew, task);
    return (PyObject *)task;
}

void rows_drop(Work *work) {
    PyBuffer_Release(&work->head);
    PyBuffer_Release(&work->out);
    PyBuffer_Release(&work->lengths);
    PyMem_Free(work->pieces);
    Py_XDECREF(work->columns);
    Py_XDECREF(work->faults);
    Py_XDECREF(work->shards);
}

/* Do what is left of a task, or leave it undone, and wait for who works on it. */
static void settle(Task *task, int leave) {
    Crew *crew = task->crew;
    pthread_mutex_lock(&crew->lock);
    if (leave && task->next < task->count) {
        task->next = task->count;
        unlink_task(crew, task);
    }
    while (task->next < task->count)
        work_on(crew, task);
    while (task->working)
        pthread_cond_wait(&crew->done, &crew->lock);
    pthread_mutex_unlock(&crew->lock);
}

static void task_dealloc(PyObject *object) {
    Task *task = (Task *)object;
    if (task->crew && is_here(task->crew)) {
        Py_BEGIN_ALLOW_THREADS
        settle(task, 1);
        Py_END_ALLOW_THREADS
    }
    Py_XDECREF(task->crew);
    PyMem_Free(task->places);
    rows_drop(&task->work);
    Py_TYPE(object)->tp_free(object);
}

/* The numbers of the places that were not copied: a new list. */
static PyObject *left_of(const Task *task) {
    PyObject *left = PyList_New(0);
    for (Py_ssize_t i = 0; left && i < task->count; i++) {
        if (!task->places[i].damaged)
            continue;
        PyObject *number = PyLong_FromSsize_t(i);
        if (number == NULL || PyList_Append(left, number) < 0)
            Py_CLEAR(left);
        Py_XDECREF(number);
    }
    return left;
}

/* Take the contents of damaged samples away and add them to the faults; the bytes of all others, -1 with an error set. */
static int64_t settle_columns(Task *task) {
    Work *work = &task->work;
    int64_t bytes = 0;
    const Piece *pieces = work->pieces;
    for (Py_ssize_t i = 0; i < task->count; i++, pieces += work->fields) {
        if (task->places[i].damaged && rows_add_fault(work->faults, i, -1) < 0)
            return -1;
        for (Py_ssize_t field = 0; field < work->fields; field++) {
            if (!task->places[i].damaged)
                bytes += (int64_t)pieces[field].bytes;
            else if (PyList_SetItem(PyList_GET_ITEM(work->columns, field), i, Py_NewRef(Py_None)) < 0)
                return -1;
        }
    }
    return bytes;
}

/* Stored bytes of the contents that were copied, with what was cut off. */
static long long filled_bytes(const Task *task) {
    long long bytes = 0;
    for (Py_ssize_t i = 0; i < task->count; i++)
        if (!task->places[i].damaged)
            bytes += (long long)item(&task->places[i].shard->spans[task->work.filling.field].lengths, task->places[i].row);
    return bytes;
}

static PyObject *task_result(PyObject *self, PyObject *none) {
    Task *task = (Task *)self;
    (void)none;
    if (task->crew && !is_here(task->crew))
        return PyErr_Format(PyExc_RuntimeError, "a task of another process: its threads stayed there");
    if (task->work.columns && task->handed_out)
        return PyErr_Format(PyExc_RuntimeError, "the result of a reading is handed out once");
    task->handed_out = 1; /* now, for others may ask while it is waited for */
    PyObject *keys = rows_keys(task->places, task->count), *rest = NULL, *result = NULL;
    Py_BEGIN_ALLOW_THREADS /* pages that are not in memory are waited for */
    if (task->crew) {
        settle(task, 0);
    } else if (task->next < task->count) {
        do_rows(task, 0, task->count);
        task->next = task->count;
    }
    Py_END_ALLOW_THREADS
    if (keys && task->work.columns) {
        int64_t bytes = settle_columns(task);
        result = bytes < 0 ? NULL : Py_BuildValue("OOOL", keys, task->work.columns, task->work.faults, (long long)bytes);
    } else if (keys && (rest = left_of(task)) != NULL) {
        result = Py_BuildValue("OOL", keys, rest, filled_bytes(task));
    }
    Py_XDECREF(keys);
    Py_XDECREF(rest);
    return result;
}

static PyMethodDef task_methods[] = {
    {"result", task_result, METH_NOARGS, "result() -> (keys, left) or (keys, fields, faults, bytes): wait until all rows are done, doing what nobody does"},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject TaskType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "fastload.shards._rows.Task",
    .tp_basicsize = sizeof(Task),
    .tp_dealloc = task_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_methods = task_methods,
    .tp_doc = "Rows on their way into an array or into bytes.",
};

int rows_is_crew(PyObject *object) { return PyObject_TypeCheck(object, &CrewType); }

int rows_add_crew(PyObject *module) {
    if (PyType_Ready(&CrewType) < 0 || PyType_Ready(&TaskType) < 0)
        return -1;
    if (PyModule_AddObjectRef(module, "Crew", (PyObject *)&CrewType) < 0)
        return -1;
    return PyModule_AddObjectRef(module, "Task", (PyObject *)&TaskType);
}
