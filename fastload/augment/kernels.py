"""Triton kernels, which `gpu` launches: `one_pass` for the module of that name, `draws` for `keyed`. Imported only on a
machine with a GPU, and compiled when first used.

In `one_pass` a program makes BLOCK pixels of one image, all of its channels, from the pixels that came in; nothing in
between is written to memory. Pixel by pixel it is `resample.take` or `warp`, `colour.transform` and
`RandomErasing.erase`, against which it is tested.
"""

from __future__ import annotations

import triton
import triton.language as tl

BLOCK = 256  # pixels or draws of a program

# A kernel is compiled anew for integers of 1 and for those that 16 divides, which would be at most sizes and for the
# last batch. Only that pixels or channels lie side by side, a stride of 1, is worth a kernel of its own.
_ANY = ["height", "width", "out_width", "out_pixels", "blocks", "image_stride", "row_stride", "out_image_stride"]
_ANY += ["out_row_stride", "matrix_stride", "samples"]
_ANY_ALIGNMENT = ["images", "out", "sums", "matrices", "colours", "limits", "boxes", "channel_stride", "column_stride"]
_ANY_ALIGNMENT += ["out_channel_stride", "out_column_stride"]

# Constants of a kernel are compiled in; strings are clear and cost nothing.
#   MOVE      "" pixels stay where they are, "index", "nearest", "bilinear"
#   PADDING   "zeros" (then `fill`), "border", "reflection"
#   COLOUR    "" none, "matrix" and cut to limits, "scale" and shift a channel


@triton.jit
def _rounded(x):
    """To the nearest integer, halves to the even one, as torch.round."""
    below = tl.floor(x)
    rest = x - below
    odd = below - 2 * tl.floor(below * 0.5) == 1
    return below + tl.where((rest > 0.5) | ((rest == 0.5) & odd), 1.0, 0.0)


@triton.jit
def _within(x, size, PADDING: tl.constexpr):
    """Coordinates, pixel i at i, brought inside as grid_sample does; "zeros" leaves them outside, but near."""
    if PADDING == "reflection":  # about the outer edges of the outermost pixels
        x = tl.abs(x + 0.5)
        times = tl.floor(x / size)
        rest = x - times * size
        x = tl.where(times - 2 * tl.floor(times * 0.5) == 1, size - rest, rest) - 0.5
    if PADDING == "zeros":
        return tl.minimum(tl.maximum(x, -2.0), size + 1.0)  # an integer can hold it
    return tl.minimum(tl.maximum(x, 0.0), size - 1.0)


@triton.jit
def _tap(image, x, y, valid, width, height, stride_x, stride_y, fill):
    """The pixels of one channel at integers x, y; `fill` outside."""
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    value = tl.load(image + y * stride_y + x * stride_x, mask=valid & inside, other=0).to(tl.float32)
    return tl.where(inside, value, fill)


@triton.jit
def _sampled(image, x, y, valid, width, height, stride_x, stride_y, fill, MOVE: tl.constexpr):
    """The values of one channel, float32 [BLOCK]."""
    if MOVE == "bilinear":
        left, top = tl.floor(x), tl.floor(y)
        right_share, bottom_share = x - left, y - top
        left, top = left.to(tl.int32), top.to(tl.int32)
        one = _tap(image, left, top, valid, width, height, stride_x, stride_y, fill)
        two = _tap(image, left + 1, top, valid, width, height, stride_x, stride_y, fill)
        three = _tap(image, left, top + 1, valid, width, height, stride_x, stride_y, fill)
        four = _tap(image, left + 1, top + 1, valid, width, height, stride_x, stride_y, fill)
        upper = one * (1 - right_share) + two * right_share
        lower = three * (1 - right_share) + four * right_share
        return upper * (1 - bottom_share) + lower * bottom_share
    return _tap(image, x.to(tl.int32), y.to(tl.int32), valid, width, height, stride_x, stride_y, fill)


