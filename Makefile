# make run · make test · make lab · make web · make docs · make race · make bundle · make tune · make dashboard · make clean    (each builds .venv when it is not there)
PYTHON ?= python3
BIN := .venv/bin
SAMPLE := outputs/sample
PROGRESS := : [0-9,]+ of [0-9,]+ .*[0-9] s
SHELL := bash
.SHELLFLAGS := -o pipefail -c
# papermill shows what the cells print; what it says of itself is left out
MILL := PYTHONWARNINGS=ignore::FutureWarning $(BIN)/papermill --no-progress-bar --log-output
PLAIN := sed -u -E '/^(Executing|Ending) Cell|^(In|Out)put Notebook|^Executing notebook|IPKernelApp|^<Figure|^Output\(\)|^$$/d'

.PHONY: run lock bundle docs web test test-slow coverage mutants fuzz notebooks readme lab race tune dashboard clean

# The quick run: the embedded sample from drawn photos to a score.
run: .venv/quick
	@mkdir -p $(SAMPLE)
	@for stage in crop train export evaluate; do echo "== $$stage"; log=$(SAMPLE)/$$stage.log; \
	    $(MILL) nbs/$$stage.ipynb $(SAMPLE)/$$stage.ipynb 2>&1 | $(PLAIN) | tee $$log | { grep --line-buffered -E '$(PROGRESS)' || true; } || \
	    { tail -n 30 $$log; exit 1; }; done
	@echo "== result"
	@PYTHONWARNINGS=ignore::FutureWarning $(BIN)/lightweight summary $(SAMPLE)/evaluate/record.json
	@echo "notebooks  $(SAMPLE)/crop.ipynb  $(SAMPLE)/train.ipynb  $(SAMPLE)/evaluate.ipynb  (what they print: *.log)"
	@echo "record     $(SAMPLE)/evaluate/record.json"

# Everything that CI runs: nothing generated is stale, every notebook runs, the house is in order.
# make test FAST=1, while you write: the quick rules of the house, and the pages that differ from the last commit.
test: .venv/installed
	$(BIN)/pytest $(if $(FAST),--fast tests/test_house.py tests/test_notebooks.py tests/test_stages.py,tests)

# The cells marked `#| slow` as well.
test-slow: .venv/installed
	$(BIN)/pytest tests --slow

# Which lines of the package do the pages and tests execute? Prints the others, and writes results/coverage.json.
coverage: .venv/installed
	$(BIN)/python tests/cover.py

# make mutants N=60 SEED=1: small faults in the code, one at a time; does a page or test notice? Hours; stopped, it goes on. After make test.
N ?= 60
SEED ?= 1
mutants: .venv/installed
	$(BIN)/python tests/mutate.py -n $(N) --seed $(SEED) -j 2

# make fuzz MINUTES=10: damage annotations, photos and settings at random; every command must end with a result or a sentence.
MINUTES ?= 10
fuzz: .venv/installed
	$(BIN)/python tests/hostile/test_fuzz.py --minutes $(MINUTES)

# Run the pages at the top of nbs/ and store their outputs. make notebooks PAGES="train crop": only these.
notebooks: .venv/installed
	$(BIN)/python tests/outputs.py $(PAGES)

readme: .venv/installed
	$(BIN)/nbdev_export
	@mkdir -p $(SAMPLE)
	$(MILL) nbs/experiments/results.ipynb $(SAMPLE)/results.ipynb -p out . 2>&1 | $(PLAIN)

# The documentation, outputs/docs/html/index.html: library pages are run unless neither they nor the package have changed.
docs: .venv/installed
	$(BIN)/python docs/build.py

# make tune FILE=configs/tune/taco.yaml WORKERS=2: one search, several processes on this machine, a thread each.
WORKERS ?= 1
tune: .venv/installed
	@test -n "$(FILE)" || { echo "which search? make tune FILE=configs/tune/taco.yaml WORKERS=2"; exit 2; }
	@pids=; for i in $$(seq $(WORKERS)); do OMP_NUM_THREADS=1 $(BIN)/lightweight tune -f $(FILE) & pids="$$pids $$!"; done; \
	    bad=0; for pid in $$pids; do wait $$pid || bad=$$?; done; exit $$bad

