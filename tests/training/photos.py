"""Folders of photographs as people have them: EXIF rotation, CMYK, PNG with alpha, capitals, spaces in names."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("Dog", "a cat", "ün")


def pixels(label: int, number: int, height: int = 48, width: int = 64) -> np.ndarray:
    draw = np.random.default_rng((label, number))
    noise = draw.integers(0, 60, (height, width, 3))
    noise[:, :, label] += 120
    noise[: height // 2] += 60  # brighter above
    return noise.astype(np.uint8)


def make_photos(folder: Path, count: int = 8, splits: tuple[str, ...] = ("train", "val")) -> Path:
    for split in splits:
        for label, name in enumerate(CLASSES):
            place = folder / split / name
            place.mkdir(parents=True)
            for i in range(count if split != "val" else count // 2):
                write(place, pixels(label, i + 1000 * (split == "val")), i)
    return folder


def write(place: Path, array: np.ndarray, i: int) -> None:
    image = Image.fromarray(array)
    if i % 4 == 0:  # as a phone stores it: the sensor lay on its side
        exif = Image.Exif()
        exif[0x0112] = 6
        image.transpose(Image.Transpose.ROTATE_90).save(place / f"IMG {i}.JPG", exif=exif, quality=95)
    elif i % 4 == 1:
        image.convert("CMYK").save(place / f"print {i}.jpeg", quality=95)
    elif i % 4 == 2:
        image.putalpha(200)
        image.save(place / f"web {i}.PNG")
    else:
        image.save(place / f"{i}.jpg", quality=95)
