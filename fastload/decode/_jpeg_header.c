/* The markers before the first scan (ITU-T T.81, annex B), EXIF's orientation, and the table of segments.
 *
 * Headers are read as headers.py reads them; whatever is odd is left to it, which says what is wrong. */
#include "_jpeg.h"

#include <stdlib.h>
#include <string.h>

int fl_reserve(fl_buffer *buffer, size_t room) {
    if (room <= buffer->room) return 1;
    size_t wanted = room + room / 4;
    uint8_t *data = realloc(buffer->data, wanted);
    if (data == NULL) return 0;
    buffer->data = data;
    buffer->room = wanted;
    return 1;
}

void fl_release(fl_buffer *buffer) {
    free(buffer->data);
    memset(buffer, 0, sizeof *buffer);
}

uint32_t fl_be16(const uint8_t *p) { return (uint32_t)p[0] << 8 | p[1]; }

static uint32_t get16(const uint8_t *p, int big) { return big ? fl_be16(p) : (uint32_t)p[1] << 8 | p[0]; }

static uint32_t get32(const uint8_t *p, int big) {
    return big ? get16(p, 1) << 16 | get16(p + 2, 1) : get16(p + 2, 0) << 16 | get16(p, 0);
}

/* 1 to 8; 1 where none can be read. `exif` begins with the TIFF header. */
static int read_orientation(const uint8_t *exif, size_t size) {
    if (size < 8 || !(memcmp(exif, "II", 2) == 0 || memcmp(exif, "MM", 2) == 0)) return 1;
    int big = exif[0] == 'M';
    size_t at = get32(exif + 4, big);
    if (at > size || size - at < 2) return 1;
    uint32_t count = get16(exif + at, big);
    at += 2;
    for (uint32_t i = 0; i < count && size - at >= 12; i++, at += 12) {
        const uint8_t *entry = exif + at;
        if (get16(entry, big) == 0x0112 && get16(entry + 2, big) == 3 && get32(entry + 4, big) == 1) {
            uint32_t value = get16(entry + 8, big);
            return value >= 1 && value <= 8 ? (int)value : 1;
        }
    }
    return 1;
}

static fl_status read_frame(const uint8_t *body, size_t size, fl_header *header) {
    if (size < 6) return FL_OTHER;
    header->precision = body[0];
    header->height = fl_be16(body + 1);
    header->width = fl_be16(body + 3);
    header->components = body[5];
    header->h_max = header->v_max = 1;
    if (header->components < 1 || header->components > FL_MAX_COMPONENTS) return FL_OTHER;
    if (size < 6 + 3 * (size_t)header->components) return FL_OTHER;
    for (int c = 0; c < header->components; c++) {
        int h = body[7 + 3 * c] >> 4, v = body[7 + 3 * c] & 15;
        if (h < 1 || h > 4 || v < 1 || v > 4) return FL_OTHER;
        header->h[c] = h;
        header->v[c] = v;
        if (h > header->h_max) header->h_max = h;
        if (v > header->v_max) header->v_max = v;
    }
    return FL_OK;
}

static fl_status read_scan(const uint8_t *body, size_t size, fl_header *header) {
    if (size < 1) return FL_OTHER;
    header->scan_components = body[0];
    size_t spectral = 1 + 2 * (size_t)body[0];
    if (size < spectral + 3) return FL_OTHER;
    header->whole_scan = body[spectral] == 0 && body[spectral + 1] == 63 && body[spectral + 2] == 0;
    return FL_OK;
}

static int is_frame(int marker) {
    return marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC;
}

