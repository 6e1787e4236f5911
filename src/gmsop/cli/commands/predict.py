"""`gmsop predict` names the classes of single images."""

from collections.abc import Sequence

from jsonargparse import ArgumentParser, Namespace

from gmsop.cli.printing import err, out
from gmsop.errors import ConfigError

SUMMARY = "Classify images, and tell which components the gate chose."
EXAMPLE = "gmsop predict runs/gm_sop_4_2/model.safetensors photo.jpg"


def arguments(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """Add the command's options to `parser`."""
    parser.add_argument("checkpoint", type=str, help=".safetensors or .ckpt file")
    parser.add_argument("images", nargs="+", type=str, help="image files")
    parser.add_argument("--top", type=int, default=5, help="how many classes to print")
    turned = "turn images as their EXIF data says, as viewers do"
    parser.add_argument("--exif_orientation", type=bool, default=True, help=turned)


def run(args: Namespace) -> int:
    """Run the command and return its exit status."""
    from gmsop.errors import DataError
    from gmsop.evaluation.prediction import predict
    from gmsop.utils.text import printable
    from gmsop.weights.model_file import load_model

    if args.top < 1:
        raise ConfigError(f"--top must be at least 1, got {args.top}")
    model = load_model(args.checkpoint)
    failed = 0
    for path in args.images:
        try:
            prediction = predict(model, path, args.top, args.exif_orientation)
        except DataError as error:
            err.print(f"gmsop: error: {error}", markup=False)
            failed += 1
            continue
        out.print(printable(path), markup=False)
        for name, probability in prediction.classes:
            out.print(f"  {100 * probability:6.2f} %  {printable(name)}", markup=False)
        if prediction.components is not None:
            chosen = ", ".join(f"{n} ({weight:.3f})" for n, weight in prediction.components)
            out.print(f"  components (weight): {chosen}", markup=False)
    if failed:
        err.print(f"gmsop: {failed} of {len(args.images)} images could not be read")
    return 1 if failed else 0
