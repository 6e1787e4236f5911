"""The comparison: against scikit-learn, against itself, and what it says."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from probe_sets import folder_of_images, made_features, write_features
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline

import gmsop
from gmsop.data import FolderDataset
from gmsop.errors import ConfigError, DataError, UnknownNameError
from gmsop.nn.moments import Moments
from gmsop.probe import SecondOrderPooling, compare, fit_model, list_probes
from gmsop.probe.comparison import Comparison, Difference, paired
from gmsop.probe.folds import held_out, make_groups
from gmsop.probe.registry import PROBES, Fold
from gmsop.probe.ridge import RidgePath, best_penalty
from gmsop.probe.study import drawn, study
from gmsop.probe.vectors import Block, balanced, pooled

pytestmark = pytest.mark.filterwarnings("ignore::gmsop.errors.TrainingWarning")


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return made_features(tmp_path_factory.mktemp("made") / "f")


def independent_vectors(maps: np.ndarray, learnt: np.ndarray, dim: int) -> np.ndarray:
    """PCA by scikit-learn, covariance and three iterations in NumPy, the triangle with sqrt(2) off the diagonal."""
    wide = maps.astype(np.float64)
    pca = PCA(dim).fit(wide[learnt].transpose(0, 2, 3, 1).reshape(-1, wide.shape[1]))
    vectors = []
    for x in wide.reshape(*wide.shape[:2], -1):
        cov = np.cov(pca.components_ @ x, bias=True)
        trace, eye = np.trace(cov), np.eye(dim)
        y, z = cov / trace, eye
        for _ in range(3):
            p = (3 * eye - z @ y) / 2
            y, z = y @ p, p @ z
        rows, columns = np.tril_indices(dim)
        vector = (np.sqrt(trace) * y)[columns, rows]
        vectors.append(vector / np.linalg.norm(vector) * np.where(rows == columns, 1, np.sqrt(2)))
    return np.array(vectors)


def test_the_numbers_are_those_of_scikit_learn(features):
    found = compare(features, dims=[4], folds=4)
    groups, _ = make_groups(features, 4, 0)
    for head, layer in (("second_order", "second"), ("average", "noise")):
        row = next(row for row in found.rows if (row.head, row.layers) == (head, layer))
        wrong = np.zeros(len(features), bool)
        for test, chosen in zip(groups, row.chosen, strict=True):
            learnt = np.setdiff1d(np.arange(len(features)), test)
            if head == "average":
                vectors = features.of(layer).astype(np.float64).mean((2, 3))
                vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            else:
                vectors = independent_vectors(features.of(layer), learnt, 4)
            penalty = min(
                (10 ** (-4 + 5 * i / 15) for i in range(16)),
                key=lambda value: abs(value - float(chosen.split("penalty ")[1].split(",")[0])),
            )
            model = RidgeClassifier(penalty).fit(vectors[learnt], features.labels[learnt])
            wrong[test] = model.predict(vectors[test]) != features.labels[test]
        assert np.array_equal(row.wrong[0], wrong)
        assert row.error == pytest.approx(100 * wrong.mean())


def test_leave_one_out_is_what_it_says():
    rng = np.random.default_rng(0)
    vectors, labels = rng.normal(size=(25, 7)), np.arange(25) % 3
    path = RidgePath.of(torch.from_numpy(vectors @ vectors.T), labels, 3)
    for penalty in (1e-3, 0.5, 20.0):
        scores = path.leave_one_out(penalty)
        for i in range(25):
            kept = np.arange(25) != i
            model = RidgeClassifier(penalty).fit(vectors[kept], labels[kept])
            np.testing.assert_allclose(scores[i], model.decision_function(vectors[i : i + 1])[0], atol=1e-6)
        others = rng.normal(size=(4, 7))
        model = RidgeClassifier(penalty).fit(vectors, labels)
        found = path.scores(torch.from_numpy(others @ vectors.T), penalty)
        np.testing.assert_allclose(found, model.decision_function(others), atol=1e-7)
    choice = best_penalty(path, labels, [1e-3, 0.5, 20.0])
    assert choice.wrong == min(best_penalty(path, labels, [p]).wrong for p in (1e-3, 0.5, 20.0))


def test_it_finds_what_is_there(features):
    found = compare(features, dims=[4])
    assert found.difference.verdict == "better"
    assert found.best.error < found.reference.error - 20
    assert found.verdict.startswith("Second order is better: its error is lower by")
    assert len(found.to_frame()) == len(found.rows) == 6
    assert found.winner.outcome.blocks[0] == Block("second", 2, 4)
    assert found.reference.difference is None


def test_it_finds_nothing_where_nothing_is(tmp_path):
    rng = np.random.default_rng(5)
    noise = {"noise": rng.normal(size=(60, 5, 3, 3)).astype(np.float16)}
    found = compare(write_features(tmp_path / "f", noise, np.arange(60) % 3))
    assert found.verdict.startswith("No difference shown")
    assert found.difference.low < 0 < found.difference.high


def test_two_runs_are_the_same_in_any_order(features):
    heads = ["nearest", "average", "second_order", "gap"]
    first, second = (compare(features, order, dims=[4], epochs=1) for order in (heads, heads[::-1]))
    without = [{k: v for k, v in record.items() if k != "seconds"} for record in first.records()]
    assert without == [{k: v for k, v in record.items() if k != "seconds"} for record in second.records()]
    assert first.winner.label == second.winner.label


def test_images_to_test_on_are_not_learnt_from(tmp_path):
    features = made_features(tmp_path / "f", split=True)
    found = compare(features, dims=[4])
    assert (found.folds, len(found.test_images)) == (0, 15)
    changed = replace(features, labels=np.where(features.is_test, 2 - features.labels, features.labels))
    again = compare(changed, dims=[4])
    chosen, after = ({(row.head, row.layers): row.chosen for row in each.rows} for each in (found, again))
    assert after == chosen
    assert again.winner.outcome.choice == found.winner.outcome.choice
    assert again.best.error > found.best.error


def test_several_seeds(features):
    one, two = (compare(features, dims=[4], seeds=seeds) for seeds in ((0,), (0, 1)))
    for row in two.rows:
        alone = next(each for each in one.rows if (each.head, each.layers) == (row.head, row.layers))
        assert row.wrong.shape == (2, 60)
        assert np.array_equal(row.wrong[0], alone.wrong[0])
        assert row.error == pytest.approx(100 * row.wrong.mean())
    assert any(not np.array_equal(*row.wrong) for row in two.rows)


def test_the_settings_tried_are_counted(features):
    rows = {(row.head, row.layers): row.settings for row in compare(features, dims=[4]).rows}
    assert rows["average", "noise"] == rows["second_order", "second"] == 16
    assert rows["best of first order", "chosen"] == 2 * 16 + 16  # one block beside the best
    assert rows["best of second order", "chosen"] == 2 * 16 + 3 * 16  # the other layer's two, and the other order's
    rows = {(row.head, row.layers): row.settings for row in compare(features, dims=[4], pairs=False).rows}
    assert rows["best of second order", "chosen"] == 2 * 16


@pytest.mark.parametrize("name", list_probes())
def test_every_probe(name, tmp_path):
    features = made_features(tmp_path / "f", each=8, channels=8, flip=True)
    groups, _ = make_groups(features, 4, 0)
    moments = {layer: [Moments.of(features.batches(layer, rows)) for rows in groups] for layer in features.layers}
    train = np.sort(np.concatenate(groups[1:]))
    fold = Fold(features, train, groups[0], [1, 2, 3], moments, [4], epochs=2, seed=0)
    outcomes = [PROBES[name].run(fold, "second") for _ in range(2)]
    assert np.array_equal(outcomes[0].answers, outcomes[1].answers)
    assert outcomes[0].answers.shape == groups[0].shape
    assert set(outcomes[0].answers.tolist()) <= {0, 1, 2}
    assert 0 <= outcomes[0].choice.wrong <= 1
    assert PROBES[name].help
    assert PROBES[name].budget in (4, 16)


def test_the_exact_root_on_maps(features):
    components = torch.eye(6)
    exact = balanced(pooled(features, [Block("second", 2, 6, "eigh")], components)[0], Block("second", 2, 6))
    flat = torch.from_numpy(features.of("second").astype(np.float64)).flatten(2)
    values, vectors = torch.linalg.eigh(torch.stack([torch.cov(x, correction=0) for x in flat]))
    roots = vectors @ torch.diag_embed(values.clamp(min=0).sqrt()) @ vectors.mT
    kernel = torch.einsum("aij,bij->ab", roots, roots)
    own = (exact @ exact.T).double()
    cosine = lambda k: k / k.diag().sqrt() / k.diag().sqrt()[:, None]  # noqa: E731
    torch.testing.assert_close(cosine(own), cosine(kernel), atol=1e-4, rtol=0)


def test_paired_differences():
    first, second = np.array([[1, 1, 0, 0] * 25], bool), np.array([[1, 0, 1, 0] * 25], bool)
    assert paired(first, second).points == 0
    assert paired(first, second).p_value == 1
    found = paired(second & first, second)
    assert found.points == -25
    assert found.verdict == "better"
    assert found.low == pytest.approx(-25 - 1.96 * 100 * np.std([-1, 0, 0, 0] * 25, ddof=1) / 10)
    assert found.p_value == pytest.approx(2 * 0.5**25)


def test_folds(features):
    groups, count = make_groups(features, 4, 3)
    assert count == 4
    assert sorted(np.concatenate(groups).tolist()) == list(range(60))
    assert all(np.bincount(features.labels[rows]).tolist() == [5, 5, 5] for rows in groups)
    out = held_out(features.labels, 0.2, 0)
    assert np.bincount(features.labels[out]).tolist() == [4, 4, 4]


def test_bad_input(features):
    with pytest.raises(UnknownNameError, match="second_order"):
        compare(features, ["average", "secondorder"])
    with pytest.raises(UnknownNameError, match="second"):
        compare(features, layers=["secnd"])
    for wrong, words in (
        ({"heads": ["average"]}, "one of second order"),
        ({"heads": ["nearest", "second_order_logistic"]}, "can become a model"),
        ({"dims": [0]}, "must be positive"),
        ({"seeds": []}, "must be positive"),
        ({"dims": range(1, 10)}, "at most 8 dims"),
        ({"folds": 1}, "at least 2"),
    ):
        with pytest.raises(ConfigError, match=words):
            compare(features, **wrong)
    with pytest.raises(DataError, match="fewer than 21 images of class class 0 \\(20\\)"):
        compare(features, folds=21)


@pytest.mark.parametrize(("heads", "split"), [(["average", "second_order"], True), (["gap", "sr_sop"], False)])
def test_the_model_kept_answers_as_the_probe(tmp_path, heads, split):
    data = folder_of_images(tmp_path / "set", split=split, each=24)
    found = study(
        "test_resnet", data, tmp_path / "out", weights="none", image_size=64, heads=heads, dims=[8], epochs=2, folds=2,
        pairs=False,
    )  # fmt: skip
    model = gmsop.load_model(tmp_path / "out" / "model.safetensors")
    assert model.pretrained_cfg["label_names"] == ["class 0", "class 1", "class 2"]
    said = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert said["verdict"] == found.verdict
    prediction = gmsop.predict(model, next(data.rglob("*.png")))
    assert sum(p for _, p in prediction.classes) == pytest.approx(1)
    if split:
        images = FolderDataset(
            data, "val", 64, model.pretrained_cfg["label_names"], model.pretrained_cfg["interpolation"]
        )
        kept = (found.winner.head, found.winner.layer)
        row = next(row for row in found.rows if (row.head, row.layers) == kept)
        assert gmsop.evaluate(model, images).top1_error == pytest.approx(row.error)
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 3)


def test_a_model_of_two_blocks_gives_the_scores_of_both(tmp_path):
    data = folder_of_images(tmp_path / "set", each=6)
    found = study("test_resnet", data, tmp_path / "out", weights="none", image_size=64, dims=[8], folds=2)
    features = gmsop.probe.Features.open(tmp_path / "out" / "features")
    blocks = (Block("layer3", 2, 8), Block("features", 1))
    winner = found.winner._replace(outcome=replace(found.winner.outcome, blocks=blocks))
    model = fit_model(features, replace(found, winner=winner))
    penalty = found.winner.outcome.choice.setting["penalty"]
    moments = {"layer3": [Moments.of(features.batches("layer3"))]}
    fold = Fold(features, np.arange(len(features)), np.arange(3), [0], moments, [8], 1, 0)
    path = RidgePath.of(fold.train_kernel(blocks), features.labels, 3)
    scores = path.scores(fold.test_kernel(blocks), penalty)
    maps = tuple(next(features.batches(layer, np.arange(3))) for layer in ("layer3", "features"))
    with torch.no_grad():
        logits = model.forward_head(maps).double()
    ratio = (logits - logits.mean()).norm() / (scores - scores.mean()).norm()
    torch.testing.assert_close(logits / ratio, scores, atol=1e-3, rtol=1e-3)


def test_other_weights_than_the_features_had_are_refused(tmp_path):
    data = folder_of_images(tmp_path / "set", each=4)
    found = study("test_resnet", data, tmp_path / "out", weights="none", image_size=64, dims=[8], folds=2)
    features = gmsop.probe.Features.open(tmp_path / "out" / "features")
    features.meta["weights"]["sha256"] = "0" * 64
    with pytest.raises(ConfigError, match="weights of test_resnet are not those"):
        fit_model(features, found)


def test_images_are_drawn_class_by_class(tmp_path):
    images = gmsop.data.labelled_images.find_images(folder_of_images(tmp_path / "set", each=20, split=True))
    some = drawn(images, 30)
    assert all(abs(count - 10) <= 1 for count in np.bincount(some.labels))
    assert abs(int(some.is_test.sum()) - 7.5) <= 3
    assert some.names == drawn(images, 30).names
    assert drawn(images, 60) is images


def test_the_transformer(features):
    pipeline = make_pipeline(SecondOrderPooling(4), RidgeClassifier(0.1))
    maps = np.asarray(features.of("second"), np.float32)
    even = np.arange(len(maps)) % 2 == 0
    assert pipeline.fit(maps[even], features.labels[even]).score(maps[~even], features.labels[~even]) > 0.7
    own = independent_vectors(maps, np.flatnonzero(even), 4)
    np.testing.assert_allclose(np.abs(pipeline[0].transform(maps)), np.abs(own), atol=1e-4)
    assert SecondOrderPooling(None).fit_transform(maps).shape == (60, 21)
    assert len(pipeline[0].get_feature_names_out()) == 10
    for wrong in (maps[:, :, 0], maps[:, :, :1, :1], maps.astype(int), maps * np.nan):
        with pytest.raises(ConfigError):
            SecondOrderPooling(2).fit(wrong)
    with pytest.raises(ConfigError, match="from 1 to the 6 channels"):
        SecondOrderPooling(7).fit(maps)
    with pytest.raises(ConfigError, match="fitted on 6 channels"):
        pipeline[0].transform(maps[:, :5])


def test_no_image_that_is_answered_differently_is_no_certainty():
    """Of 36 images none differs: by Clopper and Pearson the share is at most 1 - 0.025^(1/36) = 9.74 %."""
    wrong = np.arange(36)[None] < 5
    found = paired(wrong, wrong)
    assert (found.points, found.p_value, found.verdict) == (0, 1, "no difference shown")
    assert (found.low, found.high) == (pytest.approx(-9.739, abs=1e-3), pytest.approx(9.739, abs=1e-3))


@pytest.mark.parametrize(("p_value", "said"), [(0.01, False), (0.06, True)])
def test_an_interval_and_an_exact_test_that_disagree(p_value, said):
    found = SimpleNamespace(difference=Difference(-5, -9, -1, p_value))
    answer = Comparison.verdict.fget(found)
    assert answer.startswith("Second order is better: its error is lower by 5.0 points")
    assert ("The exact test does not show it" in answer) == said
