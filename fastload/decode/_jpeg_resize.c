/* Antialiased bilinear resizing in 16-bit fixed point: first across, to 8 bits, then down.
 *
 * The weights and the rounding are those of the kernel behind torch.nn.functional.interpolate(antialias=True) on uint8
 * (after Pillow-SIMD), so that resize.py gives the same bytes wherever torch uses that kernel. */
#include "_jpeg.h"

#include <math.h>
#include <string.h>

#define MAX_PRECISION 22

/* The triangle filter of one output: its weights that are not cut off, normalised; how many. */
static int filter(int64_t in_size, double scale, double support, int64_t i, int room, int64_t *start, double *weights) {
    double centre = scale * ((double)i + 0.5), inverse = scale >= 1.0 ? 1.0 / scale : 1.0, total = 0;
    int64_t first = (int64_t)(centre - support + 0.5), last = (int64_t)(centre + support + 0.5);
    if (first < 0) first = 0;
    if (last > in_size) last = in_size;
    int count = (int)(last - first);
    if (count < 1) count = 1;
    if (count > room) count = room;
    if (first > in_size - count) first = in_size - count;
    for (int t = 0; t < count; t++) {
        double distance = fabs(((double)(t + first) - centre + 0.5) * inverse);
        weights[t] = distance < 1.0 ? 1.0 - distance : 0.0;
        total += weights[t];
    }
    for (int t = 0; t < count && total != 0; t++) weights[t] /= total;
    *start = first;
    return count;
}

/* The most bits for which the largest weight fits 16. */
static int precision_for(double largest) {
    int precision = 0;
    while (precision < MAX_PRECISION && 0.5 + largest * (double)(1 << (precision + 1)) < (double)(1 << 15)) precision++;
    return precision;
}

int fl_axis_set(fl_axis *axis, int64_t in_size, int64_t out_size, int mirror) {
    double scale = (double)in_size / (double)out_size, support = scale >= 1.0 ? scale : 1.0, largest = 0;
    int room = (int)ceil(support) * 2 + 1, most = 1;
    size_t n = (size_t)out_size, doubles = n * (size_t)room;
    if (!fl_reserve(&axis->memory,
            doubles * sizeof(double) + n * (2 * sizeof(int32_t) + (size_t)(room + 3) * sizeof(int16_t))))
        return 0;
    double *exact = (double *)axis->memory.data;
    axis->starts = (int32_t *)(exact + doubles);
    axis->counts = axis->starts + n;
    axis->weights = (int16_t *)(axis->counts + n);
    for (int64_t i = 0; i < out_size; i++) {
        int64_t to = mirror ? out_size - 1 - i : i, start;
        double *weights = exact + to * room;
        int count = filter(in_size, scale, support, i, room, &start, weights);
        axis->counts[to] = count;
        axis->starts[to] = (int32_t)start;
        if (count > most) most = count;
        for (int t = 0; t < count; t++)
            if (weights[t] > largest) largest = weights[t];
    }
    axis->size = out_size;
    axis->taps = (most + 3) / 4 * 4;
    axis->precision = precision_for(largest);
    double one = (double)(1 << axis->precision);
    memset(axis->weights, 0, n * (size_t)axis->taps * sizeof(int16_t));
    for (int64_t i = 0; i < out_size; i++)
        for (int t = 0; t < axis->counts[i]; t++)
            axis->weights[i * axis->taps + t] = (int16_t)(0.5 + exact[i * room + t] * one);
    return 1;
}

