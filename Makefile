# `make demo`: the whole job on real data, in minutes.  `make test`: the whole suite.
PYTHON ?= python3
VENV := .venv
RUN := runs/demo

# Modules are compiled when they are first imported, which most never are. Where the environment forbids Python to keep
# what it compiled, each of hundreds of processes would compile torch and its peers anew, in 3 to 20 seconds.
unexport PYTHONDONTWRITEBYTECODE
PIP_INSTALL := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt

.PHONY: demo test install lint docs clean

install: $(VENV)/.installed

# The demo needs half of it; `make install`, or whatever needs it, adds the rest.
$(VENV)/.demo: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) -e '.[demo]'
	touch $@

$(VENV)/.installed: $(VENV)/.demo
	$(PIP_INSTALL) -e '.[demo,litert,test]'
	@if command -v npm >/dev/null; then $(VENV)/bin/nas web install >/dev/null; \
	else echo "npm is not installed: run 'nas web install' later, for models in a browser"; fi
	touch $@

demo: $(VENV)/.demo
	$(VENV)/bin/nas run configs/demo.yaml --out $(RUN)

test: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/nas web install
	$(VENV)/bin/python -m mypy & types=$$!; \
	$(VENV)/bin/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder; tests=$$?; \
	wait $$types || { echo "mypy found errors, see above" >&2; exit 1; }; exit $$tests

lint: install
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

docs: install
	$(PIP_INSTALL) -e '.[docs]'
	$(VENV)/bin/mkdocs build --quiet --strict
	$(VENV)/bin/python docs/reference.py build/docs/api
	@echo open build/docs/index.html

clean:
	rm -rf runs build *.egg-info .pytest_cache .hypothesis .ruff_cache
