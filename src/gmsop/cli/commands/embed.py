"""`gmsop embed` turns images into vectors for a search index, and looks for the nearest."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from gmsop.cli.commands.predict import add_batch_options
from gmsop.cli.printing import Failures, err, note, out, print_json
from gmsop.errors import ConfigError

if TYPE_CHECKING:
    from gmsop.evaluation.embedding import Embedded, Whitening
    from gmsop.models.classifier import PooledClassifier

GROUP = "use"
SUMMARY = "Turn images into vectors; find the nearest; measure recall@k."
EXAMPLE = "gmsop embed runs/cars photos/ --out photos.npy --nearest query.jpg"


def arguments(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """Add the command's options to `parser`."""
    parser.add_argument("checkpoint", type=str, help="run folder, .safetensors or .ckpt file")
    sources = "files, folders, patterns, tar files, or -: see predict; needed unless there is --recall"
    parser.add_argument("images", nargs="*", type=str, help=sources)
    kinds = "pooled (what the classifier sees), ungated (mean of a mixture's components) or average (first order)"
    parser.add_argument("--vectors", type=str, default="pooled", help=kinds)
    whiten = "whiten by PCA, fitted on these images, or read from the .npz that an earlier run wrote"
    parser.add_argument("--whiten", type=str | None, help=whiten)
    parser.add_argument("--whiten_dim", type=int | None, help="numbers that whitening leaves; default: 128")
    parser.add_argument("--normalize", type=bool, default=True, help="scale vectors to length 1")
    parser.add_argument("--out", type=str | None, help="write the vectors: .npy (names in a .json beside) or .parquet")
    parser.add_argument("--resume", action="store_true", help="go on with a file that was begun and not finished")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    parser.add_argument("--nearest", type=str | None, help="print the images nearest to this one")
    parser.add_argument("--top", type=int, default=5, help="how many of them")
    recall = "measure recall@k among these labelled images: a folder of a folder per class, or a packed set"
    parser.add_argument("--recall", type=str | None, help=recall)
    parser.add_argument("--k", nargs="+", type=int, default=[1, 2, 4, 8], help="for recall@k")
    add_batch_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: Namespace) -> int:
    """Run the command and return its exit status."""
    from gmsop.weights.model_file import load_model

    if not (args.images or args.recall):
        raise ConfigError("name images to embed, or --recall DATA")
    if args.images and not (args.out or args.nearest):
        raise ConfigError("say where the vectors go, --out FILE, or what to look for, --nearest IMAGE")
    if args.nearest and not args.images:
        raise ConfigError("--nearest looks among images: name them")
    if args.top < 1 or not args.k or min(args.k) < 1:
        raise ConfigError("--top and --k must be at least 1")
    if args.whiten is None and args.whiten_dim is not None:
        raise ConfigError("--whiten_dim goes with --whiten IMAGES")
    model = load_model(args.checkpoint)
    settings: dict[str, Any] = {"batch_size": args.batch_size, "num_workers": args.num_workers}
    settings |= {"precision": args.precision, "devices": args.devices, "exif_orientation": args.exif_orientation}
    settings |= {"vectors": args.vectors, "normalize": args.normalize}
    settings["whitening"] = _whitening(args, model, settings)
    status = 0
    if args.images:
        status = _embed(args, model, settings)
    if args.recall:
        status = max(status, _recall(args, model, settings))
    return status


def _whitening(args: Namespace, model: "PooledClassifier", settings: dict[str, Any]) -> "Whitening | None":
    import numpy as np

    from gmsop.data.image_sources import iter_images
    from gmsop.evaluation.embedding import FIT_ON, Whitening, embedded
    from gmsop.utils.progress import progress_bar
    from gmsop.weights.fingerprint import fingerprint

    if args.whiten is None:
        return None
    of = f"{fingerprint(model)} {args.vectors}"
    if Path(args.whiten).suffix == ".npz":
        whitening = Whitening.load(Path(args.whiten))
        if args.whiten_dim not in (None, whitening.projection.shape[1]):
            raise ConfigError(f"--whiten_dim {args.whiten_dim}: {args.whiten} leaves {whitening.projection.shape[1]}")
        if whitening.of not in ("", of):
            raise ConfigError(f"--whiten {args.whiten}: was fitted on vectors of another model, or of another kind")
        return whitening
    file = _whitening_file(args)
    if file is not None and file.exists() and not (args.overwrite or args.resume):
        raise ConfigError(f"{file} is there already: --whiten {file} uses it, --overwrite replaces it")
    found, unread = [], 0
    with progress_bar(True) as bar:
        task = bar.add_task("fitting the whitening", total=None)
        for each in embedded(model, iter_images([args.whiten]), **{**settings, "whitening": None, "normalize": False}):
            if each.vector is None:
                unread += 1
            else:
                found.append(each.vector)
            bar.advance(task)
            if len(found) == FIT_ON:
                break
    if not found:
        raise ConfigError(f"--whiten {args.whiten}: no image that can be read")
    if unread:
        err.print(f"gmsop: warning: the whitening does without {unread:,} images that cannot be read", markup=False)
    dim = 128 if args.whiten_dim is None else args.whiten_dim
    note(f"whitening fitted on {len(found):,} images")
    return replace(Whitening.fit(np.stack(found), dim), of=of)


