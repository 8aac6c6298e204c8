/* Cutting a crop out of the compressed bytes of a crop-seekable JPEG.
 *
 * Its entropy coder starts afresh at every restart marker, so that each segment between two markers is a tile that
 * decodes by itself. A crop is the header with the crop's size, and the segments of its tiles, their markers numbered
 * anew. */
#include "_jpeg.h"

#include <string.h>

static int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

/* libjpeg interpolates subsampled chroma with the next sample, of which there is none beyond the edge of a cut: one
 * more pixel on each side makes all pixels of the box what they are in the whole picture. */
fl_tiles fl_tiles_of(const fl_header *header, const fl_layout *layout, const fl_box *box) {
    int64_t rim_x = header->components > 1 && header->h_max > 1, rim_y = header->components > 1 && header->v_max > 1;
    int64_t width = layout->tile_width, height = layout->tile_height;
    fl_tiles range = {
        .column0 = max64(box->x - rim_x, 0) / width,
        .column1 = min64((box->x + box->width + rim_x + width - 1) / width, layout->columns),
        .row0 = max64(box->y - rim_y, 0) / height,
        .row1 = min64((box->y + box->height + rim_y + height - 1) / height, layout->rows),
    };
    /* Chroma of less than three samples a row is not interpolated by libjpeg. */
    if (rim_x && range.column0 > 0 && header->width - range.column0 * width <= 2 * header->h_max) range.column0--;
    return range;
}

/* The markers before the data, but for metadata: JFIF's and Adobe's segments say how colours are coded. The file may be
 * changed since they were read, where it is mapped: whatever stands there by now, no more than data_at bytes are written. */
static size_t copy_header(const uint8_t *raw, const fl_header *header, uint8_t *out, size_t *frame_at) {
    size_t written = 2;
    memcpy(out, raw, 2);
    for (size_t at = 2; at + 4 <= header->data_at;) {
        int marker = raw[at + 1];
        if (marker == 0xFF || marker == 0x01 || (marker >= 0xD0 && marker <= 0xD8)) {
            at += marker == 0xFF ? 1 : 2;
            continue;
        }
        size_t length = 2 + fl_be16(raw + at + 2);
        if (length > header->data_at - at) break;
        if (at == header->frame_at) *frame_at = written;
        int metadata = marker == 0xFE || (marker > 0xE0 && marker < 0xEE) || marker == 0xEF;
        if (!metadata) {
            memcpy(out + written, raw + at, length);
            written += length;
        }
        at += length;
    }
    return written;
}

static void put16(uint8_t *p, int64_t value) {
    p[0] = (uint8_t)(value >> 8);
    p[1] = (uint8_t)value;
}

size_t fl_row_at(const fl_header *header, const fl_layout *layout, int64_t row) {
    size_t at = header->data_at;
    for (int64_t i = 0; i < row * layout->columns; i++) at += (size_t)layout->lengths[i] + 2;
    return at;
}

fl_status fl_cut_header(const uint8_t *raw, const fl_header *header, const fl_layout *layout, const fl_tiles *tiles,
    fl_buffer *out, fl_box *origin) {
    if (tiles->column1 <= tiles->column0 || tiles->row1 <= tiles->row0) return FL_OTHER;
    if (!fl_reserve(out, header->data_at)) return FL_MEMORY;
    size_t frame_at = 0;
    out->size = copy_header(raw, header, out->data, &frame_at);
    origin->x = tiles->column0 * layout->tile_width;
    origin->y = tiles->row0 * layout->tile_height;
    origin->width = min64(tiles->column1 * layout->tile_width, header->width) - origin->x;
    origin->height = min64(tiles->row1 * layout->tile_height, header->height) - origin->y;
    put16(out->data + frame_at + 5, origin->height);
    put16(out->data + frame_at + 7, origin->width);
    return FL_OK;
}

fl_status fl_tile_row(const uint8_t *raw, const fl_layout *layout, int64_t row, size_t at, size_t *starts) {
    int64_t last = layout->columns * layout->rows - 1;
    for (int64_t i = 0; i < layout->columns; i++) {
        int64_t tile = row * layout->columns + i;
        starts[i] = at;
        at += layout->lengths[tile];
        if (raw[at] != 0xFF || raw[at + 1] != (tile == last ? 0xD9 : 0xD0 + (tile & 7))) return FL_OTHER;
        at += 2;
    }
    starts[layout->columns] = at;
    return FL_OK;
}

fl_status fl_cut(const uint8_t *raw, const fl_header *header, const fl_layout *layout, const fl_box *box,
    fl_buffer *scratch, fl_buffer *out, fl_box *origin) {
    fl_tiles tiles = fl_tiles_of(header, layout, box);
    fl_status status = fl_cut_header(raw, header, layout, &tiles, out, origin);
    if (status != FL_OK) return status;
    if (!fl_reserve(scratch, (size_t)(layout->columns + 1) * sizeof(size_t))) return FL_MEMORY;
    size_t *starts = (size_t *)scratch->data, at = fl_row_at(header, layout, tiles.row0);
    unsigned number = 0;
    for (int64_t row = tiles.row0; row < tiles.row1; row++, at = starts[layout->columns]) {
        status = fl_tile_row(raw, layout, row, at, starts);
        if (status != FL_OK) return status;
        size_t from = starts[tiles.column0], length = starts[tiles.column1] - from;
        if (!fl_reserve(out, out->size + length)) return FL_MEMORY;
        uint8_t *to = out->data + out->size;
        memcpy(to, raw + from, length); /* the tiles of a row lie side by side */
        for (int64_t i = tiles.column0; i < tiles.column1; i++) to[starts[i + 1] - from - 1] = 0xD0 + (number++ & 7);
        out->size += length;
    }
    out->data[out->size - 1] = 0xD9; /* behind the last tile comes the end of the image */
    return FL_OK;
}
