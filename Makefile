# Two commands do all the set-up: `make demo` and `make test`. Everything lands in .venv and build/.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export TOKENIZERS_PARALLELISM = false
export HF_HUB_DISABLE_TELEMETRY = 1
export GRADIO_ANALYTICS_ENABLED = False

.PHONY: help setup demo app test test-generators test-exports test-treating test-labelstudio test-peers test-ray test-docs test-wheel test-gradio-wheel gradio-wheel test-client-wheel client-wheel test-gradio test-space test-stories test-views test-proxies test-metrics lessons check clean
help:            ## this list
	@grep -hE '^[a-z-]+%?:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 16

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is too old: Artifact Clinic needs Python 3.11 or newer. Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "Could not make a virtual environment. On Debian or Ubuntu: apt install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(VENV)/.ready   ## virtual environment with tested versions (about 6 GB, 2 minutes)

demo: setup      ## one whole round on the embedded clinic: no GPU, no network
	$(BIN)/clinic --workspace workspace demo

app: setup       ## the web app on this workspace, with one worker
	$(BIN)/clinic --workspace workspace app

test: setup      ## all tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not (labelstudio or peers or generators or exports or treating or docs or wheel or gradiowheel or clientwheel or gradio or space or views or stories or proxies or metrics or ray)'

test-generators: setup   ## the contract on a tiny pipeline of every generator class that has a row
	$(BIN)/python -m pytest -n 2 -m 'generators or not generators' tests/dataengine/treatment/families tests/pipelines/generators tests/pipelines/demo/test_stock_round.py

test-exports: setup   ## detectors as ONNX and torch.export: every kind of network, both resizings, half precision
	$(BIN)/python -m pytest -m exports tests/dataengine

test-treating: setup   ## `clinic treat`, `dreambooth`, `compare --under` from the command to the result, on real models
	$(BIN)/python -m pytest -m treating tests/pipelines

LABEL_STUDIO := build/labelstudio-venv
$(LABEL_STUDIO)/.ready: Makefile   # never in our own environment: its pins are not ours (1 GB, 2 minutes)
	$(PYTHON) -m venv $(LABEL_STUDIO)
	$(LABEL_STUDIO)/bin/python -m pip install --quiet --disable-pip-version-check label-studio==1.23.2
	@touch $@

test-labelstudio: setup $(LABEL_STUDIO)/.ready   ## push, pull and exports with a real Label Studio server
	$(BIN)/python -m pytest -m labelstudio tests/labelstudio

bench-labelstudio: $(LABEL_STUDIO)/.ready

PEERS := build/peers-venv
$(PEERS)/.ready: tests/peers/constraints.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -c $< supervision datumaro fiftyone
	@touch $@

ULTRALYTICS := build/ultralytics
$(ULTRALYTICS)/.ready: tests/peers/constraints.txt   # beside our own libraries, of which it needs torch and OpenCV
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $< --no-deps --upgrade --target $(ULTRALYTICS) ultralytics
	@touch $@

test-peers: setup $(PEERS)/.ready $(ULTRALYTICS)/.ready   ## our exports as supervision, datumaro, FiftyOne, Ultralytics read them
	$(BIN)/python -m pytest -m peers tests/peers

RAY := build/ray-venv
$(RAY)/.ready: Makefile constraints.txt   # Ray beside our own libraries, which it sees and never changes
	$(BIN)/python -m venv $(RAY)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$(ls -d $(RAY)/lib/python3*/site-packages)/ours.pth"
	$(RAY)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt ray==2.60.0
	@touch $@

test-ray: setup $(RAY)/.ready   ## the engine `ray` with a real Ray: same results, a killed actor, one model an actor
	$(RAY)/bin/python -m pytest -m ray tests/pipelines/worker

bench-scale: $(RAY)/.ready

test-docs: setup ## the notebook, the examples and every command of the docs, as written
	$(BIN)/python -m pytest -m 'docs or not docs' tests/docs tests/test_readme.py

test-wheel: setup ## the built wheel in a fresh environment runs the smallest demo
	$(BIN)/python -m pytest -m wheel tests/wheel

gradio-wheel: setup   ## the Gradio mask editor as a wheel of its own, in dist/
	$(BIN)/python -m ui.gradio.wheel dist

GRADIO := build/gradio-venv
$(GRADIO)/.ready: constraints.txt   # nothing but Gradio and NumPy, with what these need
	$(PYTHON) -m venv $(GRADIO)
	$(GRADIO)/bin/python -m pip install --quiet --disable-pip-version-check -c $< gradio numpy
	@touch $@

test-gradio-wheel: setup $(GRADIO)/.ready   ## that wheel in an environment with Gradio and NumPy only
	$(BIN)/python -m pytest -m gradiowheel tests/wheel

client-wheel: setup   ## the Python client as a wheel of its own, in dist/
	$(BIN)/python -m ui.client.wheel dist

CLIENT := build/client-venv
$(CLIENT)/.ready: constraints.txt   # nothing but httpx and NumPy, with what these need
	$(PYTHON) -m venv $(CLIENT)
	$(CLIENT)/bin/python -m pip install --quiet --disable-pip-version-check -c $< httpx numpy
	@touch $@

test-client-wheel: setup $(CLIENT)/.ready   ## that wheel in an environment with httpx and NumPy only
	$(BIN)/python -m pytest -m clientwheel tests/wheel

test-views: setup ## axe-core, the console and a phone's width over every view of every desk
	$(BIN)/python -m pytest -m views tests/ui

test-metrics: setup ## what a scrape of /metrics costs over a hundred thousand rows
	$(BIN)/python -m pytest -m metrics tests/ui/web/test_metrics.py

test-gradio: setup ## a whole small round on the Gradio app: in a browser, and through gradio_client
	$(BIN)/python -m pytest -m gradio tests/ui/gradio

test-space: setup ## a Space's folder in a fresh environment with its own requirements (6 GB)
	$(BIN)/python -m pytest -m space tests/ui/gradio

test-proxies: setup   ## every page of every role in a browser behind nginx and Caddy, at / and /clinic/, http and https
	$(BIN)/python -m pytest -m proxies tests/ui/test_behind_proxies.py

test-stories: setup   ## one story of all roles in a browser, from an empty workspace to a finished study and a round
	$(BIN)/python -m pytest -m stories tests/ui/stories

lessons: setup   ## draw the practice and guideline pictures of the annotation page again
	$(BIN)/python -m dataengine.clinic.lessons ui/annotate/static

check: setup     ## ruff, mypy, who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py

bench-%: setup   ## a benchmark, e.g. make bench-clinic (QUICK=1, FULL=1, FRESH=1, BASE=COMMIT: docs/benchmarks.md)
	$(BIN)/python -m tests.bench.$(subst -,_,$*)

clean:           ## forget build results (never the workspace)
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
