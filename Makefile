# The two commands of the README: `make demo` and `make test`. Both need Python 3.11+, make and a
# package index, and install everything into .venv.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test check docs bench-speed bench-memory bench-seal bench-served bench-coordinator \
	bench-quality bench-clinic bench-dp readme guide screenshots vectors fetch fuzz kills mutants \
	soak clean

demo: $(READY)
	$(BIN)/organ-simulate exchange --out runs/demo --fresh

test: $(READY) fetch
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

fuzz: $(READY)
	$(BIN)/pytest -m exhaustive tests/test_trust_*.py tests/test_public_vectors.py
	$(BIN)/python tests/fuzz.py --mutants 200000 --out docs/results/fuzz.md $(FLAGS)

# Real processes that die, hang and are slow: some hours.
kills: $(READY) fetch
	$(BIN)/pytest -m exhaustive tests/test_system_*.py

# Stopped, it goes on where it was. Fails while a survivor is not explained.
mutants: $(READY)
	OMP_NUM_THREADS=1 PYTHONHASHSEED=1 $(BIN)/python tests/mutants.py --out docs/results/mutants.md

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The reference of functions, from docstrings.
docs: $(READY)
	$(BIN)/python docs/api/build.py build/docs

bench-speed: $(READY) fetch
	$(BIN)/organ-simulate bench-speed --out docs/results/speed $(FLAGS)

bench-memory: $(READY)
	$(BIN)/organ-simulate bench-memory --out runs/bench-memory $(FLAGS)

bench-seal: $(READY)
	$(BIN)/organ-simulate bench-seal --out docs/results/seal $(FLAGS)

bench-served: $(READY) fetch
	$(BIN)/organ-simulate bench-served --out docs/results/served $(FLAGS)

bench-coordinator: $(READY)
	$(BIN)/organ-simulate bench-coordinator --out docs/results/scale $(FLAGS)

soak: $(READY) fetch
	$(BIN)/organ-simulate soak --out docs/results/soak $(FLAGS)

bench-quality: $(READY) fetch
	$(BIN)/organ-simulate compare --out docs/results/quality $(FLAGS)

bench-clinic: $(READY)
	$(BIN)/organ-simulate clinic --out docs/results/clinic $(FLAGS)

bench-dp: $(READY) fetch
	$(BIN)/organ-simulate bench-dp --out docs/results/privacy $(FLAGS)

readme: $(READY)
	$(BIN)/organ-simulate compare --out docs/results/quality --kept-only
	$(BIN)/organ-simulate readme

# A fresh clone and the first guide, literally; needs a package index.
guide:
	$(PYTHON) tests/guide.py

# Takes chromium; see tests/test_page_browser.py.
screenshots: $(READY)
	@command -v chromium || command -v chromium-browser || \
		{ echo "no chromium, so no pictures; apt install chromium" >&2; exit 1; }
	ORGAN_SCREENSHOTS=docs/pages $(BIN)/pytest tests/test_page_browser.py

# Only before a format is released: afterwards its vectors stay as they are.
vectors: $(READY)
	PYTHONPATH=tests $(BIN)/python -m second.generate tests/vectors/v1

fetch: $(READY)
	$(BIN)/organ-simulate fetch

clean:
	rm -rf .venv mutants build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -qq --constraint constraints.txt pip
	$(BIN)/python -m pip install -qq --constraint constraints.txt --editable '.[comparison]' --group dev
	touch $(READY)
