# make repro: the default studies, from data to figures. make test: the tests. Both install first.
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
PYTHON ?= python3
INSTALLED := $(VENV)/.installed
STUDIES := $(shell sed -n 's/^  - //p' params.yaml)

.PHONY: repro test check fast bench

repro: $(INSTALLED)
	dvc repro
	actsweep show $(STUDIES)

test: $(INSTALLED)
	pytest

fast: $(INSTALLED)          ## the tests without the slow ones
	pytest -m "not slow"

check: $(INSTALLED)         ## all that continuous integration looks at
	ruff check .
	ruff format --check .
	mypy
	pytest

bench: $(INSTALLED)         ## what the engine costs, beside the same work done otherwise
	python -m benchmarks.run

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@
