# make demo | test | slow | faults | lint | bench | docs | answers | clean: each sets up what it needs in .venv; the extra dev includes the application
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# peer libraries for reference tests and benchmarks, installed without their dependencies, whose pins are old
PEERS := torchattacks foolbox eagerpy GitPython gitdb smmap adversarial-robustness-toolbox adv-lib six
THREADS ?= 1
WORKERS ?= 2

.PHONY: demo test slow faults lint bench docs answers clean
.DEFAULT_GOAL := demo

$(VENV)/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is %s" % sys.version.split()[0] or 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt $(PEERS)
	@touch $@

demo: $(VENV)/ready
	$(BIN)/python train.py fit -c configs/demo.yaml
	$(BIN)/python evaluate.py test -c runs/demo/train.yaml -c configs/attacks/linf.yaml --ckpt_path best

# two workers of one thread each: most tests are too small to gain from more threads. glibc keeps freed memory instead
# of giving it back: getting it again, page by page, costs more than what is computed on it
test: $(VENV)/ready
	OMP_NUM_THREADS=$(THREADS) MALLOC_ARENA_MAX=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184 \
	MALLOC_TOP_PAD_=67108864 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

slow: $(VENV)/ready
	$(BIN)/python -m pytest -m slow --ignore=tests/faults

# stops runs at random moments, fills disks and breaks files: an hour; MEDROBUST_MOMENTS and MEDROBUST_SEED choose others
faults: $(VENV)/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'slow or not slow' -o log_cli=true --log-cli-level=INFO tests/faults

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/ready
	$(BIN)/python -m benchmarks.sign_gradient
	$(BIN)/python -m benchmarks.classification
	$(BIN)/python -m benchmarks.detectors
	$(BIN)/python -m benchmarks.feature_constraint
	$(BIN)/python -m benchmarks.dense
	$(BIN)/python -m benchmarks.loading
	$(BIN)/python -m benchmarks.dashboard

# the documentation as a site below site/, which opens from the disk; a link or a name that leads nowhere fails
docs: $(VENV)/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --clean
	@echo site/index.html

# what --help prints and which options there are, so that the programs say so without importing torch
answers: $(VENV)/ready
	$(BIN)/python -m cli.store_answers

clean:
	rm -rf runs site data/phantom_chest_xray .pytest_cache .mypy_cache .ruff_cache

include studies.mk
