/* Huffman decoding of baseline JPEG (ITU-T T.81, annex F.2.2), in place of libjpeg's; its transforms stay in use.
 *
 * libjpeg-turbo decodes files with restart markers by its slow way only. This decoder reads each tile where it lies,
 * leaves out what is right of the crop, and has a short chain from one symbol to the next: one table tells how many
 * bits code and value take together, and the value is worked out beside.
 *
 *   bytes of a segment -> stuffing taken out -> 64 bits at hand, filled up before each symbol without a branch */
#include "_jpeg.h"

#include <stdlib.h>
#include <string.h>

#ifdef __GNUC__
#define ALWAYS_INLINE inline __attribute__((always_inline)) /* into the builds for other processors below */
#else
#define ALWAYS_INLINE inline
#endif

/* Bits that one look-up decodes. Of the symbols of photographs, 94% have code and value within them, and are there with
 * their value; nearly all others have their code. */
#define LOOK 10
/* A block takes at most 64 codes of 16 bits and values of 15; its end is checked only then. */
#define SLACK 512

/* An entry: bits 0-5 length of code and value together, 6-9 run of zeros before it, 10-13 length of the value; or, where
 * DIRECT, 16-31 the value itself. A code takes one bit at least, so that 0 is no entry. */
#define DIRECT 0x8000u
typedef struct {
    uint32_t look[1 << LOOK];
    int32_t largest[18]; /* code of each length, -1 for none */
    int32_t offset[17];  /* from a code of this length to its symbol's place */
    uint8_t symbols[256];
} code_table;

typedef struct {
    uint64_t window; /* the next bits, from the top */
    int count;       /* how many of them, at least, are there */
    const uint8_t *at;
} reader;

struct fl_entropy {
    fl_errors *errors;
    code_table dc[NUM_HUFF_TBLS], ac[NUM_HUFF_TBLS];
    fl_buffer segment, starts;
    reader reader;
    int32_t last_dc[MAX_COMPS_IN_SCAN];
    const uint8_t *raw;
    const fl_header *header;
    const fl_layout *layout; /* NULL: one segment */
    const fl_tiles *tiles;
    size_t row_at;      /* where the next row of tiles begins */
    int64_t row;        /* of tiles */
    int64_t mcu, mcus;  /* the next one in its row of the cut, and how many a row has */
    int64_t needed;
    int blocks; /* in an MCU, and what each of them is decoded with: */
    const code_table *dc_of[D_MAX_BLOCKS_IN_MCU], *ac_of[D_MAX_BLOCKS_IN_MCU];
    int32_t *last_dc_of[D_MAX_BLOCKS_IN_MCU];
    JBLOCK discarded[D_MAX_BLOCKS_IN_MCU];
};

static const uint8_t NATURAL[DCTSIZE2 + 16] = {
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21,
    28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54,
    47, 55, 62, 63, /* a run in broken data may end behind the block: */
    63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63};

fl_entropy *fl_entropy_new(fl_errors *errors) {
    fl_entropy *entropy = calloc(1, sizeof *entropy);
    if (entropy != NULL) entropy->errors = errors;
    return entropy;
}

void fl_entropy_free(fl_entropy *entropy) {
    if (entropy == NULL) return;
    fl_release(&entropy->segment);
    fl_release(&entropy->starts);
    free(entropy);
}

void fl_entropy_tidy(fl_entropy *entropy, size_t largest) {
    if (entropy->segment.room > largest) fl_release(&entropy->segment);
    if (entropy->starts.room > largest) fl_release(&entropy->starts);
}

static uint32_t entry_of(int length, int symbol) {
    int size = symbol & 15;
    return (uint32_t)(length + size) | (uint32_t)(symbol >> 4) << 6 | (uint32_t)size << 10;
}

static ALWAYS_INLINE int length_of(uint32_t entry) { return (int)(entry & 63); }
static ALWAYS_INLINE int run_of(uint32_t entry) { return (int)(entry >> 6 & 15); }
static ALWAYS_INLINE int size_of(uint32_t entry) { return (int)(entry >> 10 & 15); }

