/* JPEG without Python: what the C files of fastload/decode share.
 *
 *   _jpeg_errors.c     libjpeg's errors as values
 *   _jpeg_header.c     the markers before the first scan, and the table of segment offsets
 *   _jpeg_seek.c       cutting a crop out of the compressed bytes
 *   _jpeg_transcode.c  any JPEG to a crop-seekable one, losslessly
 *   _jpeg_box.c        crop boxes, drawn from the sample's key
 *   _jpeg_entropy.c    Huffman decoding, tile by tile
 *   _jpeg_resize.c     antialiased bilinear resizing, row by row
 *   _jpeg_decode.c     one row of a batch: header, box, cut, decode, resize
 *   _jpeg.c            all of it as a Python module
 *
 * Nothing here keeps state between calls but a fl_worker, which belongs to one thread. */
#ifndef FASTLOAD_JPEG_H
#define FASTLOAD_JPEG_H

#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <jpeglib.h>

#ifndef JCS_EXTENSIONS
#error "libjpeg-turbo is needed; this jpeglib.h is another libjpeg's"
#endif

#define FL_MESSAGE_BYTES 256
#define FL_MAX_COMPONENTS 4
/* More scans than any encoder writes, and pixels times scans of twenty scans of the largest picture (headers.py): each
 * scan can cost a pass over all coefficients for a few bytes (a decompression bomb). The same stands in jpeg.py. */
#define FL_MAX_SCANS 500
#define FL_MAX_SCANNED_PIXELS (20 * (int64_t)89478485)

typedef enum {
    FL_OK = 0,
    FL_OTHER = 1,  /* not for this code: another format, colour model or a header that is in doubt */
    FL_BROKEN = 2, /* the bytes do not decode */
    FL_MEMORY = 3
} fl_status;

/* A buffer that grows; `data` is from malloc. */
typedef struct {
    uint8_t *data;
    size_t size, room;
} fl_buffer;

int fl_reserve(fl_buffer *buffer, size_t room); /* 0 if there is no memory; contents are kept */
void fl_release(fl_buffer *buffer);

/* A rectangle in whole pixels. */
typedef struct {
    int64_t x, y, width, height;
} fl_box;

/* What the markers before the first scan say. Offsets are in bytes from the start of the file. */
typedef struct {
    int64_t width, height; /* as stored */
    int orientation;       /* EXIF, 1 to 8 */
    int components, precision;
    int frame;    /* the second byte of the frame header's marker: 0xC0 is baseline */
    size_t frame_at; /* offset of that marker */
    int h[FL_MAX_COMPONENTS], v[FL_MAX_COMPONENTS], h_max, v_max; /* sampling factors */
    int restart_interval;
    int scan_components;
    int whole_scan; /* the first scan holds all coefficients of all its components */
    size_t data_at; /* of the first byte after the first scan's header */
    size_t table_at; /* of the first part of the table of segments; 0: there is none */
} fl_header;

fl_status fl_read_header(const uint8_t *raw, size_t size, fl_header *header);
uint32_t fl_be16(const uint8_t *p);

/* How the data of a crop-seekable JPEG is cut into tiles. */
typedef struct {
    int64_t tile_width, tile_height; /* in pixels */
    int64_t columns, rows;           /* of tiles */
    const uint32_t *lengths;         /* [rows * columns], in bytes, without the marker behind; in the caller's buffer */
} fl_layout;

/* FL_OK if the file has a table that fits it; `scratch` then holds the lengths. Else it is to be read as any JPEG. */
fl_status fl_read_layout(
    const uint8_t *raw, size_t size, const fl_header *header, fl_buffer *scratch, fl_layout *layout);

/* Identifies an APP9 segment as a part of the table of segments; then come version, part, number of parts. */
#define FL_TABLE_NAME "fastload"
#define FL_TABLE_NAME_BYTES 9 /* with the zero behind */
#define FL_TABLE_HEAD_BYTES (2 + 2 + FL_TABLE_NAME_BYTES + 3)
#define FL_TABLE_VERSION 1

/* The tiles that a crop needs: [column0, column1) x [row0, row1). */
typedef struct {
    int64_t column0, column1, row0, row1;
} fl_tiles;

fl_tiles fl_tiles_of(const fl_header *header, const fl_layout *layout, const fl_box *box);

/* Write into `out` the header of a JPEG of these tiles, which lie at `origin` in the picture. */
fl_status fl_cut_header(const uint8_t *raw, const fl_header *header, const fl_layout *layout, const fl_tiles *tiles,
    fl_buffer *out, fl_box *origin);

/* Where a row of tiles begins; where each of its tiles begins, given the former, and the end: [columns + 1].
 * FL_OTHER if there are no markers between them. */
