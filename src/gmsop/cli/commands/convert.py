"""`gmsop convert` converts the authors' weights."""

from collections.abc import Sequence

from jsonargparse import ArgumentParser, Namespace

from gmsop.cli.printing import out
from gmsop.errors import ConfigError

GROUP = "use"
SUMMARY = "Convert the authors' weights (MatConvNet, fast MPN-COV)."
EXAMPLE = "gmsop convert net-epoch-60.mat gm_sop_resnet18.safetensors"


def arguments(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """Add the command's options to `parser`."""
    parser.add_argument("source", type=str, help="NET.mat or NET.pth.tar, as the authors' training saves it")
    parser.add_argument("target", type=str, help="OUT.safetensors")
    mean = "RGB mean (of 255) that is subtracted from pixels, for a MatConvNet file that does not say it"
    parser.add_argument("--mean", nargs=3, type=float, help=mean)


def run(args: Namespace) -> None:
    """Run the command."""
    from gmsop.convert import load_matconvnet, load_mpncov
    from gmsop.convert.mpncov.load import is_torch_file
    from gmsop.models.names import is_named, overrides_of
    from gmsop.weights.model_file import save_model

    if not args.target.endswith(".safetensors"):
        raise ConfigError(f"the target must end in .safetensors, got {args.target}")
    if is_torch_file(args.source):
        if args.mean is not None:
            raise ConfigError("--mean is for MatConvNet's files; images of fast MPN-COV are prepared as for ImageNet")
        model = load_mpncov(args.source)
    else:
        model = load_matconvnet(args.source, mean=args.mean)
    save_model(model, args.target)
    assert model.spec is not None
    cfg, overrides = model.pretrained_cfg, overrides_of(model.spec) if is_named(model.spec) else {}
    origin = f"MD5 {cfg['source']['md5']}"
    if "published" in cfg["source"]:
        known = cfg["source"]["published"]
        origin += f": the authors' published file for {known}" if known else ": not a published file"
    mean = " ".join(f"{255 * v:.2f}" for v in cfg["mean"])
    differing = "; ".join(f"{k} {v}" for k, v in overrides.items())
    out.print(
        f"{model.spec.name}{f' with {differing}' if differing else ''}, {model.num_classes} classes, "
        f"{sum(p.numel() for p in model.parameters()):,} parameters\n"
        f"{origin}\nRGB mean {mean} (of 255)\n-> {args.target}",
        markup=False,
    )
