from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

def locate(
    positions: Ints,
    samples: int,
    lanes: int,
    block_starts: Ints,
    block_sizes: Ints,
    block_keys: npt.NDArray[np.uint64],
    ends: Ints,
    starts: Ints,
    shards: Ints,
    out_shards: Ints,
    out_rows: Ints,
    /,
) -> None: ...
def sample_keys(
    seed: int, epochs: npt.NDArray[Any], samples: npt.NDArray[Any], out: npt.NDArray[np.uint64], /
) -> None: ...
