"""What the model will see: samples before and after augmentation. `fastload.preview(data, augment=[...])`.

    data -> some samples, once an epoch -> the chain -> cells, before and after -> contact sheets, page

spec.py      augmentation as a line of text, or a name in a Python file
samples.py   the samples: read, augmented, taken apart into cells
shown.py     what was found, as values
cells.py     what is drawn of one field of one sample
changes.py   two texts side by side: what was inserted, deleted, replaced, masked
pixels.py    values as pixels: pictures back from their normalisation, waves, spectrograms
sheet.py, page.py   the result as PNG files and as one page
run.py       `preview`
"""

from fastload.previews.run import Preview, preview

__all__ = ["Preview", "preview"]
