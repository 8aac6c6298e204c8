"""The README's comparison: benchmarks/results/peers.json as a table, between the two marks in README.md, and as a
picture.

python benchmarks/peers/table.py            writes both
python benchmarks/peers/table.py --check    exit code 1 if the README's table is another
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import plot

ROOT = Path(__file__).parents[2]
PICTURE = "benchmarks/results/peers.svg"
BEGIN, END = "<!-- peers: begin -->", "<!-- peers: end -->"
TITLES = {
    "images": "JPEG crops/s",
    "audio": "audio clips/s",
    "records": "small records/s",
    "tokens": "token rows/s",
}
NAMES = {
    "fastload": "**fastload**",
    "fastload_keep": "fastload, `--jpeg keep`",
    "torch": "torch DataLoader",
    "webdataset": "WebDataset",
    "mosaicml": "MosaicML Streaming",
    "litdata": "LitData",
    "grain": "Grain",
    "spdl": "SPDL",
    "dali": "DALI, on the CPU",
    "datasets": "Hugging Face datasets",
    "ffcv": "FFCV, images at quality 90",
}


def measured(result: dict[str, Any]) -> list[str]:
    return [name for name in TITLES if name in result["workloads"]]


def table(result: dict[str, Any]) -> str:
    """Markdown: a row per loader, a column per workload, and first batch, memory and packing of the images."""
    workloads = measured(result)
    head = ["loader", *(TITLES[name] for name in workloads), "first batch", "resume", "peak memory", "packing"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    images = result["workloads"]["images"]["peers"]
    for peer, title in NAMES.items():
        if not any(peer in result["workloads"][name]["peers"] for name in workloads):
            continue
        cells = [title]
        for name in workloads:
            found = result["workloads"][name]["peers"].get(peer)
            cells.append(f"{found['items_per_second']:,.0f}" if found else "")
        about = images.get(peer)
        packs = about and about["packed_bytes"] > 1 << 20 and about["pack_seconds"] > 0.05
        cells.append(f"{about['first_batch_seconds']:.2f} s" if about else "")
        again = about and about.get("resume_seconds")
        cells.append(f"{again:.2f} s" if again else "")
        cells.append(f"{about['peak_mib']:,} MiB" if about else "")
        cells.append(f"{result['counts']['images'] / about['pack_seconds']:,.0f} files/s" if packs else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


PICTURES = {
    "photographs": "photographs, over and over until there are so many",
    "made": "64 made pictures, over and over",
}
ABOUT = {
    "images": "Crops: {count:,} JPEGs of 110 kB ({pictures}), RandomResizedCrop 224 and flip, batches of 256.",
    "audio": "Clips: {count:,} of half a second at 8 kHz.",
    "records": "Records: {count:,} of 900 bytes, undecoded; FFCV makes rows of one array of them, the others objects.",
    "tokens": "Rows: {count:,} of 2,048 tokens.",
}


def text(result: dict[str, Any]) -> str:
    machine = result["machine"]
    found = measured(result)
    each = sorted({result["workloads"][name]["rounds"] for name in found})
    rounds = " to ".join(map(str, [each[0], *each[1:][-1:]]))  # a workload that was measured again may have fewer
    counts, pictures = result["counts"], result["workloads"]["images"]["pictures"]
    about = " ".join(ABOUT[name].format(count=counts[name], pictures=PICTURES[pictures]) for name in found)
    command = "tools/peers.sh" + (" --images FOLDER" if pictures == "photographs" else "")
    return (
        f"{table(result)}\n\n![The same as bars, with the range over the rounds]({PICTURE})\n\n"
        f"Medians of {rounds} rounds in turn, {result['workers']} workers or threads on "
        f"{machine['cores']} shared cores ({machine['cpu']}), page cache warm. But torch reads token rows in the "
        "process that trains, and WebDataset gives a worker whole tars, of 64 MiB here, so that one worker reads all "
        f"records and nearly all rows. {about} First batch, resume at 90% of an epoch, memory (of all processes, torch "
        "included, pages of files not) and packing are those of the images. fastload alone waits for the disk at the "
        "end of packing; what packs for Hugging Face datasets is `pyarrow.parquet.write_table`. Empty: there is no "
        f"such thing, or it was not measured. Made by `{command}`; ratios hold better than rates.\n"
    )


def main() -> int:
    result = json.loads((ROOT / "benchmarks/results/peers.json").read_text())
    readme = ROOT / "README.md"
    old = readme.read_text()
    before, rest = old.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    new = f"{before}{BEGIN}\n{text(result)}{END}{after}"
    if "--check" in sys.argv[1:]:
        return int(new != old)
    readme.write_text(new)
    tables = {name: result["workloads"][name]["peers"] for name in measured(result)}
    plot.draw(tables, TITLES, NAMES, ROOT / PICTURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