static uint8_t clip8(int32_t sum, int precision) {
    sum >>= precision;
    return (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

typedef uint8_t four_bytes __attribute__((vector_size(4)));
typedef int32_t four_sums __attribute__((vector_size(16)));

#if defined(__aarch64__)
#include <arm_neon.h>

/* One output pixel as 32-bit sums R G B X, two taps a step. */
static inline int32x4_t sum_rgb(const fl_axis *axis, const uint8_t *in, int64_t i) {
    const uint8_t *pixels = in + 4 * (int64_t)axis->starts[i];
    const int16_t *weights = axis->weights + i * axis->taps;
    int32x4_t sums = vdupq_n_s32(1 << (axis->precision - 1));
    for (int t = 0; t < axis->taps; t += 2) {
        int16x8_t two = vreinterpretq_s16_u16(vmovl_u8(vld1_u8(pixels + 4 * t)));
        sums = vmlal_n_s16(sums, vget_low_s16(two), weights[t]);
        sums = vmlal_n_s16(sums, vget_high_s16(two), weights[t + 1]);
    }
    return sums;
}

static void across_rgb_neon(const fl_axis *axis, const uint8_t *in, uint8_t *out) {
    const int32x4_t shift = vdupq_n_s32(-axis->precision);
    for (int64_t i = 0; i < axis->size; i++, out += 3) {
        int16x4_t sum = vqmovn_s32(vshlq_s32(sum_rgb(axis, in, i), shift));
        uint32_t pixel = vget_lane_u32(vreinterpret_u32_u8(vqmovun_s16(vcombine_s16(sum, sum))), 0);
        memcpy(out, &pixel, 4); /* the fourth byte is the next pixel's first, or behind the row */
    }
}
#endif

static void across_rgb(const fl_axis *axis, const uint8_t *in, uint8_t *out) {
    int taps = axis->taps, precision = axis->precision;
    for (int64_t i = 0; i < axis->size; i++, out += 3) {
        const uint8_t *pixels = in + 4 * (int64_t)axis->starts[i];
        const int16_t *weights = axis->weights + i * taps;
        four_sums sums = {1 << (precision - 1), 1 << (precision - 1), 1 << (precision - 1), 0};
        for (int t = 0; t < axis->counts[i]; t++, pixels += 4) {
            four_bytes pixel;
            memcpy(&pixel, pixels, 4);
            sums += weights[t] * __builtin_convertvector(pixel, four_sums);
        }
        for (int c = 0; c < 3; c++) out[c] = clip8(sums[c], precision);
    }
}

static void across_grey(const fl_axis *axis, const uint8_t *in, uint8_t *out) {
    int taps = axis->taps, precision = axis->precision;
    for (int64_t i = 0; i < axis->size; i++) {
        const uint8_t *pixel = in + axis->starts[i];
        const int16_t *weights = axis->weights + i * taps;
        int32_t sum = 1 << (precision - 1);
        for (int t = 0; t < axis->counts[i]; t++) sum += weights[t] * pixel[t];
        out[i] = clip8(sum, precision);
    }
}

#define BLOCK 64

static void down_block(
    const uint8_t *const *rows, size_t from, const int16_t *weights, int taps, int precision, uint8_t *out,
    size_t count) {
    int32_t sums[BLOCK];
    for (size_t i = 0; i < count; i++) sums[i] = 1 << (precision - 1);
    for (int t = 0; t < taps; t++) {
        const uint8_t *row = rows[t] + from;
        int32_t weight = weights[t];
        for (size_t i = 0; i < count; i++) sums[i] += weight * row[i];
    }
    for (size_t i = 0; i < count; i++) out[i] = clip8(sums[i], precision);
}

static void down(
    const uint8_t *const *rows, const int16_t *weights, int taps, int precision, uint8_t *out, size_t count) {
    size_t i = 0;
    for (; i + BLOCK <= count; i += BLOCK) down_block(rows, i, weights, taps, precision, out + i, BLOCK);
    if (i < count) down_block(rows, i, weights, taps, precision, out + i, count - i);
}

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define AVX2 __attribute__((target("avx2")))

/* One output pixel as 32-bit sums R G B X. Four taps a step: one load holds four pixels R G B X; in the lower lane of
 * the vector the first two of them become 16-bit pairs R0 R1 G0 G1 B0 B1 X0 X1, in the upper lane the other two; a
 * multiply-add takes pairs of weights. */
AVX2 static inline __m128i sum_rgb(const fl_axis *axis, const uint8_t *in, int64_t i, int taps, __m128i half) {
    const __m256i pair = _mm256_setr_epi8(0, -1, 4, -1, 1, -1, 5, -1, 2, -1, 6, -1, 3, -1, 7, -1, /* upper lane: */
        8, -1, 12, -1, 9, -1, 13, -1, 10, -1, 14, -1, 11, -1, 15, -1);
    const __m256i spread = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
    const uint8_t *pixels = in + 4 * (int64_t)axis->starts[i];
    const int16_t *weights = axis->weights + i * taps;
    __m256i sums = _mm256_inserti128_si256(_mm256_setzero_si256(), half, 0);
    for (int t = 0; t < taps; t += 4) {
        __m256i four = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(pixels + 4 * t)));
        __m256i w = _mm256_castsi128_si256(_mm_loadl_epi64((const __m128i *)(weights + t)));
        w = _mm256_permutevar8x32_epi32(w, spread);
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_shuffle_epi8(four, pair), w));
    }
    return _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
}