/* The value of these bits (T.81, F.2.2.1): those that begin with 0 are negative. `size` is not 0. */
static ALWAYS_INLINE int32_t extend(int32_t bits, int size) {
    int32_t positive = bits >> (size - 1); /* 1 or 0 */
    return bits + ((positive - 1) & (1 - (1 << size)));
}

/* The entry for these LOOK bits, of which the code that it is for is the beginning. */
static uint32_t entry_with_value(uint32_t entry, int bits) {
    int size = size_of(entry), rest = LOOK - length_of(entry);
    if (size == 0 || rest < 0) return entry;
    int32_t value = extend(bits >> rest & ((1 << size) - 1), size);
    return (entry & 0x3FF) | DIRECT | (uint32_t)value << 16;
}

/* libjpeg has checked the table: at most 256 codes, none longer than its length allows. */
static void build(code_table *table, const JHUFF_TBL *from) {
    memset(table->look, 0, sizeof table->look);
    memcpy(table->symbols, from->huffval, sizeof table->symbols);
    int32_t code = 0, place = 0;
    for (int length = 1; length <= 16; length++, code <<= 1) {
        table->offset[length] = place - code;
        for (int i = 0; i < from->bits[length]; i++, code++, place++) {
            if (length > LOOK) continue;
            uint32_t entry = entry_of(length, table->symbols[place]);
            int rest = LOOK - length;
            for (int n = code << rest; n < (code + 1) << rest; n++) table->look[n] = entry_with_value(entry, n);
        }
        table->largest[length] = from->bits[length] ? code - 1 : -1;
    }
}

/* The entry of a code longer than LOOK bits; 0 if there is no such code. */
static uint32_t long_code(const code_table *table, uint64_t window) {
    for (int length = LOOK + 1; length <= 16; length++) {
        int32_t code = (int32_t)(window >> (64 - length));
        if (code <= table->largest[length])
            return entry_of(length, table->symbols[(code + table->offset[length]) & 255]);
    }
    return 0;
}

static ALWAYS_INLINE uint64_t load_be64(const uint8_t *p) {
    uint64_t value;
    memcpy(&value, p, 8);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    value = __builtin_bswap64(value);
#endif
    return value;
}

/* At least 56 bits at hand (after F. Giesen, "Reading bits in far too many ways", variant 4). */
static ALWAYS_INLINE void refill(reader *r) {
    r->window |= load_be64(r->at) >> r->count;
    r->at += (63 - r->count) >> 3;
    r->count |= 56;
}

static ALWAYS_INLINE void skip(reader *r, uint32_t entry) {
    r->window <<= length_of(entry);
    r->count -= length_of(entry);
}

/* The value behind the code of an entry that is not DIRECT and has one. */
static ALWAYS_INLINE int32_t value_behind(const reader *r, uint32_t entry) {
    int size = size_of(entry);
    return extend((int32_t)(r->window >> (64 - length_of(entry))) & ((1 << size) - 1), size);
}

/* What is not DIRECT, before place `k`: the place behind, or DCTSIZE2 where the block ends, or DCTSIZE2 + 1 if there is
 * no such code. */
static ALWAYS_INLINE int decode_rare(reader *r, uint32_t entry, const code_table *ac, int k, JCOEF *block) {
    refill(r);
    if (entry == 0 && (entry = long_code(ac, r->window)) == 0) return DCTSIZE2 + 1;
    int run = run_of(entry);
    if (size_of(entry) == 0) {
        skip(r, entry);
        return run == 15 ? k + 16 : DCTSIZE2; /* sixteen zeros; or nothing else */
    }
    block[NATURAL[k + run]] = (JCOEF)value_behind(r, entry);
    skip(r, entry);
    return k + run + 1;
}

