# make build | test | demo are all a fresh clone needs; `make help` lists the rest.
.PHONY: help setup build test test-asyncio lint format demo bench bench-calls bench-async bench-charts soak sanitize matrix clean

help:            ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

setup:           ## find or install Erlang, rebar3, CMake, a C compiler and Python
	@scripts/setup

build: setup     ## set up and build
	@scripts/build

test: build      ## all suites: Erlang, and Python inside the BEAM
	@scripts/test

test-asyncio: build  ## CPython's own test_asyncio on our loop
	@scripts/test-asyncio

lint: build      ## xref, dialyzer, warnings as errors, ruff, mypy, clang-format, cppcheck
	@scripts/lint

format:          ## format C and Python as lint wants them
	@scripts/format

demo: build      ## the demonstration
	@scripts/demo

bench: build     ## every benchmark
	@scripts/bench all

bench-calls: build   ## the call path
	@scripts/bench calls

bench-async: build   ## the loop and async calls
	@scripts/bench async

bench-charts:    ## draw docs/*.svg from stored results
	@scripts/bench charts

soak: build      ## long runs that watch memory, fds and handles
	@scripts/soak

sanitize: build  ## the suites under AddressSanitizer; SANITIZER=thread|undefined for the others
	@scripts/sanitize $(or $(SANITIZER),address)

matrix: build    ## the tests on Debian trixie and sid, each in a debootstrap (as root)
	@scripts/matrix trixie sid

clean:           ## remove what was built, keep the venv
	@rm -rf _build _cmake priv/py_nif.so priv/erlpy priv/erlpy_bin priv/python
