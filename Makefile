PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OLDEST ?= .venv-oldest
MORE ?= 2000
export HF_HUB_OFFLINE = 1
export TRANSFORMERS_VERBOSITY = error

.PHONY: demo test shapes check format lint types imports docs quick report bench worth mini faults test-matrix clean

demo: $(VENV)/ready  ## set up and run the main job on the embedded model
	$(BIN)/ovam demo --output-dir out/demo

test: $(VENV)/ready  ## set up and run the tests
	$(BIN)/pytest -n 2 -m "not long"

# left out: what runs in processes of its own, which are not checked; commands and files
UNCHECKED := arguments batches cli command_line dataset dataset_damage dataset_edges dataset_exports dataset_filters dataset_ray docs errors examples imports method_commands \
	method_contract_meta scenes token_commands train train_data verify
shapes: $(VENV)/ready  ## the product's tests again, with every array's shape and every argument's type checked
	$(BIN)/pytest -n 2 -m "not user_error and not long" --jaxtyping-packages=ovam,lab.mini,beartype.beartype $(UNCHECKED:%=--ignore=tests/test_%.py) tests

check: format lint types imports docs quick test shapes  ## what CI runs

format: $(VENV)/ready
	$(BIN)/ruff format --check .

lint: $(VENV)/ready
	$(BIN)/ruff check .

types: $(VENV)/ready
	$(BIN)/mypy

imports: $(VENV)/ready
	$(BIN)/lint-imports

docs: $(VENV)/ready  ## build the pages, warnings are errors
	$(BIN)/zensical build --strict --clean

quick: $(VENV)/ready  ## every measure of the model, of the methods and of generated data on a few scenes, to see that it runs
	$(BIN)/python -m lab.mini report --quick --docs out/quick-report --images-dir out/quick-images
	$(BIN)/python -m lab.pseudo_masks --quick --work-dir out/quick-masks/work --images-dir out/quick-images --output-dir out/quick-masks
	$(BIN)/python -m lab.training --quick --work-dir out/quick-training --output-dir out/quick-report

report: $(VENV)/ready  ## write docs/mini.md: pictures first (half an hour), then the measures (half an hour)
	$(BIN)/python -m lab.mini images
	$(BIN)/python -m lab.mini report

bench: $(VENV)/ready  ## write docs/performance.md (PEER=folder of a checkout of vpulab/ovam to compare with it)
	$(BIN)/python -m lab.performance $(if $(PEER),--peer $(PEER))

worth: $(VENV)/ready  ## write docs/results/training.md: what generated data is worth (three hours; goes on where it was stopped)
	$(BIN)/python -m lab.training

mini: $(VENV)/ready  ## train the embedded model on from the shipped weights or where it stands (hours), in runs/mini
	$(BIN)/python -m lab.mini train --work-dir runs/mini --more $(MORE)

faults: $(VENV)/ready  ## kill 20 runs of `ovam dataset generate` and a worker of Ray, go on, and compare with a run nobody stopped
	$(BIN)/python -m lab.faults
	$(BIN)/pytest -m long

test-matrix: $(VENV)/ready $(OLDEST)/ready  ## the tests with the newest and with the oldest diffusers, transformers, accelerate and peft allowed
	$(BIN)/pytest -n 2 -m "not long"
	$(OLDEST)/bin/pytest -n 2

# torch comes first and alone: resolved together with the rest it may bring CUDA packages of several gigabytes
$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $@

$(OLDEST)/ready: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(OLDEST)/bin/pip install --quiet --disable-pip-version-check --constraint constraints-oldest.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) $(OLDEST) out .pytest_cache .mypy_cache .ruff_cache