size_t fl_row_at(const fl_header *header, const fl_layout *layout, int64_t row);
fl_status fl_tile_row(const uint8_t *raw, const fl_layout *layout, int64_t row, size_t at, size_t *starts);

/* Write into `out` a baseline JPEG of the tiles that `box` needs, chroma's neighbours included. `origin` is which part
 * of the picture it shows. */
fl_status fl_cut(const uint8_t *raw, const fl_header *header, const fl_layout *layout, const fl_box *box,
    fl_buffer *scratch, fl_buffer *out, fl_box *origin);

/* Copy the coefficients of a JPEG into a crop-seekable one. FL_OTHER and FL_BROKEN leave the reason in `message`. */
fl_status fl_transcode(const uint8_t *raw, size_t size, int64_t min_pixels, int64_t max_pixels, fl_buffer *out,
    char message[FL_MESSAGE_BYTES]);

/* Which part of a picture, shown upright, is resized. */
typedef struct {
    enum { FL_WHOLE = 0, FL_RANDOM = 1, FL_CENTER = 2 } crop;
    double scale_low, scale_high, ratio_low, ratio_high, center_fraction;
    int64_t out_width, out_height;
    int channels; /* 3: RGB, 1: grey */
    int64_t max_pixels;
    int portable; /* leave the SIMD code of this processor unused */
} fl_spec;

fl_box fl_random_box(const fl_spec *spec, int64_t width, int64_t height, uint64_t key);
fl_box fl_center_box(const fl_spec *spec, int64_t width, int64_t height);

/* The weights of one axis: output i is the sum of weights[i * taps + t] * input[starts[i] + t], over 2^precision.
 * Each output has `taps`, a multiple of 4; those behind its own `counts[i]` are 0. */
typedef struct {
    int64_t size;
    int taps, precision;
    int32_t *starts, *counts;
    int16_t *weights;
    fl_buffer memory;
} fl_axis;

int fl_axis_set(fl_axis *axis, int64_t in_size, int64_t out_size, int mirror); /* 0 if there is no memory */

typedef void (*fl_row_function)(const fl_axis *axis, const uint8_t *in, uint8_t *out);
typedef void (*fl_column_function)(
    const uint8_t *const *rows, const int16_t *weights, int taps, int precision, uint8_t *out, size_t count);

/* `across`: [in_size] pixels to [out_size]: of 4 bytes to 3 (RGB), or of 1 to 1. Reads up to `taps` pixels behind
 * the end, writes up to 16 bytes behind. `down`: the weighted sum of `taps` rows of `count` bytes. */
typedef struct {
    fl_row_function across_rgb, across_grey;
    fl_column_function down;
} fl_kernels;

fl_kernels fl_kernels_for(int portable);

/* What one thread needs for decoding; reused from picture to picture. */
typedef struct fl_worker fl_worker;
fl_worker *fl_worker_new(void); /* NULL if there is no memory */
void fl_worker_free(fl_worker *worker);

/* One row of a batch: uint8 [out_height, out_width, channels]. `flip` mirrors it left-right. */
fl_status fl_decode_row(
    fl_worker *worker, const fl_spec *spec, const uint8_t *raw, size_t size, uint64_t key, int flip, uint8_t *out);

/* libjpeg's errors as values: setjmp(errors.jump), and no warning passes. */
typedef struct {
    struct jpeg_error_mgr manager;
    jmp_buf jump;
    char message[FL_MESSAGE_BYTES];
} fl_errors;

struct jpeg_error_mgr *fl_errors_init(fl_errors *errors);
void fl_limit_scans(j_common_ptr info); /* for progress_monitor */
void fl_fail(fl_errors *errors, const char *message);

/* Entropy decoding of baseline JPEG, in place of libjpeg's. */
typedef struct fl_entropy fl_entropy;
fl_entropy *fl_entropy_new(fl_errors *errors); /* NULL if there is no memory */
void fl_entropy_free(fl_entropy *entropy);
void fl_entropy_tidy(fl_entropy *entropy, size_t largest);

/* Whether the data can be decoded so: tiles, or one scan without restarts. `layout` and `tiles` are NULL for the
 * latter, else they outlive the decoding. */
fl_status fl_entropy_begin(fl_entropy *entropy, const uint8_t *raw, size_t size, const fl_header *header,
    const fl_layout *layout, const fl_tiles *tiles);

/* After jpeg_start_decompress. MCUs from `needed` on, in each row, are left out where that saves time. `portable` as in
 * fl_spec. */
void fl_entropy_attach(fl_entropy *entropy, j_decompress_ptr info, int64_t needed, int portable);

#endif
