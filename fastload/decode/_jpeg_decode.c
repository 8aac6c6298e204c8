/* One row of a batch: header -> box -> cut -> libjpeg, line by line -> resized across, then down -> the row.
 *
 * Only lines and columns of the box are transformed; nothing larger than a few lines is kept, but for a progressive file's
 * coefficients, which libjpeg holds whole: 2 bytes of each component's samples. */
#include "_jpeg.h"

#include <stdlib.h>
#include <string.h>

#define LINES 4                    /* that libjpeg may give at once */
#define LARGEST_KEPT (16u << 20)   /* bytes of a buffer that a worker keeps between pictures */
#define COLUMN_MARGIN 2            /* on either side: chroma is interpolated with the neighbour, two pixels off at most */
/* libjpeg-turbo's SIMD code writes lines that are aligned to a vector past the caches, so that resizing would fetch each
 * from memory again: half as much time again for a crop. Lines are therefore kept off by one pixel. */
#define LINE_ALIGNMENT 64
#define LINE_OFFSET 4

struct fl_worker {
    fl_errors errors;
    struct jpeg_decompress_struct info;
    struct jpeg_progress_mgr limit;
    int open;
    fl_entropy *entropy;
    fl_buffer lengths, head, lines, ring, turned, slots;
    fl_axis across, down;
};

/* What is done for one picture. */
typedef struct {
    fl_worker *worker;
    const fl_spec *spec;
    fl_header header;
    fl_box box;           /* in the stored picture */
    fl_box origin;        /* the part of the stored picture that `data` holds */
    const uint8_t *data;  /* what libjpeg reads */
    size_t size;
    int own_entropy;      /* libjpeg reads the header only */
    fl_layout layout;
    fl_tiles tiles;
    int64_t width, height; /* of the box resized, before it is turned */
    int turned, mirror_x, mirror_y;
    uint8_t *out;
    fl_kernels kernels;
} picture;

fl_worker *fl_worker_new(void) {
    fl_worker *worker = calloc(1, sizeof(fl_worker));
    if (worker == NULL) return NULL;
    worker->entropy = fl_entropy_new(&worker->errors);
    if (worker->entropy != NULL) return worker;
    free(worker);
    return NULL;
}

static fl_buffer *buffers(fl_worker *worker, int i) {
    fl_buffer *all[] = {&worker->lengths, &worker->head, &worker->lines, &worker->ring, &worker->turned,
        &worker->slots, &worker->across.memory, &worker->down.memory};
    return i < (int)(sizeof all / sizeof *all) ? all[i] : NULL;
}

void fl_worker_free(fl_worker *worker) {
    if (worker == NULL) return;
    fl_entropy_free(worker->entropy);
    if (worker->open) jpeg_destroy_decompress(&worker->info);
    for (int i = 0; buffers(worker, i) != NULL; i++) fl_release(buffers(worker, i));
    free(worker);
}

static void tidy(fl_worker *worker) {
    for (int i = 0; buffers(worker, i) != NULL; i++)
        if (buffers(worker, i)->room > LARGEST_KEPT) fl_release(buffers(worker, i));
    fl_entropy_tidy(worker->entropy, LARGEST_KEPT);
}

/* boxes.py: orientation -> swap the axes first, then mirror left-right, then top-bottom */
static const uint8_t ORIENTATIONS[9][3] = {
    {0, 0, 0}, {0, 0, 0}, {0, 1, 0}, {0, 1, 1}, {0, 0, 1}, {1, 0, 0}, {1, 1, 0}, {1, 1, 1}, {1, 0, 1}};

/* The box in the stored picture, and how its resized pixels are turned upright. */
static fl_status place(picture *p, uint64_t key, int flip) {
    const fl_spec *spec = p->spec;
    const uint8_t *how = ORIENTATIONS[p->header.orientation];
    int swap = how[0];
    int64_t width = swap ? p->header.height : p->header.width, height = swap ? p->header.width : p->header.height;
    fl_box box = {0, 0, width, height};
    if (spec->crop == FL_RANDOM) box = fl_random_box(spec, width, height, key);
    if (spec->crop == FL_CENTER) box = fl_center_box(spec, width, height);
    if (how[1]) box.x = width - box.x - box.width;
    if (how[2]) box.y = height - box.y - box.height;
    p->box = swap ? (fl_box){box.y, box.x, box.height, box.width} : box;
    p->turned = swap;
    p->mirror_x = how[1] ^ (flip != 0);
    p->mirror_y = how[2];
    p->width = swap ? spec->out_height : spec->out_width;
    p->height = swap ? spec->out_width : spec->out_height;
    const fl_box *b = &p->box;
    int inside = b->x >= 0 && b->y >= 0 && b->width > 0 && b->height > 0 && b->x + b->width <= p->header.width
                 && b->y + b->height <= p->header.height;
    return inside ? FL_OK : FL_OTHER;
}

