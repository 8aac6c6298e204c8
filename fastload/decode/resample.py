"""Sample-rate conversion of a part of a clip, equal to that part of the whole clip's conversion.

Output sample n stands at input position n * orig / new; with the rates divided by their greatest common divisor,
outputs repeat in blocks of `new` for `orig` inputs, so a part that starts on a block is filtered like the whole.
"""

from __future__ import annotations

from fastload.decode.polyphase import reach, reduced


def resampled_frames(frames: int, orig: int, new: int) -> int:
    """How many samples a clip of `frames` has after conversion, as torchaudio counts them."""
    return -(-frames * new // orig)


def input_span(start: int, stop: int, frames: int, orig: int, new: int) -> tuple[int, int, int]:
    """Which input frames the output samples [start, stop) depend on.

    Returns: first frame, end frame, and how many output samples of that part come before `start`.
    """
    orig, new = reduced(orig, new)
    beyond = reach(orig, new)
    first_block = max(0, start // new - -(-beyond // orig))
    last_block = (stop - 1) // new
    return first_block * orig, min(frames, (last_block + 1) * orig + beyond), start - first_block * new