/* Inlined for each usual number of taps, which is then a constant. */
AVX2 static inline void across_rgb_taps(const fl_axis *axis, const uint8_t *in, uint8_t *out, int taps) {
    const __m128i half = _mm_set1_epi32(1 << (axis->precision - 1)), shift = _mm_cvtsi32_si128(axis->precision);
    const __m128i three = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1); /* without X */
    int64_t last = axis->size - 1;
    for (int64_t i = 0; i < axis->size; i += 4, out += 12) { /* the last four may be fewer, and then repeat one */
        __m128i a = sum_rgb(axis, in, i, taps, half);
        __m128i b = sum_rgb(axis, in, i + 1 < last ? i + 1 : last, taps, half);
        __m128i c = sum_rgb(axis, in, i + 2 < last ? i + 2 : last, taps, half);
        __m128i d = sum_rgb(axis, in, i + 3 < last ? i + 3 : last, taps, half);
        __m128i ab = _mm_packs_epi32(_mm_sra_epi32(a, shift), _mm_sra_epi32(b, shift));
        __m128i cd = _mm_packs_epi32(_mm_sra_epi32(c, shift), _mm_sra_epi32(d, shift));
        _mm_storeu_si128((__m128i *)out, _mm_shuffle_epi8(_mm_packus_epi16(ab, cd), three));
    }
}

AVX2 static void across_rgb_avx2(const fl_axis *axis, const uint8_t *in, uint8_t *out) {
    if (axis->taps == 4) {
        across_rgb_taps(axis, in, out, 4);
    } else if (axis->taps == 8) {
        across_rgb_taps(axis, in, out, 8);
    } else {
        across_rgb_taps(axis, in, out, axis->taps);
    }
}

/* Two rows a step, sixteen columns: their bytes side by side are the pairs that a multiply-add takes. */
AVX2 static void down_avx2(
    const uint8_t *const *rows, const int16_t *weights, int taps, int precision, uint8_t *out, size_t count) {
    const __m256i half = _mm256_set1_epi32(1 << (precision - 1)), zero = _mm256_setzero_si256();
    const __m128i shift = _mm_cvtsi32_si128(precision);
    size_t i = 0;
    for (; i + 32 <= count; i += 32) {
        __m256i a = half, b = half, c = half, d = half;
        for (int t = 0; t < taps; t += 2) {
            int32_t both;
            memcpy(&both, weights + t, 4);
            __m256i w = _mm256_set1_epi32(both);
            __m256i upper = _mm256_loadu_si256((const __m256i *)(rows[t] + i));
            __m256i lower = _mm256_loadu_si256((const __m256i *)(rows[t + 1] + i));
            __m256i low = _mm256_unpacklo_epi8(upper, lower), high = _mm256_unpackhi_epi8(upper, lower);
            a = _mm256_add_epi32(a, _mm256_madd_epi16(_mm256_unpacklo_epi8(low, zero), w));
            b = _mm256_add_epi32(b, _mm256_madd_epi16(_mm256_unpackhi_epi8(low, zero), w));
            c = _mm256_add_epi32(c, _mm256_madd_epi16(_mm256_unpacklo_epi8(high, zero), w));
            d = _mm256_add_epi32(d, _mm256_madd_epi16(_mm256_unpackhi_epi8(high, zero), w));
        }
        __m256i ab = _mm256_packs_epi32(_mm256_sra_epi32(a, shift), _mm256_sra_epi32(b, shift));
        __m256i cd = _mm256_packs_epi32(_mm256_sra_epi32(c, shift), _mm256_sra_epi32(d, shift));
        _mm256_storeu_si256((__m256i *)(out + i), _mm256_packus_epi16(ab, cd));
    }
    if (i < count) down_block(rows, i, weights, taps, precision, out + i, count - i); /* less than 32 */
}
#endif

fl_kernels fl_kernels_for(int portable) {
    fl_kernels kernels = {.across_rgb = across_rgb, .across_grey = across_grey, .down = down};
#if defined(__x86_64__) && defined(__GNUC__)
    if (!portable && __builtin_cpu_supports("avx2")) {
        kernels.across_rgb = across_rgb_avx2;
        kernels.down = down_avx2;
    }
#elif defined(__aarch64__)
    if (!portable) kernels.across_rgb = across_rgb_neon; /* the compiler makes NEON of `down` by itself */
#else
    (void)portable;
#endif
    return kernels;
}
