/* Any JPEG to a crop-seekable one: the coefficients are copied, never encoded anew.
 *
 *   source -> coefficients -> baseline, own Huffman tables, a restart marker every k MCUs -> table of segments put in
 *          -> read back, and every coefficient, quantiser and colour parameter compared with the source's
 *
 * Pixels are a function of what is compared, so equal means that every decoder shows the same picture. */
#include "_jpeg.h"

#include <stdlib.h>
#include <string.h>

#include <jerror.h>

#define TILE_PIXELS 64 /* the width of tiles that is aimed at */
#define LARGEST_INTERVAL 8
#define ICC_NAME "ICC_PROFILE"
#define PART_BYTES 60000 /* of the table in one segment, which holds 65,533 at most */

/* What must be undone whichever way a transcoding ends. */
typedef struct {
    fl_errors errors;
    struct jpeg_decompress_struct source, check;
    struct jpeg_compress_struct target;
    int source_open, target_open, check_open;
    struct jpeg_destination_mgr destination;
    fl_buffer encoded;
} transcoding;

/* The divisor of the MCUs in a row whose tile is nearest to 64 pixels wide, by ratio. */
static int restart_interval(int64_t mcus, int64_t mcu_width) {
    int best = 1;
    double best_off = 1e9;
    for (int k = 1; k <= LARGEST_INTERVAL && k <= mcus; k++) {
        double width = (double)(k * mcu_width), off = width > TILE_PIXELS ? width / TILE_PIXELS : TILE_PIXELS / width;
        if (mcus % k == 0 && off < best_off) {
            best = k;
            best_off = off;
        }
    }
    return best;
}

static fl_status refuse(char *message, const char *reason) {
    snprintf(message, FL_MESSAGE_BYTES, "%s", reason);
    return FL_OTHER;
}

/* FL_OK if the picture can be copied; else why not. */
static fl_status check_source(const fl_header *header, int64_t min_pixels, int64_t max_pixels, char *message) {
    int64_t pixels = header->width * header->height;
    if (header->frame > 0xC8) return refuse(message, "arithmetic coding");
    if (header->frame > 0xC2) return refuse(message, "lossless or hierarchical");
    if (header->precision != 8) return refuse(message, "samples of other than 8 bits");
    if (header->components != 1 && header->components != 3) return refuse(message, "CMYK or other inks");
    if (pixels > max_pixels) return refuse(message, "more pixels than the limit");
    if (header->table_at) return refuse(message, "crop-seekable already");
    if (pixels < min_pixels) return refuse(message, "too small to gain by it");
    return FL_OK;
}

/* Whether all bits of all coefficients were in the file; else decoders may smooth what they show. */
static int complete(const struct jpeg_decompress_struct *source) {
    if (!source->progressive_mode || source->coef_bits == NULL) return 1;
    for (int c = 0; c < source->num_components; c++)
        for (int i = 0; i < DCTSIZE2; i++)
            if (source->coef_bits[c][i] != 0) return 0;
    return 1;
}

static void write_orientation(j_compress_ptr target, int orientation) {
    /* TIFF header, one directory of one entry: tag 0x0112, SHORT, 1 value (EXIF 2.3) */
    uint8_t exif[32] = "Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01";
    exif[25] = (uint8_t)orientation;
    jpeg_write_marker(target, JPEG_APP0 + 1, exif, sizeof exif);
}

static void write_profile(j_compress_ptr target, const struct jpeg_decompress_struct *source) {
    for (jpeg_saved_marker_ptr m = source->marker_list; m != NULL; m = m->next)
        if (m->marker == JPEG_APP0 + 2 && m->data_length > sizeof ICC_NAME && m->data_length == m->original_length
            && memcmp(m->data, ICC_NAME, sizeof ICC_NAME) == 0)
            jpeg_write_marker(target, m->marker, m->data, m->data_length);
}

/* libjpeg's own memory destination loses its buffer if encoding fails half-way. */
static boolean enlarge(j_compress_ptr target) {
    transcoding *t = target->client_data;
    size_t used = t->encoded.room; /* libjpeg calls when all is used */
    if (!fl_reserve(&t->encoded, 2 * used)) ERREXIT1(target, JERR_OUT_OF_MEMORY, 0);
    t->destination.next_output_byte = t->encoded.data + used;
    t->destination.free_in_buffer = t->encoded.room - used;
    return TRUE;
}

static void begin_output(j_compress_ptr target) {
    transcoding *t = target->client_data;
    t->destination.next_output_byte = t->encoded.data;
    t->destination.free_in_buffer = t->encoded.room;
}

