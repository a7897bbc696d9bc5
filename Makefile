# make demo   the main job on the embedded data: a score table, a CF Zarr, pictures
# make test   the whole suite: tests, doctests, README, tutorials, docs, ruff, mypy
# make evaluate   every score of the weights that ship, from the weights and the real events: an hour; it goes on where
#                 it was stopped; with EVALUATE=--quick the forecasts take minutes
# make cards      the page of model cards and the tables of README and docs, from what make evaluate found
# make compare    small forecasters side by side on the real events: hours; it goes on where it was stopped
# make docs | bench | lint | clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Pins versions that are known to work together; a bare "torch" would fetch gigabytes of GPU libraries.
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable

PYTHON1 := OMP_NUM_THREADS=1 $(BIN)/python

.PHONY: demo test evaluate cards compare docs bench lint clean

demo: $(VENV)/.demo
	$(BIN)/xnowcast demo --out demo

# a process per core, each with one thread of its own
test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

docs: $(VENV)/.test
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html
	@echo "open docs/_build/html/index.html"

bench: $(VENV)/.bench
	$(BIN)/python benchmarks/extrapolation.py

evaluate: $(VENV)/.bench
	$(PYTHON1) recipes/evaluate.py $(EVALUATE)
	$(PYTHON1) recipes/evaluate.py --post-processors
	$(PYTHON1) benchmarks/postcast.py --quality blurs --grid 96 --frames 2 --sampling 50
	$(PYTHON1) benchmarks/stvd.py --quality --factor 4 --weights xnowcast/models/pretrained/stvd-4.safetensors \
		--members 10 --sampling-steps 10 --grid 128 --cases 1 --threads 1 --out runs/stvd-4
	$(PYTHON1) benchmarks/stvd.py --quality --factor 8 --weights xnowcast/models/pretrained/stvd-8.safetensors \
		--members 10 --sampling-steps 10 --grid 96 --cases 1 --threads 1 --out runs/stvd-8

cards: $(VENV)/.bench
	$(PYTHON1) recipes/cards.py --take runs/evaluate/scores.csv

compare: $(VENV)/.test
	$(PYTHON1) -m xnowcast compare configs/compare/small.toml
	$(PYTHON1) recipes/compare.py small runs/compare_small

lint: $(VENV)/.test
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

clean:
	rm -rf $(VENV) build docs/_build docs/reference/api/generated demo .pytest_cache .mypy_cache .ruff_cache *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.demo: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) ".[plot,io]"
	@touch $@

$(VENV)/.test: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) ".[fast,train,plot,io,docs,test]"
	@touch $@

$(VENV)/.bench: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) ".[fast,plot,io,pysteps]"
	@touch $@