/* The tiles of the box, where the picture has any; else the whole picture. */
static fl_status find_data(picture *p, const uint8_t *raw, size_t size) {
    fl_worker *worker = p->worker;
    const fl_header *header = &p->header;
    fl_status status = fl_read_layout(raw, size, header, &worker->lengths, &p->layout);
    if (status == FL_OK) {
        p->tiles = fl_tiles_of(header, &p->layout, &p->box);
        status = fl_cut_header(raw, header, &p->layout, &p->tiles, &worker->head, &p->origin);
    }
    if (status == FL_OK) {
        p->data = worker->head.data;
        p->size = worker->head.size;
        p->own_entropy = 1;
        return fl_entropy_begin(worker->entropy, raw, size, header, &p->layout, &p->tiles);
    }
    if (status == FL_MEMORY) return status;
    p->origin = (fl_box){0, 0, header->width, header->height};
    p->data = raw;
    p->size = size;
    p->own_entropy = header->frame <= 0xC1 && header->whole_scan && header->scan_components == header->components
                     && header->restart_interval == 0;
    if (p->own_entropy) return fl_entropy_begin(worker->entropy, raw, size, header, NULL, NULL);
    /* Lines below the box are not decoded, so that a missing end must be noticed here. */
    return raw[size - 2] == 0xFF && raw[size - 1] == 0xD9 ? FL_OK : FL_OTHER;
}

static int prepare(picture *p, int64_t line_pixels) {
    fl_worker *worker = p->worker;
    int channels = p->spec->channels, pixel_bytes = channels == 3 ? 4 : 1;
    if (!fl_axis_set(&worker->across, p->box.width, p->width, !p->turned && p->mirror_x)
        || !fl_axis_set(&worker->down, p->box.height, p->height, 0))
        return 0;
    size_t line = (size_t)(line_pixels + worker->across.taps) * (size_t)pixel_bytes + 2 * LINE_ALIGNMENT;
    line -= line % LINE_ALIGNMENT;
    size_t all_lines = LINES * line + 2 * LINE_ALIGNMENT;
    size_t row = (size_t)(p->width * channels) + 64;
    size_t slots = (size_t)worker->down.taps + LINES;
    if (!fl_reserve(&worker->lines, all_lines) || !fl_reserve(&worker->ring, slots * row)
        || !fl_reserve(&worker->slots, (size_t)worker->down.taps * sizeof(uint8_t *)))
        return 0;
    memset(worker->lines.data, 0, all_lines); /* weights of 0 fall on what is behind a line */
    worker->lines.size = line;
    worker->ring.size = row;
    if (!p->turned) return 1;
    return fl_reserve(&worker->turned, (size_t)(p->width * p->height * channels));
}

/* Output line `j` from the lines resized across, of which `slots` are at hand. */
static void write_line(picture *p, int64_t j) {
    fl_worker *worker = p->worker;
    const fl_axis *down = &worker->down;
    int64_t slots = down->taps + LINES;
    const uint8_t **rows = (const uint8_t **)worker->slots.data;
    for (int t = 0; t < down->taps; t++) {
        int64_t row = down->starts[j] + (t < down->counts[j] ? t : down->counts[j] - 1);
        rows[t] = worker->ring.data + (size_t)(row % slots) * worker->ring.size;
    }
    size_t bytes = (size_t)(p->width * p->spec->channels);
    uint8_t *out = worker->turned.data;
    int64_t to = j;
    if (!p->turned) {
        out = p->out;
        if (p->mirror_y) to = p->height - 1 - j;
    }
    p->kernels.down(rows, down->weights + j * down->taps, down->taps, down->precision, out + (size_t)to * bytes, bytes);
}

/* Swap the axes, then mirror. */
static void turn(const picture *p) {
    int64_t out_width = p->spec->out_width, out_height = p->spec->out_height;
    size_t channels = (size_t)p->spec->channels;
    for (int64_t i = 0; i < out_height; i++) {
        int64_t column = p->mirror_y ? out_height - 1 - i : i;
        uint8_t *to = p->out + (size_t)(i * out_width) * channels;
        for (int64_t j = 0; j < out_width; j++, to += channels) {
            int64_t row = p->mirror_x ? out_width - 1 - j : j;
            memcpy(to, p->worker->turned.data + (size_t)(row * p->width + column) * channels, channels);
        }
    }
}

