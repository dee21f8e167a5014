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
	$(PY) -m tconv_mmaction demo --out-dir $(DEMO)

test: env
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(JOBS)

# An environment that was made by hand and has all that the site needs is used as it is.
HAS_DOCS = import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, ("material", "mkdocstrings", "latex2mathml", "tconv_mmaction"))))
docs:
	@if [ -e $(VENV)/.installed ] || ! $(PY) -c '$(HAS_DOCS)' 2>/dev/null; then \
		$(MAKE) --no-print-directory $(VENV)/.installed-docs; fi
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

$(VENV)/.installed-docs: $(VENV)/.installed
	$(PY) -m pip install -c constraints.txt -e ".[docs]"
	touch $@

lint: env
	$(PY) -m ruff check .

clean:
	rm -rf $(VENV) build *.egg-info
