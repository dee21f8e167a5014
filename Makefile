# Two commands for a fresh machine with Python and make:
#   make demo   environment + the main job: train, test and read a 3T network
#   make test   environment + the test suite
# and one for the documentation as a web site, in site/:
#   make docs   environment + the site, where a dead link or anchor is an error
# All are plain pip and python lines; the README spells them out.
PYTHON ?= python3
VENV   ?= .venv
JOBS   ?= 2
PY     := $(VENV)/bin/python
DEMO   := work_dirs/demo
CONFIG := configs/recognition/lenet5/lenet5-3t_scratch_1xb20-30x1x1-20e_video-mnist.py

.PHONY: demo test docs env lint clean

env: $(VENV)/.installed

# torch first: asked for by another package it would come as the newest release instead of the verified one.
$(VENV)/.installed: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -c constraints.txt torch
	$(PY) -m pip install -c constraints.txt -e ".[lite,tests,viz]"
	$(PY) -m tconv_mmaction
	touch $@

demo: env
	$(PY) tools/train.py $(CONFIG) --work-dir $(DEMO) --cfg-options train_cfg.max_epochs=8
	$(PY) tools/test.py $(CONFIG) $$(ls -t $(DEMO)/best_*.pth | head -n 1) --work-dir $(DEMO)/test
	$(PY) tools/analysis/temporal_params.py $(CONFIG) $$(ls -t $(DEMO)/best_*.pth | head -n 1) --out-dir $(DEMO)/motion
	@echo
	@echo "Test accuracy: $$(grep -ho 'acc/top1: [0-9.]*' $$(ls -t $(DEMO)/test/*/*.log | head -n 1) | tail -n 1)"
	@echo "What the network learned about motion, as a table and two figures: $(DEMO)/motion"
	@ls $(DEMO)/motion

test: env
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(JOBS)

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

$(VENV)/.installed-docs: $(VENV)/.installed
	$(PY) -m pip install -c constraints.txt -e ".[docs]"
	touch $@

lint: env
	$(PY) -m ruff check .

clean:
	rm -rf $(VENV) build *.egg-info
