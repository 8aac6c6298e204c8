/* The loops over samples' bytes, for whatever processor the including file names: checksums and copies are twice as fast with
   AVX-512 as with SSE2, which is all that a build for any x86-64 may assume. LOOPS: the name of the table. */

#include "_rows.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#define FETCH_AHEAD 2    /* samples */
#define FETCH_BYTES 2048 /* of each */

static void check(Place *place) {
    const Shard *shard = place->shard;
    if (!place->damaged) {
        const char *start = (const char *)shard->map.buf + place->offset;
        place->damaged = XXH3_64bits(start, (size_t)place->size) != ((const loose_u64 *)shard->digests.buf)[place->row];
    }
}

/* Begin to fetch the lines of a sample that is checked a little later: samples lie anywhere, so the processor cannot guess. */
static void fetch(const Place *place) {
    if (place->damaged)
        return;
    const char *start = (const char *)place->shard->map.buf + place->offset;
    uint64_t bytes = place->size < FETCH_BYTES ? place->size : FETCH_BYTES;
    for (uint64_t i = 0; i < bytes; i += 64)
        __builtin_prefetch(start + i);
}

#define WIDENING(NAME, STORED_NAME, WANTED_NAME, STORED, WANTED)           \
    static void copy_##NAME(void *out, const char *in, size_t count) {     \
        WANTED *to = out;                                                  \
        for (size_t i = 0; i < count; i++) {                               \
            STORED value;                                                  \
            memcpy(&value, in + i * sizeof value, sizeof value);           \
            to[i] = (WANTED)value;                                         \
        }                                                                  \
    }

COPIES(WIDENING)

typedef struct {
    size_t stored_size, wanted_size;
    void (*copy)(void *, const char *, size_t);
} Copying;

#define ENTRY(NAME, STORED_NAME, WANTED_NAME, STORED, WANTED) {sizeof(STORED), sizeof(WANTED), copy_##NAME},

static const Copying copies[] = {COPIES(ENTRY)};

/* Where the numbers of a place begin, and how many of them are to be copied; NULL if it is not `head` and as many as there
   should be, whole and undamaged. */
static const char *numbers_of(const Place *place, const Filling *filling, size_t size, size_t *count) {
    const Span *span = &place->shard->spans[filling->field];
    uint64_t start = item(&span->starts, place->row), length = item(&span->lengths, place->row);
    if (place->damaged || !start || start > place->size || length > place->size - start)
        return NULL;
    if (length < filling->head_bytes)
        return NULL;
    uint64_t bytes = length - filling->head_bytes, wanted = (uint64_t)filling->width * size;
    *count = bytes < wanted ? (size_t)(bytes / size) : filling->width;
    if (filling->exact ? bytes != wanted : filling->lengths ? bytes % size != 0 : bytes < wanted)
        return NULL;
    const char *content = (const char *)place->shard->map.buf + place->offset + start;
    return memcmp(content, filling->head, filling->head_bytes) ? NULL : content + filling->head_bytes;
}

/* Each sample is copied while its checksum has it in the cache. */
static void fill_all(Place *places, Py_ssize_t count, const Filling *filling) {
    const Copying how = copies[filling->kind];
    for (Py_ssize_t i = 0; i < count; i++) {
        if (i + FETCH_AHEAD < count)
            fetch(&places[i + FETCH_AHEAD]);
        check(&places[i]);
        size_t numbers = 0;
        const char *from = numbers_of(&places[i], filling, how.stored_size, &numbers);
        places[i].damaged = from == NULL;
        if (from == NULL)
            continue;
        char *row = filling->out + (size_t)i * filling->width * how.wanted_size;
        how.copy(row, from, numbers);
        if (numbers < filling->width)
            memset(row + numbers * how.wanted_size, 0, (filling->width - numbers) * how.wanted_size);
        if (filling->lengths)
            filling->lengths[i] = (int64_t)numbers;
    }
}

static void take_all(Place *places, Py_ssize_t count, const Piece *pieces, Py_ssize_t fields) {
    for (Py_ssize_t i = 0; i < count; i++, pieces += fields) {
        if (i + FETCH_AHEAD < count)
            fetch(&places[i + FETCH_AHEAD]);
        check(&places[i]);
        for (Py_ssize_t field = 0; field < fields && !places[i].damaged; field++)
            if (pieces[field].to)
                memcpy(pieces[field].to, pieces[field].from, pieces[field].bytes);
    }
}

const Loops LOOPS = {fill_all, take_all};