static void end_output(j_compress_ptr target) {
    transcoding *t = target->client_data;
    t->encoded.size = t->encoded.room - t->destination.free_in_buffer;
}

static void encode(transcoding *t, const fl_header *header, jvirt_barray_ptr *coefficients) {
    j_compress_ptr target = &t->target;
    jpeg_create_compress(target);
    t->target_open = 1;
    target->client_data = t;
    target->dest = &t->destination;
    t->destination.init_destination = begin_output;
    t->destination.empty_output_buffer = enlarge;
    t->destination.term_destination = end_output;
    jpeg_copy_critical_parameters(&t->source, target);
    target->optimize_coding = TRUE;
    int64_t mcu_width = target->num_components == 1 ? 8 : 8 * header->h_max;
    target->restart_interval = (unsigned)restart_interval((header->width + mcu_width - 1) / mcu_width, mcu_width);
    jpeg_write_coefficients(target, coefficients);
    if (header->orientation != 1) write_orientation(target, header->orientation);
    write_profile(target, &t->source);
    jpeg_finish_compress(target);
}

/* The lengths of the segments, as the parts' contents; 0 if there is no memory. */
static int list_segments(const uint8_t *encoded, size_t size, size_t at, fl_buffer *table) {
    size_t start = at;
    while (at + 1 < size) {
        const uint8_t *found = memchr(encoded + at, 0xFF, size - 1 - at);
        if (found == NULL) break;
        at = (size_t)(found - encoded);
        int marker = found[1];
        if (marker == 0) {
            at += 2;
            continue;
        }
        if (!fl_reserve(table, table->size + 5)) return 0;
        for (size_t left = at - start;; left >>= 7) {
            table->data[table->size++] = (uint8_t)((left & 0x7F) | (left > 0x7F ? 0x80 : 0));
            if (left <= 0x7F) break;
        }
        start = at += 2;
        if (marker == 0xD9) break;
    }
    return 1;
}

/* Where the table goes: behind the segments of applications, which must come first. */
static size_t end_of_applications(const uint8_t *encoded, size_t size) {
    size_t at = 2;
    while (at + 4 <= size && encoded[at + 1] >= 0xE0 && encoded[at + 1] <= 0xEF) at += 2 + fl_be16(encoded + at + 2);
    return at;
}

/* `encoded` with the table put in. */
static fl_status join(const transcoding *t, const fl_buffer *table, fl_buffer *out) {
    const uint8_t *encoded = t->encoded.data;
    size_t size = t->encoded.size, split = end_of_applications(encoded, size);
    size_t parts = (table->size + PART_BYTES - 1) / PART_BYTES;
    if (parts > 255 || split > size) return FL_OTHER;
    if (!fl_reserve(out, size + table->size + parts * (FL_TABLE_HEAD_BYTES + 8))) return FL_MEMORY;
    uint8_t *to = out->data;
    memcpy(to, encoded, split);
    to += split;
    for (size_t part = 0, from = 0; part < parts; part++) {
        size_t end = from + PART_BYTES < table->size ? from + PART_BYTES : table->size;
        while (table->data[end - 1] >= 0x80) end--; /* no number goes over a part's edge */
        if (part + 1 == parts && end < table->size) return FL_OTHER;
        size_t length = FL_TABLE_HEAD_BYTES - 2 + (end - from);
        uint8_t head[FL_TABLE_HEAD_BYTES] = {0xFF, 0xE9, (uint8_t)(length >> 8), (uint8_t)length};
        memcpy(head + 4, FL_TABLE_NAME, FL_TABLE_NAME_BYTES);
        head[13] = FL_TABLE_VERSION;
        head[14] = (uint8_t)part;
        head[15] = (uint8_t)parts;
        memcpy(to, head, sizeof head);
        memcpy(to + sizeof head, table->data + from, end - from);
        to += sizeof head + (end - from);
        from = end;
    }
    memcpy(to, encoded + split, size - split);
    out->size = (size_t)(to - out->data) + (size - split);
    return FL_OK;
}