# make dashboard STUDY=outputs/taco/tune/study.log, or the address of a database: look at a search while it runs.
dashboard: .venv/installed
	@test -n "$(STUDY)" || { echo "which study? make dashboard STUDY=outputs/taco/tune/study.log"; exit 2; }
	@$(BIN)/optuna-dashboard "$(STUDY)"

# make race: all contestants on all folds of TACO, many hours; stopped, it goes on. make race QUICK=1: two of them on two folds, ten minutes.
# make race RECORD=1 writes the committed records and the README's table anew.
race: .venv/installed
	@mkdir -p outputs/race
	OMP_NUM_THREADS=1 $(MILL) nbs/experiments/race.ipynb outputs/race/race.ipynb -f configs/race/taco$(if $(QUICK),-quick).yaml $(if $(RECORD),-p results results/race) 2>&1 | $(PLAIN)
	$(if $(RECORD),$(MAKE) readme)

# make bundle: train the model that comes with the package, on all photos of TACO; 45 minutes of a core; stopped, it goes on.
bundle: .venv/installed
	@mkdir -p outputs/bundle
	OMP_NUM_THREADS=1 $(MILL) nbs/experiments/bundle.ipynb outputs/bundle/bundle.ipynb -f configs/bundle/taco.yaml \
	    -p record results/probe/student.json -p sorting results/sorting/taco-student.json 2>&1 | $(PLAIN)

# make web: the page that classifies photos in a browser with the model of the package.
web: .venv/installed
	$(BIN)/lightweight page --out outputs/web

lab: .venv/installed
	$(BIN)/jupyter lab nbs

clean:
	rm -rf outputs/sample outputs/docs data/sample .venv build *.egg-info

# Versions are those of LOCK; LOCK= installs the newest that settings.ini allows. On Linux, PyTorch from PyPI brings several GB for GPUs:
# make run TORCH_INDEX=https://download.pytorch.org/whl/cpu takes the build without them.
LOCK ?= requirements.lock
TORCH_INDEX ?=
UV := $(shell command -v uv)
PIP := PYTHONWARNINGS=ignore $(if $(UV),$(UV) pip install --python $(BIN)/python,$(BIN)/python -m pip install --disable-pip-version-check) --quiet
INDEX := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX) $(if $(UV),--index-strategy unsafe-best-match))
SOURCES := settings.ini setup.py pyproject.toml $(LOCK)
install = $(PIP) $(INDEX) $(if $(LOCK),--constraint $(LOCK)) --editable '.[$(1)]' || \
    $(if $(LOCK),{ echo "not with the versions of $(LOCK); trying the newest that settings.ini allows"; $(PIP) $(INDEX) --editable '.[$(1)]'; },exit 1)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11"; exit 1; }
	@$(if $(UV),$(UV) venv --quiet --seed --python $(PYTHON) .venv,$(PYTHON) -m venv .venv && $(BIN)/python -m pip install --quiet --upgrade pip)

# What the quick run and the lines of the README need, but for compression; ExecuTorch, trackers and tools are left out.
MOST := search,cluster
.venv/quick: $(SOURCES) | $(BIN)/python
	@echo "installing PyTorch and what the lines of the README need into .venv: several minutes"
	@$(call install,$(MOST))
	@mkdir -p .venv/etc/ipython && echo 'c.IPKernelApp.log_level = "ERROR"' > .venv/etc/ipython/ipython_kernel_config.py    # no warning from each kernel
	@touch $@

# Everything.
.venv/installed: .venv/quick
	@echo "installing what tests and documentation need into .venv"
	@$(call install,dev)
	@git config core.hooksPath .githooks 2>/dev/null || true
	@touch $@

# The versions of LOCK anew: the newest that settings.ini allows, for all systems and versions of Python. Needs uv.
lock:
	uv pip compile setup.py --extra dev --extra parquet --universal --python-version 3.11 --upgrade --no-annotate --no-header --quiet --output-file requirements.lock