def _whitening_file(args: Namespace) -> Path | None:
    """Return where the whitening is kept that belongs to the vectors; None where none is to be."""
    fitted = args.whiten is not None and Path(args.whiten).suffix != ".npz"
    return Path(args.out).with_suffix(".whitening.npz") if args.out and fitted else None


def _embed(args: Namespace, model: "PooledClassifier", settings: dict[str, Any]) -> int:
    import numpy as np

    from gmsop.data.image_sources import image_of, iter_images
    from gmsop.evaluation.embedding import embedded, nearest
    from gmsop.evaluation.unfinished import made_by
    from gmsop.evaluation.vector_files import VectorFile
    from gmsop.utils.progress import progress_bar
    from gmsop.utils.text import printable

    query = None
    if args.nearest:
        (query,) = embedded(model, [image_of(args.nearest)], **settings)
        if query.vector is None:
            raise ConfigError(f"--nearest {query.error}")
    failed = Failures()
    images = iter_images(args.images, sys.stdin)
    names: list[str] = []
    with progress_bar(True) as bar:
        task = bar.add_task("images", total=None)

        def watched(found: "Iterator[Embedded]") -> "Iterator[Embedded]":
            for each in found:
                failed.note(each.error)
                bar.advance(task)
                yield each

        if args.out:
            whitening: Whitening | None = settings["whitening"]
            of = made_by(model, args.precision, args.exif_orientation)
            of |= {"vectors": args.vectors, "normalize": args.normalize}
            of |= {"whitening": whitening and whitening.fingerprint}
            with VectorFile(Path(args.out), of, args.resume, args.overwrite) as file:
                if whitening is not None and (kept := _whitening_file(args)) is not None:
                    whitening.save(kept)  # only now: what is there of another whitening was refused
                    note(f"whitening: {kept}")
                failed.count_again(file.there.records())
                if file.there.count:
                    note(f"goes on after {file.there.count:,} images")
                for _ in file.collect(watched(embedded(model, file.rest(images), **settings))):
                    pass
                names, vectors = list(file.images()) if query else [], np.array(file.vectors()) if query else None
                dim = file.dim
                if failed.images:
                    file.finish()
            if failed.images and not args.json:
                out.print(f"{failed.images - failed.failed:,} vectors of {dim:,} numbers -> {args.out}", markup=False)
        else:
            found = [each for each in watched(embedded(model, images, **settings)) if each.vector is not None]
            names = [each.name for each in found]
            vectors = np.stack([each.vector for each in found if each.vector is not None]) if found else None
    if query is not None and query.vector is not None and vectors is not None and len(vectors):
        rows, scores = nearest(vectors, query.vector[None], args.top)
        pairs = [(names[row], float(score)) for row, score in zip(rows[0], scores[0], strict=True)]
        if args.json:
            print_json({"query": query.name, "nearest": [{"image": n, "score": s} for n, s in pairs]})
        else:
            out.print(f"nearest to {printable(query.name)}:", markup=False)
            for name, score in pairs:
                out.print(f"  {score:7.4f}  {printable(name)}", markup=False)
    return failed.end()


def _recall(args: Namespace, model: "PooledClassifier", settings: dict[str, Any]) -> int:
    import numpy as np

    from gmsop.data.image_sources import FoundImage
    from gmsop.data.labelled_images import find_images
    from gmsop.evaluation.embedding import embedded, recall_at
    from gmsop.utils.progress import progress_bar

    labelled = find_images(args.recall, True, args.exif_orientation, for_training=False)
    rows = np.arange(len(labelled)) if labelled.is_test is None else np.flatnonzero(labelled.is_test)

    def image(row: int) -> FoundImage:
        return FoundImage(labelled.names[row], lambda turned: labelled.reader.image(row))

    vectors, labels = [], []
    failed = Failures()
    with progress_bar(True) as bar:
        found = embedded(model, map(image, rows.tolist()), **settings)
        for row, each in zip(rows, bar.track(found, total=len(rows), description="images"), strict=True):
            failed.note(each.error)
            if each.vector is None:
                continue
            vectors.append(each.vector)
            labels.append(int(labelled.labels[row]))
    if len(vectors) < 2:
        raise ConfigError(f"--recall {args.recall}: fewer than two images that can be read")
    recall = recall_at(np.stack(vectors), labels, args.k)
    if args.json:
        print_json({"images": len(vectors), "vectors": args.vectors, "recall": recall})
        return failed.end()
    shown = ", ".join(f"recall@{k} {value:.1f} %" for k, value in recall.items())
    out.print(f"{args.vectors}, {vectors[0].shape[0]:,} numbers, {len(vectors):,} images: {shown}", markup=False)
    return failed.end()