/* Leave out the columns and lines that the box does not need; where the first column and line then are. */
static void narrow(picture *p, int64_t *x, int64_t *y) {
    j_decompress_ptr info = &p->worker->info;
    int64_t left = p->box.x - p->origin.x - COLUMN_MARGIN;
    int64_t right = left + p->box.width + 2 * COLUMN_MARGIN;
    if (left < 0) left = 0;
    if (right > p->origin.width) right = p->origin.width;
    JDIMENSION first = (JDIMENSION)left, width = (JDIMENSION)(right - left);
    *x = p->origin.x;
    *y = p->origin.y;
    if (p->own_entropy) {
        int64_t mcu_width = info->comps_in_scan == 1 ? DCTSIZE : DCTSIZE * info->max_h_samp_factor;
        fl_entropy_attach(p->worker->entropy, info, (right + mcu_width - 1) / mcu_width, p->spec->portable);
    }
    if (width < info->output_width) {
        jpeg_crop_scanline(info, &first, &width);
        *x += first;
    }
    int64_t above = p->box.y - p->origin.y;
    if (above > 0) *y += jpeg_skip_scanlines(info, (JDIMENSION)above);
}

static fl_status decode(picture *p) {
    fl_worker *worker = p->worker;
    j_decompress_ptr info = &worker->info;
    jpeg_mem_src(info, (unsigned char *)p->data, (unsigned long)p->size);
    jpeg_read_header(info, TRUE);
    if (info->image_width != p->origin.width || info->image_height != p->origin.height) return FL_OTHER;
    if (p->own_entropy && (info->progressive_mode || info->arith_code)) return FL_OTHER; /* changed since it was read */
    int grey = p->spec->channels == 1;
    info->out_color_space = grey ? JCS_GRAYSCALE : JCS_EXT_RGBX;
    info->dct_method = JDCT_ISLOW;
    jpeg_start_decompress(info);
    int64_t x, y, written = 0;
    narrow(p, &x, &y);
    if (!prepare(p, info->output_width)) return FL_MEMORY;
    JSAMPROW lines[LINES];
    uint8_t *first = worker->lines.data + LINE_OFFSET + LINE_ALIGNMENT - (uintptr_t)worker->lines.data % LINE_ALIGNMENT;
    for (int i = 0; i < LINES; i++) lines[i] = first + (size_t)i * worker->lines.size;
    const size_t skip = (size_t)(p->box.x - x) * (grey ? 1 : 4);
    const fl_axis *down = &worker->down;
    fl_row_function across = grey ? p->kernels.across_grey : p->kernels.across_rgb;
    while (written < p->height) {
        int64_t got = jpeg_read_scanlines(info, lines, LINES);
        if (got == 0) return FL_BROKEN;
        for (int64_t i = 0; i < got; i++, y++) {
            int64_t row = y - p->box.y;
            if (row < 0 || row >= p->box.height) continue;
            size_t slot = (size_t)(row % (down->taps + LINES));
            across(&worker->across, lines[i] + skip, worker->ring.data + slot * worker->ring.size);
            for (; written < p->height && down->starts[written] + down->counts[written] <= row + 1; written++)
                write_line(p, written);
        }
    }
    if (p->turned) turn(p);
    return FL_OK;
}

/* `decode`, with libjpeg's errors as values. */
static fl_status decode_safely(picture *p) {
    fl_worker *worker = p->worker;
    if (setjmp(worker->errors.jump)) {
        jpeg_abort_decompress(&worker->info);
        return FL_BROKEN;
    }
    if (!worker->open) {
        jpeg_create_decompress(&worker->info);
        worker->open = 1;
        worker->limit.progress_monitor = fl_limit_scans;
        worker->info.progress = &worker->limit;
    }
    fl_status status = decode(p);
    jpeg_abort_decompress(&worker->info);
    return status;
}

fl_status fl_decode_row(
    fl_worker *worker, const fl_spec *spec, const uint8_t *raw, size_t size, uint64_t key, int flip, uint8_t *out) {
    picture p = {.worker = worker, .spec = spec, .out = out, .kernels = fl_kernels_for(spec->portable)};
    if (fl_read_header(raw, size, &p.header) != FL_OK) return FL_OTHER;
    const fl_header *header = &p.header;
    if (header->frame > 0xC2 || header->precision != 8 || (header->components != 1 && header->components != 3)
        || header->width < 1 || header->height < 1 || header->width * header->height > spec->max_pixels)
        return FL_OTHER;
    worker->info.err = fl_errors_init(&worker->errors);
    fl_status status = place(&p, key, flip);
    if (status == FL_OK) status = find_data(&p, raw, size);
    if (status == FL_OK) status = decode_safely(&p);
    tidy(worker);
    return status;
}
