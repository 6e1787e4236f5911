"""The names that others build on, and their signatures: a change here is one for users, and stands in CHANGELOG."""

import inspect
import subprocess
import sys
from importlib import import_module

import pytest

PUBLIC = {
    "gmsop": [
        "BalancedCrossEntropy", "GmsopError", "__version__", "attach", "backbones", "convert", "create_model", "data",
        "evaluate", "evaluation", "export", "export_model", "heads", "list_heads", "list_models", "load_model",
        "models", "nn", "ops", "param_groups", "predict", "probe", "runs", "save_model", "train", "training", "weights",
        "write_report",
    ],
    "gmsop.nn": [
        "Fusible", "GatedMixture", "GlobalAvgPool", "ISqrtCovPool", "MultiLayerPool", "ParametricGAP", "ParametricSOP",
        "Routing", "TopKGate",
    ],
    "gmsop.ops": [
        "Plan", "balance_loss", "combine", "component_conv", "covariance_pool", "dense_gates", "dispatch", "eigh_sqrt",
        "gate_logits", "newton_schulz_sqrt", "plan_dispatch", "second_order_pool", "top_k_gates", "top_k_indices",
        "triu_size", "triu_unvectorize", "triu_vectorize", "weighted_sum",
    ],
    "gmsop.data": [
        "FolderDataset", "PackedDataset", "PackedWriter", "contact_sheet", "inspect_set", "sample_path", "train_loader",
        "val_loader",
    ],
    "gmsop.convert": ["load_matconvnet", "load_mpncov"],
    "gmsop.heads": ["HEADS", "Head", "list_heads", "register_head"],
    "gmsop.backbones": ["BACKBONES", "Backbone", "register_backbone"],
    "gmsop.models": [
        "BalancedCrossEntropy", "ModelSpec", "PooledClassifier", "attach", "build_spec", "create_model", "list_models",
        "param_groups",
    ],
    "gmsop.probe": [
        "Comparison", "Difference", "Features", "Row", "SecondOrderPooling", "compare", "extract", "fit_model",
        "list_probes",
    ],
    "gmsop.weights": ["load_model", "save_model"],
}  # fmt: skip

SIGNATURES = {
    "gmsop.create_model": "name num_classes=None in_chans=3 **overrides",
    "gmsop.attach": "backbone head num_classes=1000 pretrained=False in_chans=3 layers=None **options",
    "gmsop.list_models": "pattern='*'",
    "gmsop.list_heads": "",
    "gmsop.save_model": "model path",
    "gmsop.load_model": "path averaged=True backbone=None",
    "gmsop.evaluate": (
        "model dataset batch_size=256 num_workers=0 precision='32-true' progress=False devices=1"
    ),
    "gmsop.predict": (
        "model images top=5 exif_orientation=True batch_size=None num_workers=None precision='32-true' devices='auto' "
        "on_error='stop'"
    ),
    "gmsop.probe.extract": (
        "backbone data out layers='auto' weights='auto' image_size=None batch_size=4 num_workers=None flip=False "
        "progress=False"
    ),
    "gmsop.probe.compare": (
        "features heads=('average', 'second_order') layers=None pairs=True dims=(64, 128) folds=5 seeds=(0,) epochs=20 "
        "progress=False"
    ),
    "gmsop.probe.SecondOrderPooling": "dim=64 num_iters=3 root='newton_schulz' normalize=True",
    "gmsop.train": (
        "recipe data out resume=None progress=False allow_changes=False devices='auto' num_nodes=1 accelerator='auto' "
        "wandb=None data_options=None"
    ),
    "gmsop.write_report": "runs page data=None images=2000 progress=False",
    "gmsop.ops.second_order_pool": "x num_iters=3",
    "gmsop.ops.covariance_pool": "x",
    "gmsop.ops.newton_schulz_sqrt": "cov num_iters=3",
    "gmsop.ops.eigh_sqrt": "cov",
    "gmsop.ops.triu_vectorize": "a",
    "gmsop.ops.balance_loss": "gates across_ranks=False",
    "gmsop.nn.ISqrtCovPool": "in_channels=None reduced_dim=None num_iters=3 init='he' root='newton_schulz'",
    "gmsop.nn.ParametricSOP": "in_channels hidden_dim=256 reduced_dim=128 num_iters=3",
    "gmsop.nn.TopKGate": "in_channels num_components top_k dims=(256, 128) second_order=True num_iters=3",
    "gmsop.nn.GatedMixture": "components gate balance_weight=0.0",
    "gmsop.nn.GatedMixture.second_order": (
        "in_channels num_components=16 top_k=None hidden_dim=256 reduced_dim=128 gate_dims=(256, 128) num_iters=3 "
        "balance_weight=0.0"
    ),
    "gmsop.nn.GlobalAvgPool": "in_channels=None",
    "gmsop.convert.load_matconvnet": "path dtype=torch.float32 mean=None",
    "gmsop.convert.load_mpncov": "path dtype=torch.float32",
    "gmsop.data.PackedDataset": "path split verify=None",
    "gmsop.backbones.register_backbone": "name build input heads=None paper=False named=True **defaults",
}  # fmt: skip


@pytest.mark.parametrize("module", PUBLIC)
def test_the_list_of_public_names(module):
    room = import_module(module)
    assert sorted(room.__all__) == sorted(PUBLIC[module])
    assert set(PUBLIC[module]) <= set(dir(room))
    for name in PUBLIC[module]:
        assert getattr(room, name) is not None


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name):
    module, _, rest = name.partition(".")
    found = import_module(module)
    for word in rest.split("."):
        found = getattr(found, word)
    text = " ".join(str(p.replace(annotation=p.empty)) for p in inspect.signature(found).parameters.values())
    assert text == SIGNATURES[name]


def test_an_unknown_name_is_an_attribute_error():
    for module in ("gmsop", "gmsop.data"):
        with pytest.raises(AttributeError, match=f"module '{module}' has no attribute 'creat_model'"):
            _ = import_module(module).creat_model


def test_the_import_is_light():
    code = "import sys, gmsop; print([m for m in ('torch', 'timm', 'lightning', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_does_not_import_torch():
    code = (
        "import sys\nfrom gmsop.cli import main\n"
        "for words in (['--help'], ['models', '--help'], ['recipes'], ['train', '--help']):\n"
        "    try:\n        main(words)\n    except SystemExit:\n        pass\n"
        "    assert 'torch' not in sys.modules, words\n"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


@pytest.mark.slow
def test_evaluation_and_prediction_do_without_training():
    code = "import sys, gmsop\ngmsop.evaluate, gmsop.predict, gmsop.load_model\n"
    code += "print([m for m in sys.modules if m.startswith('gmsop.training')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