/* 0 if there is no such code, or there are more than 64 coefficients. */
static ALWAYS_INLINE int decode_block(reader *r, const code_table *dc, const code_table *ac, int32_t *last_dc, JCOEF *block) {
    refill(r);
    uint32_t entry = dc->look[r->window >> (64 - LOOK)];
    if (entry == 0 && (entry = long_code(dc, r->window)) == 0) return 0;
    int32_t change = 0;
    if (entry & DIRECT) {
        change = (int32_t)entry >> 16;
    } else if (size_of(entry)) {
        change = value_behind(r, entry);
    }
    *last_dc = (int32_t)((uint32_t)*last_dc + (uint32_t)change);
    skip(r, entry);
    block[0] = (JCOEF)*last_dc;
    int k = 1;
    while (k < DCTSIZE2) {
        refill(r);
        for (int left = 56 / LOOK; left > 0; left--) { /* for as many the bits at hand are enough */
            entry = ac->look[r->window >> (64 - LOOK)];
            if (__builtin_expect(!(entry & DIRECT), 0)) {
                k = decode_rare(r, entry, ac, k, block);
                break;
            }
            k += run_of(entry);
            block[NATURAL[k]] = (JCOEF)(entry >> 16);
            skip(r, entry);
            if (++k >= DCTSIZE2) break;
        }
    }
    return k == DCTSIZE2;
}

/* Copy a segment without the zeros that are stuffed in behind each 0xFF; up to the marker that ends it. */
static size_t unstuff(const uint8_t *from, const uint8_t *end, uint8_t *to) {
    uint8_t *start = to;
    while (from < end) {
        const uint8_t *found = memchr(from, 0xFF, (size_t)(end - from));
        size_t length = (size_t)((found == NULL ? end : found) - from);
        memcpy(to, from, length);
        to += length;
        if (found == NULL || found + 1 >= end || found[1] != 0) break;
        *to++ = 0xFF;
        from = found + 2;
    }
    return (size_t)(to - start);
}

static fl_status open_segment(fl_entropy *e, size_t from, size_t to) {
    if (!fl_reserve(&e->segment, to - from + SLACK)) return FL_MEMORY;
    e->segment.size = unstuff(e->raw + from, e->raw + to, e->segment.data);
    memset(e->segment.data + e->segment.size, 0, SLACK);
    e->reader = (reader){.at = e->segment.data};
    memset(e->last_dc, 0, sizeof e->last_dc);
    return FL_OK;
}

/* Bits left in the segment; negative if more were read than there are. */
static int64_t bits_left(const fl_entropy *e, const reader *r) {
    return 8 * (int64_t)(e->segment.data + e->segment.size - r->at) + r->count;
}

static fl_status open_row(fl_entropy *e) {
    size_t *starts = (size_t *)e->starts.data;
    if (e->row >= e->tiles->row1) return FL_OTHER;
    fl_status status = fl_tile_row(e->raw, e->layout, e->row++, e->row_at, starts);
    e->row_at = starts[e->layout->columns];
    return status;
}

/* Before the first MCU of a tile. */
static void open_tile(fl_entropy *e) {
    fl_status status = e->mcu == 0 ? open_row(e) : FL_OK;
    if (status == FL_OK) {
        const size_t *starts = (const size_t *)e->starts.data;
        int64_t tile = e->tiles->column0 + e->mcu / e->header->restart_interval;
        status = open_segment(e, starts[tile], starts[tile + 1] - 2);
    }
    if (status != FL_OK) fl_fail(e->errors, status == FL_MEMORY ? "out of memory" : "a tile has no marker behind it");
}

/* libjpeg's interface: one MCU, whose blocks are zero before; NULL if they are to be thrown away. */
static ALWAYS_INLINE boolean decode_mcu(j_decompress_ptr info, JBLOCKROW *blocks) {
    fl_entropy *e = info->client_data;
    int64_t mcu = e->mcu;
    if (e->layout != NULL) {
        int64_t in_tile = mcu % e->header->restart_interval;
        if (in_tile == 0 && (mcu < e->needed || mcu == 0)) open_tile(e);
        e->mcu = mcu + 1 < e->mcus ? mcu + 1 : 0;
        if (mcu >= e->needed) return TRUE;
    }
    reader r = e->reader;
    const uint8_t *limit = e->segment.data + e->segment.size + 8;
    int whole = 1;
    for (int b = 0; b < e->blocks && whole; b++) {
        JCOEF *block = blocks == NULL ? e->discarded[b] : blocks[b][0];
        whole = decode_block(&r, e->dc_of[b], e->ac_of[b], e->last_dc_of[b], block) && r.at <= limit;
    }
    e->reader = r;
    int64_t left = bits_left(e, &r);
    int ends = e->layout != NULL && (mcu + 1) % e->header->restart_interval == 0;
    if (!whole || left < 0 || (ends && left >= 8)) fl_fail(e->errors, "a segment does not decode");
    return TRUE;
}

