# The environment lives in .venv. TORCH may name another build, for example TORCH="torch==2.9.1".
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin

.PHONY: demo test test-all lint bench comfyui site site-version release

demo: .venv/ready
	$(BIN)/op4ksr demo -o output -v --overwrite

# What a stranger runs after cloning: under three minutes on two cores, without the long tests. The first time
# mypy takes a minute more, because it reads torch.
test: .venv/test-ready lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadgroup \
		-m "not long and not slow and not comfyui and not browser"

# Everything, where ComfyUI, Chromium and the shared pictures are laid out (tests/README.md).
test-all: .venv/test-ready lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadgroup

# make comfyui DIR=~/ComfyUI: gives a ComfyUI checkout an environment to be tested with.
comfyui:
	tests/lay_out_comfyui.sh $(DIR)

# Lays the extension out as ComfyUI sees it, for the checks that follow imports.
lint: .venv/test-ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p build/lint/op4ksr
	for part in __init__.py nodes op4ksr_core; do ln -sfn "$(CURDIR)/$$part" build/lint/op4ksr/$$part; done
	PYTHONPATH=build/lint $(BIN)/lint-imports
	$(BIN)/mypy

bench: .venv/test-ready
	$(BIN)/python benchmarks/bench_realsr.py
	$(BIN)/python benchmarks/bench_embedded.py
	$(BIN)/python benchmarks/performance.py
	$(BIN)/python benchmarks/traffic.py
	$(BIN)/python -m benchmarks.gpu variants

# The documents as a site, in build/site. Its tools have an environment of their own.
site: build/site-venv/ready
	NO_MKDOCS_2_WARNING=1 build/site-venv/bin/mkdocs build --strict

# This version's site as a commit on the local branch gh-pages, beside earlier ones; material shows a menu of them.
site-version: build/site-venv/ready
	NO_MKDOCS_2_WARNING=1 PATH="$(CURDIR)/build/site-venv/bin:$$PATH" mike deploy --update-aliases \
		"$$(sed -n 's/^version = "\([0-9]*\.[0-9]*\).*/\1/p' pyproject.toml)" latest

build/site-venv/ready: mkdocs.yml
	$(PYTHON) -m venv build/site-venv
	build/site-venv/bin/pip install -q "mkdocs-material==9.8.2" "mike==2.1.3"
	touch $@

# Wheel and registry archive in dist/, built and checked. Publishes nothing.
release: .venv/test-ready lint
	$(BIN)/python -m recipes.release

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q "$(TORCH)"
	$(BIN)/pip install -q -c constraints.txt -e ".[cli]"
	touch $@

.venv/test-ready: .venv/ready
	$(BIN)/pip install -q -c constraints.txt -e ".[test]"
	touch $@
