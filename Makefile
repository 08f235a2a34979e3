# `make demo` and `make test` need nothing but Python 3.11 or newer with venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Some machines set this for all.  Tests start hundreds of processes: only the first of them is to compile our modules.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help page demo test test-system test-debian package run lint bench bench-peers fuzz docs man lock audit clean

help:
	@echo "make demo    install, and watch a made-up cloud with trouble; PCAP=file shows a capture of yours"
	@echo "make test    install, then run linters, type checks and all tests but those that start daemons as root"
	@echo "make test-system  install Open vSwitch, libvirt, QEMU and Neutron (Debian, root) and run the tests against them"
	@echo "make test-debian  build the Debian package, install it in a Debian of its own and purge it (Debian, root)"
	@echo "make package  wheel and archive of the source, checked, into dist/"
	@echo "make run     run the service with the embedded store"
	@echo "make bench   decode rates and UDP-to-rows rate on this machine"
	@echo "make bench-peers  nfcapd, sfcapd, nfacctd, sfacctd and vmflow on the same stream (half an hour; Debian, root)"
	@echo "make fuzz    ten minutes of coverage-guided fuzzing of the decoders; MINUTES=60 for more"
	@echo "make lint    ruff, mypy and bandit alone"
	@echo "make lock    pin what the images install, with hashes (needs the package index)"
	@echo "make audit   ask for known defects of what the images install (needs the package index)"
	@echo "make page    build the console's page (Node 20 or newer, else from PyPI into $(VENV); needs npm's registry once)"
	@echo "make docs    render docs/columns.md and the Grafana dashboards, then the site of docs/ into build/site"
	@echo "make man     write the manual page, build/vmflow.1"

CHECK_PYTHON = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	|| { echo "Python 3.11 or newer is needed; set PYTHON=python3.12 or the like"; exit 1; }
MAKE_VENV = $(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed; on Debian: apt-get install python3-venv"; exit 1; }
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check

$(BIN)/pip:
	@$(CHECK_PYTHON)
	@$(MAKE_VENV)

$(STAMP): pyproject.toml | $(BIN)/pip
	@echo "installing into $(VENV) (about a minute the first time) ..."
	@$(INSTALL) --editable '.[embedded,openstack,ovsdb,test]'
	@touch $@

# libvirt-python is built against the system's libvirt, where that is installed.
LIBVIRT := $(VENV)/.libvirt
$(LIBVIRT): $(STAMP)
	@if pkg-config --exists libvirt 2>/dev/null; then \
		$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[libvirt]'; \
	else echo "tests with libvirt will be skipped: they need libvirt-dev, pkg-config and a C compiler"; fi
	@touch $@

# The console's page.  With no Node 20 on the machine, PyPI has one.  Where npm's registry cannot be reached the service
# runs without the page and says so: that must not stop `make demo` or `make test`.
PAGE := collector/web/page/index.html
PAGE_SOURCES := $(wildcard console/*.json console/*.mjs console/*.ts* console/*.css console/*.html console/*.svg console/*/*.ts console/*/*.tsx)
$(PAGE): $(PAGE_SOURCES) | $(BIN)/pip
	@console/build $(BIN) || echo "the console is not built (see above): the service runs without it; 'make page' tries again"

# What builds the site; `make demo` does without.
SITE := $(VENV)/.site
$(SITE): $(STAMP)
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

# The demo needs less than the tests do.
DEMO := $(VENV)/.demo
$(DEMO): pyproject.toml | $(BIN)/pip
	@echo "installing into $(VENV) (half a minute the first time) ..."
	@$(INSTALL) --editable '.[embedded]'
	@touch $@

ANY := $(if $(wildcard $(STAMP)),$(STAMP),$(DEMO))
page: $(ANY) $(PAGE)

# SECONDS=60 ends it by itself.  What it needs comes from two registries, at the same time.
demo:
	@$(MAKE) --silent --jobs 2 $(ANY) $(PAGE)
	@$(BIN)/vmflow demo $(if $(SECONDS),--seconds $(SECONDS)) $(if $(PCAP),"$(PCAP)")

run: $(STAMP) $(PAGE)
	@$(BIN)/vmflow run

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@if [ -d console/node_modules ]; then console/build $(BIN) --check; else echo "the page's types are not checked: make page"; fi
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive vmflow.py schemas decoders agent collector deploy

# The kernels are compiled while the linters run: each takes one core for a minute or two.  A worker of the tests has
# an engine of its own, which takes up to 2 GiB.
test: $(LIBVIRT) $(SITE) $(PAGE)
	@$(BIN)/vmflow warmup & warming=$$!; $(MAKE) --no-print-directory lint && wait $$warming || { kill $$warming 2>/dev/null; exit 1; }
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile

test-system: $(STAMP)
	tests/system/install
	@rm -f $(LIBVIRT) && $(MAKE) --no-print-directory $(LIBVIRT)
	VMFLOW_SYSTEM=1 $(BIN)/python -m pytest tests/system

test-debian: $(STAMP)
	VMFLOW_DEBIAN=1 $(BIN)/python -m pytest tests/deploy/test_debian.py

# Helm itself, as a library, and the schemas of Kubernetes: 360 MB, for tests/deploy/test_helm.py alone.
CHART := $(VENV)/.chart
$(CHART): $(STAMP)
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[chart]'
	@touch $@

package: $(STAMP)
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

bench: $(STAMP)
	$(BIN)/python -m bench

# KINDS="ipfix sflow_switch" for some of the exports only.
bench-peers: $(STAMP)
	$(BIN)/python -m bench.peers $(KINDS)

# What it finds is left in .fuzz/; the name of the harness comes first.
MINUTES ?= 10
fuzz: $(STAMP)
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	$(BIN)/python -m tests.fuzz --minutes $(MINUTES)

docs: $(SITE)
	$(BIN)/python -m schemas.render --docs
	$(BIN)/python -m deploy.grafana.render
	$(BIN)/python docs/stage.py build/pages
	$(BIN)/zensical build --clean --strict

man: $(STAMP)
	@mkdir -p build
	$(BIN)/argparse-manpage --module collector.__main__ --function whole_parser --format single-commands-section \
		--project-name vmflow --manual-title vmflow --output build/vmflow.1 \
		--description "VM-to-VM traffic monitor for Open vSwitch clouds"

# Versions and hashes of everything in the images, for all platforms; no address of an index goes in.
LOCK := $(BIN)/uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-annotate --no-header \
	--no-emit-index-url --no-emit-find-links --upgrade pyproject.toml deploy/build-requirements.in
lock: $(STAMP)
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[release]'
	$(LOCK) --extra embedded --extra ovsdb --extra openstack --output-file deploy/requirements.lock
	$(LOCK) --output-file deploy/requirements-server.lock

# --strict: a package that could not be asked about is a failure, not a pass; so is a machine without the Internet.
audit: $(STAMP)
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[release]'
	$(BIN)/pip-audit --strict --disable-pip --require-hashes --requirement deploy/requirements.lock

clean:
	rm -rf $(VENV) console/node_modules collector/web/page build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
