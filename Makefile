# Everything happens in .venv, which these targets create. Needs python3 (3.10 or later) with venv, and make.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo docs test test-all test-oldest test-timm fuzz lint clean

demo: .venv/installed-demo ## average against second-order pooling on the bundled images, about three minutes on two cores
	$(BIN)/gmsop demo

docs: .venv/installed-docs ## the documentation as a site, in docs/_build; nothing is fetched
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build
	@echo docs/_build/index.html

test: .venv/installed-dev lint ## ruff, mypy and the tests but the slow ones
	$(BIN)/python -m pytest

test-all: .venv/installed-dev lint ## the tests marked as slow, too: twice as long
	$(BIN)/python -m pytest -m ""

test-oldest: ## the tests on the oldest versions that pyproject.toml allows
	test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --disable-pip-version-check -c tests/oldest.txt -e . 'pytest<9.2' pytest-xdist build hatchling scikit-learn pandas datasets webdataset
	.venv-oldest/bin/python -m pytest -m ""

# TorchScript is left out, and so is the test that downloads weights. -c: timm's settings name plugins that are not here.
test-timm: .venv/installed-dev ## timm's own tests over gmsop's models: make test-timm TIMM=path/to/a/clone/of/timm
	test -f "$(TIMM)/tests/test_models.py" || { echo "make test-timm TIMM=path/to/a/clone/of/timm"; exit 2; }
	OMP_NUM_THREADS=1 PYTHONPATH=tests:tests/models $(BIN)/python -m pytest -p timm_names -p no:cacheprovider -p no:warnings -c /dev/null \
		--rootdir="$(TIMM)" "$(TIMM)/tests/test_models.py" -n 2 -q --tb=line -k "not torchscript and not test_model_inference"

# About ten minutes; make fuzz FUZZ="--cases 10000 --seed 1" takes an hour.
fuzz: .venv/installed-dev ## 1,000 damaged files of every kind that gmsop reads; a kill before every call that changes a file
	$(BIN)/python tests/fuzz/fuzz.py $(FUZZ)
	$(BIN)/python tests/fuzz/crash.py

lint: .venv/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy tests/user_code.py

.venv/installed-demo: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[demo]'
	touch $@

.venv/installed-docs: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[docs,probe]'
	touch $@

.venv/installed-dev: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]'
	touch $@

clean:
	rm -rf .venv .venv-oldest dist runs docs/_build
