from __future__ import annotations

from zlib import crc32

import torch

from fastload.demo.models import AudioModel, ImageModel, TextModel, hash_words


def test_words_and_pairs_are_hashed_alike_in_every_process() -> None:
    ids, starts = hash_words(["The cat, the CAT", None, "zebra"], 5000)
    words = ["the", "cat", "the", "cat", "the cat", "cat the", "the cat", "zebra"]
    assert ids.tolist() == [crc32(word.encode()) % 5000 for word in words]
    assert ids.tolist() == [3078, 2832, 3078, 2832, 1832, 1276, 1832, 2158]
    assert starts.tolist() == [0, 7, 7]


def test_texts_of_any_number_give_one_row_each() -> None:
    model = TextModel(classes=5)
    assert model({"text": ["a b c", None, ""]}).shape == (3, 5)
    assert model({"text": [None]}).shape == (1, 5)


def test_what_comes_after_a_clips_end_does_not_count() -> None:
    torch.manual_seed(0)
    model = AudioModel(classes=3).eval()
    mel = torch.rand(2, 1, 40, 96)
    # three convolutions of width 3 and stride 2 see 7 frames beyond the last position, which itself spans 8
    other = mel.clone()
    other[:, :, :, 24 + 16 :] = 100 * torch.rand(2, 1, 40, 56)
    short, full = torch.tensor([24, 24]), torch.tensor([96, 96])
    assert torch.equal(model({"audio": mel, "audio_length": short}), model({"audio": other, "audio_length": short}))
    assert not torch.allclose(
        model({"audio": mel, "audio_length": full}), model({"audio": other, "audio_length": full})
    )


def test_a_row_of_padding_has_finite_logits() -> None:
    model = AudioModel(classes=3).eval()
    assert model({"audio": torch.zeros(1, 1, 40, 51), "audio_length": torch.tensor([0])}).isfinite().all()


def test_images_of_any_size_are_taken_in_the_loaders_layout() -> None:
    model = ImageModel(classes=7)
    weights = [weight for weight in model.parameters() if weight.ndim == 4]
    assert weights
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    for size in (32, 48, 97):
        images = torch.rand(2, size, size, 3).permute(0, 3, 1, 2)
        assert model({"image": images}).shape == (2, 7)
