/* Crop boxes as boxes.py draws them, to the bit: the same hash, the same operations on doubles in the same order.
 * Built with -ffp-contract=off, because a fused multiply-add rounds once where Python rounds twice. */
#include "_jpeg.h"

#include <math.h>

#define OP_IMAGE_CROP 1 /* order/hashing.py */
#define ATTEMPTS 10
#define DRAWS 4

static uint64_t combine_word(uint64_t key, uint64_t word) {
    uint64_t x = (key ^ word) + 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

static double draw(uint64_t key, uint64_t number) {
    return (double)(combine_word(combine_word(key, OP_IMAGE_CROP), number) >> 11) * 0x1p-53;
}

static int64_t bounded(double value, int64_t low, int64_t high) {
    return !(value > (double)low) ? low : value < (double)high ? (int64_t)value : high;
}

static fl_box centred(int64_t width, int64_t height, int64_t w, int64_t h) {
    return (fl_box){.x = (width - w) / 2, .y = (height - h) / 2, .width = w, .height = h};
}

fl_box fl_random_box(const fl_spec *spec, int64_t width, int64_t height, uint64_t key) {
    double log_low = log(spec->ratio_low), log_high = log(spec->ratio_high);
    double pixels = (double)width * (double)height;
    for (uint64_t number = 0; number < ATTEMPTS * DRAWS; number += DRAWS) {
        double area = draw(key, number), shape = draw(key, number + 1);
        double target = pixels * (spec->scale_low + area * (spec->scale_high - spec->scale_low));
        double aspect = exp(log_low + shape * (log_high - log_low));
        double w = rint(sqrt(target * aspect)), h = rint(sqrt(target / aspect)); /* halves to even, as Python's round */
        if (w > 0 && w <= (double)width && h > 0 && h <= (double)height) {
            double down = draw(key, number + 2), right = draw(key, number + 3);
            return (fl_box){.x = (int64_t)(right * ((double)width - w + 1)),
                .y = (int64_t)(down * ((double)height - h + 1)),
                .width = (int64_t)w,
                .height = (int64_t)h};
        }
    }
    int64_t w = width, h = height;
    if ((double)width < (double)height * spec->ratio_low) {
        h = bounded(rint((double)width / spec->ratio_low), 1, height);
    } else if ((double)width > (double)height * spec->ratio_high) {
        w = bounded(rint((double)height * spec->ratio_high), 1, width);
    }
    return centred(width, height, w, h);
}

fl_box fl_center_box(const fl_spec *spec, int64_t width, int64_t height) {
    double across = (double)width / (double)spec->out_width, down = (double)height / (double)spec->out_height;
    double step = spec->center_fraction * (across < down ? across : down);
    return centred(width, height, bounded(rint((double)spec->out_width * step), 1, width),
        bounded(rint((double)spec->out_height * step), 1, height));
}
