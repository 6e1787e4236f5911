"""`gmsop features` computes a backbone's features once."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from gmsop.cli.printing import out

if TYPE_CHECKING:
    from gmsop.data.labelled_images import LabelledImages

GROUP = "look"
SUMMARY = "Write a frozen backbone's features of your images, for probe."
EXAMPLE = "gmsop features --backbone tf_efficientnet_lite0 --data photos --out photos-features"


def add_extraction(parser: ArgumentParser) -> None:
    """Add the options by which features are computed."""
    parser.add_argument("--backbone", type=str, default="tf_efficientnet_lite0", help="timm's name of it")
    data = "folder (CLASS/*, or train/CLASS/* and val/CLASS/*), packed set, or CSV with columns path and label"
    parser.add_argument("--data", type=str | None, help=f"{data}; default: the bundled sample")
    layers = "names or indices of the backbone's levels, features for its last; or auto"
    parser.add_argument("--layers", nargs="+", type=str, default=["auto"], help=layers)
    weights = "auto (timm's, or those of an installed package), none (random), or a file"
    parser.add_argument("--weights", type=str, default="auto", help=weights)
    parser.add_argument("--image_size", type=int | None, help="pixels; default: the backbone's own")
    parser.add_argument("--batch_size", type=int, default=4, help="images that go through the backbone together")
    parser.add_argument("--num_workers", type=int | None, help="threads that decode images; default: one for each core")
    turned = "turn photographs as their EXIF data says, as viewers do"
    parser.add_argument("--exif_orientation", type=bool, default=True, help=turned)
    parser.add_argument("--flip", action="store_true", help="the mirrored images, too")


def layers_of(args: Namespace) -> "Sequence[str | int] | str":
    """Return the option --layers as `gmsop.probe.extract` takes it."""
    if args.layers == ["auto"]:
        return "auto"
    return [int(word) if word.lstrip("-").isdecimal() else word for word in args.layers]


def found_images(args: Namespace) -> "LabelledImages":
    """Return the images that the options --data and --exif_orientation say."""
    from gmsop.data import sample_path
    from gmsop.data.labelled_images import find_images

    return find_images(args.data or sample_path(progress=True), True, args.exif_orientation)


def arguments(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """Add the command's options to `parser`."""
    add_extraction(parser)
    parser.add_argument("--out", type=str, required=True, help="folder to make")


def run(args: Namespace) -> None:
    """Run the command."""
    from gmsop.probe.extraction import extract

    features = extract(
        args.backbone,
        found_images(args),
        args.out,
        layers_of(args),
        args.weights,
        image_size=args.image_size,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        flip=args.flip,
        progress=True,
    )
    for layer, maps in features.maps.items():
        shape = " x ".join(map(str, maps.shape[1:]))
        out.print(f"{layer}: {shape} {maps.dtype}, {maps.nbytes / 1e6:,.0f} MB", markup=False)
    out.print(f"features of {len(features):,} images: {args.out}", markup=False)
