# The commands of the project. `make demo` and `make test` need git, make and Python 3.11 to 3.13, nothing else.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
DEMO := .venvs/demo
TEST := .venvs/test
TYPINGS ?= ../shared/typings
# The interpreter that sees torch and the GPU; gpu-check installs nothing.
GPU_PYTHON ?= python3

.PHONY: help demo demo-model test check gpu-check bench docs clean
help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

demo: $(DEMO)/.installed  ## a simulated lot through the real worker, a real broker and a report: build/demo/
	$(DEMO)/bin/python demo/run_demo.py --out build/demo

test: $(TEST)/.installed  ## all default tests, with coverage
	$(TEST)/bin/python -m pytest --cov --cov-report=term

check: $(TEST)/.installed  ## lint, format, types; calls of TensorRT 10 and 11 where their signatures are
	$(TEST)/bin/ruff check .
	$(TEST)/bin/ruff format --check .
	$(TEST)/bin/mypy
	@for release in trt10 trt11; do \
		if [ -d $(TYPINGS)/$$release ]; then \
			echo "mypy against $$release"; \
			MYPYPATH=$(TYPINGS)/$$release $(TEST)/bin/mypy --cache-dir .mypy_cache/$$release || exit 1; \
		else echo "mypy against $$release: skipped, $(TYPINGS)/$$release is not here"; fi; \
	done

gpu-check:  ## on an NVIDIA machine: kernel, bandwidth, networks, pipeline, training: build/gpu/ (WHEELS=DIR)
	$(GPU_PYTHON) tests/gpu/gpu_check.py --out build/gpu $(if $(WHEELS),--wheels $(WHEELS))

bench: $(TEST)/.installed  ## engines, replay and a plain script side by side: build/bench/
	$(TEST)/bin/python tests/bench/run_bench.py --out build/bench

demo-model: $(TEST)/.installed  ## train the demo networks from scratch and sign demo/bundle (about an hour on 2 cores)
	PATH="$(CURDIR)/$(TEST)/bin:$$PATH" $(TEST)/bin/python demo/train_demo_model.py

docs: $(TEST)/.installed  ## regenerate schemas, the settings table and the settings example from the code
	$(TEST)/bin/python -m edge.docs

clean:  ## remove what was built, keep the environments
	rm -rf build dist *.egg-info .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(DEMO)/.installed: pyproject.toml demo/make_venv.sh
	sh demo/make_venv.sh "$(PYTHON)" $(DEMO) '.[demo]'

$(TEST)/.installed: pyproject.toml demo/make_venv.sh
	sh demo/make_venv.sh "$(PYTHON)" $(TEST) '.[test,train,export,openvino]'
