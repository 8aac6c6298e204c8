/* libFuzzer's entry to the JPEG kernel: the first byte chooses what is done with the rest, the second how.
 *
 * Whatever the bytes, nothing may crash, leak or read out of bounds; and what was made seekable must be cut and decoded
 * without an error. Built and run by tools/fuzz.sh. */
#include <stdlib.h>
#include <string.h>

#include "../../fastload/decode/_jpeg.h"

#define MAX_PIXELS (1 << 20) /* large pictures cost time and find nothing more */

static fl_worker *worker;

static void require(int condition) {
    if (!condition) abort();
}

static fl_spec spec_of(uint8_t how) {
    static const int64_t sizes[4][2] = {{16, 16}, {1, 33}, {48, 20}, {224, 224}};
    fl_spec spec = {
        .crop = how & 1 ? FL_RANDOM : how & 2 ? FL_CENTER : FL_WHOLE,
        .scale_low = 0.08, .scale_high = 1, .ratio_low = 0.75, .ratio_high = 4.0 / 3, .center_fraction = 0.875,
        .out_width = sizes[how >> 2 & 3][0], .out_height = sizes[how >> 2 & 3][1],
        .channels = how & 16 ? 1 : 3, .portable = how >> 5 & 1, .max_pixels = MAX_PIXELS,
    };
    return spec;
}

static fl_status decode(const uint8_t *data, size_t size, uint8_t how) {
    fl_spec spec = spec_of(how);
    uint8_t *out = malloc((size_t)(spec.out_width * spec.out_height * spec.channels)); /* of the very size */
    fl_status status = fl_decode_row(worker, &spec, data, size, 977u * how, how >> 6 & 1, out);
    free(out);
    return status;
}

static fl_status cut(const uint8_t *data, size_t size, uint8_t how) {
    fl_buffer lengths = {0}, starts = {0}, out = {0};
    fl_header header;
    fl_layout layout;
    fl_status status = fl_read_header(data, size, &header);
    if (status == FL_OK) status = fl_read_layout(data, size, &header, &lengths, &layout);
    if (status == FL_OK) {
        fl_spec spec = spec_of(1);
        fl_box box = fl_random_box(&spec, header.width, header.height, how), origin;
        status = fl_cut(data, &header, &layout, &box, &starts, &out, &origin);
        if (status == FL_OK) {
            fl_header again;
            require(fl_read_header(out.data, out.size, &again) == FL_OK);
            require(again.width == origin.width && again.height == origin.height);
            decode(out.data, out.size, how);
        }
    }
    fl_release(&lengths);
    fl_release(&starts);
    fl_release(&out);
    return status;
}

static void transcode(const uint8_t *data, size_t size, uint8_t how) {
    fl_buffer out = {0};
    char message[FL_MESSAGE_BYTES];
    if (fl_transcode(data, size, 0, MAX_PIXELS, &out, message) == FL_OK) {
        require(cut(out.data, out.size, how) == FL_OK);
        require(decode(out.data, out.size, how) == FL_OK);
    }
    fl_release(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (worker == NULL) worker = fl_worker_new();
    if (size < 2) return 0;
    uint8_t what = data[0], how = data[1];
    uint8_t *copy = malloc(size - 2 ? size - 2 : 1); /* with its own end, to see reads beyond it */
    memcpy(copy, data + 2, size - 2);
    if (what % 3 == 0) transcode(copy, size - 2, how);
    if (what % 3 == 1) decode(copy, size - 2, how);
    if (what % 3 == 2) cut(copy, size - 2, how);
    free(copy);
    return 0;
}
