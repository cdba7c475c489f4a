# make run · make test · make lab · make clean    (each builds .venv when it is not there)
PYTHON ?= python3
BIN := .venv/bin
MILL := $(BIN)/papermill --no-progress-bar --log-output --log-level WARNING --stdout-file /dev/stdout
SAMPLE := outputs/sample

.PHONY: run test test-slow readme lab clean

# The quick run: the embedded sample from drawn photos to a score.
run: .venv/installed
	@mkdir -p $(SAMPLE)
	@for stage in crop train evaluate; do echo "== $$stage"; $(MILL) nbs/$$stage.ipynb $(SAMPLE)/$$stage.ipynb || exit 1; done
	@echo "== result"
	@$(BIN)/lightweight-summary $(SAMPLE)/evaluate/record.json
	@echo "notebooks  $(SAMPLE)/crop.ipynb  $(SAMPLE)/train.ipynb  $(SAMPLE)/evaluate.ipynb"
	@echo "record     $(SAMPLE)/evaluate/record.json"

# Everything that CI runs: nothing generated is stale, every notebook runs, the house is in order.
test: .venv/installed
	$(BIN)/pytest tests

# The cells marked `#| slow` as well.
test-slow: .venv/installed
	$(BIN)/pytest tests --slow

readme: .venv/installed
	$(BIN)/nbdev_export
	$(BIN)/lightweight-readme

lab: .venv/installed
	$(BIN)/jupyter lab nbs

clean:
	rm -rf outputs/sample data/sample .venv *.egg-info

.venv/installed: settings.ini setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or newer is needed: make PYTHON=python3.11"; exit 1; }
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@
