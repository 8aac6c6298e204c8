"""The README's Python runs as it stands, from its first block to its last, in a folder with photos/<class>/*.jpg."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from fastload.demo.samples import make_images

README = Path(__file__).parents[1] / "README.md"


def test_the_code_of_the_readme_runs(tmp_path: Path) -> None:
    list(make_images(tmp_path / "photos", samples=240, seed=0))
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) >= 5
    ending = """
assert images.shape[1:] == (3, 96, 96) and str(images.dtype) == "torch.float32" and str(labels.dtype) == "torch.int64"
assert sum(len(batch["label"]) for batch in streamed) == sum(len(batch["label"]) for batch in indexed) > 190
"""
    (tmp_path / "readme.py").write_text("\n".join([*blocks, ending]))
    done = subprocess.run(
        [sys.executable, "-W", "error", "readme.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "samples/s" in done.stdout