static boolean decode_mcu_base(j_decompress_ptr info, JBLOCKROW *blocks) { return decode_mcu(info, blocks); }

#if defined(__x86_64__) && defined(__GNUC__)
/* Shifts by a variable number of bits are one instruction each, a load with its bytes turned round is one. */
__attribute__((target("bmi,bmi2,movbe"))) static boolean decode_mcu_bmi2(j_decompress_ptr info, JBLOCKROW *blocks) {
    return decode_mcu(info, blocks);
}
#endif

fl_status fl_entropy_begin(fl_entropy *e, const uint8_t *raw, size_t size, const fl_header *header,
    const fl_layout *layout, const fl_tiles *tiles) {
    e->raw = raw;
    e->header = header;
    e->layout = layout;
    e->tiles = tiles;
    e->mcu = 0;
    if (layout != NULL) {
        e->row = tiles->row0;
        e->row_at = fl_row_at(header, layout, tiles->row0);
        return fl_reserve(&e->starts, (size_t)(layout->columns + 1) * sizeof(size_t)) ? FL_OK : FL_MEMORY;
    }
    /* The data ends at the end of the image; a file that lacks it is cut off, and one with another marker is odd. */
    size_t end = header->data_at;
    while (end + 1 < size && !(raw[end] == 0xFF && raw[end + 1] != 0)) {
        const uint8_t *found = memchr(raw + end + 1, 0xFF, size - end - 1);
        if (found == NULL) return FL_OTHER;
        end = (size_t)(found - raw);
    }
    if (end + 1 >= size || raw[end + 1] != 0xD9) return FL_OTHER;
    return open_segment(e, header->data_at, end);
}

/* The beginning of libjpeg's own struct jpeg_entropy_decoder (jpegint.h), the same in every release since 6b. Replacing
 * one function of it is the one thing here that libjpeg's interface does not promise. */
typedef struct {
    void (*start_pass)(j_decompress_ptr info);
    boolean (*decode_mcu)(j_decompress_ptr info, JBLOCKROW *blocks);
} entropy_decoder;

void fl_entropy_attach(fl_entropy *e, j_decompress_ptr info, int64_t needed, int portable) {
    int dc_built = 0, ac_built = 0;
    for (int c = 0; c < info->comps_in_scan; c++) {
        int dc = info->cur_comp_info[c]->dc_tbl_no, ac = info->cur_comp_info[c]->ac_tbl_no;
        if (!(dc_built >> dc & 1)) build(&e->dc[dc], info->dc_huff_tbl_ptrs[dc]);
        if (!(ac_built >> ac & 1)) build(&e->ac[ac], info->ac_huff_tbl_ptrs[ac]);
        dc_built |= 1 << dc;
        ac_built |= 1 << ac;
    }
    e->blocks = info->blocks_in_MCU;
    for (int b = 0; b < e->blocks; b++) {
        int c = info->MCU_membership[b];
        e->dc_of[b] = &e->dc[info->cur_comp_info[c]->dc_tbl_no];
        e->ac_of[b] = &e->ac[info->cur_comp_info[c]->ac_tbl_no];
        e->last_dc_of[b] = &e->last_dc[c];
    }
    e->mcus = info->MCUs_per_row;
    e->needed = needed;
    info->client_data = e;
    boolean (*decode)(j_decompress_ptr, JBLOCKROW *) = decode_mcu_base;
#if defined(__x86_64__) && defined(__GNUC__)
    if (!portable && __builtin_cpu_supports("bmi2")) decode = decode_mcu_bmi2;
#endif
    (void)portable;
    ((entropy_decoder *)info->entropy)->decode_mcu = decode;
}