static int same_component(const transcoding *t, int c, jvirt_barray_ptr *ours, jvirt_barray_ptr *theirs) {
    const jpeg_component_info *a = &t->source.comp_info[c], *b = &t->check.comp_info[c];
    if (a->h_samp_factor != b->h_samp_factor || a->v_samp_factor != b->v_samp_factor
        || a->component_id != b->component_id || a->width_in_blocks != b->width_in_blocks
        || a->height_in_blocks != b->height_in_blocks || a->quant_table == NULL || b->quant_table == NULL
        || memcmp(a->quant_table->quantval, b->quant_table->quantval, sizeof a->quant_table->quantval) != 0)
        return 0;
    for (JDIMENSION row = 0; row < a->height_in_blocks; row++) {
        j_common_ptr source = (j_common_ptr)&t->source, check = (j_common_ptr)&t->check;
        JBLOCKARRAY mine = (*source->mem->access_virt_barray)(source, ours[c], row, 1, FALSE);
        JBLOCKARRAY yours = (*check->mem->access_virt_barray)(check, theirs[c], row, 1, FALSE);
        if (memcmp(mine[0], yours[0], a->width_in_blocks * sizeof(JBLOCK)) != 0) return 0;
    }
    return 1;
}

/* Whether what was written holds what the source held. */
static int same(transcoding *t, const fl_buffer *out, jvirt_barray_ptr *coefficients) {
    jpeg_create_decompress(&t->check);
    t->check_open = 1;
    jpeg_mem_src(&t->check, out->data, (unsigned long)out->size);
    jpeg_read_header(&t->check, TRUE);
    jvirt_barray_ptr *written = jpeg_read_coefficients(&t->check);
    const struct jpeg_decompress_struct *a = &t->source, *b = &t->check;
    if (a->image_width != b->image_width || a->image_height != b->image_height
        || a->num_components != b->num_components || a->jpeg_color_space != b->jpeg_color_space)
        return 0;
    for (int c = 0; c < a->num_components; c++)
        if (!same_component(t, c, coefficients, written)) return 0;
    return 1;
}

static fl_status transcode(transcoding *t, const uint8_t *raw, size_t size, int64_t min_pixels, int64_t max_pixels,
    fl_buffer *table, fl_buffer *out, char *message) {
    fl_header header;
    if (fl_read_header(raw, size, &header) != FL_OK) return refuse(message, "a header that is odd or broken");
    fl_status status = check_source(&header, min_pixels, max_pixels, message);
    if (status != FL_OK) return status;
    t->source.err = t->target.err = t->check.err = fl_errors_init(&t->errors);
    if (setjmp(t->errors.jump)) {
        snprintf(message, FL_MESSAGE_BYTES, "%s", t->errors.message);
        return FL_BROKEN;
    }
    struct jpeg_progress_mgr limit = {.progress_monitor = fl_limit_scans};
    jpeg_create_decompress(&t->source);
    t->source_open = 1;
    t->source.progress = &limit;
    jpeg_mem_src(&t->source, (unsigned char *)raw, (unsigned long)size);
    jpeg_save_markers(&t->source, JPEG_APP0 + 2, 0xFFFF);
    jpeg_read_header(&t->source, TRUE);
    jvirt_barray_ptr *coefficients = jpeg_read_coefficients(&t->source);
    if (!complete(&t->source)) return refuse(message, "progressive, and not all coefficients are there");
    encode(t, &header, coefficients);
    fl_header written;
    if (fl_read_header(t->encoded.data, t->encoded.size, &written) != FL_OK) return refuse(message, "cannot be copied");
    if (!list_segments(t->encoded.data, t->encoded.size, written.data_at, table)) return FL_MEMORY;
    status = join(t, table, out);
    if (status != FL_OK) return status == FL_OTHER ? refuse(message, "too many tiles") : status;
    fl_layout layout;
    if (fl_read_header(out->data, out->size, &written) != FL_OK || written.orientation != header.orientation
        || fl_read_layout(out->data, out->size, &written, table, &layout) != FL_OK || !same(t, out, coefficients))
        return refuse(message, "cannot be copied exactly");
    return FL_OK;
}

fl_status fl_transcode(const uint8_t *raw, size_t size, int64_t min_pixels, int64_t max_pixels, fl_buffer *out,
    char message[FL_MESSAGE_BYTES]) {
    transcoding *t = calloc(1, sizeof *t);
    if (t == NULL) return FL_MEMORY;
    fl_buffer table = {0};
    fl_status status = FL_MEMORY;
    if (fl_reserve(&t->encoded, size + 4096))
        status = transcode(t, raw, size, min_pixels, max_pixels, &table, out, message);
    if (t->source_open) jpeg_destroy_decompress(&t->source);
    if (t->target_open) jpeg_destroy_compress(&t->target);
    if (t->check_open) jpeg_destroy_decompress(&t->check);
    fl_release(&t->encoded);
    free(t);
    fl_release(&table);
    return status;
}