fl_status fl_read_header(const uint8_t *raw, size_t size, fl_header *header) {
    memset(header, 0, sizeof *header);
    header->orientation = 1;
    if (size < 4 || raw[0] != 0xFF || raw[1] != 0xD8) return FL_OTHER;
    for (size_t at = 2; size - at >= 4;) {
        if (raw[at] != 0xFF) return FL_OTHER;
        int marker = raw[at + 1];
        if (marker == 0xFF) { /* fill */
            at++;
            continue;
        }
        if (marker == 0x01 || (marker >= 0xD0 && marker <= 0xD8)) { /* without a length */
            at += 2;
            continue;
        }
        size_t length = fl_be16(raw + at + 2), left = size - at - 2;
        if (marker == 0xD9 || length < 2 || length > left) return FL_OTHER;
        const uint8_t *body = raw + at + 4;
        length -= 2;
        if (marker == 0xDA) {
            header->data_at = at + 4 + length;
            return header->components ? read_scan(body, length, header) : FL_OTHER;
        }
        if (marker == 0xE1 && header->orientation == 1 && length >= 6 && memcmp(body, "Exif\0", 6) == 0) {
            header->orientation = read_orientation(body + 6, length - 6);
        } else if (marker == 0xE9 && !header->table_at && length >= FL_TABLE_NAME_BYTES
                   && memcmp(body, FL_TABLE_NAME, FL_TABLE_NAME_BYTES) == 0) {
            header->table_at = at;
        } else if (marker == 0xDD && length >= 2) {
            header->restart_interval = (int)fl_be16(body);
        } else if (is_frame(marker)) {
            if (header->frame || read_frame(body, length, header) != FL_OK) return FL_OTHER;
            header->frame = marker;
            header->frame_at = at;
        }
        at += 4 + length;
    }
    return FL_OTHER;
}

/* Append the lengths in one part of the table; how many, or -1 if it is no such part. */
static int64_t read_part(
    const uint8_t *raw, size_t size, size_t at, int part, int parts, uint32_t *lengths, size_t room) {
    if (at + FL_TABLE_HEAD_BYTES > size || raw[at] != 0xFF || raw[at + 1] != 0xE9) return -1;
    size_t end = at + 2 + fl_be16(raw + at + 2);
    const uint8_t *head = raw + at + 4;
    if (end > size || end < at + FL_TABLE_HEAD_BYTES || memcmp(head, FL_TABLE_NAME, FL_TABLE_NAME_BYTES) != 0
        || head[9] != FL_TABLE_VERSION || head[10] != part || head[11] != parts)
        return -1;
    size_t count = 0;
    for (size_t i = at + FL_TABLE_HEAD_BYTES; i < end; count++) {
        uint32_t value = 0;
        for (int shift = 0;; shift += 7) { /* seven bits a byte, the lowest first */
            if (i >= end || shift > 21) return -1;
            uint8_t byte = raw[i++];
            value |= (uint32_t)(byte & 0x7F) << shift;
            if (byte < 0x80) break;
        }
        if (count == room) return -1;
        lengths[count] = value;
    }
    return (int64_t)count;
}

fl_status fl_read_layout(
    const uint8_t *raw, size_t size, const fl_header *header, fl_buffer *scratch, fl_layout *layout) {
    if (!header->table_at || header->frame > 0xC1 || !header->whole_scan || header->restart_interval < 1
        || header->scan_components != header->components || header->width < 1 || header->height < 1)
        return FL_OTHER;
    int alone = header->components == 1; /* then an MCU is one block, whatever the sampling factors */
    int64_t mcu_width = alone ? 8 : 8 * header->h_max;
    layout->tile_height = alone ? 8 : 8 * header->v_max;
    layout->tile_width = mcu_width * header->restart_interval;
    int64_t mcus = (header->width + mcu_width - 1) / mcu_width;
    if (mcus % header->restart_interval) return FL_OTHER;
    layout->columns = mcus / header->restart_interval;
    layout->rows = (header->height + layout->tile_height - 1) / layout->tile_height;
    size_t tiles = (size_t)(layout->columns * layout->rows);
    if (tiles > size) return FL_OTHER; /* each takes a byte at least: nothing is allocated for a lie */
    if (!fl_reserve(scratch, tiles * sizeof(uint32_t))) return FL_MEMORY;
    uint32_t *lengths = (uint32_t *)scratch->data;
    size_t at = header->table_at, count = 0;
    if (at + FL_TABLE_HEAD_BYTES > size) return FL_OTHER;
    int parts = raw[at + FL_TABLE_HEAD_BYTES - 1];
    for (int part = 0; part < parts; part++) {
        int64_t found = read_part(raw, size, at, part, parts, lengths + count, tiles - count);
        if (found < 0) return FL_OTHER;
        count += (size_t)found;
        at += 2 + fl_be16(raw + at + 2);
    }
    uint64_t total = header->data_at + 2 * (uint64_t)tiles; /* a marker behind each tile, the end's behind the last */
    for (size_t i = 0; i < count; i++) total += lengths[i];
    if (count != tiles || total != size) return FL_OTHER;
    layout->lengths = lengths;
    return FL_OK;
}