@triton.jit(do_not_specialize=_ANY, do_not_specialize_on_alignment=_ANY_ALIGNMENT)
def one_pass(
    images,
    out,
    sums,  # float32 [B, blocks, CHANNELS]; of MEANS
    matrices,  # float32 [B or 1, 3, 3]
    colours,  # float32 [B, 3, 4]; or [2, CHANNELS], scale and shift
    limits,  # float32 [2, CHANNELS], lower and upper
    boxes,  # float32 [4, B]: top, left, height, width
    height,
    width,
    out_width,
    out_pixels,
    blocks,  # programs of an image
    image_stride,
    channel_stride,
    row_stride,
    column_stride,
    out_image_stride,
    out_channel_stride,
    out_row_stride,
    out_column_stride,
    matrix_stride,
    samples,
    fill,
    erased,
    scale,  # of what is written
    top,  # the most that is written, where it is rounded
    CHANNELS: tl.constexpr,
    MOVE: tl.constexpr,
    PADDING: tl.constexpr,
    PROJECTIVE: tl.constexpr,
    COLOUR: tl.constexpr,
    ERASE: tl.constexpr,
    ROUND: tl.constexpr,
    MEANS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """MEANS: the sums of the moved pixels of each block, and nothing else."""
    program = tl.program_id(0)
    sample, block = (program // blocks).to(tl.int64), program % blocks
    at = block * BLOCK + tl.arange(0, BLOCK)
    valid = at < out_pixels
    row, column = at // out_width, at % out_width
    image = images + sample * image_stride

    if MOVE == "":
        place = image + row * row_stride + column * column_stride
        red = tl.load(place, mask=valid, other=0).to(tl.float32)
        green = red
        blue = red
        if CHANNELS == 3:
            green = tl.load(place + channel_stride, mask=valid, other=0).to(tl.float32)
            blue = tl.load(place + 2 * channel_stride, mask=valid, other=0).to(tl.float32)
    else:
        matrix = matrices + sample * matrix_stride
        middle_x, middle_y = column.to(tl.float32) + 0.5, row.to(tl.float32) + 0.5
        x = tl.load(matrix) * middle_x + tl.load(matrix + 1) * middle_y + tl.load(matrix + 2)
        y = tl.load(matrix + 3) * middle_x + tl.load(matrix + 4) * middle_y + tl.load(matrix + 5)
        if PROJECTIVE:
            under = tl.load(matrix + 6) * middle_x + tl.load(matrix + 7) * middle_y + tl.load(matrix + 8)
            x = x / under
            y = y / under
        if MOVE == "index":
            x = _within(tl.floor(x), width, "zeros")
            y = _within(tl.floor(y), height, "zeros")
        else:
            x = _within(x - 0.5, width, PADDING)
            y = _within(y - 0.5, height, PADDING)
            if MOVE == "nearest":
                x = _rounded(x)
                y = _rounded(y)
        red = _sampled(image, x, y, valid, width, height, column_stride, row_stride, fill, MOVE)
        green = red
        blue = red
        if CHANNELS == 3:
            image += channel_stride
            green = _sampled(image, x, y, valid, width, height, column_stride, row_stride, fill, MOVE)
            image += channel_stride
            blue = _sampled(image, x, y, valid, width, height, column_stride, row_stride, fill, MOVE)

    if MEANS:
        place = sums + (sample * blocks + block) * CHANNELS
        tl.store(place, tl.sum(tl.where(valid, red, 0.0), 0))
        if CHANNELS == 3:
            tl.store(place + 1, tl.sum(tl.where(valid, green, 0.0), 0))
            tl.store(place + 2, tl.sum(tl.where(valid, blue, 0.0), 0))
    else:
        if COLOUR == "matrix":
            colour = colours + sample * 12
            was_red, was_green, was_blue = red, green, blue
            red = _mixed(colour, limits, was_red, was_green, was_blue, CHANNELS)
            if CHANNELS == 3:
                green = _mixed(colour + 4, limits + 1, was_red, was_green, was_blue, CHANNELS)
                blue = _mixed(colour + 8, limits + 2, was_red, was_green, was_blue, CHANNELS)
        if COLOUR == "scale":
            red = red * tl.load(colours) + tl.load(colours + CHANNELS)
            if CHANNELS == 3:
                green = green * tl.load(colours + 1) + tl.load(colours + 4)
                blue = blue * tl.load(colours + 2) + tl.load(colours + 5)
        if ERASE:
            above, before = tl.load(boxes + sample), tl.load(boxes + samples + sample)
            high, wide = tl.load(boxes + 2 * samples + sample), tl.load(boxes + 3 * samples + sample)
            gone = (row >= above) & (row < above + high) & (column >= before) & (column < before + wide)
            red = tl.where(gone, erased, red)
            green = tl.where(gone, erased, green)
            blue = tl.where(gone, erased, blue)
        place = out + sample * out_image_stride + row * out_row_stride + column * out_column_stride
        _write(place, red, valid, scale, top, ROUND)
        if CHANNELS == 3:
            _write(place + out_channel_stride, green, valid, scale, top, ROUND)
            _write(place + 2 * out_channel_stride, blue, valid, scale, top, ROUND)


@triton.jit
def _mixed(colour, limit, red, green, blue, CHANNELS: tl.constexpr):
    """One channel of a colour matrix, from its row [4], cut."""
    if CHANNELS == 3:
        value = tl.load(colour) * red + tl.load(colour + 1) * green + tl.load(colour + 2) * blue
    else:  # grey stands for all three
        value = (tl.load(colour) + tl.load(colour + 1) + tl.load(colour + 2)) * red
    low, high = tl.load(limit), tl.load(limit + CHANNELS)
    return tl.clamp(value + tl.load(colour + 3), low, high, propagate_nan=tl.PropagateNan.ALL)  # as torch's


@triton.jit
def _write(place, value, valid, scale, top, ROUND: tl.constexpr):
    value = value * scale
    if ROUND:
        value = tl.minimum(tl.maximum(_rounded(value), 0.0), top)
    tl.store(place, value.to(place.dtype.element_ty), mask=valid)


_GOLDEN = tl.constexpr(0x9E3779B97F4A7C15)
_MIX_A = tl.constexpr(0xBF58476D1CE4E5B9)
_MIX_B = tl.constexpr(0x94D049BB133111EB)


@triton.jit
def _combined(keys, words):
    """`hashing.combine`, on uint64."""
    x = (keys ^ words) + _GOLDEN
    x = (x ^ (x >> 30)) * _MIX_A
    x = (x ^ (x >> 27)) * _MIX_B
    return x ^ (x >> 31)


@triton.jit(
    do_not_specialize=["word", "columns", "blocks"],
    do_not_specialize_on_alignment=["keys", "words", "numbers", "first", "second"],
)
def draws(
    keys,  # int64 [B]
    words,  # int64 [columns], of TABLES
    numbers,  # int64 [columns], of TABLES
    first,  # float32 [B, columns]: the first 24 bits of each word, in [0, 1)
    second,  # the next 24, of SECOND
    word,  # that stands for all of `words`; the numbers are then those of the columns
    columns,
    blocks,  # programs of a key
    TABLES: tl.constexpr,
    TWICE: tl.constexpr,  # the word and then the number, else the number alone
    SECOND: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Keyed draws: one hash for each key and column."""
    program = tl.program_id(0)
    row, column = (program // blocks).to(tl.int64), (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    valid = column < columns
    key = tl.load(keys + row).to(tl.uint64)
    number = column.to(tl.uint64)
    if TABLES:
        key = _combined(key, tl.load(words + column, mask=valid, other=0).to(tl.uint64))
        number = tl.load(numbers + column, mask=valid, other=0).to(tl.uint64)
    elif TWICE:
        key = _combined(key, word.to(tl.uint64))
    drawn = _combined(key, number)
    at = row * columns + column
    tl.store(first + at, (drawn >> 40).to(tl.float32) * 5.9604644775390625e-08, mask=valid)
    if SECOND:
        tl.store(second + at, ((drawn >> 16) & 0xFFFFFF).to(tl.float32) * 5.9604644775390625e-08, mask=valid)
